"""Buffers, and strided views of them: what slices, transposes and reshapes become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

__all__ = ["Buffer", "View", "collapse", "contiguous", "packed", "restrided"]

Shape = tuple[int, ...]


@dataclass(eq=False)
class Buffer:
    """A flat array of the generated program.

    Attributes:
        dtype: element type, a NumPy name.
        size: elements.
        kind: ``scratch`` (free after its last reader), ``fixed`` (keeps its place between steps),
            ``const``, or ``pending`` (what a kernel that is not written yet will compute).
        data: values of a constant.
        parent: set when this buffer lies inside another one, ``shift`` elements from its start.
    """

    dtype: str
    size: int
    kind: str = "scratch"
    data: NDArray[Any] | None = None
    parent: Buffer | None = None
    shift: int = 0

    @property
    def root(self) -> Buffer:
        """The buffer that has a place of its own."""
        return self if self.parent is None else self.parent.root

    @property
    def start(self) -> int:
        """First element inside :attr:`root`."""
        return 0 if self.parent is None else self.shift + self.parent.start


@dataclass(frozen=True)
class View:
    """Element (i, j, …) of a value is element ``offset + i·strides[0] + …`` of a buffer."""

    buffer: Buffer
    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def first(self) -> int:
        """The lowest element of the root buffer that it reaches."""
        steps = zip(self.shape, self.strides, strict=True)
        return self.buffer.start + self.offset + sum(min(0, (n - 1) * s) for n, s in steps)

    @property
    def is_packed(self) -> bool:
        """True when the elements lie one after another."""
        return all(
            n == 1 or s == p
            for n, s, p in zip(self.shape, self.strides, packed(self.shape), strict=True)
        )

    def permuted(self, order: Sequence[int]) -> View:
        """Axis i of the result is axis ``order[i]``."""
        shape = tuple(self.shape[i] for i in order)
        return replace(self, shape=shape, strides=tuple(self.strides[i] for i in order))

    def sliced(self, begin: Sequence[int], shape: Shape, step: Sequence[int]) -> View:
        """Every ``step``-th element from ``begin`` on, ``shape`` of them."""
        offset = self.offset + sum(b * s for b, s in zip(begin, self.strides, strict=True))
        strides = tuple(s * t for s, t in zip(self.strides, step, strict=True))
        return View(self.buffer, shape, strides, offset)

    def broadcast(self, shape: Shape) -> View | None:
        """Repeat axes of size 1; None when the shapes do not fit."""
        missing = len(shape) - len(self.shape)
        if missing < 0:
            return None
        own, strides = (1,) * missing + self.shape, (0,) * missing + self.strides
        if any(n not in (1, m) for n, m in zip(own, shape, strict=True)):
            return None
        spread = tuple(0 if n == 1 else s for n, s in zip(own, strides, strict=True))
        return replace(self, shape=shape, strides=spread)

    def reshaped(self, shape: Shape) -> View | None:
        """The same elements in the same order; None when strides cannot say it."""
        strides = restrided(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides)


def packed(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of elements that lie one after another."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def contiguous(buffer: Buffer, shape: Shape, offset: int = 0) -> View:
    """The whole of ``buffer``, or as much as ``shape`` needs from ``offset`` on."""
    return View(buffer, shape, packed(shape), offset)


def restrided(shape: Shape, strides: Sequence[int], wanted: Shape) -> tuple[int, ...] | None:
    """Strides for shape ``wanted`` over the same element order; None when there are none."""
    assert math.prod(shape) == math.prod(wanted)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    new = [n for n in wanted if n != 1]
    found: list[int] = []
    i = j = 0
    while j < len(new):
        first_old, first_new = i, j
        a, b = old[i][0], new[j]
        i, j = i + 1, j + 1
        while a != b:  # the smallest groups of old and new axes with as many elements
            if a < b:
                a, i = a * old[i][0], i + 1
            else:
                b, j = b * new[j], j + 1
        for k in range(first_old, i - 1):
            if old[k][1] != old[k + 1][1] * old[k + 1][0]:
                return None
        found += [old[i - 1][1] * p for p in packed(new[first_new:j])]
    steps = iter(found)
    return tuple(0 if n == 1 else next(steps) for n in wanted)


def collapse(shape: Shape, views: Sequence[tuple[int, ...]]) -> tuple[Shape, list[tuple[int, ...]]]:
    """Drop axes of size 1 and merge neighbours that every one of ``views`` steps through evenly."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in views]
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        steps = [v[axis] for v in views]
        if sizes and all(k[-1] == s * n for k, s in zip(kept, steps, strict=True)):
            sizes[-1] *= n
            for k, s in zip(kept, steps, strict=True):
                k[-1] = s
            continue
        sizes.append(n)
        for k, s in zip(kept, steps, strict=True):
            k.append(s)
    return tuple(sizes), [tuple(k) for k in kept]
