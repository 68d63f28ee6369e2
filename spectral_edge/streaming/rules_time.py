"""Streaming rules of ops that reach across time: slicing, padding, windows, running sums.

The common case is :func:`_window`: an op that needs the newest frame and ``reach`` frames before it.
What is older than this hop comes from a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter, Value
from spectral_edge.streaming.rules import mapped, operands, positive_axis, register, result, same_op

__all__: list[str] = []

_aten = torch.ops.aten
KIND = "across time"


@register(KIND, "slice.Tensor")
def _slice(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    args = [*node.args, *(None, 0, None, None, 1)[len(node.args) :]]
    dim = positive_axis(args[1], value.clip.meta["val"].ndim)  # type: ignore[arg-type]
    if dim != value.axis:
        new_args, kwargs = mapped(ctx, node, [value])
        return result(ctx, node, ctx.emit(node.target, new_args, kwargs), [value])
    start, step = args[2] or 0, args[4]
    if not isinstance(start, int) or start < 0 or step != 1 or not value.pure:
        raise ctx.refuse(
            node, "it cuts frames counted from the end, or skips frames", "slice from a fixed start"
        )
    if ctx.time_axis(node) is None:
        raise ctx.refuse(node, "it keeps a fixed number of frames", "keep one value per frame")
    # y[j] = x[j + start]: the newest frame of x is an older one of y
    return replace(value, clip=node, offset=value.offset + start)


@register(KIND, "constant_pad_nd", "pad")
def _pad(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    pads = [int(p) for p in node.args[1]]  # type: ignore[arg-type, union-attr]
    mode, fill = _pad_mode(node)
    left = right = 0
    if value.axis is not None:
        index = 2 * (value.clip.meta["val"].ndim - 1 - value.axis)
        if index + 1 < len(pads):
            left, right = pads[index], pads[index + 1]
            pads[index] = pads[index + 1] = 0
    if (left or right) and mode != "constant":
        raise ctx.refuse(node, f"it pads time by {mode!r}", "pad time with a constant")
    if left or right:
        value = _padded(ctx, node, value, left, right, fill)
    new = value.node
    while pads and pads[-1] == 0:
        pads.pop()
    if pads:
        pads += [0] * (len(pads) % 2)
        if mode == "constant":
            new = ctx.emit(_aten.constant_pad_nd.default, (new, pads, fill))
        else:
            new = ctx.emit(_aten.pad.default, (new, pads, mode))
    return replace(value, node=new, clip=node)


def _pad_mode(node: fx.Node) -> tuple[str, float]:
    if node.target is _aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        fill = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    else:
        mode, fill = "constant", node.args[2] if len(node.args) > 2 else 0.0
    return str(mode), float(fill or 0.0)  # type: ignore[arg-type]


def _padded(
    ctx: Rewriter, node: fx.Node, value: Value, left: int, right: int, fill: float
) -> Value:
    """Return ``value`` with ``left`` constant frames before and ``right`` after the clip."""
    if not value.pure:
        raise ctx.refuse(node, "it pads an axis that merges time", "pad before merging axes")
    if left > 0 or right > 0:
        value = ctx.held(value, fill, at_start=left > 0, at_end=right > 0)
    # y[j] = x[j - left]
    past = max(Fraction(0), value.past + Fraction(left) / value.rate)
    return replace(value, offset=value.offset - left, past=past)


def _window(
    ctx: Rewriter, node: fx.Node, value: Value, reach: int, stride: int, pads: tuple[int, int]
) -> tuple[fx.Node, Value]:
    """Prepare an op whose output frame j needs padded input frames j·stride … j·stride + reach.

    Returns:
        The node that holds exactly the frames this hop needs, and the op's value without node.
    """
    if not value.pure:
        raise ctx.refuse(
            node, "time is on its channel axis or merged with another axis", "keep time spatial"
        )
    padded = _padded(ctx, node, value, *pads, 0.0) if any(pads) else value
    chunk = ctx.chunk(value)
    assert chunk % stride == 0, "the hop multiple divides every stride"
    offset = ceil(Fraction(padded.offset + reach - (stride - 1), stride))
    count = offset * stride - padded.offset
    # frames before the clip are zeros in a state, which is what padding makes of them
    held = replace(padded, offset=value.offset)
    full = ctx.history(held, count)
    used = chunk - stride + 1 + reach
    if used < count + chunk:
        full = ctx.emit(_aten.slice.Tensor, (full, value.axis, 0, used))
    return full, replace(padded, clip=node, offset=offset, rate=value.rate / stride)


@register(KIND, "conv1d", "conv2d", "conv1d.padding", "conv2d.padding")
def _conv(ctx: Rewriter, node: fx.Node) -> Value:
    value, weight = ctx.value(node.args[0]), ctx.value(node.args[1])
    kernel = list(weight.clip.meta["val"].shape[2:])
    n = len(kernel)
    args = [*node.args, *(None, [1] * n, [0] * n, [1] * n, 1)[len(node.args) - 2 :]]
    bias = ctx.value(args[2]).node if args[2] is not None else None
    stride, dilation = _spread(args[3], n), _spread(args[5], n)
    padding = _paddings(args[4], kernel, dilation)
    if weight.axis is not None:
        raise ctx.refuse(node, "its kernel depends on the input", "use multiplications")
    if value.axis is None or value.axis == 0:
        new_args, kwargs = mapped(ctx, node, operands(ctx, node))
        return result(ctx, node, ctx.emit(node.target, new_args, kwargs), [value])
    along = value.axis - 2
    if along < 0:
        raise ctx.refuse(node, "time is on its channel axis", "keep time on a spatial axis")
    reach = (kernel[along] - 1) * dilation[along]
    full, new = _window(ctx, node, value, reach, stride[along], padding[along])
    spatial = [p if i != along else (0, 0) for i, p in enumerate(padding)]
    full, symmetric = _pad_asymmetric(ctx, full, spatial)
    op = _aten.conv1d.default if n == 1 else _aten.conv2d.default
    out = ctx.emit(op, (full, weight.node, bias, stride, symmetric, dilation, args[6]))
    return replace(new, node=out)


@register(KIND, "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d")
def _pool(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    n = 1 if "1d" in str(node.target) else 2
    is_max = "max" in str(node.target)
    args = list(node.args)
    kernel = _spread(args[1], n)
    stride = _spread(args[2], n) if len(args) > 2 and args[2] else list(kernel)
    padding = _spread(args[3], n) if len(args) > 3 else [0] * n
    dilation = _spread(args[4], n) if is_max and len(args) > 4 else [1] * n
    first = value.clip.meta["val"].ndim - n
    if value.axis is None or value.axis < first:
        return same_op(ctx, node)
    along = value.axis - first
    if padding[along]:
        raise ctx.refuse(node, "it pads time inside a pooling", "pad before pooling")
    reach = (kernel[along] - 1) * dilation[along]
    full, new = _window(ctx, node, value, reach, stride[along], (0, 0))
    rest = [kernel, stride, padding, *([dilation] if is_max else []), *args[5 if is_max else 4 :]]
    return replace(new, node=ctx.emit(node.target, (full, *rest), dict(node.kwargs)))


@register(KIND, "conv_transpose1d", "conv_transpose2d.input")
def _conv_transpose(ctx: Rewriter, node: fx.Node) -> Value:
    value, weight = ctx.value(node.args[0]), ctx.value(node.args[1])
    kernel = list(weight.clip.meta["val"].shape[2:])
    n = len(kernel)
    args = [*node.args, *(None, [1] * n, [0] * n, [0] * n, 1, [1] * n)[len(node.args) - 2 :]]
    bias = ctx.value(args[2]).node if args[2] is not None else None
    stride, padding, extra = (_spread(a, n) for a in args[3:6])
    dilation = _spread(args[7], n)
    along = (value.axis or 0) - 2
    if value.axis is None or value.axis == 0:
        return same_op(ctx, node)
    if along < 0 or not value.pure:
        raise ctx.refuse(node, "time is on its channel axis", "keep time on a spatial axis")
    s, crop = stride[along], padding[along]
    reach = (kernel[along] - 1) * dilation[along]
    value = ctx.held(value, 0.0, at_start=True, at_end=crop > 0)
    count = -(-reach // s)  # input frames that still overlap the newest output
    full = ctx.history(value, count)
    padding[along] = extra[along] = 0
    op = _aten.conv_transpose1d.default if n == 1 else _aten.conv_transpose2d.input
    out = ctx.emit(op, (full, weight.node, bias, stride, padding, extra, args[6], dilation))
    length = ctx.chunk(value) * s
    out = ctx.emit(_aten.slice.Tensor, (out, value.axis, count * s, count * s + length))
    return replace(
        value,
        node=out,
        clip=node,
        offset=value.offset * s + crop,
        rate=value.rate * s,
        past=value.past + Fraction(count) / value.rate,
    )


@register(KIND, "cumsum")
def _cumsum(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    dim = positive_axis(node.args[1], value.clip.meta["val"].ndim)  # type: ignore[arg-type]
    if dim != value.axis:
        return same_op(ctx, node)
    if not value.pure:
        raise ctx.refuse(node, "time is merged with another axis", "sum along time alone")
    value = ctx.held(value, 0.0, at_start=True, at_end=False)
    shape = [1 if n == -1 else n for n in ctx.step_shape(node.meta["val"])]
    shape[dim] = 1
    memory = ctx.remember(lambda _: torch.zeros(shape, dtype=node.meta["val"].dtype))
    chunk = ctx.chunk(value)
    new = value.node if chunk == 1 else ctx.emit(_aten.cumsum.default, (value.node, dim))
    total = ctx.emit(_aten.add.Tensor, (memory.node, new))
    memory.following = (
        total if chunk == 1 else ctx.emit(_aten.slice.Tensor, (total, dim, chunk - 1, chunk))
    )
    return replace(value, node=total, clip=node, past=ctx.UNBOUNDED)


@register(KIND, "arange.start", "arange", "arange.start_step")
def _arange(ctx: Rewriter, node: fx.Node) -> Value:
    val = node.meta["val"]
    if ctx.time_axis(node) is None:
        new = ctx.emit(node.target, *mapped(ctx, node, []))
        return Value(new, node)
    start = node.args[0] if len(node.args) > 1 else 0
    step = node.args[2] if len(node.args) > 2 else 1
    if not isinstance(start, (int, float)) or step != 1 or ctx.clip.slope(val.shape[0]) != 1:
        raise ctx.refuse(node, "it counts frames from the end", "count from the first frame")
    memory = ctx.remember(lambda _: torch.full((1,), start, dtype=val.dtype), None, "frame_count")
    now = ctx.emit(_aten.slice.Tensor, (memory.node, 0, 0, 1))
    memory.following = ctx.emit(_aten.add.Scalar, (memory.node, ctx.hop))
    if ctx.hop > 1:
        ramp = ctx.constant(torch.arange(ctx.hop, dtype=val.dtype), "ramp")
        now = ctx.emit(_aten.add.Tensor, (now, ramp))
    return Value(now, node, axis=0)


@register(KIND, "cat")
def _cat(ctx: Rewriter, node: fx.Node) -> Value:
    dim = positive_axis(node.args[1] if len(node.args) > 1 else 0, node.meta["val"].ndim)  # type: ignore[arg-type]
    pieces = [ctx.value(n) for n in node.args[0]]  # type: ignore[union-attr]
    along = [i for i, v in enumerate(pieces) if v.axis == dim]
    if ctx.time_axis(node) != dim:
        return same_op(ctx, node)
    if len(along) != 1 or not pieces[along[0]].pure:
        raise ctx.refuse(
            node, "it joins several pieces along time", "pad with torch.nn.functional.pad"
        )
    sizes = [ctx.clip.size(v.clip.meta["val"].shape[dim], 1) for v in pieces]
    left, right = sum(sizes[: along[0]]), sum(sizes[along[0] + 1 :])
    value = pieces[along[0]]
    if (left and value.offset > 0) or right:
        raise ctx.refuse(
            node,
            "it joins constant frames to a tensor with lookahead, or after the clip",
            "pad with torch.nn.functional.pad",
        )
    # constant frames before the clip: what they hold is read off the clip graph when needed
    past = value.past + Fraction(left) / value.rate
    return replace(value, clip=node, offset=value.offset - left, past=past)


def _spread(value: Any, n: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * n if len(items) == 1 else items


def _paddings(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in _spread(value, len(kernel))]


def _pad_asymmetric(
    ctx: Rewriter, node: fx.Node, pads: list[tuple[int, int]]
) -> tuple[fx.Node, list[int]]:
    if all(a == b for a, b in pads):
        return node, [a for a, _ in pads]
    flat = [p for pair in reversed(pads) for p in pair]
    return ctx.emit(_aten.constant_pad_nd.default, (node, flat, 0.0)), [0] * len(pads)
