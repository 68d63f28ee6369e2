"""Physical order of tensors: how logical (torch) axes lie in a TFLite tensor.

A layout is a permutation ``perm``: physical axis i holds logical axis ``perm[i]``. Axes of size 1
have no place in memory, so two layouts that differ only in them hold the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "channels_last",
    "identity",
    "last",
    "physical",
    "same_order",
    "view_layout",
    "view_ready_layout",
]

Perm = tuple[int, ...]
Shape = tuple[int, ...]


def identity(rank: int) -> Perm:
    """The logical order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """Batch, spatial axes, channels: NHWC for rank 4, NWC for rank 3; lower ranks unchanged."""
    return identity(rank) if rank < 3 else (0, *range(2, rank), 1)


def last(perm: Perm, axis: int) -> Perm:
    """``perm`` with logical ``axis`` moved to the end."""
    return (*(p for p in perm if p != axis), axis)


def physical(shape: Sequence[int], perm: Perm) -> Shape:
    """Physical shape of a tensor of logical ``shape``."""
    return tuple(shape[p] for p in perm)


def same_order(shape: Sequence[int], a: Perm, b: Perm) -> bool:
    """True when both layouts hold the elements in the same order."""
    return [p for p in a if shape[p] != 1] == [p for p in b if shape[p] != 1]


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Split a reshape into smallest blocks: axes of ``old`` that become axes of ``new``.

    Axes of size 1 are left out on both sides.
    """
    old_axes = [i for i, n in enumerate(old) if n != 1]
    new_axes = [i for i, n in enumerate(new) if n != 1]
    groups = []
    i = j = 0
    while i < len(old_axes) or j < len(new_axes):
        left, right = [old_axes[i]], [new_axes[j]]
        i, j = i + 1, j + 1
        while (a := math.prod(old[k] for k in left)) != (b := math.prod(new[k] for k in right)):
            if a < b:
                left.append(old_axes[i])
                i += 1
            else:
                right.append(new_axes[j])
                j += 1
        groups.append((left, right))
    return groups


def view_layout(old: Shape, new: Shape, perm: Perm) -> Perm | None:
    """Layout of the reshaped tensor so that not a byte moves; None when there is none.

    A block of axes that merges or splits must lie together and in order in memory.
    """
    if 0 in old or 0 in new:
        return None
    order = [p for p in perm if old[p] != 1]
    groups = _groups(old, new)
    placed: list[tuple[int, list[int]]] = []
    for left, right in groups:
        start = order.index(left[0])
        if order[start : start + len(left)] != left:
            return None
        placed.append((start, right))
    result = [axis for _, right in sorted(placed) for axis in right]
    return _insert_ones(new, result)


def view_ready_layout(old: Shape, new: Shape, perm: Perm) -> Perm:
    """A layout near ``perm`` for which :func:`view_layout` succeeds: blocks gathered in order."""
    order = [p for p in perm if old[p] != 1]
    groups = sorted((order.index(left[0]), left) for left, _ in _groups(old, new))
    return _insert_ones(old, [axis for _, left in groups for axis in left])


def _insert_ones(shape: Shape, order: list[int]) -> Perm:
    """Complete an order of the axes that matter: as channels-last or identity when that fits."""
    rank = len(shape)
    for candidate in (channels_last(rank), identity(rank)):
        if [p for p in candidate if shape[p] != 1] == order:
            return candidate
    ones = [i for i, n in enumerate(shape) if n == 1]
    return (*ones, *order)
