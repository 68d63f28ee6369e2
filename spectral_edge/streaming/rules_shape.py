"""Streaming rules of data movement: views, permutations, pieces, repetition, constants."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming.fold import get_constant
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import (
    POINTWISE,
    aligned_operands,
    argument,
    mapped,
    positive_axis,
    refuse_time,
    register,
    result,
    same_op,
    several,
    step_sizes,
)
from spectral_edge.streaming.rules_window import windowed
from spectral_edge.streaming.value import Value, refusal

__all__: list[str] = []

_aten = torch.ops.aten
KIND = "data movement"


@register(
    KIND, "permute", "transpose.int", "t", "swapaxes", "mT", "adjoint", "movedim.int",
    "movedim.intlist",
)  # fmt: skip
def _permuted(ctx: Rewriter, node: fx.Node) -> Value:
    value, ndim = ctx.value(node.args[0]), node.meta["val"].ndim
    probe = node.target(torch.empty(list(range(1, ndim + 1))), *node.args[1:])  # type: ignore[operator]
    order = [size - 1 for size in probe.shape]
    return result(ctx, node, ctx.emit(_aten.permute.default, (value.node, order)), [value])


@register(KIND, "channel_shuffle")
def _channel_shuffle(ctx: Rewriter, node: fx.Node) -> Value:
    value, groups = ctx.value(node.args[0]), int(node.args[1])  # type: ignore[arg-type]
    if value.axis == 1:
        raise refusal(node, "time is on its channel axis", "put channels on axis 1")
    _, channels, *rest = ctx.step_shape(node.meta["val"])
    split = [-1, groups, channels // groups, *rest]
    y = ctx.emit(_aten.reshape.default, (value.node, split))
    y = ctx.emit(_aten.permute.default, (y, [0, 2, 1, *range(3, len(split))]))
    y = ctx.emit(_aten.reshape.default, (y, [-1, channels, *rest]))
    return result(ctx, node, y, [value])


@register(KIND, "pixel_shuffle", "pixel_unshuffle")
def _pixels(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    refuse_time(ctx, node, value, [-1, -2])
    return same_op(ctx, node)


# -- constants ----------------------------------------------------------------------------------

_FILLS = {"zeros": 0.0, "ones": 1.0}


@register(
    "constants", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like",
    "ones_like", "full_like", "scalar_tensor",
)  # fmt: skip
def _creation(ctx: Rewriter, node: fx.Node) -> Value:
    val = node.meta["val"]
    new = ctx.emit(_aten.full.default, (step_sizes(ctx, val), fill_of(node)), {"dtype": val.dtype})
    ctx.steady.add(new)
    axes = ctx.time_axes(val)
    if len(axes) > 1:
        raise refusal(node, "it has two time axes", "attend within a window")
    if not axes:
        return Value(new, node)
    return replace(_like_time(ctx, val, axes[0]), node=new, clip=node)


@register("constants", "fill.Scalar", "fill.Tensor")
def _fill(ctx: Rewriter, node: fx.Node) -> Value:
    content: Any = node.args[1]
    if isinstance(content, fx.Node):
        if ctx.value(content).axis is not None or not ctx.length_only(content):
            raise refusal(node, "it fills with a computed number", "use torch.where or a product")
        content = float(get_constant(ctx.clip.module, content))
    val = node.meta["val"]
    new = ctx.emit(_aten.full.default, (step_sizes(ctx, val), content), {"dtype": val.dtype})
    ctx.steady.add(new)
    axis = ctx.time_axis(node)
    return (
        Value(new, node)
        if axis is None
        else replace(_like_time(ctx, val, axis), node=new, clip=node)
    )


def fill_of(node: fx.Node) -> float:
    """Return the number that a creation op fills its tensor with."""
    name = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    name = name.removeprefix("new_").removesuffix("_like")
    if name in _FILLS:
        return _FILLS[name]
    fill = argument(node, "s" if name == "scalar_tensor" else "fill_value")
    assert isinstance(fill, (int, float))
    return fill


def _like_time(ctx: Rewriter, val: torch.Tensor, axis: int) -> Value:
    """Return the time of a constant over time, as a value without nodes."""
    slope = ctx.clip.slope(val.shape[axis], 1)
    nothing: Any = None
    if ctx.per_stream(val.shape[axis]):
        batch = int(ctx.clip.slope(val.shape[axis]) / slope)
        return Value(nothing, nothing, axis, fold=(batch, int(slope)))
    return Value(nothing, nothing, axis, rate=slope)


# -- views --------------------------------------------------------------------------------------


@register(
    KIND,
    "view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze.dim",
    "squeeze.dims", "squeeze", "unsqueeze", "view_as", "reshape_as",
)  # fmt: skip
def _view(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    shape = ctx.step_shape(node.meta["val"])
    if shape.count(-1) > 1:
        raise refusal(node, "it splits the batch", "keep the batch on one axis")
    if value.axis is None:
        if ctx.time_axes_of(node):
            raise refusal(node, "it makes a time axis of another one", "keep time on its own axis")
        return Value(ctx.emit(_aten.reshape.default, (value.node, shape)), node)
    axis = ctx.time_axis(node)
    if axis is None:
        raise refusal(node, "it merges all frames into one axis", "keep time on its own axis")
    value = replace(value, clip=node.args[0])  # type: ignore[arg-type]
    assert value.axis is not None
    before: Any = ctx.concrete(value.clip.meta["val"])
    after: Any = ctx.concrete(node.meta["val"])
    outer = (prod(before[: value.axis]) * value.fold[0], prod(after[:axis]))
    inner = (prod(before[value.axis + 1 :]) * value.fold[1], prod(after[axis + 1 :]))
    if value.pure and outer[0] == outer[1] and inner[0] != inner[1]:
        return _regrouped(ctx, node, value, axis, Fraction(inner[1], inner[0]))
    fold = (Fraction(outer[0], outer[1]), Fraction(inner[0], inner[1]))
    if any(f.denominator != 1 for f in fold):
        raise refusal(
            node, "the reshape mixes frames with another axis", "use permute to move axes"
        )
    new = ctx.emit(_aten.reshape.default, (value.node, shape))
    return replace(value, node=new, clip=node, axis=axis, fold=(int(fold[0]), int(fold[1])))


def _regrouped(ctx: Rewriter, node: fx.Node, value: Value, axis: int, ratio: Fraction) -> Value:
    """Reshape that joins ``ratio`` successive frames into one, or splits a frame into several."""
    shape = ctx.step_shape(node.meta["val"])
    if ratio.numerator != 1 and ratio.denominator != 1:
        raise refusal(
            node, "the reshape mixes frames with another axis", "use permute to move axes"
        )
    if ratio > 1:
        joined = int(ratio)
        frames, value = windowed(ctx, node, value, joined - 1, joined)
        # as many frames as this hop completes
        new = ctx.emit(_aten.reshape.default, (frames, shape))
        return replace(value, node=new, axis=axis)
    split = int(1 / ratio)
    new = ctx.emit(_aten.reshape.default, (value.node, shape))
    return replace(
        value,
        node=new,
        clip=node,
        axis=axis,
        offset=value.offset * split,
        rate=value.rate * split,
        first=None,
    )


# -- repetition ---------------------------------------------------------------------------------

_BROADCASTING = {
    getattr(getattr(_aten, name.partition(".")[0]), name.partition(".")[2] or "default")
    for name in POINTWISE
}


@register(KIND, "expand", "expand_as")
def _expand(ctx: Rewriter, node: fx.Node) -> Value:
    value, val = ctx.value(node.args[0]), node.meta["val"]
    if value.axis is None and ctx.time_axes(val):
        if all(user.target in _BROADCASTING for user in node.users):
            return value  # a constant repeated over time: broadcasting does the same for one hop
        new = ctx.emit(_aten.expand.default, (value.node, step_sizes(ctx, val)))
        ctx.steady.add(new)
        axis = ctx.time_axis(node)
        assert axis is not None
        return replace(_like_time(ctx, val, axis), node=new, clip=node)
    new = ctx.emit(_aten.expand.default, (value.node, step_sizes(ctx, val)))
    return result(ctx, node, new, [value])


@register(KIND, "repeat", "tile")
def _repeat(ctx: Rewriter, node: fx.Node) -> Value:
    value, val = ctx.value(node.args[0]), node.meta["val"]
    source = value.clip.meta["val"]
    if value.axis is not None:
        at = value.axis + val.ndim - source.ndim
        if ctx.clip.slope(val.shape[at]) != ctx.clip.slope(source.shape[value.axis]):
            raise refusal(node, "it repeats the whole clip", "repeat frames or bands, not time")
    args, kwargs = mapped(ctx, node, [replace(value, clip=node.args[0])])  # type: ignore[arg-type]
    return result(ctx, node, ctx.emit(node.target, args, kwargs), [value])


@register(KIND, "repeat_interleave.self_int")
def _repeat_interleave(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    times, dim = argument(node, "repeats"), argument(node, "dim")
    ndim = value.clip.meta["val"].ndim
    dim = positive_axis(dim, ndim) if isinstance(dim, int) else None
    if dim is None or not isinstance(times, int):
        raise refusal(node, "it repeats by a variable count", "repeat an axis by a fixed number")
    if dim != value.axis:
        return same_op(ctx, node)
    return repeated_frames(ctx, node, value, times)


def repeated_frames(ctx: Rewriter, node: fx.Node, value: Value, times: int) -> Value:
    """Every frame ``times`` times: up-sampling along time."""
    if not value.pure:
        raise refusal(node, "time is merged with another axis", "keep time on its own axis")
    assert value.axis is not None
    shape = ctx.step_shape(node.meta["val"])
    copy = ctx.emit(_aten.unsqueeze.default, (value.node, value.axis + 1))
    copies = ctx.emit(_aten.cat.default, ([copy] * times, value.axis + 1))
    new = ctx.emit(_aten.reshape.default, (copies, shape))
    return replace(
        value,
        node=new,
        clip=node,
        offset=value.offset * times,
        rate=value.rate * times,
        first=None if value.first is None else value.first * times + times - 1,
    )


@register(KIND, "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_bilinear2d.vec")
def _upsample(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    source, target = value.clip.meta["val"], node.meta["val"]
    nearest = "nearest" in str(node.target)
    if value.axis is not None and value.axis > 1:
        ratio = ctx.clip.slope(target.shape[value.axis]) / ctx.clip.slope(source.shape[value.axis])
        others = [i for i in range(2, source.ndim) if i != value.axis]
        same = all(source.shape[i] == target.shape[i] for i in others)
        if ratio != 1 and not (nearest and same and ratio.denominator == 1):
            raise refusal(
                node,
                "it interpolates between frames",
                "up-sample time by repetition (nearest, a whole factor, other axes apart)",
            )
        if ratio != 1:
            return repeated_frames(ctx, node, value, int(ratio))
    size = ctx.step_shape(target)[2:]
    rest = (None,) if nearest else (argument(node, "align_corners"), None)
    return result(ctx, node, ctx.emit(node.target, (value.node, size, *rest)), [value])


# -- pieces -------------------------------------------------------------------------------------


@register(KIND, "select.int", "index_select", "gather")
def _over_one_dim(ctx: Rewriter, node: fx.Node) -> Value:
    value, dim = ctx.value(node.args[0]), node.args[1]
    if value.axis == positive_axis(dim, value.clip.meta["val"].ndim):  # type: ignore[arg-type]
        raise refusal(node, "it picks single frames of the clip", "keep one value per frame")
    return same_op(ctx, node)


@register(KIND, "index.Tensor")
def _index(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    indices: Any = node.args[1]
    used = [(i, ctx.value(n)) for i, n in enumerate(indices) if n is not None]
    if value.axis is None:
        return same_op(ctx, node)  # a table looked up by something
    if any(i == value.axis for i, _ in used) or any(v.axis is not None for _, v in used):
        raise refusal(node, "it picks frames by index", "shift, pad or slice along time")
    return same_op(ctx, node)


@register(
    KIND,
    "split.Tensor", "split_with_sizes", "split.sizes", "chunk", "unsafe_chunk",
    "tensor_split.sections",
)  # fmt: skip
def _split(ctx: Rewriter, node: fx.Node) -> list[Value]:
    value = ctx.value(node.args[0])
    dim = argument(node, "dim", 0)
    refuse_time(ctx, node, value, [dim])
    if positive_axis(dim, value.clip.meta["val"].ndim) == 0:
        raise refusal(node, "it splits the batch", "keep the batch whole")
    args, kwargs = mapped(ctx, node, [replace(value, clip=node.args[0])])  # type: ignore[arg-type]
    return several(ctx, node, ctx.emit(node.target, args, kwargs), value)


@register(KIND, "unbind.int")
def _unbind(ctx: Rewriter, node: fx.Node) -> list[Value]:
    value = ctx.value(node.args[0])
    dim = argument(node, "dim", 0)
    refuse_time(ctx, node, value, [dim])
    parts = []
    for i, part in enumerate(node.meta["val"]):
        item = ctx.emit(_aten.select.int, (value.node, dim, i))
        parts.append(replace(value, node=item, clip=node, axis=ctx.time_axis(node, part)))
    return parts


@register(KIND, "stack")
def _stack(ctx: Rewriter, node: fx.Node) -> Value:
    values = aligned_operands(ctx, node)
    args, kwargs = mapped(ctx, node, values)
    return result(ctx, node, ctx.emit(node.target, args, kwargs), values)


@register(KIND, "copy")
def _copy(ctx: Rewriter, node: fx.Node) -> Value:
    """``y[...] = x``: only the shape of y counts."""
    source: Any = node.args[1]
    value = replace(ctx.value(source), clip=source)
    if len(source.meta["val"].shape) == len(node.meta["val"].shape):
        same = zip(source.meta["val"].shape, node.meta["val"].shape, strict=True)
        if all(str(a) == str(b) for a, b in same):
            return replace(value, clip=node)
    if value.axis is None and ctx.time_axes_of(node):
        raise refusal(node, "it writes a constant over frames", "use torch.where or a product")
    new = ctx.emit(_aten.expand.default, (value.node, step_sizes(ctx, node.meta["val"])))
    return result(ctx, node, new, [value])


@register(KIND, "select_scatter")
def _select_scatter(ctx: Rewriter, node: fx.Node) -> Value:
    base, source = aligned_operands(ctx, node)[:2]
    dim = positive_axis(argument(node, "dim"), node.meta["val"].ndim)
    index = positive_axis(argument(node, "index"), int(node.meta["val"].shape[dim]))
    piece = ctx.emit(_aten.unsqueeze.default, (source.node, dim))
    return _replaced(ctx, node, [base, source], piece, dim, (index, index + 1))


def _replaced(
    ctx: Rewriter,
    node: fx.Node,
    values: list[Value],
    piece: fx.Node,
    dim: int,
    span: tuple[int, int],
) -> Value:
    """Join what stands before ``span`` on axis ``dim``, a new piece, and what stands after it."""
    size = node.meta["val"].shape[dim]
    if dim in ctx.time_axes_of(node) or not isinstance(size, int):
        raise refusal(
            node, "it writes some frames of the clip", "shift with torch.nn.functional.pad"
        )
    pieces, base = [piece], values[0].node
    if span[0] > 0:
        pieces.insert(0, ctx.emit(_aten.slice.Tensor, (base, dim, 0, span[0])))
    if span[1] < size:
        pieces.append(ctx.emit(_aten.slice.Tensor, (base, dim, span[1], size)))
    new = piece if len(pieces) == 1 else ctx.emit(_aten.cat.default, (pieces, dim))
    return result(ctx, node, new, values)


def replace_slice(ctx: Rewriter, node: fx.Node) -> Value:
    """Rule of ``y[:, a:b] = x`` on an axis other than time."""
    dim = positive_axis(argument(node, "dim", 0), node.meta["val"].ndim)
    values, size = aligned_operands(ctx, node)[:2], node.meta["val"].shape[dim]
    start, end = argument(node, "start") or 0, argument(node, "end")
    if argument(node, "step", 1) != 1 or not isinstance(size, int):
        raise refusal(node, "it writes every other element", "use torch.cat or torch.stack")
    end = size if end is None else min(positive_axis(end, size), size)
    span = (positive_axis(start, size), end)
    return _replaced(ctx, node, values, values[1].node, dim, span)
