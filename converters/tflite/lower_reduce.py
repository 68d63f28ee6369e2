"""Reductions, softmax, pooling and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic import binary, unary
from .layout import channels_last, last
from .lower_conv import as_image, from_image, pair, place
from .lowering import Call, Lowering, lowers
from .moves import padded, viewed
from .values import Const, Value, real_scalar

__all__: list[str] = []


def _axes(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(rank))
    return [int(d) % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]


def reduce(
    low: Lowering, call: Call, code: str, x: Value, axes: Sequence[int], name: str, keep: bool
) -> Value:
    """Write a reduction; the axes that stay keep their order."""
    where = low.numbers([i for i, p in enumerate(x.perm) if p in axes])
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    left = [i for i in range(len(x.shape)) if i not in axes]
    shape, perm = kept, x.perm
    if not keep:
        shape = tuple(x.shape[i] for i in left)
        perm = tuple(left.index(p) for p in x.perm if p in left)
    made = low.new(name, shape, perm, "float32", call.qparams)
    low.emit(code, [low.index(x), where], [made.tensor], "ReducerOptions", keepDims=keep)
    return made


def _reduction(low: Lowering, call: Call, code: str) -> Value:
    x = call["self"]
    axes = _axes(call.args.get("dim"), len(x.shape))
    return reduce(low, call, code, x, axes, call.name, bool(call.args.get("keepdim", False)))


@lowers("aten.mean", integer=True)
def lower_mean(low: Lowering, call: Call) -> Value:
    """MEAN."""
    return _reduction(low, call, "MEAN")


@lowers("aten.sum", integer=True)
def lower_sum(low: Lowering, call: Call) -> Value:
    """SUM."""
    return _reduction(low, call, "SUM")


def _keeps_grid(call: Call) -> bool:
    """True when input and output have the same qparams, as REDUCE_MAX and MAX_POOL_2D need."""
    return bool(call["self"].qparams == call.qparams)


@lowers("aten.amax", integer=_keeps_grid)
def lower_amax(low: Lowering, call: Call) -> Value:
    """REDUCE_MAX."""
    return _reduction(low, call, "REDUCE_MAX")


@lowers("aten.amin")
def lower_amin(low: Lowering, call: Call) -> Value:
    """REDUCE_MIN."""
    return _reduction(low, call, "REDUCE_MIN")


@lowers("aten.softmax", "aten._softmax")
def lower_softmax(low: Lowering, call: Call) -> Value:
    """SOFTMAX in float, its axis brought to the end (XNNPACK has no int8 SOFTMAX)."""
    x = call["self"]
    perm = last(x.perm, int(call["dim"]) % len(x.shape))
    made = low.result(call, perm)
    low.emit("SOFTMAX", [low.index(x, perm)], [made.tensor], "SoftmaxOptions", beta=1.0)
    return made


# --- pooling --------------------------------------------------------------------------------


def _pool_fields(kernel: Sequence[int], stride: Sequence[int], mode: int) -> dict[str, int]:
    return {
        "padding": mode,
        "strideH": stride[0],
        "strideW": stride[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
    }


def _pool_geometry(low: Lowering, call: Call) -> tuple[list[int], list[int], list[int]]:
    spatial = len(call.shape) - 2
    kernel = pair(call["kernel_size"], spatial)
    stride = pair(call["stride"] or kernel, spatial)
    padding = pair(call["padding"], spatial)
    if call["ceil_mode"]:
        raise low.unsupported(call.node, "ceil_mode has no lowering")
    if spatial == 1:
        return [1, *kernel], [1, *stride], [0, *padding]
    return kernel, stride, padding


@lowers("aten.max_pool1d", "aten.max_pool2d", integer=_keeps_grid)
def lower_max_pool(low: Lowering, call: Call) -> Value:
    """MAX_POOL_2D; padding that SAME does not describe is refused (its cells must not win)."""
    kernel, stride, padding = _pool_geometry(low, call)
    if any(d != 1 for d in pair(call["dilation"], 1)):
        raise low.unsupported(call.node, "dilation has no lowering")
    image = as_image(call["self"])
    placed, mode, strides = place(low, image, kernel, stride, [1, 1], padding, call.name)
    if placed is not image:
        raise low.unsupported(call.node, f"padding {padding} has no lowering for this shape")
    return _pooled(low, call, "MAX_POOL_2D", image, kernel, strides, mode)


@lowers("aten.avg_pool1d", "aten.avg_pool2d")
def lower_avg_pool(low: Lowering, call: Call) -> Value:
    """AVERAGE_POOL_2D in float; counted padding is written before it."""
    kernel, stride, padding = _pool_geometry(low, call)
    if call.args.get("divisor_override"):
        raise low.unsupported(call.node, "divisor_override has no lowering")
    image = as_image(call["self"])
    if any(padding) and call["count_include_pad"]:
        image = padded(
            low, image, [(0, 0), (0, 0), *((p, p) for p in padding)], f"{call.name}.padded"
        )
        padding = [0, 0]
    placed, mode, strides = place(low, image, kernel, stride, [1, 1], padding, call.name)
    if placed is not image:
        raise low.unsupported(call.node, f"padding {padding} has no lowering for this shape")
    return _pooled(low, call, "AVERAGE_POOL_2D", image, kernel, strides, mode)


def _pooled(
    low: Lowering,
    call: Call,
    code: str,
    image: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    mode: int,
) -> Value:
    rank = len(call.shape)
    shape = call.shape if rank == 4 else (*call.shape[:2], 1, call.shape[2])
    made = low.result(call, channels_last(4), shape)
    fields = _pool_fields(kernel, stride, mode)
    source = low.index(image, channels_last(4))
    low.emit(code, [source], [made.tensor], "Pool2DOptions", **fields)
    return from_image(made, rank)


@lowers("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", integer=True)
def lower_adaptive_avg_pool(low: Lowering, call: Call) -> Value:
    """MEAN over the whole picture."""
    x = call["self"]
    if any(n != 1 for n in call.shape[2:]):
        raise low.unsupported(call.node, "only an output size of 1 has a lowering")
    return reduce(low, call, "MEAN", x, range(2, len(x.shape)), call.name, True)


# --- normalisation --------------------------------------------------------------------------


def _standardised(low: Lowering, call: Call, x: Value, axes: Sequence[int], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) over ``axes``, in float."""
    name = call.name
    mean = reduce(low, call, "MEAN", x, axes, f"{name}.mean", True)
    centred = binary(low, "SUB", x, mean, f"{name}.centred", x.shape)
    return _scaled_to_unit(low, call, centred, axes, eps, name)


