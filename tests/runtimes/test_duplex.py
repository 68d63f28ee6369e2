"""Between device and session, without threads: what the device hears, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.runtimes.scheduler.deadline import OverrunPolicy
from spectral_edge.runtimes.scheduler.duplex import Duplex
from spectral_edge.runtimes.scheduler.realtime import RealtimeSession
from spectral_edge.runtimes.scheduler.ring import SampleRing
from tests.runtimes.test_deadlines import Clock

HOP = 256


@dataclass
class Status:
    """What sounddevice says about a callback."""

    input_overflow: bool = False
    input_underflow: bool = False
    output_underflow: bool = False
    output_overflow: bool = False


class Device:
    """Calls back block by block; the worker runs when it is told to."""

    def __init__(self, path: Path, cushion: int = HOP, channels: int = 1, columns: int = 1) -> None:
        self.clock, self.columns = Clock(), columns
        self.live = RealtimeSession(
            se.open(path),
            channels,
            OverrunPolicy("drop"),
            budget_ns=round(cushion * 1e9 / 16_000),
            clock=self.clock,
        )
        self.duplex = Duplex(self.live, channels, cushion, HOP, 8 * HOP, self.clock)
        self.heard: list[NDArray[np.float32]] = []

    def call(self, block: NDArray[np.float32], status: Status | None = None) -> None:
        """The device delivers a block [samples, channels] and wants as much."""
        self.clock.now += round(len(block) * 1e9 / 16_000)
        out = np.full((len(block), self.columns), np.nan, np.float32)
        self.duplex.callback(block, out, len(block), None, status)
        self.heard.append(out)

    def all(self) -> NDArray[np.float32]:
        return np.concatenate(self.heard)


@pytest.fixture
def clip() -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    return (rng.standard_normal((20 * HOP, 1)) * 0.1).astype(np.float32)


def wanted(path: Path, clip: NDArray[np.float32], late: int) -> NDArray[np.float32]:
    """What a session gives, ``late`` samples later."""
    with se.open(path) as session:
        out = session.push(clip)
    return np.concatenate([np.zeros((late, clip.shape[1]), np.float32), out])[: len(out)]


@pytest.mark.parametrize("size", [HOP, 64, 100, 1000])
def test_what_is_heard_is_what_the_session_gives(
    tiny: Path, clip: NDArray[np.float32], size: int
) -> None:
    device = Device(tiny, cushion=size)
    for start in range(0, len(clip), size):
        device.call(clip[start : start + size])
        device.duplex.work()
    assert np.array_equal(device.all(), wanted(tiny, clip, size))
    counters = device.live.counters
    assert (counters.xruns_in, counters.xruns_out, counters.misses) == (0, 0, 0)
    assert device.duplex.frames == len(clip)


def test_one_channel_is_heard_on_all(tiny: Path, clip: NDArray[np.float32]) -> None:
    device = Device(tiny, columns=2)
    for start in range(0, len(clip), HOP):
        device.call(clip[start : start + HOP])
        device.duplex.work()
    assert np.array_equal(device.all(), np.repeat(wanted(tiny, clip, HOP), 2, axis=1))


def test_two_channels(tiny: Path, clip: NDArray[np.float32]) -> None:
    both = np.concatenate([clip, clip[::-1]], axis=1)
    device = Device(tiny, channels=2, columns=2)
    for start in range(0, len(both), HOP):
        device.call(both[start : start + HOP])
        device.duplex.work()
    assert np.array_equal(device.all(), wanted(tiny, both, HOP))


def test_a_worker_that_is_late_leaves_a_hole_and_no_shift(
    through: Path, clip: NDArray[np.float32]
) -> None:
    device = Device(through)
    for i, start in enumerate(range(0, len(clip), HOP)):
        device.call(clip[start : start + HOP])
        if i not in (6, 7):
            device.duplex.work()
    heard, session = device.all(), wanted(through, clip, HOP)
    assert np.array_equal(heard[: 7 * HOP], session[: 7 * HOP])
    assert not heard[7 * HOP : 9 * HOP].any()
    assert np.array_equal(heard[13 * HOP :], session[13 * HOP :])
    assert device.live.counters.xruns_out == 2
    assert device.live.counters.dropped == 1  # the hop of call 6; that of call 7 was still in time


def test_blocks_larger_than_the_cushion_make_it_grow(tiny: Path, clip: NDArray[np.float32]) -> None:
    device = Device(tiny, cushion=HOP)
    for start in range(0, len(clip), 1024):
        device.call(clip[start : start + 1024])
        device.duplex.work()
    assert device.duplex.cushion == 1024
    assert device.live.counters.xruns_out == 1
    assert np.array_equal(device.all(), wanted(tiny, clip, 1024))


def test_lost_input_is_silence_of_the_same_length(through: Path, clip: NDArray[np.float32]) -> None:
    """The worker sleeps for 12 blocks, the ring holds 8."""
    device = Device(through)
    for i, start in enumerate(range(0, len(clip), HOP)):
        device.call(clip[start : start + HOP])
        if not 2 <= i < 14:
            device.duplex.work()
    counters = device.live.counters
    assert counters.lost_samples == 5 * HOP  # blocks 10 … 14: the worker frees the ring after 14
    assert counters.xruns_in == 1
    holed = clip.copy()
    holed[10 * HOP : 15 * HOP] = 0
    at = 17 * HOP  # the last block that came too late, 14, has passed through the window
    assert np.array_equal(device.all()[at:], wanted(through, holed, HOP)[at:])


def test_xruns_of_the_device_are_counted(tiny: Path, clip: NDArray[np.float32]) -> None:
    device = Device(tiny)
    device.call(clip[:HOP], Status(input_overflow=True))
    device.call(clip[:HOP], Status(output_underflow=True))
    device.duplex.work()
    assert device.live.counters.xruns_in == 1
    assert device.live.counters.xruns_out == 2  # and the second block was not ready


def test_levels_survive_bad_samples(tiny: Path) -> None:
    device = Device(tiny)
    device.call(np.full((HOP, 1), np.nan, np.float32))
    device.duplex.work()
    assert device.duplex.levels_db() == (-120.0, -120.0)
    device.call(np.full((HOP, 1), 0.1, np.float32))
    device.duplex.work()
    assert device.duplex.levels_db()[0] == pytest.approx(-20)
    assert device.live.counters.bad_samples == HOP


def test_an_error_of_the_worker_is_kept(tiny: Path, clip: NDArray[np.float32]) -> None:
    device = Device(tiny)
    device.call(clip[:HOP])
    device.live.session.close()
    device.duplex.run()
    assert isinstance(device.duplex.error, se.errors.StreamError)


@pytest.mark.parametrize("seed", range(3))
def test_a_ring_is_a_queue(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring, source, seen = SampleRing(50, 2), rng.standard_normal((400, 2)).astype(np.float32), []
    given = 0
    while given < len(source) or ring.available:
        given += ring.write(source[given : given + int(rng.integers(0, 80))])
        assert ring.available + ring.free == 50
        out = np.zeros((int(rng.integers(0, 80)), 2), np.float32)
        seen.append(out[: ring.read(out)])
    assert np.array_equal(np.concatenate(seen), source)
