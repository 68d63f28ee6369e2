"""Convolutions: CONV_2D and DEPTHWISE_CONV_2D on channels-last images."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import channels_last
from .lowering import Call, Lowering, bias_index, has_integer_weight, lowers
from .moves import padded
from .values import Const, Value

__all__ = ["as_image", "from_image", "pair", "place"]


def pair(value: Sequence[int] | int, spatial: int) -> list[int]:
    """One number per spatial axis, from a number, a one-element list or a full list."""
    values = [value] if isinstance(value, int) else [int(v) for v in value]
    return values * spatial if len(values) == 1 else values


def as_image(value: Value) -> Value:
    """Give a (batch, channels, frames) tensor a height of 1 before its last axis; no data moves.

    Frames become the width: as the width they are the axis next to the channels, so a channels-last
    signal is a channels-last image.
    """
    if len(value.shape) == 4:
        return value
    batch, channels, frames = value.shape
    perm = [axis for p in value.perm for axis in ((2, 3) if p == 2 else (p,))]
    return Value(
        value.tensor, (batch, channels, 1, frames), tuple(perm), value.dtype, value.qparams
    )


def from_image(value: Value, rank: int) -> Value:
    """Give an image back the rank that :func:`as_image` saw; no data moves."""
    if rank == 4:
        return value
    batch, channels, _, frames = value.shape
    return Value(value.tensor, (batch, channels, frames), (0, 2, 1), value.dtype, value.qparams)


def _window(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> tuple[int, bool, bool, int]:
    """Output size, and whether SAME and VALID describe this axis, and the stride to write.

    With a single output position the stride is free; writing the input size as the stride makes
    SAME add no padding to this axis, so the other axis may use SAME without padding before it.
    """
    reach = dilation * (kernel - 1) + 1
    out = (size + before + after - reach) // stride + 1
    if out == 1 and before == 0 and reach <= size:
        return out, True, True, size
    same_out = -(-size // stride)
    same_before = max((same_out - 1) * stride + reach - size, 0) // 2
    valid_out = (size - reach) // stride + 1 if size >= reach else 0
    return (
        out,
        out == same_out and before == same_before,
        before == 0 and out == valid_out,
        stride,
    )


def place(
    low: Lowering,
    image: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    name: str,
) -> tuple[Value, int, list[int]]:
    """Choose SAME (0) or VALID (1), padding before it when neither says it; returns strides too."""
    axes = [
        _window(image.shape[2 + i], kernel[i], stride[i], dilation[i], padding[i], padding[i])
        for i in range(2)
    ]
    strides = [a[3] for a in axes]
    if all(a[2] for a in axes):
        return image, 1, strides
    if all(a[1] for a in axes):
        return image, 0, strides
    amounts = [(0, 0), (0, 0), *((p, p) for p in padding)]
    key = ("padded", image.tensor, image.shape, image.perm, tuple(padding))
    return low.memo(key, lambda: padded(low, image, amounts, f"{name}.padded")), 1, list(stride)


@lowers(
    "aten.conv1d",
    "aten.conv2d",
    "aten.convolution",
    integer=has_integer_weight,
    fuses=True,
)
def lower_convolution(low: Lowering, call: Call) -> Value:
    """CONV_2D or DEPTHWISE_CONV_2D; 1-D convolutions are images of height 1."""
    weight = call["weight"]
    rank = len(call.shape)
    if not isinstance(weight, Const):
        raise low.unsupported(call.node, "its weight is not a constant")
    if call.args.get("transposed") or rank > 4:
        raise low.unsupported(call.node, "transposed and 3-D convolutions have no lowering")
    x = as_image(call["input"])
    kernel = list(weight.shape[2:])
    stride, dilation = pair(call["stride"], rank - 2), pair(call["dilation"], rank - 2)
    padding = _padding(low, call, kernel, dilation)
    if rank == 3:
        kernel, stride, dilation, padding = (
            [1, *kernel],
            [1, *stride],
            [1, *dilation],
            [0, *padding],
        )
        weight = weight.reshaped((*weight.shape[:2], *kernel))
    x, mode, stride = place(low, x, kernel, stride, dilation, padding, call.name)
    shape = call.shape if rank == 4 else (*call.shape[:2], 1, call.shape[2])
    made = low.result(call, channels_last(4), shape)
    depthwise = call["groups"] == x.shape[1] > 1
    inputs = [
        low.index(x, channels_last(4)),
        low.index(weight, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1), f"{call.name}.weight"),
        bias_index(low, call, x, weight),
    ]
    fields = {
        "padding": mode,
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": low.activation(call.activation),
    }
    if depthwise:
        fields["depthMultiplier"] = call.shape[1] // x.shape[1]
        low.emit("DEPTHWISE_CONV_2D", inputs, [made.tensor], "DepthwiseConv2DOptions", **fields)
    else:
        low.emit("CONV_2D", inputs, [made.tensor], "Conv2DOptions", **fields)
    return from_image(made, rank)


def _padding(low: Lowering, call: Call, kernel: list[int], dilation: list[int]) -> list[int]:
    padding = call["padding"]
    if padding == "valid":
        return [0] * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if any(t % 2 for t in total):
            raise low.unsupported(call.node, "its 'same' padding is not symmetric")
        return [t // 2 for t in total]
    return pair(padding, len(kernel))
