"""What pyproject.toml cannot say: which folder is which package, and how the C core is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDERS = {
    "spectral_edge": "spectral_edge",
    "spectral_edge.calibration": "calibration",
    "spectral_edge.converters": "converters",
    "spectral_edge.runtimes": "runtimes",
}
C_FLAGS = ["/O2"] if os.name == "nt" else ["-O3", "-std=c99", "-fvisibility=hidden"]


def packages() -> list[str]:
    """Name every folder below FOLDERS as a package; folders of data and C sources are some too."""
    names = []
    for name, folder in FOLDERS.items():
        below = find_namespace_packages(folder, exclude=["*__pycache__*"])
        names += [name, *(f"{name}.{sub}" for sub in below)]
    return names


class BuildCore(build_ext):
    """A plain shared library loaded by ctypes: no PyInit, no Python headers, no ABI tag."""

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Export what the sources export; there is no PyInit function to add."""
        return []

    def get_ext_filename(self, fullname: str) -> str:
        """Name the file without the interpreter's tag: any Python loads it."""
        suffix = ".pyd" if self.plat_name.startswith("win") else ".so"
        return str(Path(*fullname.split("."))) + suffix


class AnyPythonWheel(bdist_wheel):
    """The wheel depends on the platform through the core, and on no Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        platform: str = super().get_tag()[2]
        return "py3", "none", platform


core: dict[str, Any] = {
    "sources": sorted(path.as_posix() for path in Path("runtimes/c/src").glob("*.c")),
    "depends": sorted(path.as_posix() for path in Path("runtimes/c").glob("**/*.h")),
    "include_dirs": ["runtimes/c/include", "runtimes/c/src"],
    "extra_compile_args": C_FLAGS,
    "optional": True,  # without a compiler the NumPy golden model serves
}

setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[Extension("spectral_edge._native._core", **core)],
    cmdclass={"build_ext": BuildCore, "bdist_wheel": AnyPythonWheel},
)
