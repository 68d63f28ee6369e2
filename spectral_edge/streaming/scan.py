"""Streaming rule of ``spectral_edge.layers.scan``, and of the single cells used inside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from spectral_edge.streaming import edges
from spectral_edge.streaming.cells import Cell
from spectral_edge.streaming.fold import get_constant
from spectral_edge.streaming.memory import Captured, Kept, batch_multiple, settled
from spectral_edge.streaming.rewrite import Rewriter, op_name
from spectral_edge.streaming.rules import argument, positive_axis, register, register_op
from spectral_edge.streaming.value import Refused, Value, refusal

__all__: list[str] = []

_aten = torch.ops.aten
KIND = "recurrence"
CELLS = {"gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell"}


def _scan(ctx: Rewriter, node: fx.Node) -> list[Any]:
    body_node, carries, frames, extra = node.args
    body: fx.GraphModule = getattr(ctx.clip.module, str(body_node.target))  # type: ignore[union-attr]
    values = [settled(ctx, ctx.value(f)) for f in frames]  # type: ignore[union-attr]
    values = ctx.aligned(values)
    timed = [v for v in values if v.axis is not None]
    if not timed or any(v.axis != 0 or not v.pure for v in timed):
        raise refusal(node, "scan runs over an axis that is not time alone", "scan over time")
    exact = not any(op_name(n) in CELLS for n in body.graph.nodes)
    carried = [_Carry(ctx, node, c, i, exact) for i, c in enumerate(carries)]  # type: ignore[arg-type]
    extras = [ctx.value(e) if isinstance(e, fx.Node) else e for e in extra]  # type: ignore[union-attr]
    stacked: list[list[fx.Node]] = []
    for i in range(ctx.chunk(timed[0])):
        now = [ctx.emit(_aten.select.int, (v.node, 0, i)) for v in values]
        before = [c.at(timed[0], frames, now, i) for c in carried]
        results = _inline(ctx, node, body, [*before, *now, *extras])
        for carry, new, old in zip(carried, results, before, strict=False):
            carry.now = edges.kept_while_warming_up(ctx, timed[0], new, old, i)
        outputs = results[len(carried) :]
        stacked.append([ctx.emit(_aten.unsqueeze.default, (y, 0)) for y in outputs])
    for carry in carried:
        carry.close()
    last = refusal(node, "it uses the state after the last frame", "use the outputs per frame")
    outs: list[Any] = [Refused(last)] * len(carried)
    for column in zip(*stacked, strict=True):
        joined = column[0] if len(column) == 1 else ctx.emit(_aten.cat.default, (list(column), 0))
        outs.append(replace(timed[0], node=joined, clip=node, axis=0, past=ctx.UNBOUNDED))
    return outs


class _Carry:
    """One tensor of the scan's state: kept with the batch first."""

    def __init__(self, ctx: Rewriter, node: fx.Node, carry: fx.Node, i: int, exact: bool) -> None:
        val = carry.meta["val"]
        per_stream = [a for a, size in enumerate(val.shape) if ctx.per_stream(size)]
        if len(per_stream) != 1:
            raise refusal(node, "a state of scan has no batch axis", "expand it to the batch")
        self.ctx, self.clip, self.batch_axis = ctx, carry, per_stream[0]
        self.first_frame = not ctx.length_only(carry)
        shape = [1 if n == -1 else n for n in ctx.step_shape(val)]
        shape[self.batch_axis] = batch_multiple(ctx, carry, self.batch_axis) or 1
        shape.insert(0, shape.pop(self.batch_axis))

        def initial(captured: Captured) -> torch.Tensor:
            if self.first_frame:
                return torch.zeros(shape)
            return captured[carry].movedim(self.batch_axis, 0).contiguous()

        needs = None if self.first_frame else carry
        self.kept = Kept(ctx, shape, initial, needs, f"{ctx.name_here()}_scan_{i}", exact=exact)
        self.now = self.kept.node
        if self.batch_axis:
            self.now = ctx.moved(self.now, val.ndim, 0, self.batch_axis)

    def at(self, value: Value, frames: Any, now: list[fx.Node], i: int) -> fx.Node:
        """Return the state before frame ``i`` of this hop."""
        if not self.first_frame:
            return self.now
        # a state that starts as the first frame of what is scanned
        for source, frame in zip(frames, now, strict=True):
            if _is_first_of(self.clip, source):
                later = edges.started(self.ctx, value, i, after=1)
                if later is None:
                    return self.now
                return self.ctx.emit(_aten.where.self, (later, self.now, frame))
        raise refusal(
            self.clip,
            "a state of scan starts from the input",
            "start from a parameter, zeros, or the first frame of what is scanned",
        )

    def close(self) -> None:
        following = self.now
        if self.batch_axis:
            following = self.ctx.moved(following, self.clip.meta["val"].ndim, self.batch_axis, 0)
        self.kept.becomes(following)


