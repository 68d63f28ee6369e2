"""What is counted while hops run: times in constant memory, and everything that went wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Counters", "TimeHistogram"]


class TimeHistogram:
    """Percentiles of any number of times in constant memory, to 1.1 % (64 bins per octave)."""

    _PER_OCTAVE = 64
    _OCTAVES = 40  # 1 ns … 18 minutes

    def __init__(self) -> None:
        self._bins = np.zeros(self._PER_OCTAVE * self._OCTAVES, np.int64)
        self.n = 0
        self.total_ns = 0
        self.max_ns = 0

    def add(self, ns: int) -> None:
        """Count one time."""
        last = len(self._bins) - 1
        self._bins[min(int(math.log2(max(ns, 1)) * self._PER_OCTAVE), last)] += 1
        self.n += 1
        self.total_ns += ns
        self.max_ns = max(self.max_ns, ns)

    def percentile_us(self, percent: float) -> float:
        """Return the nearest-rank percentile in µs, to the width of a bin (from above)."""
        rank = max(1, math.ceil(percent / 100 * self.n))
        index = int(np.searchsorted(np.cumsum(self._bins), rank))
        return min(2 ** ((index + 1) / self._PER_OCTAVE), self.max_ns) / 1000


@dataclass
class Counters:
    """Counts of one live stream; a hop is one hop of one channel.

    Attributes:
        hops: hops due, run or not.
        misses: hops that were ready after their deadline, or that the policy did not run.
        longest_miss_run: most misses in a row.
        dropped: hops that gave silence because they came too late.
        bypassed: hops let through unprocessed because they came too late.
        bad_samples: NaN and infinite samples that were taken as 0.
        lost_samples: samples that never arrived (a gap or a full buffer), taken as 0.
        xruns_in: times the device or the buffer lost input.
        xruns_out: times the device or the buffer had nothing to play.
        times: of hops that the model ran on.
    """

    hops: int = 0
    misses: int = 0
    longest_miss_run: int = 0
    dropped: int = 0
    bypassed: int = 0
    bad_samples: int = 0
    lost_samples: int = 0
    xruns_in: int = 0
    xruns_out: int = 0
    times: TimeHistogram = field(default_factory=TimeHistogram, repr=False)
    _miss_run: int = field(default=0, repr=False)

    def count_hop(self, missed: bool) -> None:
        """Count a hop and whether it was ready in time."""
        self.hops += 1
        self._miss_run = self._miss_run + 1 if missed else 0
        self.misses += missed
        self.longest_miss_run = max(self.longest_miss_run, self._miss_run)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; ``hop_us`` has None where no hop ran."""
        names = ("p50", "p95", "max")
        hop_us: dict[str, float | None] = dict.fromkeys(names)
        if self.times.n:
            p50, p95 = (self.times.percentile_us(p) for p in (50, 95))
            hop_us = dict(zip(names, (p50, p95, self.times.max_ns / 1000), strict=True))
        counts = {k: v for k, v in vars(self).items() if k not in ("times", "_miss_run")}
        return {**counts, "hop_us": hop_us}
