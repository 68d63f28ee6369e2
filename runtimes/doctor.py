"""Looks at this machine and says what works, what does not, and what to type."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

from spectral_edge import __version__
from spectral_edge._native import absence
from spectral_edge.device import describe_device
from spectral_edge.table import text_table

from .engines.registry import ENGINES, EngineInfo

__all__ = ["Diagnosis", "Finding", "doctor"]

# optional library -> (what it is for, extra that brings it)
LIBRARIES = {
    "soundfile": ("FLAC and WAV of any kind", "audio"),
    "soxr": ("other sample rates", "audio"),
    "rich": ("progress bars", "demo"),
    "torch": ("models, streamify, quantize", "train"),
    "torchao": ("quantize", "train"),
    "onnx": ("export to ONNX", "onnx"),
    "onnxscript": ("export to ONNX", "onnx"),
    "pesq": ("PESQ", "metrics"),
    "pystoi": ("STOI", "metrics"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: is it usable, what was seen, what to do when it is not."""

    kind: str
    name: str
    ok: bool
    seen: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings; ``can_run`` when at least one engine works."""

    package: str
    python: str
    system: str
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """True when a bundle can be opened here."""
        return any(f.ok for f in self.findings if f.kind == "engine")

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self) | {
            "findings": [asdict(f) for f in self.findings],
            "can_run": self.can_run,
        }

    def table(self) -> str:
        """Return the findings as readable text."""
        rows = [
            [f.kind, f.name, "ok" if f.ok else "–", f.seen, "" if f.ok else f.advice]
            for f in self.findings
        ]
        head = f"spectral-edge {self.package}, Python {self.python}, {self.system}"
        end = "bundles can run here" if self.can_run else "no engine works: bundles cannot run here"
        return "\n".join([head, "", text_table(["", "what", "", "seen", "to do"], rows), "", end])


def doctor() -> Diagnosis:
    """Check engines, compiled core, compiler and optional libraries; changes nothing."""
    device = describe_device()
    findings = [_engine(info) for info in ENGINES.values()]
    why_not = absence()
    findings.append(
        Finding("core", "C front end", not why_not, why_not or "loaded", "NumPy is used instead")
    )
    findings.append(_compiler())
    findings += [_library(name, use, extra) for name, (use, extra) in LIBRARIES.items()]
    bits = 8 * struct.calcsize("P")
    return Diagnosis(
        package=__version__,
        python=f"{device['python']} ({bits}-bit), NumPy {np.__version__}",
        system=f"{device['os']}, {device['machine']}, {device['model']}",
        findings=tuple(findings),
    )


def _engine(info: EngineInfo) -> Finding:
    """Import the library in a process of its own: some clash, some crash."""
    if not info.installed:
        return Finding("engine", info.name, False, "not installed", info.install_line)
    found = info.version or "unknown version"
    module = "ai_edge_litert.interpreter" if info.library == "ai_edge_litert" else info.library
    if info.compiles:
        module = f"{info.library}.schema_py_generated"
    elif info.library == "tflite_runtime":
        module = "tflite_runtime.interpreter"
        if int(np.__version__.split(".")[0]) >= 2:
            seen = f"{found} with NumPy {np.__version__}"
            return Finding("engine", info.name, False, seen, f"{info.install_line} (needs NumPy 1)")
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Finding("engine", info.name, False, f"{found}: {said[:80]}", info.install_line)
    return Finding("engine", info.name, True, found, "")


def _compiler() -> Finding:
    for name in (os.environ.get("CC", "cc").split()[0], "gcc", "clang"):
        if path := shutil.which(name):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
            seen = (done.stdout.splitlines() or [path])[0]
            return Finding("compiler", name, True, seen, "")
    advice = "for the C core and the engine native: apt install gcc"
    return Finding("compiler", "cc", False, "not found", advice)


def _library(name: str, use: str, extra: str) -> Finding:
    advice = f"pip install 'spectral-edge[{extra}]'"
    if find_spec(name) is None:
        return Finding("library", name, False, f"not installed ({use})", advice)
    try:
        return Finding("library", name, True, version(name), "")
    except PackageNotFoundError:
        return Finding("library", name, True, "installed", "")
