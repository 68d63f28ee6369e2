"""Compiles a generated C file for this very machine, once, and keeps the library.

Libraries lie in a private cache folder under the hash of everything they depend on: the source, the
compiler, its flags and the processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit

__all__ = ["FLAGS", "INSTALL", "compiler", "compiler_version", "library_for"]

# IEEE results are part of the contract: no -ffast-math, no contraction of products and sums
FLAGS = (
    "-std=c99",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)
INSTALL = "apt install gcc, or set CC to a C compiler"
TIMEOUT_S = 300


def compiler() -> tuple[str, ...] | None:
    """Command of the C compiler, $CC before cc, gcc and clang; None when there is none."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        parts = shlex.split(command)
        if parts and shutil.which(parts[0]):
            return tuple(parts)
    return None


@cache
def compiler_version(command: tuple[str, ...]) -> str:
    """First line that the compiler says about itself."""
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stdout.splitlines() or ["unknown"])[0]


def library_for(source: str) -> tuple[Path, tuple[str, ...]]:
    """Compile C source unless it was compiled before; returns the library and the compiler.

    Raises:
        RuntimeUnavailable: there is no compiler, or no private folder to keep libraries in.
        RuntimeUnfit: the compiler refuses the source.
    """
    command = compiler()
    if command is None:
        raise RuntimeUnavailable(f"engine native needs a C compiler, none was found: {INSTALL}")
    # -march=native means this processor: a home folder may be shared between machines
    parts = (source, *command, compiler_version(command), *FLAGS, platform.machine(), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = _cache_folder()
    library = folder / f"{key}.so"
    if not library.exists():
        _compile(command, source, library)
    return library, command


def _processor() -> str:
    """What -march=native depends on, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def _cache_folder() -> Path:
    """The private folder for libraries; what lies there is executed, so nobody else may write."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    folder = root / "spectral-edge" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RuntimeUnavailable(
            f"engine native cannot make {folder} ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RuntimeUnavailable(f"{folder} is not a folder of your own; set XDG_CACHE_HOME")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _compile(command: tuple[str, ...], source: str, library: Path) -> None:
    """Compile into a file of its own and move it into place: other processes do the same."""
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        text, made = Path(work) / "step.c", Path(work) / "step.so"
        text.write_text(source, "utf-8")
        try:
            done = subprocess.run(
                [*command, *FLAGS, "-o", str(made), str(text), "-lm"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeUnfit(f"{command[0]} took more than {TIMEOUT_S} s for a step") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
            raise RuntimeUnfit(f"{command[0]} does not compile the step ({said[:200]}); {INSTALL}")
        made.replace(library)
