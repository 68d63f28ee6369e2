"""Takes a session's hops apart: where each microsecond of a hop goes."""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["HopTimes", "Measurable", "quiet_gc", "rfft_yardstick_us", "time_hops", "time_paced"]

_STAMPS = 7  # outer start, four calls of a hop, their end, outer end


class Measurable(Protocol):
    """A session as far as its times are concerned: of audio, of labels, or of pictures."""

    @property
    def hop_length(self) -> int:
        """Samples of one push."""

    @property
    def streams(self) -> Sequence[Any]:
        """Channels, each with front end, engine and FIFO."""

    def push(self, block: NDArray[Any], /) -> object:
        """Take in one hop."""


@dataclass(frozen=True)
class HopTimes:
    """Times of consecutive hops, float64[hops] in µs.

    Attributes:
        hop: the whole ``push`` of one hop.
        frontend: analysis and synthesis.
        model: the engine's invoke.
        copies: the rest: state hand-over, FIFO, Python.
    """

    hop: NDArray[np.float64]
    frontend: NDArray[np.float64]
    model: NDArray[np.float64]
    copies: NDArray[np.float64]

    def parts(self) -> dict[str, NDArray[np.float64]]:
        """Return the four series by name."""
        names = ("hop", "frontend", "model", "copies")
        return {name: getattr(self, name) for name in names}


def time_hops(
    session: Measurable, clip: NDArray[np.int16], hops: int, clock: Callable[[], int]
) -> HopTimes:
    """Push hops back to back and stamp every part of each.

    Args:
        session: mono, at the bundle's own rate; its stream goes on.
        clip: int16[samples], repeated as often as needed.
        hops: number of hops.
        clock: ``time.perf_counter_ns`` or ``time.thread_time_ns``.
    """
    stream = session.streams[0]
    analyze, synthesize = stream.frontend.analyze, stream.frontend.synthesize
    invoke, hand_over = stream.engine.invoke, stream.engine.hand_over
    stamps = array("q", bytes(8 * _STAMPS * hops))
    at = 0

    def stamped_hop() -> None:
        stamps[at + 1] = clock()
        analyze()
        stamps[at + 2] = clock()
        invoke()
        stamps[at + 3] = clock()
        hand_over()
        stamps[at + 4] = clock()
        synthesize()
        stamps[at + 5] = clock()

    blocks = _blocks(clip, session.hop_length)
    plain, stream.fifo.run = stream.fifo.run, stamped_hop
    try:
        with quiet_gc():
            for i in range(hops):
                block = blocks[i % len(blocks)]
                at = i * _STAMPS
                stamps[at] = clock()
                session.push(block)
                stamps[at + 6] = clock()
    finally:
        stream.fifo.run = plain
    table = np.frombuffer(stamps, np.int64).reshape(hops, _STAMPS) / 1000
    hop = table[:, 6] - table[:, 0]
    frontend = table[:, 2] - table[:, 1] + table[:, 5] - table[:, 4]
    model = table[:, 3] - table[:, 2]
    return HopTimes(hop, frontend, model, hop - frontend - model)


def time_paced(
    session: Measurable, clip: NDArray[np.int16], hops: int, period_s: float
) -> NDArray[np.float64]:
    """Push one hop per ``period_s`` and return µs from each scheduled arrival to its completion.

    A hop that comes while the one before is still being computed waits, and the wait counts.
    """
    blocks = _blocks(clip, session.hop_length)
    late = np.empty(hops)
    with quiet_gc():
        start = time.perf_counter()
        for i in range(hops):
            due = start + i * period_s
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            session.push(blocks[i % len(blocks)])
            late[i] = time.perf_counter() - due
    return late * 1e6


@contextmanager
def quiet_gc() -> Iterator[None]:
    """Keep the garbage collector from running in between."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def rfft_yardstick_us(rounds: int = 2000) -> float:
    """Return the median µs of ``numpy.fft.rfft`` of 512 float64 on this core, now."""
    x = np.random.default_rng(0).standard_normal(512)
    times = np.empty(rounds)
    for i in range(rounds):
        start = time.perf_counter_ns()
        np.fft.rfft(x)
        times[i] = time.perf_counter_ns() - start
    return float(np.median(times)) / 1000


def _blocks(clip: NDArray[np.int16], hop: int) -> list[NDArray[np.int16]]:
    whole = clip[: len(clip) // hop * hop]
    return list(np.ascontiguousarray(whole).reshape(-1, hop))
