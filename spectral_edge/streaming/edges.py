"""Where a clip begins and ends: what a stream must see outside of it.

Offline, padding puts its value outside [0, T) at every layer. A stream that looks ahead computes
warm-up frames before the first frame and flush frames after the last; layers with a bias make
something of nothing, so tensors with lookahead are held at what padding says, by a clock state (and
a length state that the host sets at the end).
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import fx

from spectral_edge.program import StepProgram
from spectral_edge.streaming.trace import LONG
from spectral_edge.streaming.value import Value, refusal

if TYPE_CHECKING:
    from spectral_edge.streaming.rewrite import Rewriter

__all__ = [
    "clock", "end_of_clip", "held", "held_last", "kept_while_warming_up", "started",
    "with_frames_before",
]  # fmt: skip

_aten = torch.ops.aten


def held(
    ctx: Rewriter, value: Value, fill: float, *, at_start: bool = True, at_end: bool = False
) -> Value:
    """Return ``value`` held at ``fill`` outside the clip."""
    if at_end:
        value = _end_in_sight(ctx, value)
    late = at_start and value.offset > 0
    at_end = at_end and ctx.flushes
    raw_input = value.node in ctx.inputs and fill == 0.0
    if value.axis is None or not (late or (at_end and not raw_input)):
        return value
    key = (value.node, fill, late, at_end)
    if key not in ctx.held:
        valid = _inside_clip(ctx, value, at_start=late, at_end=at_end and not raw_input)
        node = ctx.emit(_aten.where.ScalarOther, (valid, value.node, fill))
        ctx.held[key] = replace(value, node=node)
    return replace(ctx.held[key], clip=value.clip, past=value.past, first=value.first)


def held_last(ctx: Rewriter, value: Value) -> Value:
    """Return ``value`` held at its last frame after the end of the clip (replicate padding)."""
    if value.axis is None or not ctx.flushes:
        return value
    value = _end_in_sight(ctx, value)
    if ctx.chunk(value) != 1 or ctx.step_shape(value.clip.meta["val"])[0] != -1:
        raise refusal(
            value.clip, "it repeats the last frame at several frames per hop", "pad with zeros"
        )
    kept = ctx.keep_frame(value)
    valid = _inside_clip(ctx, value, at_start=False, at_end=True)
    node = ctx.emit(_aten.where.self, (valid, value.node, kept.node))
    kept.becomes(node)
    return replace(value, node=node)


def _end_in_sight(ctx: Rewriter, value: Value) -> Value:
    """Return ``value`` so late that no frame after its end is computed before the clip has ended.

    A tensor that was shifted back in time and cut ends before the input does; only the end of the
    input tells where.
    """
    if value.axis is None or not ctx.flushes:
        return value
    length = value.clip.meta["val"].shape[value.axis]
    extra = ctx.clip.size(length, LONG) - int(LONG * value.rate)
    early = -(value.offset + extra)
    return ctx.delayed(value, early) if early > 0 and value.pure else value


def with_frames_before(ctx: Rewriter, value: Value, before: fx.Node, count: int) -> fx.Node:
    """Return ``before`` (count frames) and the newest frames of ``value``, joined along time.

    A tensor that begins with copies of its first real frame gets them when that frame arrives.
    """
    axis = value.axis
    assert axis is not None
    if value.first is None:
        return ctx.emit(_aten.cat.default, ([before, value.node], axis))
    chunk, ndim = ctx.chunk(value), value.clip.meta["val"].ndim
    hop, position = divmod(value.first + value.offset, chunk)
    arrives = ctx.emit(_aten.eq.Scalar, (clock(ctx), hop))
    arrives = ctx.emit(_aten.reshape.default, (arrives, [1] * ndim))
    frame = value.node
    if chunk > 1:
        frame = ctx.emit(_aten.slice.Tensor, (frame, axis, position, position + 1))
    if position == 0:
        before = ctx.emit(_aten.where.self, (arrives, frame, before))
        return ctx.emit(_aten.cat.default, ([before, value.node], axis))
    full = ctx.emit(_aten.cat.default, ([before, value.node], axis))
    shape = [1] * ndim
    shape[axis] = count + chunk
    earlier = ctx.constant(
        (torch.arange(count + chunk) < count + position).reshape(shape), "earlier"
    )
    chosen = ctx.emit(_aten.logical_and.default, (arrives, earlier))
    return ctx.emit(_aten.where.self, (chosen, frame, full))


def started(ctx: Rewriter, value: Value, index: int = 0, after: int = 0) -> fx.Node | None:
    """Return a bool node [1]: frame ``index`` of this hop of ``value`` has a clip index >= after.

    None when that is always so.
    """
    hops = ceil((value.offset + after - index) / ctx.chunk(value))
    return None if hops <= 0 else ctx.emit(_aten.ge.Scalar, (clock(ctx), hops))


def kept_while_warming_up(
    ctx: Rewriter, value: Value, new: fx.Node, before: fx.Node, index: int = 0
) -> fx.Node:
    """Return ``new``, or ``before`` while frame ``index`` of the hop precedes the clip."""
    valid = started(ctx, value, index)
    return new if valid is None else ctx.emit(_aten.where.self, (valid, new, before))


def _inside_clip(ctx: Rewriter, value: Value, *, at_start: bool, at_end: bool) -> fx.Node:
    """Return a bool node, shaped to broadcast along the time axis of ``value``."""
    assert value.axis is not None
    chunk, ndim = ctx.chunk(value), value.clip.meta["val"].ndim
    index = clock(ctx)
    if chunk > 1:
        ramp = ctx.constant(torch.arange(chunk, dtype=torch.int32), "ramp")
        scaled = ctx.emit(_aten.mul.Scalar, (index, chunk))
        index = ctx.emit(_aten.add.Tensor, (scaled, ramp))
    tests = []
    if at_start:
        tests.append(ctx.emit(_aten.ge.Scalar, (index, value.offset)))
    if at_end:
        tests.append(ctx.emit(_aten.lt.Tensor, (index, end_of_clip(ctx, value))))
    valid = tests[0]
    if len(tests) > 1:
        valid = ctx.emit(_aten.logical_and.default, tuple(tests))
    shape = [1] * ndim
    shape[value.axis] = chunk
    return ctx.emit(_aten.reshape.default, (valid, shape))


def end_of_clip(ctx: Rewriter, value: Value) -> fx.Node:
    """Return the clock, in frames of ``value``, at which its clip has ended."""
    length = value.clip.meta["val"].shape[value.axis]
    extra = ctx.clip.size(length, LONG) - int(LONG * value.rate)
    end = _clip_length(ctx)
    if value.rate.numerator != 1:
        end = ctx.emit(_aten.mul.Scalar, (end, value.rate.numerator))
    if value.rate.denominator != 1:
        end = ctx.emit(
            _aten.div.Scalar_mode, (end, value.rate.denominator), {"rounding_mode": "floor"}
        )
    if extra + value.offset:
        end = ctx.emit(_aten.add.Scalar, (end, extra + value.offset))
    return end


def clock(ctx: Rewriter) -> fx.Node:
    """Return hops since the start as an int32 node of shape [1]; all streams run in step."""
    if ctx.clock_node is None:
        state = ctx.remember(
            lambda _: torch.zeros(1, dtype=torch.int32), None, StepProgram.CLOCK, exact=True
        )
        ctx.clock_node = ctx.emit(_aten.slice.Tensor, (state.node, 0, 0, 1))
        state.following = ctx.emit(_aten.add.Scalar, (state.node, 1))
    return ctx.clock_node


def _clip_length(ctx: Rewriter) -> fx.Node:
    """Return input frames of the clip as an int32 node; the host sets it when it flushes."""
    if ctx.length_node is None:
        unknown = StepProgram.LENGTH_UNKNOWN
        state = ctx.remember(
            lambda _: torch.full((1,), unknown, dtype=torch.int32),
            None,
            StepProgram.LENGTH,
            exact=True,
        )
        ctx.length_node = ctx.emit(_aten.slice.Tensor, (state.node, 0, 0, 1))
    return ctx.length_node
