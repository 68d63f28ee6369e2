"""The shipped weights: they load, they are small, and they help on real recordings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from spectral_edge.frontend import StftFrontend
from spectral_edge.models import load_checkpoint
from spectral_edge.training.evaluate import evaluate, model_enhancer, noisy_enhancer
from tests.tolerances import ZOO_SI_SDR_GAIN_DB

WEIGHTS = Path(str(files("spectral_edge"))) / "zoo" / "saf_edge_s.pt"


def test_weights_load_and_are_small() -> None:
    model, frontend, info = load_checkpoint(WEIGHTS)
    assert frontend == StftFrontend()
    assert info["name"] == "saf_edge_s"
    assert WEIGHTS.stat().st_size < 350_000
    assert WEIGHTS.with_suffix(".md").is_file()
    assert not model.training


def test_weights_improve_real_speech(data_root: Path) -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed")
    model, frontend, _ = load_checkpoint(WEIGHTS)
    pairs = data_root / "denoise" / "val_vbdmd"
    enhanced = evaluate(model_enhancer(model, frontend), pairs, names=("si_sdr", "ssnr"))
    noisy = evaluate(noisy_enhancer, pairs, names=("si_sdr", "ssnr"))
    assert enhanced.means["si_sdr"] > noisy.means["si_sdr"] + ZOO_SI_SDR_GAIN_DB
    assert enhanced.means["ssnr"] > noisy.means["ssnr"]
