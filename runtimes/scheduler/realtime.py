"""A session against a clock: cleans what comes in, gives every block a deadline, counts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.runtimes.session import Session

from .counters import Counters
from .deadline import Clock, HopGuard, OverrunPolicy

__all__ = ["RealtimeSession"]

MAX_GAP_SECONDS = 2.0  # a longer gap than this ends the stream and begins another


class RealtimeSession:
    """A session whose hops have deadlines.

    ``push`` returns as many samples as it got, late by ``session.latency_samples``, whatever
    happens: late hops are replaced as the policy says, NaN and infinity count as silence.

    Args:
        session: belongs to this object from now on.
        channels: of the blocks that will be pushed.
        policy: for hops that come too late.
        budget_ns: time from the arrival of a block to its deadline, without the policy's patience;
            None is the duration of one hop.
        clock: what time it is, for tests.

    Attributes:
        counters: what has happened so far.
        budget_ns: time from the arrival of a block to its deadline.
    """

    def __init__(
        self,
        session: Session,
        channels: int = 1,
        policy: OverrunPolicy | None = None,
        budget_ns: int | None = None,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        policy = policy or OverrunPolicy()
        session.prepare(channels)
        period_ns = round(1e9 * session.hop_length / session.bundle_rate)
        self.session, self.counters, self._clock = session, Counters(), clock
        self.budget_ns = period_ns if budget_ns is None else budget_ns
        self.budget_ns += policy.patience_hops * period_ns
        self._guards = [HopGuard(s, policy, clock, self.counters) for s in session.streams]

    def push(self, block: NDArray[Any], arrived_ns: int | None = None) -> NDArray[Any]:
        """Take in a block and return one of the same length, dtype and channels, late.

        Args:
            block: as for :meth:`Session.push`; NaN and infinity are taken as 0.
            arrived_ns: when its last sample arrived, by the clock; None is now.

        Raises:
            StreamError: see :meth:`Session.push`.
        """
        arrived = self._clock() if arrived_ns is None else arrived_ns
        for guard in self._guards:
            guard.due_ns = arrived + self.budget_ns
        return self.session.push(self._clean(block))

    def skip(self, samples: int, like: NDArray[Any]) -> NDArray[Any]:
        """Go on after a gap of ``samples`` that never arrived: silence for the model, and counted.

        After more than two seconds the stream begins anew, as after a reset: the level and the
        model's memory are those of another scene by then.

        Args:
            samples: length of the gap.
            like: a block whose dtype and channels the answer gets.

        Returns:
            As many samples as were lost, as :meth:`push` would.
        """
        self.counters.lost_samples += samples
        form = like.shape[1:]
        longest = round(MAX_GAP_SECONDS * self.session.sample_rate)
        heard = min(samples, longest)
        out = self.push(np.zeros((heard, *form), like.dtype))
        if samples > heard:
            self.session.reset()
            out = np.concatenate([out, np.zeros((samples - heard, *form), like.dtype)])
        return out

    def _clean(self, block: NDArray[Any]) -> NDArray[Any]:
        if block.dtype != np.float32 or np.isfinite(block).all():
            return block
        good = np.isfinite(block)
        self.counters.bad_samples += int(block.size - np.count_nonzero(good))
        return np.where(good, block, np.float32(0))
