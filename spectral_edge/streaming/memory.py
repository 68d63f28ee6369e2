"""What is remembered between hops: histories, delay lines, states and their initial values.

The value of a state before the first hop is read off the clip graph itself: the frames of a tensor
that come before its first offset depend on padding and weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.trace import LONG
from spectral_edge.streaming.value import Value, refusal

if TYPE_CHECKING:
    from spectral_edge.streaming.rewrite import Rewriter

__all__ = ["State", "aligned", "batch_multiple", "capture", "delayed", "history", "settled"]

_aten = torch.ops.aten
Captured = dict[fx.Node, torch.Tensor]


@dataclass
class State:
    """A memory under construction; ``initial`` makes its start (batch 1) from captured tensors."""

    name: str
    node: fx.Node
    following: fx.Node
    initial: Callable[[Captured], torch.Tensor]
    needs: fx.Node | None = None  # clip tensor that ``initial`` reads
    exact: bool = False


class Kept:
    """A tensor remembered from hop to hop, in the shape that it has in the step graph.

    Rows that were folded into the batch (bands) become an axis of the state of their own.

    Args:
        ctx: the rewriting.
        shape: shape at batch 1; axis 0 holds the rows of one stream.
        initial: value before the first hop, of that shape.
        needs: clip tensor that ``initial`` reads.
        name: name of the state.
        exact: it keeps its dtype when the program is quantised.
    """

    def __init__(
        self,
        ctx: Rewriter,
        shape: Sequence[int],
        initial: Callable[[Captured], torch.Tensor],
        needs: fx.Node | None = None,
        name: str | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self.ctx, self.rows, self.rest = ctx, shape[0], list(shape[1:])

        def stored(captured: Captured) -> torch.Tensor:
            value = initial(captured)
            return value if self.rows == 1 else value[None]

        self.state = ctx.remember(stored, needs, name, exact=exact)
        self.node = self.state.node
        if self.rows != 1:
            self.node = ctx.emit(_aten.reshape.default, (self.node, [-1, *self.rest]))

    def becomes(self, following: fx.Node) -> None:
        """Declare the value after this hop."""
        if self.rows != 1:
            shape = [-1, self.rows, *self.rest]
            following = self.ctx.emit(_aten.reshape.default, (following, shape))
        self.state.following = following


def zeros_like_frame(ctx: Rewriter, value: Value, frames: int) -> tuple[list[int], torch.dtype]:
    """Return shape at batch 1 and dtype of ``frames`` frames of ``value``."""
    val = value.clip.meta["val"]
    shape = [1 if n == -1 else n for n in ctx.step_shape(val)]
    shape[0] = batch_multiple(ctx, value.clip) or 1
    assert value.axis is not None
    shape[value.axis] = frames
    return shape, val.dtype


def history(ctx: Rewriter, value: Value, count: int) -> fx.Node:
    """Return ``count`` remembered frames followed by the newest ones, along the time axis."""
    assert value.axis is not None
    if count == 0:
        return value.node
    key = _key(value, count)
    if key not in ctx.histories:
        ctx.histories[key] = _history(ctx, value, count)
    return ctx.histories[key]


def _key(value: Value, count: int) -> Any:
    """Return what tells one memory of a node from another: also what stands before the clip."""
    before = value.clip if value.offset < 0 and value.first is None else None
    return value.node, count, value.offset, value.first, before


def _history(ctx: Rewriter, value: Value, count: int) -> fx.Node:
    axis = value.axis
    assert axis is not None
    rows = batch_multiple(ctx, value.clip)
    shape = [1 if n == -1 else n for n in ctx.step_shape(value.clip.meta["val"])]
    shape[axis], chunk = count, ctx.chunk(value)
    if rows is not None:
        shape[0] = rows
        kept = Kept(ctx, shape, *_frames_before(ctx, value, count, shape))
        full = edges.with_frames_before(ctx, value, kept.node, count)
        kept.becomes(ctx.emit(_aten.slice.Tensor, (full, axis, chunk, chunk + count)))
        return full
    # a tensor without batch: one copy serves all streams
    kept = Kept(ctx, [1, *shape], *_frames_before(ctx, value, count, shape, by_index=True))
    before = ctx.emit(_aten.slice.Tensor, (kept.node, 0, 0, 1))
    before = ctx.emit(_aten.reshape.default, (before, shape))
    full = edges.with_frames_before(ctx, value, before, count)
    following = ctx.emit(_aten.slice.Tensor, (full, axis, chunk, chunk + count))
    sizes = [ctx.batch_size(), *([-1] * len(shape))]
    kept.becomes(ctx.emit(_aten.expand.default, (following, sizes)))
    return full


def batch_multiple(ctx: Rewriter, node: fx.Node, axis: int = 0) -> int | None:
    """Return rows per stream of a clip tensor's batch axis, None for a tensor without batch."""
    size = node.meta["val"].shape[axis]
    one, two = ctx.clip.size(size, LONG, 1), ctx.clip.size(size, LONG, 2)
    if two == 2 * one:
        return one
    if two != one or any(ctx.per_stream(n) for n in node.meta["val"].shape):
        raise refusal(
            node, "it must be remembered but has no batch on axis 0", "keep the batch first"
        )
    return None


