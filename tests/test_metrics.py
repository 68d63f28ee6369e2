"""Metrics against values of established implementations, and their refusals."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from spectral_edge import metrics
from spectral_edge.errors import RuntimeUnavailable, SpecError
from tests.tolerances import METRIC_ABSOLUTE, PESQ_ABSOLUTE

RATE = 16_000
PAIRS = (
    "published_pesq/speech_bab_0dB.wav",
    *(
        f"vbdmd_triples/p232_{number}_{kind}.flac"
        for number in ("014", "016", "022", "024", "052", "170")
        for kind in ("noisy", "enhanced")
    ),
)


def _read(path: Path) -> np.ndarray:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return samples


@pytest.fixture(params=PAIRS)
def case(
    request: pytest.FixtureRequest, data_root: Path
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Return (clean, noisy, row of reference values)."""
    folder = data_root / "metrics"
    with (folder / "reference_values.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["pair"] == request.param)
    noisy = folder / request.param
    clean = (
        noisy.with_name("speech.wav")
        if noisy.suffix == ".wav"
        else noisy.with_name(noisy.name.rsplit("_", 1)[0] + "_clean.flac")
    )
    return _read(clean), _read(noisy), row


def test_numpy_metrics_equal_reference_values(case):
    clean, noisy, row = case
    assert clean.size == int(row["samples"])
    assert metrics.si_sdr(clean, noisy) == pytest.approx(float(row["si_sdr"]), abs=METRIC_ABSOLUTE)
    assert metrics.ssnr(clean, noisy) == pytest.approx(float(row["ssnr_own"]), abs=METRIC_ABSOLUTE)
    assert metrics.llr(clean, noisy) == pytest.approx(float(row["llr_pysepm"]), abs=METRIC_ABSOLUTE)
    assert metrics.wss(clean, noisy) == pytest.approx(float(row["wss_pysepm"]), abs=METRIC_ABSOLUTE)


def test_perceptual_metrics_equal_reference_values(case):
    pytest.importorskip("pesq", reason="pesq is not installed")
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    clean, noisy, row = case
    near = {"abs": PESQ_ABSOLUTE}
    assert metrics.pesq(clean, noisy) == pytest.approx(float(row["pesq_wb"]), **near)
    assert metrics.pesq(clean, noisy, mode="nb") == pytest.approx(float(row["pesq_nb"]), **near)
    assert metrics.stoi(clean, noisy) == pytest.approx(float(row["stoi"]), **near)
    assert metrics.stoi(clean, noisy, extended=True) == pytest.approx(float(row["estoi"]), **near)
    for name, value in metrics.composite(clean, noisy).items():
        assert value == pytest.approx(float(row[name]), abs=METRIC_ABSOLUTE), name


def test_si_sdr_of_known_noise_and_any_scale():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(RATE)
    clean -= clean.mean()
    noise = rng.standard_normal(RATE)
    noise -= noise.mean()
    noise -= noise @ clean / (clean @ clean) * clean
    noise *= 0.1 * np.linalg.norm(clean) / np.linalg.norm(noise)
    assert metrics.si_sdr(clean, clean + noise) == pytest.approx(20.0, abs=1e-9)
    assert metrics.si_sdr(clean, 0.05 * (clean + noise)) == pytest.approx(20.0, abs=1e-9)


def test_ssnr_is_limited_and_llr_wss_of_equal_clips_are_zero():
    rng = np.random.default_rng(1)
    clean = rng.standard_normal(RATE) * 0.1
    assert metrics.ssnr(clean, clean) == 35.0
    assert metrics.ssnr(clean, -9.0 * clean) == -10.0
    assert metrics.llr(clean, clean) == pytest.approx(0.0, abs=1e-9)
    assert metrics.wss(clean, clean) == 0.0


def test_silent_stretches_do_not_break_frame_metrics():
    rng = np.random.default_rng(2)
    clean = np.concatenate((np.zeros(RATE), rng.standard_normal(RATE) * 0.1))
    noisy = clean + rng.standard_normal(clean.size) * 0.01
    for metric in (metrics.llr, metrics.wss, metrics.ssnr):
        assert math.isfinite(metric(clean, noisy))


def test_int16_and_float_clips_agree():
    rng = np.random.default_rng(3)
    clean = rng.integers(-8000, 8000, RATE, dtype=np.int16)
    noisy = (clean // 2).astype(np.int16)
    assert metrics.ssnr(clean, noisy) == metrics.ssnr(clean / 32768.0, noisy / 32768.0)


@pytest.mark.parametrize(
    ("clean", "noisy", "message"),
    [
        (np.zeros(10), np.zeros(9), "10 samples, estimate 9"),
        (np.zeros((2, 10)), np.zeros(10), r"shape \(2, 10\)"),
        (np.ones(4), np.array([0.0, np.nan, 0.0, 0.0]), "estimate holds NaN"),
        (np.ones(400), np.arange(400.0), "reference is silent"),
    ],
)
def test_bad_clips_are_refused(clean, noisy, message):
    with pytest.raises(SpecError, match=message):
        metrics.si_sdr(clean, noisy)


def test_short_clip_is_refused():
    with pytest.raises(SpecError, match="at least 600"):
        metrics.ssnr(np.ones(599), np.zeros(599))


def test_pesq_refuses_other_rates():
    pytest.importorskip("pesq", reason="pesq is not installed")
    with pytest.raises(SpecError, match="44100 Hz"):
        metrics.pesq(np.ones(9000), np.ones(9000), 44_100)


def test_missing_package_names_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'spectral-edge\[metrics\]'"):
        metrics.pesq(np.ones(9000), np.ones(9000))
