"""Attention over time within a window of past frames: keys and values become rings.

Scores of every frame against every other frame have two time axes. They can stream when the mask on
them depends on nothing but the distance between frames and lets each frame see a bounded past. That
is proved, not assumed: the part of the clip graph that makes the mask is run for several lengths and
must say the same for every shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import RULES, register, same_op
from spectral_edge.streaming.value import Pair, Value, refusal

__all__ = ["on_pairs"]

_aten = torch.ops.aten
KIND = "attention within a window"
PROBE_LENGTHS = (64, 96, 640, 800)  # mask evaluated here; a window must be shorter than the last
MASKED = -1e4  # additive masks below this mean "not allowed"
NEVER = -1e9  # score of a frame that may not be seen


@dataclass(frozen=True)
class Mask:
    """What a mask says of a frame ``d`` hops ago; ``bias`` has the window last, oldest first."""

    window: int
    allowed: torch.Tensor
    bias: torch.Tensor | None


def find_mask(ctx: Rewriter, scores: fx.Node) -> Mask:
    """Return the mask that is applied to ``scores`` further on, proved to be shift-invariant.

    Raises:
        NotStreamable: no mask, or one that is not the same for every frame, looks ahead, or lets a
            frame see all of the past.
    """
    frontier, seen = [scores], {scores}
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            found = _mask_applied_by(ctx, user, node)
            if found is not None:
                return _proved(ctx, user, *found)
            if user not in seen and len(ctx.time_axes_of(user)) == 2:
                seen.add(user)
                frontier.append(user)
    raise refusal(
        scores,
        "it relates every frame to every other frame without a mask",
        "mask it to a window of past frames",
    )


def _mask_applied_by(
    ctx: Rewriter, user: fx.Node, scores: fx.Node
) -> tuple[fx.Node, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]] | None:
    """Return (mask node, how to read it) when ``user`` masks ``scores``."""

    def additive(m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        allowed = m > MASKED
        bias = torch.where(allowed, m, torch.zeros(()))
        return allowed, bias if bool((bias != 0).any()) else None

    def static(node: Any) -> bool:
        return isinstance(node, fx.Node) and ctx.is_static_pair(node)

    args = user.args
    if user.target is _aten.add.Tensor:
        other = args[1] if args[0] is scores else args[0]
        return (other, additive) if static(other) else None  # type: ignore[return-value]
    if user.target is _aten.masked_fill.Scalar and static(args[1]):
        return args[1], lambda m: (~m, None)  # type: ignore[return-value]
    if user.target in (_aten.where.self, _aten.where.ScalarOther) and static(args[0]):
        if args[1] is scores:
            return args[0], lambda m: (m, None)  # type: ignore[return-value]
        return args[0], lambda m: (~m, None)  # type: ignore[return-value]
    return None


def read_mask(m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read a mask in the convention of scaled_dot_product_attention: True allows, floats add."""
    if m.dtype == torch.bool:
        return m, None
    allowed = m > MASKED
    bias = torch.where(allowed, m, torch.zeros(()))
    return allowed, bias if bool((bias != 0).any()) else None


def _proved(
    ctx: Rewriter,
    node: fx.Node,
    mask: fx.Node,
    read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]],
) -> Mask:
    found: Mask | None = None
    for length in PROBE_LENGTHS:
        allowed, bias = read(_evaluate(ctx, mask, length))
        rows = allowed.flatten(0, -3).any(0) if allowed.ndim > 2 else allowed
        if bool(rows.triu(1).any()):
            raise refusal(node, "its mask lets a frame see later frames", "mask the future")
        oldest = int(rows[-1].nonzero()[0])
        window = length - oldest
        if oldest == 0:
            continue  # may still be a window longer than this probe
        if found is not None and found.window != window:
            raise refusal(node, "its window grows with the clip", "use a fixed window")
        at = torch.arange(length)
        distance = at[:, None] - at[None, :]
        for what in (allowed, *([] if bias is None else [bias])):
            by_distance = what[..., -1, :].flip(-1)
            same = by_distance[..., distance.clamp(0, length - 1)] == what
            inside = (distance >= 0) & (distance < window)
            if not bool((same | ~inside).all()):
                raise refusal(
                    node, "its mask is not the same for every frame", "let it depend on distance"
                )
        found = Mask(
            window, allowed[..., -1:, oldest:], None if bias is None else bias[..., -1:, oldest:]
        )
    if found is None:
        raise refusal(
            node, "a frame attends to all of the past", "mask it to a window of past frames"
        )
    return found


