"""Rules that move data: views wherever strides can say it, copies where they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from .expr import Lazy, leaf, number, remapped
from .lower import Lowering, lowers
from .read import Operator
from .view import Buffer, View, contiguous

__all__: list[str] = []

MAX_ROWS = 4096  # of a GATHER, each a copy at worst


def _sliced(
    low: Lowering, op: Operator, begin: Sequence[int], shape: tuple[int, ...], step: Sequence[int]
) -> Lazy:
    """A part of the first input; checks that it lies inside."""
    source = op.input(_source(op))
    inside = len(begin) == len(shape) == len(step) == len(source.shape) and all(
        n > 0 and 0 <= b < m and 0 <= b + (n - 1) * s < m
        for b, n, s, m in zip(begin, shape, step, source.shape, strict=True)
    )
    op.require(inside, "takes a part that is not inside its input")
    _same_grid(op)
    made = remapped(low.value(source).expr, lambda view: view.sliced(begin, shape, step))
    assert made is not None
    return Lazy(shape, made)


def _source(op: Operator) -> int:
    return 1 if op.code == "SPLIT" else 0


def _same_grid(op: Operator) -> None:
    """Moving codes does not change their scale."""
    source = op.input(_source(op))
    for made in op.outputs:
        same = (source.scales, source.zero_points) == (made.scales, made.zero_points)
        op.require(source.dtype == made.dtype and same, "changes the scale of what it moves")


@lowers("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
def lower_reshape(low: Lowering, op: Operator) -> Lazy:
    """Another shape, the same order."""
    source, made = op.input(0), op.output
    op.require(source.size == made.size, "changes the number of elements")
    _same_grid(op)
    return low.reshaped(low.value(source), made.shape)


@lowers("TRANSPOSE")
def lower_transpose(low: Lowering, op: Operator) -> Lazy:
    """Another order of axes."""
    source, order = op.input(0), op.numbers(1)
    op.require(sorted(order) == list(range(len(source.shape))), f"has the order {order}")
    _same_grid(op)
    made = remapped(low.value(source).expr, lambda view: view.permuted(order))
    assert made is not None
    return Lazy(tuple(source.shape[i] for i in order), made)


@lowers("SLICE")
def lower_slice(low: Lowering, op: Operator) -> Lazy:
    """A block."""
    begin, size = op.numbers(1), op.numbers(2)
    shape = op.input(0).shape
    op.require(len(begin) == len(size) == len(shape), "has the wrong rank")
    sizes = tuple(m - b if n == -1 else n for b, n, m in zip(begin, size, shape, strict=True))
    return _sliced(low, op, begin, sizes, [1] * len(sizes))


@lowers("STRIDED_SLICE")
def lower_strided_slice(low: Lowering, op: Operator) -> Lazy:
    """A block with steps; masks that add or remove axes are refused."""
    begin, end, step = (op.numbers(i) for i in (1, 2, 3))
    masks = ("EllipsisMask", "NewAxisMask", "ShrinkAxisMask", "Offset")
    op.require(not any(op.options.get(m) for m in masks), "has a mask that has no C form")
    shape = op.input(0).shape
    op.require(len(begin) == len(end) == len(step) == len(shape), "has the wrong rank")
    op.require(all(s > 0 for s in step), "steps backwards")
    first, last = (int(op.options.get(m, 0)) for m in ("BeginMask", "EndMask"))
    begins, sizes = [], []
    for i, (b, e, s, n) in enumerate(zip(begin, end, step, shape, strict=True)):
        low_end, high_end, _ = slice(
            None if first >> i & 1 else b, None if last >> i & 1 else e, s
        ).indices(n)
        begins.append(low_end)
        sizes.append(max(-(-(high_end - low_end) // s), 0))
    return _sliced(low, op, begins, tuple(sizes), step)


@lowers("SPLIT")
def lower_split(low: Lowering, op: Operator) -> list[Lazy]:
    """Equal blocks."""
    (axis, *_), shape = op.numbers(0), op.input(1).shape
    axis, count = axis + len(shape) * (axis < 0), len(op.outputs)
    op.require(0 <= axis < len(shape) and shape[axis] % count == 0, "does not split evenly")
    size = tuple(n // count if i == axis else n for i, n in enumerate(shape))
    pieces = []
    for k in range(count):
        begin = [k * size[axis] if i == axis else 0 for i in range(len(shape))]
        pieces.append(_sliced(low, op, begin, size, [1] * len(shape)))
    return pieces


@lowers("REVERSE_V2")
def lower_reverse(low: Lowering, op: Operator) -> Lazy:
    """Axes backwards: negative strides."""
    shape = op.input(0).shape
    axes = {a % len(shape) for a in op.numbers(1)}
    begin = [n - 1 if i in axes else 0 for i, n in enumerate(shape)]
    step = [-1 if i in axes else 1 for i in range(len(shape))]
    return _sliced(low, op, begin, shape, step)


@lowers("BROADCAST_TO")
def lower_broadcast(low: Lowering, op: Operator) -> Lazy:
    """Stride zero along the axes that grow."""
    _same_grid(op)
    shape = op.output.shape
    return Lazy(shape, low.spread(op, low.value(op.input(0)), shape))


@lowers("CONCATENATION")
def lower_concatenation(low: Lowering, op: Operator) -> Lazy:
    """Every piece in its part of the result; pieces that were written there are left alone."""
    made = op.output
    op.require(bool(op.inputs) and bool(made.shape), "has no pieces")
    op.require(not op.options.get("FusedActivationFunction"), "has an activation")
    axis = int(op.options.get("Axis", 0))
    op.require(-len(made.shape) <= axis < len(made.shape), f"has axis {axis}")
    axis %= len(made.shape)
    home = low.place(made)
    at = 0
    for i in range(len(op.inputs)):
        piece = op.input(i)
        fits = len(piece.shape) == len(made.shape) and all(
            k == axis or a == b
            for k, (a, b) in enumerate(zip(piece.shape, made.shape, strict=False))
        )
        op.require(fits and piece.dtype == made.dtype, f"has a piece {list(piece.shape)}")
        if piece.scales:
            same = (piece.scales, piece.zero_points) == (made.scales, made.zero_points)
            op.require(same, "has a piece with another scale")
        begin = [at if k == axis else 0 for k in range(len(made.shape))]
        at += piece.shape[axis]
        op.require(at <= made.shape[axis], "is longer than its result")
        slot = home.sliced(begin, piece.shape, [1] * len(begin))
        _fill(low, low.value(piece), slot)
    op.require(at == made.shape[axis], "is shorter than its result")
    return Lazy(made.shape, leaf(home))


def _fill(low: Lowering, value: Lazy, slot: View) -> None:
    view = value.view
    if view is not None and (view.buffer, view.offset) == (slot.buffer, slot.offset):
        steps = zip(view.shape, view.strides, slot.strides, strict=True)
        if all(n == 1 or a == b for n, a, b in steps):
            return
    low.store(value, slot)


@lowers("GATHER")
def lower_gather(low: Lowering, op: Operator) -> Lazy:
    """Rows at constant places: a copy per run of neighbours."""
    source, made, rows = op.input(0), op.output, op.numbers(1)
    axis = int(op.options.get("Axis", 0))
    axis += len(source.shape) * (axis < 0)
    op.require(0 <= axis < len(source.shape), f"has axis {axis}")
    op.require(not op.options.get("BatchDims"), "has batch dimensions")
    shape = (*source.shape[:axis], len(rows), *source.shape[axis + 1 :])
    op.require(len(op.input(1).shape) == 1 and made.shape == shape, "has another shape")
    op.require(len(rows) <= MAX_ROWS, f"gathers {len(rows)} rows, at most {MAX_ROWS}")
    op.require(all(0 <= r < source.shape[axis] for r in rows), "reads a row that is not there")
    _same_grid(op)
    home, value, at = low.place(made), low.value(source), 0
    while at < len(rows):
        count = 1
        while at + count < len(rows) and rows[at + count] == rows[at] + count:
            count += 1
        size = tuple(count if i == axis else n for i, n in enumerate(shape))
        source_part = partial(_part, where=rows[at], axis=axis, shape=size)
        part = remapped(value.expr, source_part)
        assert part is not None
        low.store(Lazy(size, part), _part(home, at, axis, size))
        at += count
    return Lazy(made.shape, leaf(home))


def _part(view: View, where: int, axis: int, shape: tuple[int, ...]) -> View:
    """The block of ``shape`` that begins at ``where`` on one axis."""
    begin = [where if i == axis else 0 for i in range(len(shape))]
    return view.sliced(begin, shape, [1] * len(shape))


@lowers("PAD", "PADV2")
def lower_pad(low: Lowering, op: Operator) -> Lazy:
    """The input inside a frame of zeros (of the zero point, for codes)."""
    source, made, amounts = op.input(0), op.output, op.numbers(1)
    rank = len(source.shape)
    op.require(op.code == "PAD" or len(op.inputs) < 3, "pads with another value than zero")
    op.require(len(amounts) == 2 * rank and min(amounts) >= 0, "has bad amounts")
    shape = tuple(n + amounts[2 * i] + amounts[2 * i + 1] for i, n in enumerate(source.shape))
    op.require(math.prod(shape) == made.size and shape == made.shape, "has another shape")
    _same_grid(op)
    home = contiguous(Buffer(made.dtype, made.size), made.shape)
    fill = number(source.zero_point if source.scales else 0, made.dtype)
    low.store(Lazy(made.shape, fill), home)
    begin = [amounts[2 * i] for i in range(rank)]
    low.store(low.value(source), home.sliced(begin, source.shape, [1] * rank))
    return Lazy(made.shape, leaf(home))
