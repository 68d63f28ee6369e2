"""What happens to a hop that comes too late.

A hop is due a fixed time after its last sample arrived. One that begins when it is already due is
not run any more: running it would only make the next one late, too. The front end still works on it
(a few µs), so that level, alignment and overlap-add stay right and there is no click; the model and
its states stand still for that hop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spectral_edge.errors import SpecError
from spectral_edge.runtimes.stream import ChannelStream

from .counters import Counters

__all__ = ["Clock", "HopGuard", "OverrunPolicy"]

Clock = Callable[[], int]
"""Nanoseconds from any fixed moment, such as ``time.perf_counter_ns``."""

KINDS = ("drop", "bypass", "queue")
MAX_BOUND = 64


@dataclass(frozen=True)
class OverrunPolicy:
    """What to do with a hop that comes too late.

    Attributes:
        kind: ``drop`` gives silence for it, ``bypass`` the unprocessed audio (faded over one
            window). ``queue`` lets up to ``bound`` hops wait and runs them all, at the price of
            that much more latency, and gives silence for what comes later still.
        bound: hops that may wait with ``queue``.

    Raises:
        SpecError: an unknown kind or a bound out of range.
    """

    kind: str = "bypass"
    bound: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"policy is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if not 1 <= self.bound <= MAX_BOUND:
            raise SpecError(f"bound is {self.bound} hops, must be 1…{MAX_BOUND}")

    @classmethod
    def parse(cls, text: str) -> OverrunPolicy:
        """Read ``drop``, ``bypass``, ``queue`` or ``queue:HOPS``.

        Raises:
            SpecError: anything else.
        """
        kind, colon, bound = text.partition(":")
        if not colon:
            return cls(kind)
        if kind != "queue" or not bound.isdecimal():
            raise SpecError(f"policy is {text!r}, must be drop, bypass, queue or queue:HOPS")
        return cls(kind, int(bound))

    @property
    def patience_hops(self) -> int:
        """Hops by which a hop may be later than otherwise."""
        return self.bound if self.kind == "queue" else 0

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        return f"queue:{self.bound}" if self.kind == "queue" else self.kind


class HopGuard:
    """Stands where a stream's FIFO runs its hops: runs those in time, and counts.

    Args:
        stream: its ``fifo.run`` becomes this guard.
        policy: for hops that begin too late.
        clock: what time it is.
        counters: counted into; may be shared with other guards.

    Attributes:
        due_ns: when hops that run now must be ready; set before each push.
    """

    def __init__(
        self, stream: ChannelStream, policy: OverrunPolicy, clock: Clock, counters: Counters
    ) -> None:
        self.due_ns = 0
        self._run, self._clock, self._counters = stream.hop, clock, counters
        self._bypasses = policy.kind == "bypass"
        self._skip = stream.bypass if self._bypasses else stream.mute
        stream.fifo.run = self

    def __call__(self) -> None:
        """Run the hop, or what the policy puts in its place."""
        counters, begun = self._counters, self._clock()
        if begun > self.due_ns:
            self._skip()
            if self._bypasses:
                counters.bypassed += 1
            else:
                counters.dropped += 1
            counters.count_hop(missed=True)
            return
        self._run()
        done = self._clock()
        counters.times.add(done - begun)
        counters.count_hop(missed=done > self.due_ns)
