"""Streaming rules of ops that shift a clip in time: slices, padding, joining, rolling."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import torch
from torch import fx

from spectral_edge.streaming.memory import settled
from spectral_edge.streaming.rewrite import Rewriter, op_name
from spectral_edge.streaming.rules import (
    aligned_operands,
    argument,
    mapped,
    positive_axis,
    register,
    result,
    same_op,
)
from spectral_edge.streaming.rules_shape import replace_slice
from spectral_edge.streaming.rules_window import padded, replicated, windowed
from spectral_edge.streaming.trace import LONG
from spectral_edge.streaming.value import Refused, Value, refusal

__all__: list[str] = []

_aten = torch.ops.aten
KIND = "shifts along time"


@register(KIND, "slice.Tensor", "narrow")
def _slice(ctx: Rewriter, node: fx.Node) -> Value:
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    source = value.clip.meta["val"]
    dim = positive_axis(argument(node, "dim", 0), source.ndim)
    if dim != value.axis:
        args, kwargs = mapped(ctx, node, [value])
        return result(ctx, node, ctx.emit(node.target, args, kwargs), [value])
    start, step = argument(node, "start") or 0, argument(node, "step", 1) or 1
    if not isinstance(start, int) or start < 0 or not value.pure:
        raise refusal(node, "it cuts frames counted from the end", "slice from a fixed start")
    if ctx.time_axis(node) is None:
        raise refusal(node, "it keeps a fixed number of frames", "keep one value per frame")
    # y[j] = x[j + start]: the newest frame of x is an older one of y
    first = None if value.first is None or value.first < start else value.first - start
    value = replace(value, clip=node, offset=value.offset + start, first=first)
    if step == 1:
        return value
    frames, new = windowed(ctx, node, replace(value, clip=node.args[0]), 0, step)  # type: ignore[arg-type]
    if ctx.chunk(new) > 1:
        frames = ctx.emit(_aten.slice.Tensor, (frames, dim, 0, None, step))
    return replace(new, node=frames)


@register(KIND, "constant_pad_nd", "pad")
def _pad(ctx: Rewriter, node: fx.Node) -> Value:
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    pads = [int(p) for p in node.args[1]]  # type: ignore[arg-type, union-attr]
    mode, fill = _pad_mode(node)
    left = right = 0
    if value.axis is not None:
        index = 2 * (value.clip.meta["val"].ndim - 1 - value.axis)
        if index + 1 < len(pads):
            left, right = pads[index], pads[index + 1]
            pads[index] = pads[index + 1] = 0
    if left or right:
        value = _pad_time(ctx, node, value, (left, right), mode, fill)
    new = value.node
    needed = len(pads)
    while pads and pads[-1] == 0:
        pads.pop()
    if pads:
        if mode == "constant":
            pads += [0] * (len(pads) % 2)
            new = ctx.emit(_aten.constant_pad_nd.default, (new, pads, fill))
        else:
            pads += [0] * (needed - len(pads))  # these modes take padding of all spatial axes
            new = ctx.emit(_aten.pad.default, (new, pads, mode))
    return replace(value, node=new, clip=node)


def _pad_time(
    ctx: Rewriter, node: fx.Node, value: Value, pads: tuple[int, int], mode: str, fill: float
) -> Value:
    left, right = pads
    if mode == "constant" or (mode == "replicate" and left <= 0 and right <= 0):
        return padded(ctx, node, value, left, right, fill)
    if mode == "replicate" and left >= 0 and right >= 0:
        return replicated(ctx, node, value, left, right)
    raise refusal(
        node,
        f"it pads time by {mode!r}, with frames that come later",
        "pad time with a constant or by 'replicate'",
    )


def _pad_mode(node: fx.Node) -> tuple[str, float]:
    if node.target is _aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        fill = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    else:
        mode, fill = "constant", node.args[2] if len(node.args) > 2 else 0.0
    return str(mode), float(fill or 0.0)  # type: ignore[arg-type]


@register(KIND, "cat", "concat", "concatenate")
def _cat(ctx: Rewriter, node: fx.Node) -> Value:
    dim = positive_axis(argument(node, "dim", 0), node.meta["val"].ndim)
    if ctx.time_axis(node) != dim:
        values = aligned_operands(ctx, node)
        args, kwargs = mapped(ctx, node, values)
        return result(ctx, node, ctx.emit(_aten.cat.default, args, kwargs), values)
    pieces: Any = node.args[0]
    timed = [i for i, n in enumerate(pieces) if dim in ctx.time_axes_of(n)]
    if len(timed) != 1:
        raise refusal(
            node, "it joins several clips along time", "join them along channels, or pad one"
        )
    value = replace(ctx.value(pieces[timed[0]]), clip=pieces[timed[0]])
    if not value.pure:
        raise refusal(node, "it joins frames to an axis that merges time", "join before merging")
    before, after = pieces[: timed[0]], pieces[timed[0] + 1 :]
    for piece in reversed(before):
        value = _joined(ctx, node, value, piece, dim, left=True)
    for piece in after:
        value = _joined(ctx, node, value, piece, dim, left=False)
    return replace(value, clip=node)


def _joined(
    ctx: Rewriter, node: fx.Node, value: Value, piece: fx.Node, dim: int, *, left: bool
) -> Value:
    """Return ``value`` with a fixed number of frames joined before or after the clip."""
    count = ctx.clip.size(piece.meta["val"].shape[dim], 1)
    pads = (count, 0) if left else (0, count)
    fill = _constant_fill(piece)
    if fill is not None:
        return padded(ctx, node, value, *pads, fill)
    if left and _is_first_frame(piece, value.clip, dim):
        return replicated(ctx, node, value, *pads)
    if isinstance(ctx.env[piece], Refused):
        raise ctx.env[piece].error
    if not left or value.offset > 0 or not ctx.length_only(piece):
        raise refusal(
            node,
            "it joins frames to a tensor with lookahead, or after the clip",
            "pad with torch.nn.functional.pad",
        )
    # constant frames before the clip: what they hold is read off the clip graph when needed
    value = settled(ctx, value) if value.first is not None else value
    past = value.past + Fraction(count) / value.rate
    return replace(value, offset=value.offset - count, past=past)


def _constant_fill(piece: fx.Node) -> float | None:
    while op_name(piece) in ("expand", "repeat", "to", "clone"):
        piece = piece.args[0]  # type: ignore[assignment]
    name = op_name(piece).removeprefix("new_").removesuffix("_like")
    if name in ("zeros", "ones"):
        return float(name == "ones")
    return None


def _is_first_frame(piece: fx.Node, clip: fx.Node, dim: int) -> bool:
    """Return True for copies of ``clip[..., :1, ...]``."""
    while op_name(piece) in ("expand", "repeat"):
        piece = piece.args[0]  # type: ignore[assignment]
    if op_name(piece) not in ("slice", "narrow") or piece.args[0] is not clip:
        return False
    if positive_axis(argument(piece, "dim", 0), clip.meta["val"].ndim) != dim:
        return False
    return not argument(piece, "start") and piece.meta["val"].shape[dim] == 1


@register(KIND, "slice_scatter")
def _slice_scatter(ctx: Rewriter, node: fx.Node) -> Value:
    """``y[..., start:] = x`` on constants: a shift; on channels: pieces joined."""
    base, source = (cast(fx.Node, n) for n in node.args[:2])
    ndim = source.meta["val"].ndim
    dim = positive_axis(argument(node, "dim", 0), ndim)
    start, size = argument(node, "start") or 0, node.meta["val"].shape[dim]
    if dim not in ctx.time_axes_of(node):
        return replace_slice(ctx, node)
    value = replace(ctx.value(source), clip=source)
    fill = _constant_fill(base)
    count = source.meta["val"].shape[dim]
    after = ctx.clip.size(size, LONG) - ctx.clip.size(count, LONG) - start
    if fill is None or not value.pure or start < 0 or after < 0:
        raise refusal(
            node, "it writes some frames of the clip", "shift with torch.nn.functional.pad"
        )
    return replace(padded(ctx, node, value, start, after, fill), clip=node)


@register(KIND, "roll")
def _roll(ctx: Rewriter, node: fx.Node) -> Value:
    value = ctx.value(node.args[0])
    ndim = value.clip.meta["val"].ndim
    dims = argument(node, "dims") or list(range(ndim))
    if value.axis is not None and value.axis in {positive_axis(d, ndim) for d in dims}:
        raise refusal(
            node,
            "it rolls the last frame of the clip around to the first",
            "shift with torch.nn.functional.pad on the left and a slice",
        )
    return same_op(ctx, node)
