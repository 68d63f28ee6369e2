"""Statistics of tensors over whole sequences: true extremes and histograms.

No moving average anywhere: averaging the extremes of single frames clips the loud ones, which costs
12 to 22 dB on streaming networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf

import torch
from torch import Tensor

from spectral_edge.errors import CalibrationError, SpecError

__all__ = ["HistogramObserver", "MinMaxObserver", "Observer", "make_observer"]

MASKED = -1e4  # attention masks write this or less instead of a score

BINS = 2048
CANDIDATES = 64  # clipping points tried per side by the MSE search
ROUNDS = 2  # of the MSE search: upper end, lower end, again
LEVELS = 255  # steps of an int8 range


class Observer(ABC):
    """Collects values and recommends a range. Needs :attr:`passes` passes over the same data.

    Values up to :data:`MASKED` are marks, not numbers: they set :attr:`masked` and nothing else.
    Values that are not finite are ignored: some ops give them in the warm-up of a program with
    lookahead, where nobody reads them.
    """

    passes: int = 1
    masked: bool = False

    def observe(self, x: Tensor) -> None:
        """Take in every value of ``x`` (any shape, floating point) that is a number."""
        if not x.numel():
            return
        low, high = torch.aminmax(x)
        smallest, largest = float(low), float(high)
        if not (smallest > MASKED and largest < inf):  # also when there is NaN
            self.masked |= bool((x <= MASKED).any())
            x = x[(x > MASKED) & (x < inf)]
            if not x.numel():
                return
            smallest, largest = (float(v) for v in torch.aminmax(x))
        self.update(x, smallest, largest)

    @abstractmethod
    def update(self, x: Tensor, low: float, high: float) -> None:
        """Take in ``x``, which is not empty and lies in [low, high]."""

    def next_pass(self) -> None:
        """Say that the data starts again."""
        return

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Return the recommended (low, high).

        Raises:
            CalibrationError: nothing was observed.
        """


class MinMaxObserver(Observer):
    """The smallest and the largest value ever seen."""

    def __init__(self) -> None:
        self.low = inf
        self.high = -inf

    def update(self, x: Tensor, low: float, high: float) -> None:
        """Extend the range by [low, high]."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[float, float]:
        """Return the extremes."""
        if self.low > self.high:
            raise CalibrationError(
                "no value was seen: calibration did not reach this part of the program"
            )
        return self.low, self.high


class HistogramObserver(Observer):
    """Extremes in a first pass, a histogram between them in a second.

    Args:
        method: ``mse`` takes the range with the least expected squared error of int8 quantisation,
            ``percentile`` the range that holds this share of the values.
        percentile: share in percent, for ``percentile``.
    """

    passes = 2

    def __init__(self, method: str = "mse", percentile: float = 99.999) -> None:
        if method not in ("mse", "percentile"):
            raise SpecError(f"histogram method is {method!r}, must be mse or percentile")
        if not 50.0 < percentile <= 100.0:
            raise SpecError(f"percentile is {percentile}, must be above 50 and at most 100")
        self.method = method
        self.percentile = percentile
        self.extremes = MinMaxObserver()
        self.counts: Tensor | None = None
        self.bounds = (0.0, 0.0)

    def update(self, x: Tensor, low: float, high: float) -> None:
        """Extend the range (first pass) or count into bins (second pass)."""
        if self.counts is None:
            self.extremes.update(x, low, high)
        elif self.bounds[1] > self.bounds[0]:
            low, high = self.bounds
            position = (x.flatten().float() - low) * (BINS / (high - low))
            bins = position.clamp_(0, BINS - 1).to(torch.int32)  # 4 times as fast as histc
            self.counts += torch.bincount(bins, minlength=BINS).cpu()

    def next_pass(self) -> None:
        """Fix the range of the bins and start to count."""
        low, high = self.extremes.range()
        self.bounds = (min(low, 0.0), max(high, 0.0))
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def range(self) -> tuple[float, float]:
        """Return the range chosen by :attr:`method`; the extremes when nothing was counted."""
        low, high = self.extremes.range()
        if self.counts is None or not self.counts.sum() > 0:
            return low, high
        bounds = (min(low, 0.0), max(high, 0.0))
        return self._by_percentile(bounds) if self.method == "percentile" else self._by_mse(bounds)

    def _by_percentile(self, bounds: tuple[float, float]) -> tuple[float, float]:
        counts = self._counts()
        edges = torch.linspace(bounds[0], bounds[1], BINS + 1, dtype=torch.float64)
        share = counts.cumsum(0) / counts.sum()
        tail = (1.0 - self.percentile / 100.0) / 2
        first = int((share <= tail).sum())
        last = int((share < 1.0 - tail).sum())
        return min(float(edges[first]), 0.0), max(float(edges[min(last + 1, BINS)]), 0.0)

    def _by_mse(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """Move one end at a time to where the squared error of the histogram is least."""
        counts = self._counts()
        width = (bounds[1] - bounds[0]) / BINS
        centers = bounds[0] + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
        shrink = torch.linspace(0.0, 1.0, CANDIDATES + 1, dtype=torch.float64)[1:]
        ends = [torch.tensor([bound], dtype=torch.float64) for bound in bounds]
        for _ in range(ROUNDS):
            for side in (1, 0):
                tried = [*ends]
                tried[side] = bounds[side] * shrink
                error = _squared_error(centers, *(t[:, None] for t in tried)) @ counts
                ends[side] = tried[side][error.argmin()][None]
        return float(ends[0]), float(ends[1])

    def _counts(self) -> Tensor:
        assert self.counts is not None
        return self.counts


def _squared_error(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return (quantised x - x)² for ranges [low, high]: shapes [n], [m, 1], [m, 1] -> [m, n]."""
    step = ((high - low) / LEVELS).clamp_min(torch.finfo(x.dtype).tiny)
    codes = (x / step).round().clamp((low / step).round(), (high / step).round())
    return (codes * step - x).square()


def make_observer(name: str, percentile: float) -> Observer:
    """Build the observer that a recipe names: ``minmax``, ``mse`` or ``percentile``."""
    if name == "minmax":
        return MinMaxObserver()
    return HistogramObserver(name, percentile)
