"""Rules of reductions, softmax and pools."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from .expr import Expr, Lazy, node, remapped
from .kernels import Pool, Reduce, Softmax
from .lower import Lowering, lowers
from .lower_elementwise import activated
from .lower_sums import float_acc, geometry, real_sum
from .read import Operator, Tensor
from .view import Buffer, View

__all__: list[str] = []


def _body(low: Lowering, op: Operator, tensor: Tensor) -> Expr:
    """The reduced value as an expression in which nothing is pending."""
    expr = low.real(op, tensor)
    low.settle(expr)
    return expr


@lowers("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN")
def lower_reduction(low: Lowering, op: Operator) -> Lazy:
    """Sum, mean or extreme along axes; a few elements become a plain expression."""
    x, made, rank = op.input(0), op.output, len(op.input(0).shape)
    axes = tuple(sorted({a + rank * (a < 0) for a in op.numbers(1)}))
    op.require(all(0 <= a < rank for a in axes), f"has axes {list(axes)}")
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    count = x.size // math.prod(kept)
    op.require(made.size == math.prod(kept), "has another shape")
    how = {"REDUCE_MAX": "max", "REDUCE_MIN": "min"}.get(op.code, "sum")
    if len(axes) == 1 and count <= (2 if low.exact else 4):
        total = _unrolled(low, op, x, axes[0], kept, {"sum": "add"}.get(how, how))
    else:
        dtype = "float32" if how != "sum" or not low.exact else "float64"
        acc = Buffer(dtype, math.prod(kept), "pending")
        body = _body(low, op, x)
        kernel = Reduce(kept, acc, body=body, full=x.shape, axes=axes, how=how)
        total = low.pending(kernel)
    if op.code == "MEAN":
        total = node("mean", "float32", total, attrs=(count,))
    result = low.reshaped(Lazy(kept, real_sum(total)), made.shape)
    return low.finished(op, result.expr)


def _unrolled(
    low: Lowering, op: Operator, x: Tensor, axis: int, kept: tuple[int, ...], how: str
) -> Expr:
    parts = []
    for i in range(x.shape[axis]):
        part = remapped(low.real(op, x), partial(_row, row=i, axis=axis, shape=kept))
        assert part is not None
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = node(how, "float32", total, part)
    return total


def _row(view: View, row: int, axis: int, shape: tuple[int, ...]) -> View:
    begin = [row if a == axis else 0 for a in range(len(shape))]
    return view.sliced(begin, shape, [1] * len(shape))


@lowers("SOFTMAX")
def lower_softmax(low: Lowering, op: Operator) -> Lazy:
    """Softmax of the last axis."""
    x, made = op.input(0), op.output
    op.require(made.shape == x.shape and bool(x.shape), "has another shape")
    beta = float(np.float32(op.options.get("Beta", 1.0)))
    kernel = Softmax(made.shape, float_acc(low, made.shape), body=_body(low, op, x), beta=beta)
    return low.finished(op, real_sum(low.pending(kernel)))


@lowers("MAX_POOL_2D", "AVERAGE_POOL_2D")
def lower_pool(low: Lowering, op: Operator) -> Lazy:
    """Largest or mean value of every window."""
    x, made = op.input(0), op.output
    size = int(op.options.get("FilterHeight", 0)), int(op.options.get("FilterWidth", 0))
    op.require(min(size) > 0, "has an empty window")
    fields = geometry(op, x, size)
    op.require(made.shape[3] == x.shape[3], "has another number of channels")
    how = "max" if op.code == "MAX_POOL_2D" else "mean"
    codes = x.dtype == "int8"
    same = (x.scales, x.zero_points) == (made.scales, made.zero_points)
    op.require(x.dtype == made.dtype and same, "changes the scale")
    op.require(x.dtype == "float32" or (codes and how == "max"), f"has no form for {x.dtype}")
    dtype = x.dtype if how == "max" else "float64" if low.exact else "float32"
    kernel = Pool(
        made.shape,
        Buffer(dtype, made.size, "pending"),
        x=low.in_memory(low.value(x)),
        size=size,
        stride=fields["stride"],
        before=fields["before"],
        how=how,
    )
    acc = low.pending(kernel)
    if codes:
        op.require(not op.options.get("FusedActivationFunction"), "has an activation on codes")
        return Lazy(made.shape, acc)
    return Lazy(made.shape, activated(op, real_sum(acc)))
