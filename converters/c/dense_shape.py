"""The layout of a dense kernel: runs of taps that lie evenly, vectors of outputs, weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kernels import Dense
from .view import View, contiguous

__all__ = ["MAX_VECTORS", "DenseShape", "chunks_of", "packed_weights", "shape_of"]

MAX_VECTORS = 4  # of outputs at once


def lanes_of(outputs: int) -> list[int]:
    """Widths of the vectors that hold ``outputs`` values."""
    widths = [16] * (outputs // 16)
    rest = outputs % 16
    if rest > 12:
        widths.append(16)
    elif rest > 8:
        widths += [8, 4]
    elif rest > 4:
        widths.append(8)
    elif rest:
        widths.append(4)
    return widths


@dataclass(frozen=True)
class DenseShape:
    """The loops of one kernel: positions, runs of taps that lie evenly, vectors of outputs."""

    kernel: Dense
    x: View
    codes: bool
    groups: int
    height: int
    width: int
    run: int  # input values per run
    runs_w: int  # runs per kernel row
    padded: bool  # does padding cut windows along the width
    padded_h: bool
    widths: tuple[int, ...]
    step: int  # from one value of a run to the next

    @property
    def lanes(self) -> int:
        """Outputs of a group with the padding of the vectors."""
        return sum(self.widths)

    @property
    def terms(self) -> int:
        """Weight vectors per run: one per value, or one per pair of codes."""
        return -(-self.run // 2) if self.codes else self.run


def shape_of(kernel: Dense) -> DenseShape:
    """Find the longest runs of taps that one stride walks through."""
    x = kernel.x
    codes = kernel.packed is not None
    if kernel.packed is not None:
        x = contiguous(kernel.packed, kernel.x.shape)
    groups, height, width, depth, outputs = kernel.weight.shape
    out_h, out_w = kernel.shape[1:3]
    reach_h = (out_h - 1) * kernel.stride[0] + (height - 1) * kernel.dilation[0]
    reach_w = (out_w - 1) * kernel.stride[1] + (width - 1) * kernel.dilation[1]
    padded_h = kernel.before[0] > 0 or reach_h - kernel.before[0] >= x.shape[1]
    padded = kernel.before[1] > 0 or reach_w - kernel.before[1] >= x.shape[2]
    step = x.strides[3] if depth > 1 else 1
    tap = x.strides[2] * kernel.dilation[1]
    row = x.strides[1] * kernel.dilation[0]
    run, runs_w = depth, width
    even = not (codes and padded and depth % 2)
    if depth == 1 and width > 1 and not padded and (tap == 1 or not codes):
        step = tap
    if width > 1 and tap == depth * step and even:
        run, runs_w = depth * width, 1
    elif width == 1:
        runs_w = 1
    if height > 1 and runs_w == 1 and not padded_h and not padded and row == run * step:
        run, height = run * height, 1
    widths = tuple(lanes_of(outputs))
    return DenseShape(
        kernel, x, codes, groups, height, width, run, runs_w, padded, padded_h, widths, step
    )


def chunks_of(widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Vectors of outputs in groups that are summed at once."""
    return [widths[i : i + MAX_VECTORS] for i in range(0, len(widths), MAX_VECTORS)]


def packed_weights(shape: DenseShape) -> NDArray[np.generic]:
    """Weights as [group, chunk, run, term, lane] (codes: pairs last), flat."""
    kernel = shape.kernel
    groups, outputs = shape.groups, kernel.weight.shape[-1]
    runs = kernel.weight.size // (groups * outputs * shape.run)
    w = kernel.weight.reshape(groups, runs, shape.run, outputs)
    full = np.zeros((groups, runs, shape.terms * (2 if shape.codes else 1), shape.lanes), w.dtype)
    full[:, :, : shape.run, :outputs] = w
    if shape.codes:
        pairs = full.reshape(groups, runs, shape.terms, 2, shape.lanes)
        full = pairs.transpose(0, 1, 2, 4, 3).astype(np.int16)
    parts = []
    for g in range(groups):
        at = 0
        for chunk in chunks_of(shape.widths):
            size = sum(chunk)
            parts.append(full[g, :, :, at : at + size].reshape(-1))
            at += size
    return np.concatenate(parts)
