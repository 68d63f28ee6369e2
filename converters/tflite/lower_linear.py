"""Matrix products: FULLY_CONNECTED with constant weights, BATCH_MATMUL between activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import binary
from .layout import identity, last
from .lowering import Call, Lowering, bias_index, has_integer_weight, lowers, weight_fits
from .values import Const, Value, real_scalar

__all__: list[str] = []


def fully_connected(low: Lowering, call: Call, x: Value, weight: Const) -> Value:
    """FULLY_CONNECTED of the last logical axis of ``x`` with ``weight`` [out, in].

    The other axes may lie in any order: they are batch.
    """
    axis = len(x.shape) - 1
    perm = last(x.perm, axis)
    made = low.result(call, perm, (*x.shape[:-1], weight.shape[0]))
    inputs = [
        low.index(x, perm),
        low.index(weight, None, f"{call.name}.weight"),
        bias_index(low, call, x, weight),
    ]
    low.emit(
        "FULLY_CONNECTED",
        inputs,
        [made.tensor],
        "FullyConnectedOptions",
        keepNumDims=len(x.shape) > 2,
        fusedActivationFunction=low.activation(call.activation),
    )
    return made


@lowers("aten.linear", integer=has_integer_weight, fuses=True)
def lower_linear(low: Lowering, call: Call) -> Value:
    """FULLY_CONNECTED."""
    if not isinstance(call["weight"], Const):
        raise low.unsupported(call.node, "its weight is not a constant")
    return fully_connected(low, call, call["input"], call["weight"])


def _integer_addmm(call: Call) -> bool:
    return call["alpha"] == 1 and weight_fits(call, call["mat1"], call["mat2"])


@lowers("aten.addmm", integer=_integer_addmm, fuses=True)
def lower_addmm(low: Lowering, call: Call) -> Value:
    """FULLY_CONNECTED with a transposed weight."""
    weight, bias = call["mat2"], call["self"]
    if not isinstance(weight, Const) or not isinstance(bias, Const):
        raise low.unsupported(call.node, "its weight and bias are not constants")
    if call["alpha"] != 1 or call["beta"] != 1:
        raise low.unsupported(call.node, "alpha and beta other than 1 have no lowering")
    bound = Call(call.node, call.op, {"bias": bias}, call.shape, call.qparams, call.activation)
    return fully_connected(low, bound, call["mat1"], weight.transposed((1, 0)))


def _right(call: Call) -> Any:
    return call.args.get("mat2", call.args.get("other"))


def _integer_matmul(call: Call) -> bool:
    weight = _right(call)
    flat = isinstance(weight, Const) and weight.array.ndim == 2
    return flat and weight_fits(call, call["self"], weight)


@lowers("aten.mm", "aten.bmm", "aten.matmul", integer=_integer_matmul, fuses=True)
def lower_matmul(low: Lowering, call: Call) -> Value:
    """FULLY_CONNECTED for a constant right matrix, else BATCH_MATMUL in float.

    XNNPACK has no int8 BATCH_MATMUL, and the reference kernel is inexact and slow; the float
    island stays inside the partition and gives the codes of fake-quantised torch.
    """
    a, b = call["self"], _right(call)
    if isinstance(b, Const) and b.array.ndim == 2 and isinstance(a, Value):
        return fully_connected(low, call, a, b.transposed((1, 0)))
    assert isinstance(b, (Value, Const))
    if min(len(a.shape), len(b.shape)) < 2:
        raise low.unsupported(call.node, "a product with a vector has no lowering")
    made = batch_matmul(low, a, b, call.name, call.shape)
    if call.activation != "NONE":
        low.emit(call.activation, [made.tensor], [(out := low.result(call, made.perm)).tensor])
        return out
    return made


def batch_matmul(
    low: Lowering, a: Value | Const, b: Value | Const, name: str, shape: tuple[int, ...]
) -> Value:
    """BATCH_MATMUL of float operands; batch axes keep the order that ``a`` has."""
    rank = len(shape)
    order = [p for p in _perm(a, rank) if p < rank - 2]
    left, adj_x = _matrix(low, a, order, rank, name)
    right, adj_y = _matrix(low, b, order, rank, name)
    made = low.new(name, shape, (*order, rank - 2, rank - 1), "float32", None)
    low.emit(
        "BATCH_MATMUL", [left, right], [made.tensor], "BatchMatMulOptions", adjX=adj_x, adjY=adj_y
    )
    return made


def _perm(operand: Value | Const, rank: int) -> tuple[int, ...]:
    if isinstance(operand, Const) or len(operand.shape) < rank:
        return identity(rank)
    return operand.perm


def _matrix(
    low: Lowering, operand: Value | Const, order: list[int], rank: int, name: str
) -> tuple[int, bool]:
    """Tensor index with batch axes in ``order`` and the matrix last, and whether transposed."""
    missing = rank - len(operand.shape)
    if isinstance(operand, Const):
        operand = operand.reshaped((1,) * missing + operand.shape)
    elif missing:
        perm = (*range(missing), *(p + missing for p in operand.perm))
        operand = Value(operand.tensor, (1,) * missing + operand.shape, perm, operand.dtype)
    rows, columns = rank - 2, rank - 1
    swapped = isinstance(operand, Value) and _swapped(operand, rows, columns)
    perm = (*order, columns, rows) if swapped else (*order, rows, columns)
    return low.index(operand, perm, f"{name}.matrix"), swapped


def _swapped(value: Value, rows: int, columns: int) -> bool:
    return value.perm.index(columns) < value.perm.index(rows)


@lowers("aten.scaled_dot_product_attention")
def lower_attention(low: Lowering, call: Call) -> Value:
    """Softmax(q·kᵀ·scale + mask)·v as float operators."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    if call["is_causal"] or call["dropout_p"] or call["enable_gqa"]:
        raise low.unsupported(call.node, "is_causal, dropout and grouped queries have no lowering")
    scale = call["scale"] or 1.0 / math.sqrt(query.shape[-1])
    rank = len(query.shape)
    order = (*range(rank - 2), rank - 1, rank - 2)
    keys = (
        key.transposed(order)
        if isinstance(key, Const)
        else Value(
            key.tensor,
            tuple(key.shape[i] for i in order),
            tuple(order.index(p) for p in key.perm),
            key.dtype,
        )
    )
    shape = (*query.shape[:-1], key.shape[-2])
    scores = batch_matmul(low, query, keys, f"{call.name}.scores", shape)
    scores = binary(low, "MUL", scores, real_scalar(scale), f"{call.name}.scaled", shape)
    if mask is not None:
        if isinstance(mask, Const) and mask.array.dtype == np.bool_:
            mask = Const(np.where(mask.array, 0.0, -1e9).astype(np.float32))
        scores = binary(low, "ADD", scores, mask, f"{call.name}.masked", shape)
    perm = last(scores.perm, rank - 1)
    weights = low.new(f"{call.name}.weights", shape, perm, "float32", None)
    low.emit("SOFTMAX", [low.index(scores, perm)], [weights.tensor], "SoftmaxOptions", beta=1.0)
    return batch_matmul(low, weights, value, call.name, call.shape)
