"""spectral-edge: spectral networks from PyTorch to phones and Raspberry Pis.

    nn.Module --streamify--> StepProgram --quantize--> StepProgram --export--> Bundle
    Bundle --check--> ParityReport, --open--> Session, --bench--> LatencyReport

Importing this package loads NumPy only; torch and the engines are imported where they are used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout converters/, runtimes/ and calibration/ stand beside this package;
# in a wheel they lie inside it. Same import names either way.
_here = Path(__file__).resolve().parent
if not (_here / "converters").is_dir():
    __path__.append(str(_here.parent))

if TYPE_CHECKING:  # the names again, for type checkers and editors
    from spectral_edge import (
        errors as errors,
        layers as layers,
        metrics as metrics,
        models as models,
    )
    from spectral_edge.bundle import Bundle as Bundle
    from spectral_edge.calibration.qat import QatConfig as QatConfig
    from spectral_edge.calibration.quantize import (
        freeze as freeze,
        prepare as prepare,
        quantize as quantize,
    )
    from spectral_edge.classifier import (
        Classifier as Classifier,
        DetectionPolicy as DetectionPolicy,
    )
    from spectral_edge.converters.export import export as export
    from spectral_edge.frontend import StftFrontend as StftFrontend
    from spectral_edge.image_frontend import ImageFrontend as ImageFrontend
    from spectral_edge.logmel_frontend import LogMelFrontend as LogMelFrontend, Pcen as Pcen
    from spectral_edge.parity import check as check
    from spectral_edge.program import (
        QParams as QParams,
        StateSpec as StateSpec,
        StepProgram as StepProgram,
    )
    from spectral_edge.report import LatencyReport as LatencyReport, ParityReport as ParityReport
    from spectral_edge.runtimes.bench import bench as bench
    from spectral_edge.runtimes.classify import ClassifySession as ClassifySession
    from spectral_edge.runtimes.opening import open as open
    from spectral_edge.runtimes.session import Session as Session
    from spectral_edge.streaming.streamify import streamify as streamify

# public name -> module that defines it (None: the module itself)
_LAZY: dict[str, str] = {
    # what a signal, a step and an artefact are
    "StftFrontend": "spectral_edge.frontend",
    "LogMelFrontend": "spectral_edge.logmel_frontend",
    "Pcen": "spectral_edge.logmel_frontend",
    "ImageFrontend": "spectral_edge.image_frontend",
    "Classifier": "spectral_edge.classifier",
    "DetectionPolicy": "spectral_edge.classifier",
    "StepProgram": "spectral_edge.program",
    "StateSpec": "spectral_edge.program",
    "QParams": "spectral_edge.program",
    "Bundle": "spectral_edge.bundle",
    "LatencyReport": "spectral_edge.report",
    "ParityReport": "spectral_edge.report",
    # the five arrows
    "streamify": "spectral_edge.streaming.streamify",
    "quantize": "spectral_edge.calibration.quantize",
    "prepare": "spectral_edge.calibration.quantize",
    "freeze": "spectral_edge.calibration.quantize",
    "QatConfig": "spectral_edge.calibration.qat",
    "export": "spectral_edge.converters.export",
    "check": "spectral_edge.parity",
    "open": "spectral_edge.runtimes.opening",
    "Session": "spectral_edge.runtimes.session",
    "ClassifySession": "spectral_edge.runtimes.classify",
    "bench": "spectral_edge.runtimes.bench",
}
_SUBMODULES = ("errors", "models", "layers", "metrics")

__all__ = ["__version__", *_LAZY, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"spectral_edge.{name}")
    else:
        raise AttributeError(f"module 'spectral_edge' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
