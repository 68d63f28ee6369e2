"""The kernels: loop nests that do work. Each computes accumulators and passes them to an epilogue.

``expr`` is the epilogue over ``shape``; where it reads the buffer ``acc`` it means the accumulator
of that very element. ``out`` is where each element goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .expr import Expr, leaf, leaves
from .view import Buffer, View, contiguous

__all__ = ["Dense", "Depthwise", "Kernel", "Loop", "Matmul", "Pool", "Reduce", "Softmax"]


@dataclass(eq=False)
class Kernel:
    """A loop nest over ``shape``; ``out`` and ``expr`` are set when it is known what reads it."""

    shape: tuple[int, ...]
    acc: Buffer
    expr: Expr | None = None
    out: View | None = None

    @property
    def operands(self) -> list[View]:
        """What it reads besides the epilogue's leaves."""
        return []

    @property
    def scratch(self) -> list[Buffer]:
        """Buffers of its own that nobody else sees."""
        return []

    def reads(self) -> Iterator[View]:
        """Every view it reads."""
        yield from self.operands
        if self.expr is not None:
            yield from (v for v in leaves(self.expr) if v.buffer is not self.acc)

    @property
    def raw(self) -> Expr:
        """The accumulator itself as an expression over ``shape``."""
        return leaf(contiguous(self.acc, self.shape))


@dataclass(eq=False)
class Loop(Kernel):
    """Only an epilogue: element-wise work and copies."""


@dataclass(eq=False)
class Dense(Kernel):
    """Convolutions and linear layers: sums over taps and input channels.

    Attributes:
        x: [batch, height, width, channels].
        weight: [groups, kernel height, kernel width, channels of a group, outputs of a group].
        bias: [outputs], zeros where there is none.
        zero_point: of ``x``, when the sum is of codes.
        stride, dilation, before: of height and width; ``before`` is the padding.
        packed: int16 copy of ``x`` minus its zero point.
    """

    x: View = field(kw_only=True)
    weight: NDArray[np.generic] = field(kw_only=True)
    bias: NDArray[np.generic] = field(kw_only=True)
    zero_point: int = 0
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    packed: Buffer | None = None

    def __post_init__(self) -> None:
        if self.x.buffer.dtype == "int8":
            self.packed = Buffer("int16", math.prod(self.x.shape) + 1)

    @property
    def operands(self) -> list[View]:
        return [self.x]

    @property
    def scratch(self) -> list[Buffer]:
        return [] if self.packed is None else [self.packed]


@dataclass(eq=False)
class Depthwise(Kernel):
    """A convolution of every channel on its own; ``weight`` is [height, width, channels]."""

    x: View = field(kw_only=True)
    weight: NDArray[np.generic] = field(kw_only=True)
    bias: NDArray[np.generic] = field(kw_only=True)
    zero_point: int = 0
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)

    @property
    def operands(self) -> list[View]:
        return [self.x]


@dataclass(eq=False)
class Matmul(Kernel):
    """[batch…, rows, columns] of ``a`` [batch…, rows, depth], ``b`` [batch…, depth, columns]."""

    a: View = field(kw_only=True)
    b: View = field(kw_only=True)

    @property
    def operands(self) -> list[View]:
        return [self.a, self.b]


@dataclass(eq=False)
class Reduce(Kernel):
    """``body`` over ``full`` shape reduced along ``axes``; ``shape`` has 1 there."""

    body: Expr = field(kw_only=True)
    full: tuple[int, ...] = field(kw_only=True)
    axes: tuple[int, ...] = field(kw_only=True)
    how: str = "sum"

    @property
    def operands(self) -> list[View]:
        return list(leaves(self.body))


@dataclass(eq=False)
class Softmax(Kernel):
    """Softmax of ``body`` along the last axis, after a factor ``beta``."""

    body: Expr = field(kw_only=True)
    beta: float = 1.0

    @property
    def operands(self) -> list[View]:
        return list(leaves(self.body))


@dataclass(eq=False)
class Pool(Kernel):
    """Largest or mean value of windows of ``x`` [batch, height, width, channels]."""

    x: View = field(kw_only=True)
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    how: str = "max"

    @property
    def operands(self) -> list[View]:
        return [self.x]