def _evaluate(ctx: Rewriter, mask: fx.Node, length: int) -> torch.Tensor:
    """Run the clip graph up to ``mask`` for ``length`` frames."""
    inputs = []
    for example, axis in zip(ctx.clip.example, ctx.clip.time_dims, strict=True):
        shape = [1, *example.shape[1:]]
        if axis is not None:
            shape[axis] = length
        inputs.append(torch.zeros(shape, dtype=example.dtype))
    needed = {mask}
    for n in reversed(list(ctx.clip.module.graph.nodes)):
        if n in needed:
            needed.update(n.all_input_nodes)
    env: dict[fx.Node, Any] = {}
    runner = fx.Interpreter(ctx.clip.module)
    given = iter(inputs)
    with torch.no_grad():
        for n in ctx.clip.module.graph.nodes:
            if n.op == "placeholder":
                env[n] = next(given)
            elif n in needed:
                runner.env = env
                env[n] = runner.run_node(n)
    value: torch.Tensor = env[mask]
    return value


# -- emitting -------------------------------------------------------------------------------------


def _apply(ctx: Rewriter, scores: fx.Node, query: Value, mask: Mask, ndim: int) -> fx.Node:
    """Add the bias of the mask, and shut out frames before the clip or outside the mask."""
    if mask.bias is not None:
        bias = ctx.constant(mask.bias.contiguous(), f"{ctx.name_here()}_relative_bias")
        scores = ctx.emit(_aten.add.Tensor, (scores, bias))
    if not bool(mask.allowed.all()):
        allowed = ctx.constant(mask.allowed.contiguous(), f"{ctx.name_here()}_allowed")
        scores = ctx.emit(_aten.where.ScalarOther, (allowed, scores, NEVER))
    if mask.window > 1:
        scores = ctx.emit(
            _aten.where.ScalarOther, (_started(ctx, query, mask.window, ndim), scores, NEVER)
        )
    return scores


def _started(ctx: Rewriter, query: Value, window: int, ndim: int) -> fx.Node:
    """Return a bool node [1, …, window]: whether the frame of each key is inside the clip."""
    first_hop = torch.arange(window - 1, -1, -1, dtype=torch.int32) + query.offset
    ages = ctx.constant(first_hop, f"{ctx.name_here()}_key_age")
    inside = ctx.emit(_aten.ge.Tensor, (edges.clock(ctx), ages))
    return ctx.emit(_aten.view.default, (inside, [1] * (ndim - 1) + [window]))


def _one_frame_per_hop(ctx: Rewriter, node: fx.Node, *values: Value) -> None:
    for v in values:
        if ctx.chunk(v) != 1 or not v.pure:
            raise refusal(
                node, "attention over time needs one frame per hop", "avoid strides before it"
            )


def _scores_or_matmul(ctx: Rewriter, node: fx.Node, fallback: Callable[..., Any]) -> Any:
    """Matrix product: scores (two time axes), weighted sum of values, or an ordinary product."""
    is_baddbmm = node.target is _aten.baddbmm.default
    left, right = (ctx.env[n] for n in node.args[-2:])
    if isinstance(left, Pair) and isinstance(right, Value):
        return _weighted_sum(ctx, node, left, right)
    if len(ctx.time_axes_of(node)) != 2:
        return fallback(ctx, node)
    ndim = node.meta["val"].ndim
    if left.axis != ndim - 2 or right.axis != right.clip.meta["val"].ndim - 1:
        raise refusal(node, "it relates all frames to each other", "attend within a window")
    left, right = ctx.aligned([left, right])
    _one_frame_per_hop(ctx, node, left, right)
    mask = (
        _proved(ctx, node, node.args[0], read_mask)  # type: ignore[arg-type]
        if is_baddbmm
        else find_mask(ctx, node)
    )
    keys = ctx.history(right, mask.window - 1)
    scores = ctx.emit(_aten.matmul.default, (left.node, keys))
    if is_baddbmm:
        scores = _apply(ctx, scores, left, mask, ndim)
    past = max(left.past, right.past + mask.window - 1)
    return Pair(scores, node, replace(left, past=past), mask.window, masked=is_baddbmm)


