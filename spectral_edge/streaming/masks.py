"""Masks over pairs of frames: what they say, proved to be the same for every frame.

Scores of every frame against every other frame can stream when what is applied to them depends on
nothing but the distance between frames and lets each frame see a bounded past (and future). That is
proved, not assumed: the part of the clip graph that makes the mask is run for several lengths and
must say the same for every shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spectral_edge.errors import NotStreamable
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.value import refusal

__all__ = ["Mask", "by_distance", "find_mask", "mask_applied_by", "prove_mask", "read_mask"]

_aten = torch.ops.aten
PROBE_LENGTHS = (64, 96, 640, 800)  # masks are evaluated at these; a window must be shorter
MASKED = -1e4  # additive masks below this mean "not allowed"

Read = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Mask:
    """What a mask says of a frame ``d`` frames ago, for ``-ahead <= d < window``.

    Attributes:
        window: frames that a frame sees, itself included, later ones not counted.
        ahead: later frames that it sees.
        allowed: bool[..., window + ahead] by descending distance (oldest frame first).
        bias: float of the same shape that is added to scores, or None.
    """

    window: int
    ahead: int
    allowed: torch.Tensor
    bias: torch.Tensor | None


def read_mask(m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read a mask as scaled_dot_product_attention does: True allows, floats add."""
    if m.dtype == torch.bool:
        return m, None
    allowed = m > MASKED
    bias = torch.where(allowed, m, torch.zeros((), dtype=m.dtype))
    return allowed, bias if bool((bias != 0).any()) else None


def mask_applied_by(ctx: Rewriter, user: fx.Node, scores: fx.Node) -> tuple[fx.Node, Read] | None:
    """Return (mask node, how to read it) when ``user`` may mask ``scores``."""

    def static(node: Any) -> bool:
        return isinstance(node, fx.Node) and ctx.is_static_pair(node)

    args: Any = user.args
    if user.target is _aten.add.Tensor:
        other = args[1] if args[0] is scores else args[0]
        return (other, read_mask) if static(other) else None
    if user.target in (_aten.masked_fill.Scalar, _aten.masked_fill.Tensor) and static(args[1]):
        return args[1], lambda m: (~m, None)
    selects = user.target in (_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf)
    if selects and static(args[0]):
        return args[0], (lambda m: (m, None)) if args[1] is scores else (lambda m: (~m, None))
    return None


def find_mask(ctx: Rewriter, scores: fx.Node) -> tuple[Mask, fx.Node]:
    """Return the mask applied to ``scores`` further on, and the node that applies it.

    Raises:
        NotStreamable: no mask, or one that is not the same for every frame or not bounded.
    """
    frontier, seen = [scores], {scores}
    why: NotStreamable | None = None
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            found = mask_applied_by(ctx, user, node)
            if found is not None:
                try:
                    return prove_mask(ctx, user, *found), user
                except NotStreamable as error:
                    why = why or error
            if user not in seen and len(ctx.time_axes_of(user)) == 2:
                seen.add(user)
                frontier.append(user)
    raise why or refusal(
        scores,
        "it relates every frame to every other frame without a mask",
        "mask it to a window of past frames",
    )


def prove_mask(ctx: Rewriter, node: fx.Node, mask: fx.Node, read: Read) -> Mask:
    """Return what ``mask`` says, or refuse it.

    Raises:
        NotStreamable: the reason.
    """
    found: Mask | None = None
    for m in _probes(ctx, mask):
        allowed, bias = read(m)
        length = allowed.shape[-1]
        seen = allowed.flatten(0, -3).any(0) if allowed.ndim > 2 else allowed
        at = seen.nonzero()
        if not len(at):
            raise refusal(node, "its mask allows nothing", "let a frame see itself")
        distance = at[:, 0] - at[:, 1]
        window, ahead = int(distance.max()) + 1, max(0, -int(distance.min()))
        if window >= length or ahead >= length - 1:
            continue  # may still be a window longer than this probe
        if found is not None and (found.window, found.ahead) != (window, ahead):
            raise refusal(node, "its window grows with the clip", "use a fixed window")
        rows = [allowed] if bias is None else [allowed, bias]
        by = [_by_distance(node, r, window, ahead) for r in rows]
        found = Mask(window, ahead, by[0], by[1] if bias is not None else None)
    if found is None:
        raise refusal(
            node,
            "a frame attends to all of the past, or of the clip",
            "mask it to a window of past frames",
        )
    return found


def by_distance(
    ctx: Rewriter, node: fx.Node, static: fx.Node, window: int, ahead: int
) -> torch.Tensor:
    """Return a tensor over pairs of frames as [..., window + ahead], oldest frame first.

    Raises:
        NotStreamable: it differs between frames at one distance.
    """
    rows = None
    for m in _probes(ctx, static):
        if m.shape[-1] > window + ahead:
            rows = _by_distance(node, m, window, ahead)
    if rows is None:
        raise refusal(node, "it is shorter than the window of frames", "cover the whole window")
    return rows


def _by_distance(node: fx.Node, m: torch.Tensor, window: int, ahead: int) -> torch.Tensor:
    length = m.shape[-1]
    at = torch.arange(length)
    distance = at[:, None] - at[None, :]
    inside = (distance >= -ahead) & (distance < window)
    row = max(window - 1, min(length - 1 - ahead, length - 1))  # sees the whole window
    rows = m[..., row, row - window + 1 : row + ahead + 1]
    told = rows[..., (window - 1 - distance).clamp(0, window + ahead - 1)]
    if not bool(((told == m) | ~inside).all()):
        raise refusal(
            node, "its mask is not the same for every frame", "let it depend on distance only"
        )
    return rows


def _probes(ctx: Rewriter, mask: fx.Node) -> list[torch.Tensor]:
    """Run the clip graph up to ``mask`` for several lengths; a stored table may end early."""
    probes: list[Any] = []
    for length in PROBE_LENGTHS:
        try:
            value = _evaluate(ctx, mask, length * ctx.hop)
        except (RuntimeError, IndexError):
            break
        if value.shape[-1] != value.shape[-2] or value.shape[-1] < length // 2:
            break
        if probes and value.shape[-1] <= probes[-1].shape[-1]:
            break
        probes.append(value)
    return probes


def _evaluate(ctx: Rewriter, mask: fx.Node, length: int) -> torch.Tensor:
    """Run the clip graph up to ``mask`` for ``length`` frames."""
    inputs = []
    for example, axis in zip(ctx.clip.example, ctx.clip.time_dims, strict=True):
        shape = [1, *example.shape[1:]]
        if axis is not None:
            shape[axis] = length
        inputs.append(torch.zeros(shape, dtype=example.dtype))
    nodes = list(ctx.clip.module.graph.nodes)
    needed = {mask}
    for n in reversed(nodes):
        if n in needed:
            needed.update(n.all_input_nodes)
    env: dict[fx.Node, Any] = {}
    runner = fx.Interpreter(ctx.clip.module)
    given = iter(inputs)
    with torch.no_grad():
        for n in nodes:
            if n.op == "placeholder":
                env[n] = next(given)
            elif n in needed:
                runner.env = env
                env[n] = runner.run_node(n)
    value: torch.Tensor = env[mask]
    return value
