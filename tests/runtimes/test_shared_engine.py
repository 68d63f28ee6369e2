"""Many streams on one engine: each as if it were alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.errors import RuntimeUnfit, SpecError, StreamError
from spectral_edge.runtimes.scheduler import SharedEngine
from tests.runtimes.tiny import tiny_bundle

RATES = (16_000, 8_000, 48_000, 16_000, 44_100, 16_000)


def clips() -> list[NDArray[np.int16]]:
    rng = np.random.default_rng(4)
    return [(rng.standard_normal(rate // 4) * 3000).astype(np.int16) for rate in RATES]


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_interleaved_streams_are_what_each_is_alone(tiny: Path, engine: str) -> None:
    """Six streams of four rates push blocks of random sizes in random order."""
    rng = np.random.default_rng(1)
    shared = SharedEngine.open(tiny, engine)
    sessions = [se.open(tiny, engine=shared, sample_rate=rate) for rate in RATES]
    taken, outs = [0] * len(RATES), [[] for _ in RATES]
    while pending := [i for i, clip in enumerate(clips()) if taken[i] < len(clip)]:
        i = int(rng.choice(pending))
        block = clips()[i][taken[i] : taken[i] + int(rng.integers(0, 2000))]
        outs[i].append(sessions[i].push(block))
        taken[i] += len(block)
    for i, (session, clip) in enumerate(zip(sessions, clips(), strict=True)):
        seen = np.concatenate([*outs[i], session.flush()])
        with se.open(tiny, engine=engine, sample_rate=RATES[i]) as alone:
            wanted = np.concatenate([alone.push(clip), alone.flush()])
        assert np.array_equal(seen, wanted)


def test_reset_and_state_are_of_one_stream(tiny: Path, noise: NDArray[np.int16]) -> None:
    shared = SharedEngine.open(tiny)
    with se.open(tiny, engine=shared) as one, se.open(tiny, engine=shared) as two:
        one.push(noise[:1000])
        expected = one.state()
        two.push(noise)
        two.reset()
        state = one.state()
        assert state.to_bytes() == expected.to_bytes()
        rest = one.push(noise[1000:])
        two.load_state(state)
        assert np.array_equal(two.push(noise[1000:]), rest)
        assert one.describe()["engine"]["engine"] == "litert"


def test_a_closed_session_leaves_the_others_running(tiny: Path, noise: NDArray[np.int16]) -> None:
    shared = SharedEngine.open(tiny)
    one, two = (se.open(tiny, engine=shared) for _ in range(2))
    one.push(noise)
    one.close()
    with se.open(tiny) as alone:
        assert np.array_equal(two.push(noise), alone.push(noise))
    with pytest.raises(StreamError, match="closed"):
        one.push(noise)


def test_another_bundle_is_refused(tiny: Path, through: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"runs through.seb, the session is of tiny.seb"):
        se.open(tiny, engine=SharedEngine.open(through))
    with pytest.raises(RuntimeUnfit):
        SharedEngine.open(tiny_bundle(tmp_path / "o.seb", formats=("onnx",)), "litert")