def _is_first_of(carry: fx.Node, source: fx.Node) -> bool:
    """Return True when ``carry`` is frame 0 of what ``source`` (time first) holds."""
    while op_name(source) in ("movedim", "transpose", "permute", "clone", "contiguous"):
        moved = source.meta["val"].shape[0]
        source = source.args[0]  # type: ignore[assignment]
        axis = [a for a, s in enumerate(source.meta["val"].shape) if str(s) == str(moved)]
        if len(axis) == 1 and _selects_first(carry, source, axis[0]):
            return True
    return _selects_first(carry, source, 0)


def _selects_first(carry: fx.Node, source: fx.Node, axis: int) -> bool:
    while op_name(carry) in ("clone", "contiguous"):
        carry = carry.args[0]  # type: ignore[assignment]
    if op_name(carry) != "select" or carry.args[0] is not source:
        return False
    dim = positive_axis(argument(carry, "dim"), source.meta["val"].ndim)
    return dim == axis and argument(carry, "index") == 0


def _inline(ctx: Rewriter, scan: fx.Node, body: fx.GraphModule, inputs: list[Any]) -> list[fx.Node]:
    """Rewrite the body of a scan once, as a graph in which nothing has a time axis."""
    given = iter(inputs)
    for n in body.graph.nodes:
        if n.op == "placeholder":
            x = next(given)
            static = isinstance(x, Value) and ctx.length_only(x.clip)
            ctx.mark_static(n, static)
            if isinstance(x, (Value, fx.Node)):
                ctx.env[n] = Value(x.node if isinstance(x, Value) else x, n)
            else:
                ctx.env[n] = x
        elif n.op == "output":
            ctx.arrive(scan)
            return [ctx.value(v).node for v in n.args[0]]
        else:
            ctx.visit(n)
    raise AssertionError("scan body without output")


register_op(KIND, torch.ops.higher_order.scan, "spectral_edge.layers.scan", _scan)


@register("cells (inside scan)", "gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(ctx: Rewriter, node: fx.Node) -> Any:
    mode = {"gru": "GRU", "lstm": "LSTM", "rnn_tanh": "RNN_TANH", "rnn_relu": "RNN_RELU"}[
        op_name(node).removesuffix("_cell")
    ]
    x, hidden, *weights = node.args
    before = list(hidden) if isinstance(hidden, (list, tuple)) else [hidden]
    values = ctx.aligned([ctx.value(n) for n in (x, *before)])
    if any(v.axis is not None for v in values):
        raise refusal(node, "a single cell is applied to a clip", "use scan, or nn.GRU")
    tensors = [get_constant(ctx.clip.module, ctx.value(w).node) for w in weights if w is not None]
    cell = Cell(ctx, mode, [tensors], ctx.name_here())
    gates = cell.project(values[0].node)
    h, c = cell.step(gates, values[1].node, values[2].node if len(values) > 2 else None)
    if c is None:
        return Value(h, node)
    return [Value(h, node), Value(c, node)]