def _frames_before(
    ctx: Rewriter, value: Value, count: int, shape: Sequence[int], *, by_index: bool = False
) -> tuple[Callable[[Captured], torch.Tensor], fx.Node | None]:
    """Return the initial value of a state that holds ``count`` frames before the first hop.

    Clip frames with a negative index do not exist; they are only reached while the program
    warms up, and are zero (or the first frame, for a tensor that depends on nothing but its index).
    """
    axis, val = value.axis, value.clip.meta["val"]
    assert axis is not None
    first = -value.offset - count
    known = 0 if value.first is not None else min(count, max(0, first + count))
    no_batch, by_index = by_index, by_index and ctx.length_only(value.clip)

    def initial(captured: Captured) -> torch.Tensor:
        frames = torch.zeros(shape, dtype=val.dtype)
        if known:
            source = captured[value.clip].narrow(axis, max(0, first), known)
            frames.narrow(axis, count - known, known).copy_(source)
        if by_index and known < count:
            earliest = captured[value.clip].narrow(axis, 0, 1)
            frames.narrow(axis, 0, count - known).copy_(earliest)
        return frames[None] if no_batch else frames

    return initial, value.clip if known or by_index else None


def delayed(ctx: Rewriter, value: Value, frames: int) -> Value:
    """Return ``value`` delayed by ``frames`` of its own frames."""
    if frames == 0:
        return value
    if value.node in ctx.steady and value.offset >= 0:
        return replace(value, offset=value.offset + frames)
    if not value.pure:
        return _folded_delay(ctx, value, frames)
    key = _key(value, frames)
    if key not in ctx.delays:
        full = history(ctx, value, frames)
        node = ctx.emit(_aten.slice.Tensor, (full, value.axis, 0, ctx.chunk(value)))
        ctx.delays[key] = replace(value, node=node, offset=value.offset + frames)
    return replace(ctx.delays[key], clip=value.clip, past=value.past)


def _folded_delay(ctx: Rewriter, value: Value, frames: int) -> Value:
    """Delay a tensor whose axis 0 is [batch, time, bands]: unfold, delay, fold."""
    val: Any = value.clip.meta["val"]
    outer, inner = value.fold
    one, seven = (ctx.clip.size(val.shape[0], LONG, b) for b in (1, ctx.clip.probe_batch))
    if value.axis != 0 or seven != one * ctx.clip.probe_batch or outer % ctx.clip.probe_batch:
        raise refusal(
            value.clip,
            "time is merged with another axis where a delay line is needed",
            "add skip connections before merging time with another axis",
        )
    rows, chunk = outer // ctx.clip.probe_batch, ctx.chunk(value)
    rest = [inner, *ctx.step_shape(val)[1:]]
    shape = [rows, chunk, *rest]
    unfolded = ctx.emit(_aten.reshape.default, (value.node, [-1, *shape]))
    state = ctx.remember(lambda _: torch.zeros(1, rows, frames, *rest, dtype=val.dtype))
    full = ctx.emit(_aten.cat.default, ([state.node, unfolded], 2))
    state.following = ctx.emit(_aten.slice.Tensor, (full, 2, chunk, chunk + frames))
    late = ctx.emit(_aten.slice.Tensor, (full, 2, 0, chunk))
    folded = ctx.emit(_aten.reshape.default, (late, [-1, *rest[1:]]))
    return replace(value, node=folded, offset=value.offset + frames)


def settled(ctx: Rewriter, value: Value) -> Value:
    """Return ``value`` late enough that its first hop holds its first frame, or later ones none."""
    if value.axis is None or value.offset >= 0:
        return value if value.first is None else replace(value, first=None)
    return replace(delayed(ctx, value, -value.offset), first=None)


def aligned(ctx: Rewriter, values: Sequence[Value]) -> list[Value]:
    """Delay values with time so that all lag equally."""
    timed = [v for v in values if v.axis is not None]
    if not timed:
        return list(values)
    latest = max(v.offset for v in timed)
    if len({(v.first is None, (v.first or 0)) for v in timed}) > 1:
        latest = max(0, latest)  # copies of the first frame meet other frames: wait for them
    late = [v if v.axis is None else delayed(ctx, v, latest - v.offset) for v in values]
    if latest >= 0:
        late = [replace(v, first=None) if v.first is not None else v for v in late]
    return late


def capture(clip: Any, nodes: set[fx.Node]) -> Captured:
    """Run the clip graph at batch 1 and return the tensors of ``nodes``."""
    captured: Captured = {}

    class Capture(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in nodes:
                captured[n] = result.detach().clone()
            return result

    with torch.no_grad():
        Capture(clip.module).run(*(x[:1] for x in clip.example))
    return captured
