"""Streaming rules of windows along time: convolution, pooling, unfold.

The common case is :func:`windowed`: an op that needs the newest frame and ``reach`` frames before
it. What is older than this hop comes from a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.fold import get_constant
from spectral_edge.streaming.memory import settled
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import (
    argument,
    positive_axis,
    register,
    result,
    same_op,
)
from spectral_edge.streaming.transposed import Geometry, spell
from spectral_edge.streaming.value import Value, refusal

__all__ = ["padded", "replicated", "windowed"]

_aten = torch.ops.aten
KIND = "windows along time"
LOWEST = torch.finfo(torch.float32).min


def padded(ctx: Rewriter, node: fx.Node, value: Value, left: int, right: int, fill: float) -> Value:
    """Return ``value`` with ``left`` constant frames before and ``right`` after the clip."""
    if not value.pure:
        raise refusal(node, "it pads an axis that merges time", "pad before merging axes")
    if value.first is not None and left > 0:
        value = settled(ctx, value)
    if left > 0 or right > 0:
        value = edges.held(ctx, value, fill, at_start=left > 0, at_end=right > 0)
    # y[j] = x[j - left]
    past = max(Fraction(0), value.past + Fraction(left) / value.rate)
    first = None if value.first is None else value.first + left
    return replace(value, offset=value.offset - left, past=past, first=first)


def replicated(ctx: Rewriter, node: fx.Node, value: Value, left: int, right: int) -> Value:
    """Return ``value`` with its first frame repeated before and its last one after the clip."""
    if not value.pure:
        raise refusal(node, "it pads an axis that merges time", "pad before merging axes")
    if left > 0 and value.offset < 0 and value.first is None:
        value = settled(ctx, value)
    if right > 0:
        value = edges.held_last(ctx, value)
    first = value.first
    if left > 0:
        first = (first or 0) + left
    past = max(Fraction(0), value.past + Fraction(left) / value.rate)
    return replace(value, offset=value.offset - left, past=past, first=first)


def windowed(
    ctx: Rewriter, node: fx.Node, value: Value, reach: int, stride: int, inner: int = 0
) -> tuple[fx.Node, Value]:
    """Prepare an op whose output frame j needs input frames j·stride … j·stride + reach.

    ``inner``: frames by which the op itself has padded ``value`` on the left; its clip node has
    not.

    Returns:
        The node that holds exactly the frames this hop needs, and the op's value without node.
    """
    if not value.pure:
        raise refusal(
            node, "time is on its channel axis or merged with another axis", "keep time spatial"
        )
    offset = ceil(Fraction(value.offset + reach - (stride - 1), stride))
    first = None
    if value.first is not None:
        last_equal = floor(Fraction(value.first - reach, stride))
        if offset < 0 and last_equal + offset < 0:
            return windowed(ctx, node, settled(ctx, value), reach, stride, inner)
        first = last_equal if offset < 0 else None
    chunk = ctx.chunk(value)
    assert chunk % stride == 0, "the hop multiple divides every stride"
    count = offset * stride - value.offset
    unpadded = None if value.first is None else value.first - inner
    source = replace(value, offset=value.offset + inner, first=unpadded)
    full = ctx.history(source, max(0, count))
    start, used = max(0, -count), chunk - stride + 1 + reach
    if start or used < count + chunk:
        full = ctx.emit(_aten.slice.Tensor, (full, value.axis, start, start + used))
    return full, replace(value, clip=node, offset=offset, rate=value.rate / stride, first=first)


@register(KIND, "conv1d", "conv2d", "conv1d.padding", "conv2d.padding")
def _conv(ctx: Rewriter, node: fx.Node) -> Value:
    value, weight = ctx.value(node.args[0]), ctx.value(node.args[1])
    kernel = list(weight.clip.meta["val"].shape[2:])
    n = len(kernel)
    bias_node = argument(node, "bias")
    stride = spread(argument(node, "stride", [1]), n)
    dilation = spread(argument(node, "dilation", [1]), n)
    padding = _paddings(argument(node, "padding", 0), kernel, dilation)
    if weight.axis is not None or not ctx.length_only(node.args[1]):  # type: ignore[arg-type]
        raise refusal(node, "its kernel depends on the input", "use multiplications")
    bias = ctx.value(bias_node).node if bias_node is not None else None
    along = None if value.axis is None or value.axis == 0 else value.axis - 2
    if along is not None and along < 0:
        raise refusal(node, "time is on its channel axis", "keep time on a spatial axis")
    if along is None:
        full, new = value.node, None
    else:
        value = replace(value, clip=node.args[0])  # type: ignore[arg-type]
        if any(padding[along]):
            value = padded(ctx, node, value, *padding[along], 0.0)
        reach = (kernel[along] - 1) * dilation[along]
        full, new = windowed(ctx, node, value, reach, stride[along], padding[along][0])
    spatial = [p if i != along else (0, 0) for i, p in enumerate(padding)]
    full, symmetric = _pad_asymmetric(ctx, full, spatial)
    op = _aten.conv1d.default if n == 1 else _aten.conv2d.default
    groups = argument(node, "groups", 1)
    out = ctx.emit(op, (full, weight.node, bias, stride, symmetric, dilation, groups))
    return result(ctx, node, out, [value]) if new is None else replace(new, node=out)


@register(KIND, "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d")
def _pool(ctx: Rewriter, node: fx.Node) -> Value:
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    n = 1 if "1d" in str(node.target) else 2
    is_max = "max" in str(node.target)
    kernel = spread(node.args[1], n)
    stride = spread(argument(node, "stride") or kernel, n)
    padding = spread(argument(node, "padding", 0), n)
    dilation = spread(argument(node, "dilation", 1), n) if is_max else [1] * n
    first = value.clip.meta["val"].ndim - n
    if value.axis is None or value.axis < first:
        return same_op(ctx, node)
    along = value.axis - first
    pad = padding[along]
    if argument(node, "ceil_mode"):
        raise refusal(node, "ceil_mode looks past the end of the clip", "use ceil_mode=False")
    if pad and is_max:
        # before the clip the maximum of copies of the first frame is what -inf would give
        value = edges.held(ctx, value, LOWEST, at_start=False, at_end=True)
        value = replicated(ctx, node, value, pad, 0)
    elif pad:
        if not argument(node, "count_include_pad", True):
            raise refusal(
                node,
                "its divisor differs at the edges of the clip (count_include_pad=False)",
                "pad time before pooling",
            )
        value = padded(ctx, node, value, pad, pad, 0.0)
    padding[along] = 0
    reach = (kernel[along] - 1) * dilation[along]
    full, new = windowed(ctx, node, value, reach, stride[along], pad)
    rest: list[Any] = [kernel, stride, padding]
    if is_max:
        rest.append(dilation)
    else:
        rest += [False, argument(node, "count_include_pad", True)]
        if n == 2 and argument(node, "divisor_override") is not None:
            rest.append(argument(node, "divisor_override"))
    return replace(new, node=ctx.emit(node.target, (full, *rest)))


@register(KIND, "adaptive_avg_pool1d", "adaptive_avg_pool2d")
def _adaptive_pool(ctx: Rewriter, node: fx.Node) -> Value:
    """Per-frame adaptive pooling: time keeps its length, the other axes shrink to one value."""
    value = ctx.value(node.args[0])
    source, target = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    n = 1 if "1d" in str(node.target) else 2
    dims = range(source.ndim - n, source.ndim)
    shrunk = [d for d in dims if str(source.shape[d]) != str(target.shape[d])]
    if value.axis is not None and value.axis in shrunk:
        raise refusal(
            node, "it averages over all frames of the clip", "use a running mean or a window"
        )
    if any(target.shape[d] != 1 for d in shrunk):
        if value.axis is None or value.axis < source.ndim - n:
            return same_op(ctx, node)
        raise refusal(node, "it pools bands next to the time axis", "use avg_pool2d with (1, k)")
    new = value.node
    if shrunk:
        new = ctx.emit(_aten.mean.dim, (new, list(shrunk), True))
    return result(ctx, node, new, [value])


@register(KIND, "conv_transpose1d", "conv_transpose2d.input")
def _conv_transpose(ctx: Rewriter, node: fx.Node) -> Value:
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    weight = node.args[1]
    n = weight.meta["val"].ndim - 2  # type: ignore[union-attr]
    names = ("stride", "padding", "output_padding", "dilation")
    numbers = [
        spread(argument(node, name, int(name in ("stride", "dilation"))), n) for name in names
    ]
    along = None if value.axis is None or value.axis == 0 else value.axis - 2
    if along is not None and (along < 0 or not value.pure):
        raise refusal(node, "time is on its channel axis", "keep time on a spatial axis")
    offset, past, rate, full = value.offset, value.past, value.rate, value.node
    if along is not None:
        stride, padding, _, dilation = (column[along] for column in numbers)
        reach = (weight.meta["val"].shape[along + 2] - 1) * dilation  # type: ignore[union-attr]
        value = edges.held(ctx, settled(ctx, value), 0.0, at_start=True, at_end=padding > 0)
        count = reach // stride  # older input frames that overlap this hop's output
        full = ctx.history(value, count)
        offset, rate = value.offset * stride + padding, value.rate * stride
        past = value.past + Fraction(count) / value.rate
    if not ctx.length_only(weight):  # type: ignore[arg-type]
        raise refusal(node, "its kernel depends on the input", "use multiplications")
    out = _spelled(ctx, node, full, numbers, along)
    if out is None:
        out = _native_transposed(ctx, node, value, full, numbers, along)
    if along is None:
        return result(ctx, node, out, [value])
    return replace(value, node=out, clip=node, offset=offset, rate=rate, past=past)


def _spelled(
    ctx: Rewriter, node: fx.Node, full: fx.Node, numbers: list[list[int]], along: int | None
) -> fx.Node | None:
    """Return the transposed convolution as a convolution, None where that is not possible."""
    bias_node = argument(node, "bias")
    weight_node = ctx.value(node.args[1]).node
    if weight_node.op != "get_attr":
        return None
    weight = get_constant(ctx.clip.module, weight_node)
    bias = None if bias_node is None else get_constant(ctx.clip.module, ctx.value(bias_node).node)
    source, kernel = node.args[0].meta["val"].shape[2:], weight.shape[2:]  # type: ignore[union-attr]
    axes = [
        Geometry(
            int(kernel[i]),
            numbers[0][i],
            numbers[1][i],
            numbers[2][i],
            numbers[3][i],
            None if i == along else int(source[i]),
        )
        for i in range(len(kernel))
    ]
    shape = ctx.step_shape(node.meta["val"])
    if along is not None:
        shape[along + 2] = (
            int(
                ctx.hop * ctx.clip.slope(node.args[0].meta["val"].shape[along + 2])  # type: ignore[union-attr]
            )
            * axes[along].stride
        )
    return spell(ctx, full, weight, bias, axes, argument(node, "groups", 1), shape)


def _native_transposed(
    ctx: Rewriter,
    node: fx.Node,
    value: Value,
    full: fx.Node,
    numbers: list[list[int]],
    along: int | None,
) -> fx.Node:
    """Return the op itself, cut to the output frames that this hop completes."""
    stride, padding, extra, dilation = (list(column) for column in numbers)
    weight, bias_node = ctx.value(node.args[1]), argument(node, "bias")
    bias = None if bias_node is None else ctx.value(bias_node).node
    start = length = whole = 0
    if along is not None:
        reach = (weight.clip.meta["val"].shape[along + 2] - 1) * dilation[along]
        start, length = reach // stride[along] * stride[along], ctx.chunk(value) * stride[along]
        whole = start + length - stride[along] + reach + 1
        padding[along], extra[along] = 0, max(0, start + length - whole)
    groups = argument(node, "groups", 1)
    args = (full, weight.node, bias, stride, padding, extra, groups, dilation)
    out = ctx.emit(node.target, args)
    if along is None or (start == 0 and whole <= length):
        return out
    return ctx.emit(_aten.slice.Tensor, (out, along + 2, start, start + length))


@register(KIND, "unfold")
def _unfold(ctx: Rewriter, node: fx.Node) -> Value:
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    dim, size, step = (int(a) for a in node.args[1:4])  # type: ignore[arg-type]
    dim = positive_axis(dim, value.clip.meta["val"].ndim)
    if dim != value.axis:
        return same_op(ctx, node)
    full, new = windowed(ctx, node, value, size - 1, step)
    windows = []
    for i in range(ctx.chunk(new)):
        window = ctx.emit(_aten.slice.Tensor, (full, dim, i * step, i * step + size))
        window = ctx.emit(_aten.unsqueeze.default, (window, dim))
        windows.append(ctx.moved(window, new.clip.meta["val"].ndim, dim + 1, -1))
    out = windows[0] if len(windows) == 1 else ctx.emit(_aten.cat.default, (windows, dim))
    return replace(new, node=out)


@register(KIND, "im2col")
def _im2col(ctx: Rewriter, node: fx.Node) -> Value:
    """nn.Unfold as a depth-wise convolution with one-hot kernels: exact in every engine."""
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    val: Any = value.clip.meta["val"]
    if val.ndim != 4:
        raise refusal(node, "its input has no batch axis", "unfold [batch, channels, ., .]")
    kernel, dilation, padding, stride = (list(a) for a in node.args[1:5])  # type: ignore[arg-type]
    channels, taps = int(val.shape[1]), kernel[0] * kernel[1]
    weight = torch.eye(taps).reshape(taps, 1, *kernel).repeat(channels, 1, 1, 1)
    one_hot = ctx.constant(weight, f"taps_{kernel[0]}x{kernel[1]}_{channels}")
    along = None if value.axis is None or value.axis == 0 else value.axis - 2
    if along is None or along < 0:
        if along is not None:
            raise refusal(node, "time is on its channel axis", "keep time on a spatial axis")
        return same_op(ctx, node)
    if padding[along]:
        value = padded(ctx, node, value, padding[along], padding[along], 0.0)
    reach = (kernel[along] - 1) * dilation[along]
    full, new = windowed(ctx, node, value, reach, stride[along], padding[along])
    padding[along] = 0
    out = ctx.emit(_aten.conv2d.default, (full, one_hot, None, stride, padding, dilation, channels))
    out = ctx.emit(_aten.reshape.default, (out, ctx.step_shape(node.meta["val"])))
    bands = int(ctx.clip.slope(node.meta["val"].shape[2]) / new.rate)
    fold = (1, bands) if along == 0 else (bands, 1)
    return replace(new, node=out, axis=2, fold=fold)


def spread(value: Any, n: int) -> list[int]:
    """Return one number per spatial axis."""
    items = [value] if isinstance(value, int) else list(value)
    return items * n if len(items) == 1 else items


def _paddings(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in spread(value, len(kernel))]


def _pad_asymmetric(
    ctx: Rewriter, node: fx.Node, pads: list[tuple[int, int]]
) -> tuple[fx.Node, list[int]]:
    if all(a == b for a, b in pads):
        return node, [a for a, _ in pads]
    flat = [p for pair in reversed(pads) for p in pair]
    return ctx.emit(_aten.constant_pad_nd.default, (node, flat, 0.0)), [0] * len(pads)
