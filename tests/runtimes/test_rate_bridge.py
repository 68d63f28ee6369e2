"""Sessions on audio of another sample rate keep their laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.runtimes.resampling import RateBridge
from spectral_edge.runtimes.scheduler import HopFifo
from tests.tolerances import RESAMPLED_SNR_DB

RATES = (8_000, 22_050, 44_100, 48_000)


def tone(rate: int, seconds: float = 1.0) -> NDArray[np.int16]:
    t = np.arange(int(rate * seconds)) / rate
    return (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that multiplies by 255/256 and needs no level."""
    from tests.runtimes.tiny import tiny_bundle

    spec = se.StftFrontend(level="none", compression=1.0)
    path = tmp_path_factory.mktemp("flat") / "flat.seb"
    return tiny_bundle(path, through=True, frontend=spec).path


@pytest.mark.parametrize("rate", RATES)
def test_process_is_aligned(flat: Path, rate: int) -> None:
    clip = tone(rate)
    with se.open(flat, sample_rate=rate) as session:
        out = session.process(clip)
    assert (len(out), out.dtype) == (len(clip), clip.dtype)
    inner = slice(rate // 10, -rate // 10)
    wanted = clip[inner] * (255 / 256)
    error = out[inner] - wanted
    assert 10 * np.log10((wanted @ wanted) / (error @ error)) >= RESAMPLED_SNR_DB


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_split_gives_the_same_bytes(tiny: Path, rate: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = (rng.standard_normal(rate // 2) * 3000).astype(np.int16)
    with se.open(tiny, sample_rate=rate) as session:
        whole = session.process(clip)
        parts, start = [], 0
        while start < len(clip):
            block = clip[start : start + int(rng.integers(0, 900))]
            parts.append(session.push(block))
            assert len(parts[-1]) == len(block)
            start += len(block)
        out = np.concatenate([*parts, session.flush()])
    assert np.array_equal(out[session.latency_samples :], whole)


def test_single_samples_never_run_dry(tiny: Path) -> None:
    clip = tone(44_100, 0.4)
    with se.open(tiny, sample_rate=44_100) as session:
        for sample in clip:
            assert len(session.push(np.array([sample], np.int16))) == 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("native", [16_000, 48_000])
def test_a_minute_never_runs_dry(rate: int, native: int) -> None:
    """The bursts of both resamplers drift against each other: 44.1 kHz was short after 1.2 s."""
    if rate == native:
        return
    for native_latency, size in ((512, 441), (960, 997), (777, 64)):
        bridge = RateBridge(rate, native, HopFifo(256, lambda: None), native_latency)
        block, least = np.zeros(size, np.float32), bridge.latency
        for _ in range(60 * rate // size if size > 64 else 5 * rate // size):
            assert len(bridge.push(block)) == size
            least = min(least, len(bridge._ready))
        assert least <= 0.08 * rate  # and the latency is not stated much larger than it must be


def test_own_rate_is_not_resampled(tiny: Path) -> None:
    with se.open(tiny, sample_rate=16_000) as session:
        assert session.describe()["resampled_to"] is None
        assert session.latency_samples == 512


def test_rate_out_of_range(tiny: Path) -> None:
    with pytest.raises(SpecError, match="sample rate is 10 Hz, must be 1000…768000"):
        se.open(tiny, sample_rate=10)
