"""Rules of operators that sum products: convolutions, linear layers, products of activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expr import Expr, Lazy, code_bounds, leaf, node, number
from .kernels import Dense, Depthwise, Matmul
from .lower import Lowering, lowers
from .lower_elementwise import activated
from .read import Operator, Tensor
from .view import Buffer, View, contiguous

__all__ = ["float_acc", "geometry", "real_sum"]

_BOUNDS: dict[int, tuple[float | None, float | None]] = {
    0: (None, None),
    1: (0.0, None),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}
_LARGEST = 2**31 - 1
_EXPANDED_CHANNELS = 64  # depthwise with a multiplier becomes a full convolution up to here


def float_acc(low: Lowering, shape: tuple[int, ...], codes: bool = False) -> Buffer:
    """An accumulator: int32 for codes, float64 in islands of quantised programs."""
    dtype = "int32" if codes else "float64" if low.exact else "float32"
    return Buffer(dtype, math.prod(shape), "pending")


def real_sum(acc: Expr) -> Expr:
    """A float32 sum, rounded where it was accumulated in float64."""
    return acc if acc.dtype == "float32" else node("cast", "float32", acc)


def _weights(op: Operator, x: Tensor, weight: Tensor, axis: int) -> bool:
    """Check the weight of a sum; True when it is one of codes."""
    op.require(weight.data is not None, "has a weight that is not constant")
    if x.dtype == "float32":
        op.require(weight.dtype == "float32", f"mixes float32 and {weight.dtype}")
        return False
    op.require(x.dtype == weight.dtype == "int8" and x.quantised, "is neither float32 nor int8")
    points = set(weight.zero_points)
    op.require(bool(weight.scales) and points == {0}, "has weights that are not symmetric")
    op.require(len(weight.scales) == 1 or weight.axis == axis, "has scales on another axis")
    return True


def _bias(op: Operator, codes: bool, size: int) -> NDArray[Any]:
    wanted = "int32" if codes else "float32"
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if bias is None:
        return np.zeros(size, wanted)
    op.require(bias.data is not None and bias.dtype == wanted, "has a bias of another kind")
    op.require(bias.size == size, f"has {bias.size} bias values for {size} outputs")
    assert bias.data is not None
    return bias.data.reshape(-1)


def _total(op: Operator, x: Tensor, weight: Tensor, acc: Expr, outputs: int) -> Expr:
    """What the operator makes of its sum: codes of its own scale, or an activated real."""
    made = op.output
    if x.dtype == "float32":
        op.require(made.dtype == "float32", f"writes {made.dtype}")
        return activated(op, real_sum(acc))
    op.require(made.dtype == "int8" and made.quantised, f"writes {made.dtype}")
    bounds = _BOUNDS.get(int(op.options.get("FusedActivationFunction", 0)))
    op.require(bounds is not None, "has an unknown activation")
    assert bounds is not None
    assert acc.view is not None
    scales = np.float32(x.scale) * np.asarray(weight.scales, np.float32) / np.float32(made.scale)
    op.require(bool(np.all(np.isfinite(scales))), "has scales whose ratio is not finite")
    factor = number(float(scales[0]))
    if len(scales) > 1:
        values = contiguous(Buffer("float32", outputs, "const", scales), (outputs,))
        spread = values.broadcast(acc.view.shape)
        assert spread is not None
        factor = leaf(spread)
    limits = code_bounds(made.scale, made.zero_point, "int8", bounds)
    return node("requantize", "int8", acc, factor, attrs=(made.zero_point, *limits))


def _fits_int32(op: Operator, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    worst = np.abs(weight.astype(np.int64)).sum() * 255 + np.abs(bias.astype(np.int64)).max()
    per = weight.size // max(weight.shape[-1] * weight.shape[0], 1) * 255 * 128
    op.require(
        min(int(worst), per + int(np.abs(bias.astype(np.int64)).max())) <= _LARGEST,
        "sums more products than int32 holds",
    )


# --- convolutions ---------------------------------------------------------------------------


def _window(op: Operator, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Output size and padding before, of one axis."""
    reach = dilation * (kernel - 1) + 1
    if int(op.options.get("Padding", 0)) == 1:  # VALID
        return (size - reach) // stride + 1 if size >= reach else 0, 0
    out = -(-size // stride)
    return out, max((out - 1) * stride + reach - size, 0) // 2


def geometry(op: Operator, x: Tensor, kernel: tuple[int, int]) -> dict[str, Any]:
    """Stride, dilation and padding of a window; checks them and the size of the output."""
    o = op.options
    stride = int(o.get("StrideH", 1)), int(o.get("StrideW", 1))
    dilation = int(o.get("DilationHFactor", 1)), int(o.get("DilationWFactor", 1))
    good = all(0 < n <= 1 << 24 for n in (*stride, *dilation)) and len(x.shape) == 4
    op.require(good and int(o.get("Padding", 0)) in (0, 1), "has a bad geometry")
    axes = [_window(op, x.shape[1 + i], kernel[i], stride[i], dilation[i]) for i in range(2)]
    op.require(
        op.output.shape[:3] == (x.shape[0], axes[0][0], axes[1][0]) and len(op.output.shape) == 4,
        "has an output of another size",
    )
    before = axes[0][1], axes[1][1]
    return {"stride": stride, "dilation": dilation, "before": before}


@lowers("CONV_2D")
def lower_conv(low: Lowering, op: Operator) -> Lazy:
    """Sums over a window and the channels of a group."""
    x, weight = op.input(0), op.input(1)
    codes = _weights(op, x, weight, 0)
    op.require(len(weight.shape) == 4 == len(x.shape), "has a bad rank")
    outputs, height, width, depth = weight.shape
    groups = x.shape[3] // depth if depth else 0
    op.require(groups * depth == x.shape[3] and outputs % groups == 0, "has uneven groups")
    fields = geometry(op, x, (height, width))
    op.require(op.output.shape[3] == outputs, "has another number of outputs")
    assert weight.data is not None
    packed = weight.data.reshape(groups, outputs // groups, height, width, depth)
    return _dense(low, op, codes, packed.transpose(0, 2, 3, 4, 1), fields)


def _dense(
    low: Lowering, op: Operator, codes: bool, weight: NDArray[Any], fields: dict[str, Any]
) -> Lazy:
    x, made = op.input(0), op.output
    bias = _bias(op, codes, made.shape[3])
    if codes:
        _fits_int32(op, weight, bias)
    kernel = Dense(
        made.shape,
        float_acc(low, made.shape, codes),
        x=low.in_memory(low.value(x)),
        weight=weight,
        bias=bias,
        zero_point=x.zero_point if codes else 0,
        **fields,
    )
    acc = low.pending(kernel)
    return Lazy(made.shape, _total(op, x, op.input(1), acc, made.shape[3]))


@lowers("DEPTHWISE_CONV_2D")
def lower_depthwise(low: Lowering, op: Operator) -> Lazy:
    """Sums over a window, channel by channel; with a multiplier a full or grouped convolution."""
    x, weight = op.input(0), op.input(1)
    codes = _weights(op, x, weight, 3)
    op.require(len(weight.shape) == 4 == len(x.shape) and weight.shape[0] == 1, "has a bad rank")
    _, height, width, outputs = weight.shape
    channels = x.shape[3]
    multiplier = outputs // channels
    op.require(multiplier * channels == outputs, "has an uneven multiplier")
    fields = geometry(op, x, (height, width))
    op.require(op.output.shape[3] == outputs, "has another number of outputs")
    assert weight.data is not None
    taps = weight.data[0]
    if multiplier > 1:
        split = taps.reshape(height, width, channels, multiplier)
        if outputs <= _EXPANDED_CHANNELS:
            full = np.zeros((1, height, width, channels, outputs), taps.dtype)
            for c in range(channels):
                full[0, :, :, c, c * multiplier : (c + 1) * multiplier] = split[:, :, c]
            return _dense(low, op, codes, full, fields)
        return _dense(low, op, codes, split.transpose(2, 0, 1, 3)[:, :, :, None], fields)
    bias = _bias(op, codes, outputs)
    if codes:
        _fits_int32(op, taps, bias)
    kernel = Depthwise(
        op.output.shape,
        float_acc(low, op.output.shape, codes),
        x=low.in_memory(low.value(x)),
        weight=taps,
        bias=bias,
        zero_point=x.zero_point if codes else 0,
        **fields,
    )
    return Lazy(op.output.shape, _total(op, x, weight, low.pending(kernel), outputs))


# --- products -------------------------------------------------------------------------------


@lowers("FULLY_CONNECTED")
def lower_fully_connected(low: Lowering, op: Operator) -> Lazy:
    """Rows of the input times a constant matrix."""
    x, weight, made = op.input(0), op.input(1), op.output
    codes = _weights(op, x, weight, 0)
    op.require(len(weight.shape) == 2, "has a bad rank")
    outputs, depth = weight.shape
    rows = x.size // depth
    op.require(rows * depth == x.size and made.size == rows * outputs, "has uneven rows")
    op.require(bool(made.shape) and made.shape[-1] == outputs, "has another number of outputs")
    value = low.in_memory(low.value(x))
    view, shape = _rows(value, rows, depth)
    if view is None:
        view, shape = _rows(low.stored(low.value(x)), rows, depth)
    assert view is not None
    assert weight.data is not None
    bias = _bias(op, codes, outputs)
    matrix = np.ascontiguousarray(weight.data.T).reshape(1, 1, 1, depth, outputs)
    if codes:
        _fits_int32(op, matrix, bias)
    full = (*shape, outputs)
    kernel = Dense(
        full,
        float_acc(low, full, codes),
        x=view,
        weight=matrix,
        bias=bias,
        zero_point=x.zero_point if codes else 0,
    )
    total = Lazy(full, _total(op, x, weight, low.pending(kernel), outputs))
    return low.reshaped(total, made.shape)


def _rows(view: View, rows: int, depth: int) -> tuple[View | None, tuple[int, ...]]:
    """The view as [.., .., rows, depth]; up to three axes of rows."""
    flat = view.reshaped((1, 1, rows, depth))
    if flat is not None:
        return flat, (1, 1, rows)
    lead = tuple(n for n in view.shape[:-1] if n != 1)
    if view.shape[-1] != depth or len(lead) > 3:
        return None, ()
    lead = (1,) * (3 - len(lead)) + lead
    return view.reshaped((*lead, depth)), lead


@lowers("BATCH_MATMUL")
def lower_batch_matmul(low: Lowering, op: Operator) -> Lazy:
    """Products of matrices that are both computed."""
    a, b, made = op.input(0), op.input(1), op.output
    op.require({a.dtype, b.dtype, made.dtype} == {"float32"}, "is not float32")
    rank = len(made.shape)
    op.require(rank >= 2 and max(len(a.shape), len(b.shape)) == rank, "has a bad rank")
    views = []
    for tensor, adjoint in ((a, "AdjX"), (b, "AdjY")):
        view = low.in_memory(low.value(tensor))
        view = view.reshaped((1,) * (rank - len(view.shape)) + view.shape) or view
        if op.options.get(adjoint):
            view = view.permuted([*range(rank - 2), rank - 1, rank - 2])
        views.append(view)
    x, y = views
    batch, depth = made.shape[:-2], x.shape[-1]
    left, right = (*batch, made.shape[-2], depth), (*batch, depth, made.shape[-1])
    spread = x.broadcast(left), y.broadcast(right)
    fits = y.shape[-2] == depth and x.shape[-2] == made.shape[-2] and y.shape[-1] == made.shape[-1]
    op.require(fits and None not in spread, "has matrices that do not fit")
    assert spread[0] is not None
    assert spread[1] is not None
    kernel = Matmul(made.shape, float_acc(low, made.shape), a=spread[0], b=spread[1])
    return Lazy(made.shape, real_sum(low.pending(kernel)))
