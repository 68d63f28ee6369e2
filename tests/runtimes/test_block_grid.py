"""Any device rate, any block size: the same bytes, a true latency, and no memory per hop."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.runtimes.scheduler.realtime import RealtimeSession
from tests.runtimes.tiny import tiny_bundle

HOP, WINDOW = 256, 512
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
# block sizes, over and over until the signal is used up
GRID = {
    "one sample": [1],
    "empty in between": [0, 100, 0, 0, 3],
    "hop - 1": [HOP - 1],
    "hop": [HOP],
    "hop + 1": [HOP + 1],
    "around a hop": [HOP - 1, HOP, HOP + 1, 0, 1],
    "largest": [8192],
    "small and large": [1, 8192, 7],
}


def random_sizes(seed: int) -> list[int]:
    """Block sizes from 1 to 8192, as likely small as large."""
    rng = np.random.default_rng(seed)
    return [int(2 ** rng.uniform(0, 13)) for _ in range(50)]


def in_blocks(
    session: se.Session, clip: NDArray[np.generic], sizes: list[int]
) -> NDArray[np.generic]:
    """Push the clip in blocks and return everything that came out, with the tail."""
    parts, start, turn = [], 0, 0
    while start < len(clip):
        block = clip[start : start + sizes[turn % len(sizes)]]
        parts.append(session.push(block))
        assert parts[-1].shape == block.shape
        start, turn = start + len(block), turn + 1
    return np.concatenate([*parts, session.flush()])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_any_split_gives_the_same_bytes(
    tiny: Path, rate: int, channels: int | None, dtype: type
) -> None:
    rng = np.random.default_rng(rate)
    shape = (rate // 4,) if channels is None else (rate // 4, channels)
    pcm = (rng.standard_normal(shape) * 3000).astype(np.int16)
    clip = pcm if dtype is np.int16 else (pcm / 32768).astype(np.float32)
    with se.open(tiny, sample_rate=rate) as session:
        once = np.concatenate([session.push(clip), session.flush()])
        for name, sizes in GRID.items():
            assert np.array_equal(in_blocks(session, clip, sizes), once), name
        for seed in range(3):
            assert np.array_equal(in_blocks(session, clip, random_sizes(seed)), once), seed
        assert np.array_equal(session.process(clip), once[session.latency_samples :])


@pytest.fixture(scope="module", params=[(16_000, 512, 256), (48_000, 960, 480)])
def flat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that multiplies by 255/256; another rate, window and hop each."""
    rate, n_fft, hop = request.param
    spec = se.StftFrontend(
        sample_rate=rate, n_fft=n_fft, hop_length=hop, level="none", compression=1.0
    )
    folder = tmp_path_factory.mktemp("flat")
    return tiny_bundle(folder / "flat.seb", through=True, frontend=spec).path


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("at", [0, 1, 4321])
def test_impulse_comes_out_late_by_the_stated_latency(flat: Path, rate: int, at: int) -> None:
    clip = np.zeros(at + 1000, np.int16)
    clip[at] = 30_000
    with se.open(flat, sample_rate=rate) as session:
        late = in_blocks(session, clip, random_sizes(at))
        assert int(np.argmax(np.abs(late))) == at + session.latency_samples
        assert int(np.argmax(np.abs(session.process(clip)))) == at
        if rate == session.bundle_rate:
            assert session.latency_samples == session.bundle.frontend.n_fft


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_hops_leave_nothing_behind(tiny: Path, rate: int, dtype: type) -> None:
    """Thousands of hops: nothing is kept, and what is taken meanwhile is a few blocks."""
    block = np.ones(441, dtype) if dtype is np.int16 else np.full(441, 0.01, np.float32)
    with se.open(tiny, sample_rate=rate) as session:
        live = RealtimeSession(session)

        def work(blocks: int) -> None:
            for _ in range(blocks):
                live.push(block)

        work(300)
        tracemalloc.start()
        try:
            work(100)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            work(3000)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # a resampler delivers in bursts: what waits to be given out is now more and now less
    assert abs(after - before) < (2_000 if rate == 16_000 else 16_000)
    assert peak - before < 64_000


def test_a_hop_takes_no_memory(tiny: Path) -> None:
    """From the caller's buffer to the caller's buffer, with a deadline: views and numbers only."""
    block, out = np.ones(300, np.int16), np.empty(300, np.int16)
    with se.open(tiny) as session:
        live = RealtimeSession(session)
        live.push(block)  # gives the hops a deadline
        fifo = session.streams[0].fifo
        for _ in range(100):
            fifo.exchange(block, out)
        tracemalloc.start()
        try:
            fifo.exchange(block, out)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(3000):
                fifo.exchange(block, out)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert live.counters.hops > 3000
    assert after - before < 3000  # not a byte per hop
    assert peak - before < 1536  # less than one hop of audio and its features
