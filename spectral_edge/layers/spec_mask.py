"""SpecMask and SpecAugment: masking of log-mel windows while training.

SpecMask mixes full-frequency masks and local time-frequency masks under one fixed budget, aligned
to the patches of the network (idea: Makineni et al., arXiv 2508.21243; the algorithm's constants
are not known to us, those here are ours). Both are frozen values that draw from a generator handed
to them: the same generator state gives the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral_edge.errors import SpecError

__all__ = ["Masking", "SpecAugment", "SpecMask"]

TRIES = 20  # positions tried per local block before it is squeezed into free cells
BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class Masking:
    """What both maskings share: how a mask is applied.

    Attributes:
        probability: share of examples that are masked at all.
        fill: value of masked cells of the normalised features. 0 is their mean; the reference
            pipelines mask before normalising, which is 0.467 on AudioSet and 0.615 on Speech
            Commands.
    """

    probability: float = 0.9
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise SpecError(f"probability is {self.probability}, must be 0…1")

    def draw(self, frames: int, mels: int, rng: np.random.Generator) -> BoolMask:
        """Return one mask, bool[frames, mels], True where cells are hidden."""
        raise NotImplementedError

    def apply(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a masked copy of float32[batch, 1, frames, mels], one draw per example."""
        batch, _, frames, mels = features.shape
        masks = np.zeros((batch, frames, mels), dtype=bool)
        for mask in masks:
            if rng.random() < self.probability:
                mask[:] = self.draw(frames, mels, rng)
        where = torch.from_numpy(masks).to(features.device).unsqueeze(1)
        return features.masked_fill(where, self.fill)


@dataclass(frozen=True)
class SpecAugment(Masking):
    """One frequency stripe and one time stripe of uniformly random widths.

    Attributes:
        frequency: largest stripe width in mels.
        time: largest stripe width in frames.
    """

    frequency: int = 48
    time: int = 48

    def draw(self, frames: int, mels: int, rng: np.random.Generator) -> BoolMask:
        mask = np.zeros((frames, mels), dtype=bool)
        height = int(rng.integers(0, min(self.frequency, mels) + 1))
        start = int(rng.integers(0, mels - height + 1))
        mask[:, start : start + height] = True
        width = int(rng.integers(0, min(self.time, frames) + 1))
        start = int(rng.integers(0, frames - width + 1))
        mask[start : start + width] = True
        return mask

    def expected_share(self, frames: int, mels: int) -> float:
        """Mean share of hidden cells, for budgets that are to be compared."""
        f, t = 0.5 * min(self.frequency, mels) / mels, 0.5 * min(self.time, frames) / frames
        return f + t - f * t


@dataclass(frozen=True)
class SpecMask(Masking):
    """Full-frequency and local masks under one budget, aligned to patches.

    The hidden area is exactly ``round(budget · P · mels)`` column-bins in every draw, where a
    column is ``patch`` frames and P = ⌊frames/patch⌋ of them fit; frames behind the last column
    stay visible.

    Attributes:
        patch: frames of a patch.
        budget: β, share of the area that is hidden.
        full_share: ρ, share of the budget spent on full-frequency columns.
        longest: longest run of full-frequency columns drawn at once.
        aligned: False rolls the mask by a random number of frames within a patch.
    """

    patch: int = 4
    budget: float = 0.2
    full_share: float = 0.6
    longest: int = 4
    aligned: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1 or self.longest < 1:
            raise SpecError(f"patch {self.patch} and longest {self.longest} must be at least 1")
        for name in ("budget", "full_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} is {getattr(self, name)}, must be 0…1")

    def area(self, frames: int, mels: int) -> int:
        """Return the hidden column-bins of every draw."""
        return round(self.budget * (frames // self.patch) * mels)

    def draw(self, frames: int, mels: int, rng: np.random.Generator) -> BoolMask:
        columns = frames // self.patch
        if columns < 1:
            raise SpecError(f"window has {frames} frames, less than one patch of {self.patch}")
        area = self.area(frames, mels)
        cells = np.zeros((columns, mels), dtype=bool)
        full = min(round(self.full_share * area / mels), area // mels)
        self._full_columns(cells, full, rng)
        self._local_blocks(cells, area - full * mels, rng)
        mask = np.zeros((frames, mels), dtype=bool)
        covered = np.repeat(cells, self.patch, axis=0)
        if not self.aligned:
            covered = np.roll(covered, int(rng.integers(0, self.patch)), axis=0)
        mask[: len(covered)] = covered
        return mask

    def _full_columns(self, cells: BoolMask, count: int, rng: np.random.Generator) -> None:
        while count:
            run = int(rng.integers(1, min(self.longest, count) + 1))
            taken = cells[:, 0]
            windows = np.lib.stride_tricks.sliding_window_view(taken, run)
            starts = np.flatnonzero(~windows.any(axis=1))
            if starts.size == 0:
                run, starts = 1, np.flatnonzero(~taken)
            start = int(rng.choice(starts))
            cells[start : start + run] = True
            count -= run

    @staticmethod
    def _local_blocks(cells: BoolMask, rest: int, rng: np.random.Generator) -> None:
        columns, mels = cells.shape
        while rest:
            height = max(1, mels // int(rng.choice((8, 4, 2))))
            width = min(int(rng.integers(1, 3)), columns)
            if height * width > rest:
                width = 1 if rest % width else width
                height = min(height, rest // width)
            for _ in range(TRIES):
                c = int(rng.integers(0, columns - width + 1))
                f = int(rng.integers(0, mels - height + 1))
                block = cells[c : c + width, f : f + height]
                if not block.any():
                    block[:] = True
                    rest -= height * width
                    break
            else:
                rest -= _squeeze(cells, min(height, rest), rng)


def _squeeze(cells: BoolMask, wanted: int, rng: np.random.Generator) -> int:
    """Hide up to ``wanted`` neighbouring free bins of one random column; return how many."""
    column = int(rng.choice(np.flatnonzero(~cells.all(axis=1))))
    free = np.flatnonzero(~cells[column])
    runs = np.split(free, np.flatnonzero(np.diff(free) > 1) + 1)
    longest = max(runs, key=len)
    taken = longest[:wanted]
    cells[column, taken] = True
    return len(taken)
