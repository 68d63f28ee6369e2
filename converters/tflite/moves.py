"""Moving data: views, slices, concatenations, padding, repetition, in any layout.

No rules here, only what the rules of several families write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .layout import Perm, Shape, identity, view_layout, view_ready_layout
from .lowering import Lowering
from .values import Const, Value

__all__ = ["concatenate", "interleaved", "padded", "repeated", "sliced", "viewed"]

MAX_INPUTS = 5  # of a CONCATENATION that XNNPACK takes


def viewed(low: Lowering, value: Value, shape: Shape) -> Value:
    """Another shape with the same logical element order; moves bytes only when it must."""
    perm = view_layout(value.shape, shape, value.perm)
    if perm is None:
        value = low.laid(value, view_ready_layout(value.shape, shape, value.perm))
        perm = view_layout(value.shape, shape, value.perm)
        assert perm is not None
    return Value(value.tensor, shape, perm, value.dtype, value.qparams)


def sliced(
    low: Lowering, value: Value, axis: int, begin: int, end: int, step: int, name: str
) -> Value:
    """SLICE, or STRIDED_SLICE for a step, along one logical axis."""
    shape = list(value.shape)
    shape[axis] = max(-(-(end - begin) // step), 0)
    made = low.like(value, name, shape, value.perm)
    where = value.perm.index(axis)
    source = low.index(value)
    begins, ends = [0] * len(shape), list(value.physical)
    begins[where], ends[where] = begin, end
    if step == 1:
        inputs = [source, low.numbers(begins), low.numbers(made.physical)]
        low.emit("SLICE", inputs, [made.tensor], "SliceOptions")
    else:
        steps = [1] * len(shape)
        steps[where] = step
        inputs = [source, low.numbers(begins), low.numbers(ends), low.numbers(steps)]
        low.emit("STRIDED_SLICE", inputs, [made.tensor], "StridedSliceOptions")
    return made


def concatenate(
    low: Lowering, operands: Sequence[Value | Const], axis: int, call_name: str, shape: Shape
) -> Value:
    """CONCATENATION along a logical axis, in the layout that most elements already have."""
    votes: dict[Perm, int] = {}
    for o in operands:
        if isinstance(o, Value):
            votes[o.perm] = votes.get(o.perm, 0) + math.prod(o.shape)
    perm = max(votes, key=lambda p: votes[p]) if votes else identity(len(shape))
    first = next((o for o in operands if isinstance(o, Value)), None)
    qparams = first.qparams if first is not None else None
    inputs = []
    for o in operands:
        if isinstance(o, Const) and qparams is not None:
            codes = qparams.quantize(o.real)
            o = Const(codes, np.asarray(qparams.scale, np.float32), qparams.zero_point)
        elif isinstance(o, Value) and qparams is None:
            o = low.as_float(o)
        elif isinstance(o, Value) and qparams is not None:
            o = low.as_codes(o, qparams, f"{call_name}.input")
        inputs.append(low.index(o, perm, call_name))
    dtype = first.dtype if first is not None else "float32"
    where = perm.index(axis)
    while len(inputs) > MAX_INPUTS:
        group, inputs = inputs[:MAX_INPUTS], inputs[MAX_INPUTS:]
        size = sum(low.builder.tensors[i].shape[where] for i in group)
        partial = tuple(size if i == axis else n for i, n in enumerate(shape))
        made = low.new(f"{call_name}.part", partial, perm, dtype, qparams)
        _join(low, group, made.tensor, where)
        inputs.insert(0, made.tensor)
    made = low.new(call_name, shape, perm, dtype, qparams)
    _join(low, inputs, made.tensor, where)
    return made


def _join(low: Lowering, inputs: Sequence[int], output: int, axis: int) -> None:
    low.emit("CONCATENATION", inputs, [output], "ConcatenationOptions", axis=axis)


def repeated(low: Lowering, value: Value, axis: int, times: int, name: str) -> Value:
    """Repeat a whole axis ``times`` times, one copy after another."""
    shape = tuple(n * times if i == axis else n for i, n in enumerate(value.shape))
    return concatenate(low, [value] * times, axis, name, shape)


def interleaved(low: Lowering, value: Value, axis: int, times: int, name: str) -> Value:
    """Repeat every element of ``axis`` ``times`` times, next to each other.

    XNNPACK has no RESIZE_NEAREST_NEIGHBOR, so copies are laid side by side on the next physical
    axis and the result is seen with a longer ``axis``: CONCATENATION and RESHAPE.
    """
    where = value.perm.index(axis)
    flat = value.physical if where + 1 < len(value.perm) else (*value.physical, 1)
    joined = tuple(n * times if i == where + 1 else n for i, n in enumerate(flat))
    seen = Value(value.tensor, flat, identity(len(flat)), value.dtype, value.qparams)
    stacked = concatenate(low, [seen] * times, where + 1, name, joined)
    shape = tuple(n * times if i == axis else n for i, n in enumerate(value.shape))
    return Value(stacked.tensor, shape, value.perm, value.dtype, value.qparams)


def padded(
    low: Lowering,
    value: Value,
    amounts: Sequence[tuple[int, int]],
    name: str,
    fill: float = 0.0,
) -> Value:
    """Add ``amounts[axis]`` = (before, after) cells of the real value ``fill`` per logical axis.

    Written as CONCATENATION with constants: XNNPACK's PAD took 2 to 5 times as long (measured).
    """
    for axis, both in enumerate(amounts):
        if not any(both):
            continue
        shape = tuple(n + sum(both) if i == axis else n for i, n in enumerate(value.shape))
        before, after = (
            Const(
                np.full(
                    [n if i == axis else size for i, size in enumerate(value.shape)],
                    fill,
                    np.float32,
                )
            )
            for n in both
        )
        pieces = [p for p in (before, value, after) if 0 not in p.shape]
        value = concatenate(low, pieces, axis, name, shape)
    return value