def _weighted_sum(ctx: Rewriter, node: fx.Node, weights: Pair, value: Value) -> Value:
    aligned = ctx.delayed(value, weights.query.offset - value.offset)
    values = ctx.history(aligned, weights.window - 1)
    out = ctx.emit(_aten.matmul.default, (weights.node, values))
    axis = ctx.time_axis(node)
    past = max(weights.query.past, value.past + weights.window - 1)
    return replace(weights.query, node=out, clip=node, axis=axis, past=past)


_plain_matmul = RULES[_aten.matmul.default]


@register(KIND, "matmul", "bmm", "baddbmm")
def _matmul(ctx: Rewriter, node: fx.Node) -> Any:
    return _scores_or_matmul(ctx, node, _plain_matmul)


@register(KIND, "scaled_dot_product_attention")
def _sdpa(ctx: Rewriter, node: fx.Node) -> Value:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = (ctx.value(given[n]) for n in names[:3])
    ndim = query.clip.meta["val"].ndim
    if query.axis != ndim - 2:
        return same_op(ctx, node)  # attention inside a frame
    mask_node = given.get("attn_mask")
    if mask_node is None:
        raise refusal(
            node, "a frame attends to all of the past", "pass attn_mask with a window of frames"
        )
    query, key, value = ctx.aligned([query, key, value])
    _one_frame_per_hop(ctx, node, query, key, value)
    mask = _proved(ctx, node, mask_node, read_mask)  # type: ignore[arg-type]
    scale = given.get("scale") or float(query.clip.meta["val"].shape[-1]) ** -0.5
    keys, values = ctx.history(key, mask.window - 1), ctx.history(value, mask.window - 1)
    scaled = ctx.emit(_aten.mul.Scalar, (query.node, scale))
    scores = ctx.emit(_aten.matmul.default, (scaled, ctx.emit(_aten.transpose.int, (keys, -2, -1))))
    scores = _apply(ctx, scores, query, mask, ndim)
    weights = ctx.emit(_aten.softmax.int, (scores, -1))
    out = ctx.emit(_aten.matmul.default, (weights, values))
    past = max(query.past, Fraction(max(key.past, value.past) + mask.window - 1))
    return replace(query, node=out, clip=node, past=past)


def on_pairs(ctx: Rewriter, node: fx.Node) -> Pair:
    """Rewrite an op on scores or weights: pointwise, softmax over the keys, masks, reshapes."""
    pairs = [ctx.env[n] for n in node.all_input_nodes if isinstance(ctx.env.get(n), Pair)]
    pair = pairs[0]
    val = node.meta["val"]
    applied = _mask_applied_by(ctx, node, pair.clip)
    if applied is not None and not pair.masked:
        mask = _proved(ctx, node, *applied)
        scores = _apply(ctx, pair.node, pair.query, mask, val.ndim)
        return replace(pair, node=scores, clip=node, masked=True)
    axes = ctx.time_axes_of(node)
    if len(axes) != 2 or axes[1] != val.ndim - 1:
        raise refusal(
            node, "it rearranges or reduces scores over frames", "softmax over the last axis"
        )
    if node.target in (_aten.softmax.int, _aten.view.default, _aten.reshape.default):
        if node.target is _aten.softmax.int and node.args[1] not in (-1, val.ndim - 1):
            raise refusal(node, "softmax runs over the queries", "softmax over the last axis")
        if node.target is not _aten.softmax.int:
            shape = ctx.step_shape(val)
            shape[-1] = pair.window
            return replace(pair, node=ctx.emit(_aten.view.default, (pair.node, shape)), clip=node)

    def swap(n: fx.Node) -> fx.Node:
        found = ctx.env[n]
        if isinstance(found, Pair):
            return found.node
        if isinstance(found, Value) and found.axis is None:
            return found.node
        raise refusal(node, "it combines scores with something else over time", "mask scores")

    args = fx.map_arg(node.args, swap)
    return replace(pair, node=ctx.emit(node.target, args, dict(node.kwargs)), clip=node)
