"""`import spectral_edge` must be cheap and torch-free: it runs on the device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch", "torchao", "lightning", "tensorflow", "onnx", "onnxscript", "onnxruntime",
    "ai_edge_litert", "tflite_runtime", "scipy", "matplotlib", "soundfile", "soxr", "rich", "yaml",
    "PIL",
)  # fmt: skip

# Modules that the package may load on top of what NumPy loads itself.
MAX_NEW_MODULES = 100


def modules_after(statement: str) -> set[str]:
    """Modules that a fresh interpreter has after ``import numpy`` and then ``statement`` added."""
    code = (
        "import json, sys, numpy; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import spectral_edge",
        "import spectral_edge.cli",
        "import spectral_edge as se; se.StftFrontend().fingerprint",
        "import spectral_edge as se; se.LogMelFrontend().fingerprint",
        "import spectral_edge as se; se.ImageFrontend().fingerprint",
        "import spectral_edge as se; se.ClassifySession, se.Classifier, se.DetectionPolicy",
        "import spectral_edge as se; se.open, se.Session, se.Bundle, se.bench, se.LatencyReport",
    ],
)
def test_import_is_light(statement: str) -> None:
    loaded = modules_after(statement)
    heavy = {name for name in loaded if name.split(".")[0] in HEAVY}
    assert not heavy
    assert len(loaded) < MAX_NEW_MODULES, sorted(loaded)
