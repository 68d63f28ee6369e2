"""Attention over time within a window of frames: keys and values become rings.

With ``chunk`` new frames per hop and a mask that lets a frame see ``window`` frames up to itself
and
``ahead`` later ones, a hop relates ``chunk`` queries (late by ``ahead``) to
``window - 1 + ahead + chunk`` keys, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.masks import Mask, by_distance, find_mask, prove_mask, read_mask
from spectral_edge.streaming.memory import settled
from spectral_edge.streaming.rewrite import Rewriter, op_name
from spectral_edge.streaming.rules import POINTWISE, RULES, argument, register, same_op
from spectral_edge.streaming.value import Pair, StaticPair, Value, refusal

__all__ = ["on_pairs"]

_aten = torch.ops.aten
KIND = "attention within a window"
NEVER = -1e9  # score of a frame that may not be seen


def _spread(ctx: Rewriter, pair: Pair, rows: torch.Tensor, outside: float) -> torch.Tensor:
    """Return rows by distance [..., window + ahead] as [..., chunk, keys]."""
    chunk = ctx.chunk(pair.query)
    width = pair.window + pair.ahead
    whole = rows.new_full((*rows.shape[:-1], chunk, width + chunk - 1), outside)
    for i in range(chunk):
        whole[..., i, i : i + width] = rows
    return whole


def _apply(ctx: Rewriter, pair: Pair, mask: Mask, scores: fx.Node, ndim: int) -> fx.Node:
    """Add the bias of the mask, and shut out frames outside the mask or the clip."""
    name = ctx.name_here()
    if mask.bias is not None:
        bias = ctx.constant(_spread(ctx, pair, mask.bias, 0.0), f"{name}_relative_bias")
        scores = ctx.emit(_aten.add.Tensor, (scores, bias))
    allowed = _spread(ctx, pair, mask.allowed, False)
    shut: list[fx.Node] = []
    if not bool(allowed.all()):
        shut.append(ctx.constant(allowed, f"{name}_allowed"))
    shut += _inside_clip(ctx, pair, ndim)
    for valid in shut:
        scores = ctx.emit(_aten.where.ScalarOther, (valid, scores, NEVER))
    return scores


def _inside_clip(ctx: Rewriter, pair: Pair, ndim: int) -> list[fx.Node]:
    """Return bool nodes [1, …, keys]: whether the frame of each key is inside the clip."""
    chunk, before = ctx.chunk(pair.query), pair.window - 1 + pair.ahead
    keys, offset = before + chunk, pair.query.offset - pair.ahead
    index = edges.clock(ctx)
    if chunk > 1:
        index = ctx.emit(_aten.mul.Scalar, (index, chunk))
    shape = [1] * (ndim - 1) + [keys]
    tests = []
    if before + offset > 0:
        needed = torch.arange(before, before - keys, -1, dtype=torch.int32) + offset
        ages = ctx.constant(needed, f"{ctx.name_here()}_key_age")
        tests.append(ctx.emit(_aten.ge.Tensor, (index, ages)))
    if pair.ahead and ctx.flushes:
        newest = replace(pair.query, offset=offset)
        later = torch.arange(before, before - keys, -1, dtype=torch.int32)
        lead = ctx.constant(later, f"{ctx.name_here()}_key_lead")
        end = ctx.emit(_aten.add.Tensor, (edges.end_of_clip(ctx, newest), lead))
        tests.append(ctx.emit(_aten.lt.Tensor, (index, end)))
    return [ctx.emit(_aten.reshape.default, (test, shape)) for test in tests]


def _check(ctx: Rewriter, node: fx.Node, *values: Value) -> None:
    if any(not v.pure for v in values) or len({v.rate for v in values}) > 1:
        raise refusal(node, "time is merged with another axis", "keep time on its own axis")


def _begin(ctx: Rewriter, node: fx.Node, query: Value, key: Value, mask: Mask) -> tuple[Pair, Any]:
    """Return an empty pair and the ring of keys."""
    query, key = ctx.aligned([settled(ctx, query), settled(ctx, key)])
    _check(ctx, node, query, key)
    rate = query.rate
    past = max(query.past, key.past + Fraction(mask.window - 1) / rate)
    late = replace(ctx.delayed(query, mask.ahead), past=past)
    keys = ctx.history(key, mask.window - 1 + mask.ahead)
    return Pair(late.node, node, late, mask.window, mask.ahead), keys


def _scores_or_matmul(ctx: Rewriter, node: fx.Node, fallback: Callable[..., Any]) -> Any:
    """Matrix product: scores (two time axes), weighted sum of values, or an ordinary product."""
    is_baddbmm = node.target is _aten.baddbmm.default
    operands: Any = node.args[-2:]
    first, second = operands
    left = ctx.env[first]
    if isinstance(left, Pair):
        return _weighted_sum(ctx, node, left, replace(ctx.value(second), clip=second))
    if len(ctx.time_axes_of(node)) != 2:
        return fallback(ctx, node)
    left, right = ctx.value(first), ctx.value(second)
    ndim = node.meta["val"].ndim
    if left.axis != ndim - 2 or right.axis != second.meta["val"].ndim - 1:
        raise refusal(node, "it relates all frames to each other", "attend within a window")
    right = replace(right, clip=second)
    if is_baddbmm:
        mask, applied = prove_mask(ctx, node, node.args[0], read_mask), None  # type: ignore[arg-type]
    else:
        mask, applied = find_mask(ctx, node)
    pair, keys = _begin(ctx, node, replace(left, clip=first), right, mask)
    scores = ctx.emit(_aten.matmul.default, (pair.query.node, keys))
    if is_baddbmm:
        scores = _apply(ctx, pair, mask, scores, ndim)
    return replace(pair, node=scores, mask=mask, applied=applied)


def _weighted_sum(ctx: Rewriter, node: fx.Node, weights: Pair, value: Value) -> Value:
    offset = weights.query.offset - weights.ahead
    value = settled(ctx, value)
    if value.offset > offset:
        raise refusal(
            node, "its values look further ahead than its keys", "delay keys and values alike"
        )
    _check(ctx, node, weights.query, value)
    late = ctx.delayed(value, offset - value.offset)
    values = ctx.history(late, weights.window - 1 + weights.ahead)
    out = ctx.emit(_aten.matmul.default, (weights.node, values))
    past = max(weights.query.past, value.past + Fraction(weights.window - 1) / value.rate)
    return replace(weights.query, node=out, clip=node, axis=ctx.time_axis(node), past=past)


_plain_matmul = RULES[_aten.matmul.default]


@register(KIND, "matmul", "bmm", "baddbmm")
def _matmul(ctx: Rewriter, node: fx.Node) -> Any:
    return _scores_or_matmul(ctx, node, _plain_matmul)


@register(KIND, "scaled_dot_product_attention")
def _sdpa(ctx: Rewriter, node: fx.Node) -> Value:
    given = {n: argument(node, n) for n in ("query", "key", "value", "attn_mask", "scale")}
    query, key, value = (replace(ctx.value(given[n]), clip=given[n]) for n in list(given)[:3])
    ndim = query.clip.meta["val"].ndim
    if query.axis != ndim - 2:
        return same_op(ctx, node)  # attention inside a frame
    mask_node = given["attn_mask"]
    if argument(node, "enable_gqa") or mask_node is None or not ctx.is_static_pair(mask_node):
        raise refusal(
            node, "a frame attends to all of the past", "pass attn_mask with a window of frames"
        )
    mask = prove_mask(ctx, node, mask_node, read_mask)
    latest = max(query.offset, key.offset, value.offset)
    query, key, value = (settled(ctx, v) for v in (query, key, value))
    key = ctx.delayed(key, latest - key.offset) if key.offset < latest else key
    pair, keys = _begin(ctx, node, query, key, mask)
    scale = given["scale"] or float(query.clip.meta["val"].shape[-1]) ** -0.5
    scaled = ctx.emit(_aten.mul.Scalar, (pair.query.node, scale))
    scores = ctx.emit(_aten.matmul.default, (scaled, ctx.emit(_aten.transpose.int, (keys, -2, -1))))
    scores = _apply(ctx, pair, mask, scores, ndim)
    weights = ctx.emit(_aten.softmax.int, (scores, -1))
    return _weighted_sum(ctx, node, replace(pair, node=weights), value)


# -- ops on scores and weights ------------------------------------------------------------------

_POINTWISE = {
    getattr(getattr(_aten, name.partition(".")[0]), name.partition(".")[2] or "default")
    for name in POINTWISE
}
_VIEWS = {"view", "reshape", "unsqueeze", "squeeze", "_unsafe_view", "flatten", "unflatten"}
_NOTHING = {"clone", "contiguous", "dropout", "detach", "alias"}


def on_pairs(ctx: Rewriter, node: fx.Node) -> Pair:
    """Rewrite an op on scores or weights: pointwise, softmax over the keys, masks, reshapes."""
    pairs = [ctx.env[n] for n in node.all_input_nodes if isinstance(ctx.env.get(n), Pair)]
    pair: Pair = pairs[0]
    val, name = node.meta["val"], op_name(node)
    if node is pair.applied and pair.mask is not None:
        scores = _apply(ctx, pair, pair.mask, pair.node, val.ndim)
        return replace(pair, node=scores, clip=node, applied=None)
    axes = ctx.time_axes_of(node)
    if axes != [val.ndim - 2, val.ndim - 1]:
        raise refusal(node, "it rearranges scores over frames", "keep [..., queries, keys]")
    if name in _NOTHING:
        return replace(pair, clip=node)
    if name in _VIEWS:
        shape = ctx.step_shape(val)
        shape[-1] = pair.window - 1 + pair.ahead + ctx.chunk(pair.query)
        return replace(pair, node=ctx.emit(_aten.reshape.default, (pair.node, shape)), clip=node)
    if name in ("softmax", "_softmax", "log_softmax"):
        if node.args[1] not in (-1, val.ndim - 1):
            raise refusal(node, "softmax runs over the queries", "softmax over the last axis")
    elif node.target not in _POINTWISE:
        raise refusal(
            node, "it works on scores over frames", "use pointwise ops, masks and softmax on scores"
        )

    def swap(n: fx.Node) -> Any:
        return _operand(ctx, node, pair, n)

    args, kwargs = fx.map_arg(node.args, swap), fx.map_arg(node.kwargs, swap)
    return replace(pair, node=ctx.emit(node.target, args, dict(kwargs)), clip=node)


def _operand(ctx: Rewriter, node: fx.Node, pair: Pair, n: fx.Node) -> Any:
    """Return what an operand of an op on scores is within one hop."""
    found = ctx.env[n]
    if isinstance(found, Pair):
        return found.node
    if isinstance(found, StaticPair):
        rows = by_distance(ctx, node, n, pair.window, pair.ahead)
        return ctx.constant(_spread(ctx, pair, rows, 0), f"{ctx.name_here()}_by_distance")
    value = replace(ctx.value(n), clip=n)
    if value.axis is None:
        return value.node
    from_end = value.axis - n.meta["val"].ndim
    offset = pair.query.offset if from_end == -2 else pair.query.offset - pair.ahead
    if from_end not in (-1, -2) or value.offset > offset or not value.pure:
        raise refusal(node, "it combines scores with something else over time", "mask scores")
    late = ctx.delayed(settled(ctx, value), offset - max(value.offset, 0))
    if from_end == -2:
        return late.node
    return ctx.history(late, pair.window - 1 + pair.ahead)