def _scaled_to_unit(
    low: Lowering, call: Call, x: Value, axes: Sequence[int], eps: float, name: str
) -> Value:
    square = binary(low, "MUL", x, x, f"{name}.square", x.shape)
    power = reduce(low, call, "MEAN", square, axes, f"{name}.variance", True)
    floor = real_scalar(eps)
    power = binary(low, "ADD", power, floor, f"{name}.floor", power.shape)
    inverse = unary(low, "RSQRT", power, f"{name}.rsqrt")
    return binary(low, "MUL", x, inverse, f"{name}.unit", x.shape)


def _affine(low: Lowering, call: Call, x: Value, shape: Sequence[int]) -> Value:
    """X · weight + bias, where they exist, broadcast as ``shape``."""
    for key, code in (("weight", "MUL"), ("bias", "ADD")):
        parameter = call.args.get(key)
        if parameter is not None:
            constant = Const(np.asarray(parameter.real, np.float32).reshape(shape))
            x = binary(low, code, x, constant, f"{call.name}.{key}", x.shape)
    return x


@lowers("aten.layer_norm", "aten.native_layer_norm")
def lower_layer_norm(low: Lowering, call: Call) -> Value | tuple[Value, ...]:
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL, and the affine part."""
    x = call["input"]
    count = len(call["normalized_shape"])
    axes = range(len(x.shape) - count, len(x.shape))
    y = _affine(
        low, call, _standardised(low, call, x, axes, float(call["eps"])), call["normalized_shape"]
    )
    return (y,) if call.op == "aten.native_layer_norm" else y


@lowers("aten.rms_norm")
def lower_rms_norm(low: Lowering, call: Call) -> Value:
    """MUL, MEAN, ADD, RSQRT, MUL, and the weight."""
    x = call["input"]
    count = len(call["normalized_shape"])
    axes = range(len(x.shape) - count, len(x.shape))
    eps = call["eps"] if call["eps"] is not None else float(np.finfo(np.float32).eps)
    unit = _scaled_to_unit(low, call, x, axes, float(eps), call.name)
    return _affine(low, call, unit, call["normalized_shape"])


@lowers("aten.group_norm")
def lower_group_norm(low: Lowering, call: Call) -> Value:
    """Layer norm over (channels of a group, space), space seen as one axis.

    Rank 4 on purpose: the old runtime crashes on broadcasting operators of rank 5.
    """
    x = call["input"]
    groups = int(call["num_groups"])
    split = (x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))
    seen = viewed(low, x, split)
    unit = _standardised(low, call, seen, (2, 3), float(call["eps"]))
    channels = [1, x.shape[1]] + [1] * (len(x.shape) - 2)
    return _affine(low, call, viewed(low, unit, x.shape), channels)


@lowers("aten.batch_norm", "aten._native_batch_norm_legit_no_training")
def lower_batch_norm(low: Lowering, call: Call) -> Value | tuple[Value, ...]:
    """MUL and ADD of constants (folding into the convolution before is better)."""
    x = call["input"]
    if call.args.get("training"):
        raise low.unsupported(call.node, "batch norm in training mode has no lowering")
    mean, variance = call["running_mean"].array, call["running_var"].array
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + float(call["eps"]))
    if call["weight"] is not None:
        scale = scale * call["weight"].array
    shift = -mean * scale
    if call["bias"] is not None:
        shift = shift + call["bias"].array
    shape = [1, -1] + [1] * (len(x.shape) - 2)
    factors = Const(scale.astype(np.float32).reshape(shape))
    offsets = Const(shift.astype(np.float32).reshape(shape))
    y = binary(low, "MUL", x, factors, f"{call.name}.scaled", x.shape)
    y = binary(low, "ADD", y, offsets, call.name, x.shape)
    return y if call.op == "aten.batch_norm" else (y,)
