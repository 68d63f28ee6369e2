"""Streaming rules of values that run over all the past: sums, extrema, frame counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.memory import settled
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import argument, mapped, over_dims, positive_axis, register
from spectral_edge.streaming.value import Refused, Value, refusal

__all__: list[str] = []

_aten = torch.ops.aten
KIND = "running over all the past"


def _running(
    ctx: Rewriter,
    node: fx.Node,
    fill: float,
    join: Callable[[fx.Node, fx.Node], fx.Node],
    *,
    from_first: bool = False,
) -> Value:
    """A value that joins each frame to what it was before.

    Args:
        ctx: the rewriting.
        node: clip node with the input as first argument and ``dim``.
        fill: value before the first frame, neutral for ``join``.
        join: emits (value before, new frame) -> value.
        from_first: the value starts as the first frame; ``fill`` only marks time.
    """
    value = replace(ctx.value(node.args[0]), clip=node.args[0])  # type: ignore[arg-type]
    if not value.pure:
        raise refusal(node, "time is merged with another axis", "run along time alone")
    value = settled(ctx, value)
    if not from_first:
        value = edges.held(ctx, value, fill, at_start=True, at_end=False)
    axis = value.axis
    assert axis is not None
    made = torch.utils._pytree.tree_leaves(node.meta["val"])[0]
    wide = made.dtype is torch.int64  # files keep no int64 states
    if wide:
        value = replace(value, node=ctx.emit(_aten.to.dtype, (value.node, torch.int32)))
    memory = ctx.keep_frame(
        value, 0.0 if from_first else fill, exact=True, dtype=torch.int32 if wide else None
    )
    total, frames, chunk = memory.node, [], ctx.chunk(value)
    for i in range(chunk):
        frame = value.node
        if chunk > 1:
            frame = ctx.emit(_aten.slice.Tensor, (frame, axis, i, i + 1))
        new = join(total, frame)
        if from_first:
            later = edges.started(ctx, value, i, after=1)
            new = new if later is None else ctx.emit(_aten.where.self, (later, new, frame))
        total = new
        frames.append(total)
    memory.becomes(total)
    out = frames[0] if chunk == 1 else ctx.emit(_aten.cat.default, (frames, axis))
    if wide:
        out = ctx.emit(_aten.to.dtype, (out, torch.int64))
    return replace(value, node=out, clip=node, past=ctx.UNBOUNDED)


def _along_time(ctx: Rewriter, node: fx.Node) -> bool:
    value = ctx.value(node.args[0])
    return positive_axis(argument(node, "dim"), value.clip.meta["val"].ndim) == value.axis


@register(KIND, "cumsum")
def _cumsum(ctx: Rewriter, node: fx.Node) -> Any:
    if not _along_time(ctx, node):
        return over_dims(ctx, node)
    return _running(ctx, node, 0.0, lambda a, b: ctx.emit(_aten.add.Tensor, (a, b)))


@register(KIND, "cumprod")
def _cumprod(ctx: Rewriter, node: fx.Node) -> Any:
    if not _along_time(ctx, node):
        return over_dims(ctx, node)
    return _running(ctx, node, 1.0, lambda a, b: ctx.emit(_aten.mul.Tensor, (a, b)))


@register(KIND, "logcumsumexp")
def _logcumsumexp(ctx: Rewriter, node: fx.Node) -> Any:
    if not _along_time(ctx, node):
        return over_dims(ctx, node)

    def join(a: fx.Node, b: fx.Node) -> fx.Node:
        return ctx.emit(_aten.logaddexp.default, (a, b))

    return _running(ctx, node, 0.0, join, from_first=True)


@register(KIND, "cummax", "cummin")
def _extreme(ctx: Rewriter, node: fx.Node) -> Any:
    if not _along_time(ctx, node):
        return over_dims(ctx, node)
    op = _aten.maximum if "cummax" in str(node.target) else _aten.minimum
    value = _running(ctx, node, 0.0, lambda a, b: ctx.emit(op.default, (a, b)), from_first=True)
    where_found = refusal(node, "it tells the frame of the extreme", "use the values only")
    return [value, Refused(where_found)]


@register(KIND, "arange.start", "arange", "arange.start_step")
def _arange(ctx: Rewriter, node: fx.Node) -> Value:
    val = node.meta["val"]
    axis = ctx.time_axis(node)
    if axis is None:
        return Value(ctx.emit(node.target, *mapped(ctx, node, [])), node)
    given = {"start": 0, "step": 1} | {
        name: argument(node, name) for name in ("start", "step") if _has(node, name)
    }
    start, step, rate = given["start"], given["step"], ctx.clip.slope(val.shape[0])
    if not isinstance(start, (int, float)) or step != 1:
        raise refusal(node, "it counts frames from the end", "count from the first frame")
    chunk = int(rate * ctx.hop)
    key = (start, chunk, val.dtype)
    if key not in ctx.counters:
        ctx.counters[key] = _frame_numbers(ctx, start, chunk, val.dtype)
    return Value(ctx.counters[key], node, axis=0, rate=rate)


def _frame_numbers(ctx: Rewriter, start: float, chunk: int, dtype: torch.dtype) -> fx.Node:
    """Emit a counter state; return the numbers of this hop's frames."""
    kept = torch.int32 if dtype is torch.int64 else dtype  # files keep no int64 states
    memory = ctx.remember(
        lambda _: torch.full((1,), start, dtype=kept), None, "frame_count", exact=True
    )
    now = ctx.emit(_aten.slice.Tensor, (memory.node, 0, 0, 1))
    if kept is not dtype:
        now = ctx.emit(_aten.to.dtype, (now, dtype))
    memory.following = ctx.emit(_aten.add.Scalar, (memory.node, chunk))
    if chunk > 1:
        ramp = ctx.constant(torch.arange(chunk, dtype=dtype), "ramp")
        now = ctx.emit(_aten.add.Tensor, (now, ramp))
    return now


def _has(node: fx.Node, name: str) -> bool:
    return any(a.name == name for a in node.target._schema.arguments)  # type: ignore[union-attr]
