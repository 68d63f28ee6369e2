"""Comparisons, logic and selection: what masks of the clip's edges are made of.

XNNPACK has no SELECT. A selection is written as products with the mask as 0 and 1, which is exact
on codes and in float32 and stays inside the partition; only the comparison of a few counters is
outside, ahead of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spectral_edge.qparams import QParams

from .arithmetic import binary, cast
from .lowering import Call, Lowering, lowers
from .values import Const, Value, real_scalar

__all__: list[str] = []

MASK_GRID = QParams(1.0, 0)  # a mask as codes: 0 and 1
_COMPARES = {
    "aten.eq": "EQUAL",
    "aten.ge": "GREATER_EQUAL",
    "aten.gt": "GREATER",
    "aten.le": "LESS_EQUAL",
    "aten.lt": "LESS",
    "aten.ne": "NOT_EQUAL",
}


@lowers(*_COMPARES)
def lower_comparison(low: Lowering, call: Call) -> Value:
    """EQUAL, GREATER, LESS and their kin."""
    other = call["other"]
    if isinstance(other, (int, float)):
        other = Const(np.array(other, np.float32 if isinstance(other, float) else np.int64))
    return binary(low, _COMPARES[call.op], call["self"], other, call.name, call.shape)


@lowers("aten.logical_and", "aten.bitwise_and")
def lower_and(low: Lowering, call: Call) -> Value:
    """LOGICAL_AND."""
    return _logical(low, call, "LOGICAL_AND")


@lowers("aten.logical_or", "aten.bitwise_or")
def lower_or(low: Lowering, call: Call) -> Value:
    """LOGICAL_OR."""
    return _logical(low, call, "LOGICAL_OR")


def _logical(low: Lowering, call: Call, code: str) -> Value:
    a, b = call["self"], call["other"]
    if any(isinstance(o, Value) and o.dtype != "bool" for o in (a, b)):
        raise low.unsupported(call.node, "logic on numbers has no lowering, compare them first")
    return binary(low, code, a, b, call.name, call.shape)


@lowers("aten.logical_not", "aten.bitwise_not")
def lower_not(low: Lowering, call: Call) -> Value:
    """LOGICAL_NOT."""
    x = call["self"]
    made = low.new(call.name, x.shape, x.perm, "bool", None)
    low.emit("LOGICAL_NOT", [low.index(x)], [made.tensor], "LogicalNotOptions")
    return made


@lowers("aten._to_copy", "aten.to")
def lower_cast(low: Lowering, call: Call) -> Value:
    """CAST."""
    return cast(low, call["self"], str(call.node.meta["val"].dtype).removeprefix("torch."))


def _fill(value: Any) -> Value | Const:
    return real_scalar(float(value)) if isinstance(value, (int, float)) else value


def _on_one_grid(call: Call) -> bool:
    """True when a selection can run on codes: everything on the grid of the result, or zero."""
    if call.op == "aten.masked_fill":
        chosen = [call["self"], _fill(call["value"])]
    else:
        chosen = [_fill(call["self"]), _fill(call["other"])]
    return all(
        o.qparams == call.qparams if isinstance(o, Value) else o.scalar == 0.0 for o in chosen
    )


@lowers("aten.where", integer=_on_one_grid)
def lower_where(low: Lowering, call: Call) -> Value:
    """Products with the mask and its complement, added."""
    return _select(low, call, call["condition"], _fill(call["self"]), _fill(call["other"]))


@lowers("aten.masked_fill", integer=_on_one_grid)
def lower_masked_fill(low: Lowering, call: Call) -> Value:
    """Products with the mask and its complement, added."""
    return _select(low, call, call["mask"], _fill(call["value"]), call["self"])


def _select(
    low: Lowering, call: Call, mask: Value | Const, yes: Value | Const, no: Value | Const
) -> Value:
    """Pick ``yes`` where ``mask``, else ``no``: yes · mask + no · (1 - mask).

    A factor of exactly 0 or 1 makes both products and the sum exact for finite values.
    """
    name, q = call.name, call.qparams
    if isinstance(mask, Const):
        mask = low.tensor_of(mask, f"{name}.mask")
    parts = []
    for operand, inverted in ((yes, False), (no, True)):
        if isinstance(operand, Const) and operand.scalar == 0.0:
            continue
        factor = _factor(low, mask, inverted, q is not None)
        shape = tuple(np.broadcast_shapes(operand.shape, mask.shape))
        parts.append(binary(low, "MUL", operand, factor, f"{name}.part", shape, q))
    if not parts:
        zero = Const(np.zeros(call.shape, np.float32))
        return low.tensor_of(zero, name)
    if len(parts) == 1:
        if parts[0].shape == call.shape:
            return parts[0]
        parts.append(low.tensor_of(Const(np.zeros(call.shape, np.float32)), f"{name}.zero"))
    return binary(low, "ADD", parts[0], parts[1], name, call.shape, q)


def _factor(low: Lowering, mask: Value, inverted: bool, on_codes: bool) -> Value:
    """The mask (or its complement) as float32 0 and 1, or as codes of the same values."""
    name = f"{low.builder.tensors[mask.tensor].name}.{'not' if inverted else 'is'}"
    factor = low.memo(("mask", mask.tensor), lambda: cast(low, mask, "float32"))
    if inverted:
        one = real_scalar(1.0)
        straight = factor
        factor = low.memo(
            ("not", mask.tensor),
            lambda: binary(low, "SUB", one, straight, name, straight.shape),
        )
    if on_codes:
        factor = low.as_codes(factor, MASK_GRID, f"{name}.codes")
    return Value(factor.tensor, mask.shape, mask.perm, factor.dtype, factor.qparams)
