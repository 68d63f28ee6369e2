"""Recurrent modules: traced as one op each, rewritten into explicit cells.

``nn.GRU``, ``nn.LSTM`` and ``nn.RNN`` would be unrolled to a concrete number of frames by tracing.
:func:`opaque_recurrence` swaps them for modules with the same parameters that call one custom op with
a symbolic length. The rules below turn that op into the cell equations of the PyTorch documentation
when it runs over time (one step per hop, hidden vectors become states), and unroll it inside the hop
when it runs over another axis such as frequency. ``spectral_edge.layers.scan`` becomes the
higher-order scan op, whose body is inlined once per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from spectral_edge.streaming.fold import get_constant
from spectral_edge.streaming.rewrite import Rewriter, Value
from spectral_edge.streaming.rules import RULES, register_op

__all__ = ["opaque_recurrence"]

_aten = torch.ops.aten
MODES = {"GRU": 3, "LSTM": 4, "RNN_TANH": 1, "RNN_RELU": 1}  # gates per mode


@torch.library.custom_op("spectral_edge::recurrent", mutates_args=())  # type: ignore[misc]
def recurrent(
    x: torch.Tensor,
    initial: list[torch.Tensor],
    weights: list[torch.Tensor],
    mode: str,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a recurrent stack over a whole sequence; returns (outputs, last hidden)."""
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    batch = x.shape[0] if batch_first else x.shape[1]
    if not initial:
        zeros = x.new_zeros(layers * directions, batch, hidden)
        initial = [zeros, zeros.clone()] if mode == "LSTM" else [zeros]
    common = (has_bias, layers, 0.0, False, bidirectional, batch_first)
    if mode == "LSTM":
        y, h, _ = torch._VF.lstm(x, initial, weights, *common)  # type: ignore[attr-defined]
    else:
        run = {"GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}[mode]
        y, h = getattr(torch._VF, run)(x, initial[0], weights, *common)  # type: ignore[attr-defined]
    return y.contiguous(), h.contiguous()


@recurrent.register_fake  # type: ignore[misc]
def _(
    x: torch.Tensor,
    initial: list[torch.Tensor],
    weights: list[torch.Tensor],
    mode: str,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    batch = x.shape[0] if batch_first else x.shape[1]
    y = x.new_empty((x.shape[0], x.shape[1], hidden * directions))
    return y, x.new_empty((layers * directions, batch, hidden))


class _Opaque(nn.Module):
    """Stands in for a recurrent module while it is traced."""

    def __init__(self, inner: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.layers = inner.mode, inner.num_layers
        self.bidirectional, self.batch_first = inner.bidirectional, inner.batch_first
        self.has_bias = inner.bias
        self.names = [name for layer in inner._all_weights for name in layer]
        for name in self.names:
            self.register_parameter(name, getattr(inner, name))

    def forward(self, x: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        initial = [] if hx is None else list(hx) if isinstance(hx, tuple) else [hx]
        weights = [getattr(self, name) for name in self.names]
        y, h = recurrent(
            x, initial, weights, self.mode, self.layers, self.bidirectional, self.batch_first,
            self.has_bias,
        )  # fmt: skip
        return y, (h, h) if self.mode == "LSTM" else h


def opaque_recurrence(model: nn.Module) -> nn.Module:
    """Swap every GRU, LSTM and RNN below ``model`` (in place) for its traceable stand-in."""
    if isinstance(model, nn.RNNBase) and model.mode in MODES and model.proj_size == 0:
        return _Opaque(model)
    for name, child in list(model.named_children()):
        swapped = opaque_recurrence(child)
        if swapped is not child:
            setattr(model, name, swapped)
    return model


def _rule(ctx: Rewriter, node: fx.Node) -> list[Value | None]:
    x_node, initial, weights, mode, layers, bidirectional, batch_first, has_bias = node.args
    value = ctx.value(x_node)
    per_cell = 4 if has_bias else 2
    assert isinstance(weights, (list, tuple)) and isinstance(layers, int)
    directions = 2 if bidirectional else 1
    cells = [weights[i : i + per_cell] for i in range(0, len(weights), per_cell)]
    sequence = 1 if batch_first else 0
    over_time = value.axis == sequence
    if over_time and bidirectional:
        raise ctx.refuse(
            node,
            "a bidirectional recurrence over time needs the end of the clip",
            "make it one-directional, or run it over frequency",
        )
    if over_time and not value.pure:
        raise ctx.refuse(node, "time is merged with another axis", "keep time on its own axis")
    x = value.node
    if not batch_first:
        x = ctx.emit(_aten.permute.default, (x, [1, 0, 2]))
    for layer in range(layers):
        chosen = cells[layer * directions : (layer + 1) * directions]
        if over_time:
            x = _over_time(ctx, node, value, x, chosen[0], str(mode), layer, initial)
        else:
            x = _inside_frame(ctx, node, x, chosen, str(mode), initial)
    if not batch_first:
        x = ctx.emit(_aten.permute.default, (x, [1, 0, 2]))
    clip_out = node.meta["val"][0]
    axis = ctx.time_axis(node, clip_out)
    result = replace(value, node=x, clip=node, axis=axis)
    return [replace(result, past=value.past if not over_time else ctx.UNBOUNDED), None]


def _linear(
    ctx: Rewriter, x: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None, name: str
) -> fx.Node:
    w = ctx.constant(weight, name + "_weight")
    b = None if bias is None else ctx.constant(bias, name + "_bias")
    return ctx.emit(_aten.linear.default, (x, w, b))


def _cut(ctx: Rewriter, x: fx.Node, start: int, end: int) -> fx.Node:
    return ctx.emit(_aten.slice.Tensor, (x, 1, start, end))


class _Cell:
    """Cell equations with gates ordered so that one activation serves neighbouring gates."""

    def __init__(
        self, ctx: Rewriter, mode: str, tensors: Sequence[Sequence[torch.Tensor]], name: str
    ) -> None:
        self.ctx, self.mode, self.name = ctx, mode, name
        self.hidden = tensors[0][1].shape[1] * len(tensors)
        order = {"LSTM": (0, 1, 3, 2)}.get(mode, tuple(range(MODES[mode])))  # i f o g
        self.gates = len(order)
        self.w_ih = _pack([t[0] for t in tensors], order, block_columns=False)
        self.w_hh = _pack([t[1] for t in tensors], order, block_columns=True)
        has_bias = len(tensors[0]) == 4
        zero = torch.zeros(self.gates * self.hidden)
        self.b_ih = _pack([t[2] for t in tensors], order, False) if has_bias else zero
        self.b_hh = _pack([t[3] for t in tensors], order, False) if has_bias else zero

    def project_input(self, x: fx.Node) -> fx.Node:
        """Input half of the gates of one direction, for any leading axes."""
        if self.mode != "GRU":
            return _linear(self.ctx, x, self.w_ih, self.b_ih + self.b_hh, f"{self.name}_ih")
        bias = self.b_ih.clone()
        bias[: 2 * self.hidden] += self.b_hh[: 2 * self.hidden]
        return _linear(self.ctx, x, self.w_ih, bias, f"{self.name}_ih")

    def step(self, gates: fx.Node, h: fx.Node, c: fx.Node | None) -> tuple[fx.Node, fx.Node | None]:
        """One step from the projected input: returns (h, c)."""
        emit, n = self.ctx.emit, self.hidden
        if self.mode.startswith("RNN"):
            recurrent_half = _linear(self.ctx, h, self.w_hh, None, f"{self.name}_hh")
            total = emit(_aten.add.Tensor, (gates, recurrent_half))
            act = _aten.tanh if self.mode == "RNN_TANH" else _aten.relu
            return emit(act.default, (total,)), None
        if self.mode == "LSTM":
            assert c is not None
            recurrent_half = _linear(self.ctx, h, self.w_hh, None, f"{self.name}_hh")
            total = emit(_aten.add.Tensor, (gates, recurrent_half))
            ifo = emit(_aten.sigmoid.default, (_cut(self.ctx, total, 0, 3 * n),))
            g = emit(_aten.tanh.default, (_cut(self.ctx, total, 3 * n, 4 * n),))
            i, f, o = (_cut(self.ctx, ifo, k * n, (k + 1) * n) for k in range(3))
            kept = emit(_aten.mul.Tensor, (f, c))
            c = emit(_aten.add.Tensor, (kept, emit(_aten.mul.Tensor, (i, g))))
            return emit(_aten.mul.Tensor, (o, emit(_aten.tanh.default, (c,)))), c
        zeros = torch.cat([torch.zeros(2 * n), self.b_hh[2 * n :]])
        hh = _linear(self.ctx, h, self.w_hh, zeros, f"{self.name}_hh")
        total = emit(
            _aten.add.Tensor, (_cut(self.ctx, gates, 0, 2 * n), _cut(self.ctx, hh, 0, 2 * n))
        )
        rz = emit(_aten.sigmoid.default, (total,))
        r, z = _cut(self.ctx, rz, 0, n), _cut(self.ctx, rz, n, 2 * n)
        scaled = emit(_aten.mul.Tensor, (r, _cut(self.ctx, hh, 2 * n, 3 * n)))
        candidate = emit(_aten.add.Tensor, (_cut(self.ctx, gates, 2 * n, 3 * n), scaled))
        new = emit(_aten.tanh.default, (candidate,))
        change = emit(_aten.mul.Tensor, (z, emit(_aten.sub.Tensor, (h, new))))
        return emit(_aten.add.Tensor, (new, change)), None


def _pack(parts: Sequence[torch.Tensor], order: Sequence[int], block_columns: bool) -> torch.Tensor:
    """Reorder gates and interleave directions: gate-major, direction-minor rows."""
    gates = len(order)
    rows = []
    split = [p.chunk(gates, dim=0) for p in parts]
    for gate in order:
        blocks = [s[gate] for s in split]
        rows.append(torch.block_diag(*blocks) if block_columns else torch.cat(blocks))
    return torch.cat(rows)


def _cell(ctx: Rewriter, weights: Sequence[Any], mode: str) -> _Cell:
    tensors = [[get_constant(ctx.clip.module, w) for w in direction] for direction in weights]
    return _Cell(ctx, mode, tensors, ctx.name_here())


def _over_time(
    ctx: Rewriter,
    node: fx.Node,
    value: Value,
    x: fx.Node,
    weights: Sequence[Any],
    mode: str,
    layer: int,
    initial: Any,
) -> fx.Node:
    cell = _cell(ctx, [weights], mode)
    batch = ctx.batch_multiple(value.clip, 0 if node.args[6] else 1)
    memories = [
        _hidden_state(ctx, node, layer, batch, cell.hidden, initial, which)
        for which in range(2 if mode == "LSTM" else 1)
    ]
    nodes = [
        m.node if batch == 1 else ctx.emit(_aten.view.default, (m.node, [-1, cell.hidden]))
        for m in memories
    ]
    first = list(nodes)
    outputs = []
    chunk = ctx.chunk(value)
    size = x_size(ctx, weights)
    for i in range(chunk):
        frame = x if chunk == 1 else ctx.emit(_aten.slice.Tensor, (x, 1, i, i + 1))
        frame = ctx.emit(_aten.view.default, (frame, [-1, size]))
        h, c = cell.step(cell.project_input(frame), nodes[0], nodes[1] if len(nodes) > 1 else None)
        nodes = [h] if c is None else [h, c]
        outputs.append(ctx.emit(_aten.view.default, (h, [-1, 1, cell.hidden])))
    for memory, now, before in zip(memories, nodes, first, strict=True):
        kept = ctx.kept_while_warming_up(value, now, before)
        shape = [-1, batch, cell.hidden]
        memory.following = kept if batch == 1 else ctx.emit(_aten.view.default, (kept, shape))
    return outputs[0] if chunk == 1 else ctx.emit(_aten.cat.default, (outputs, 1))


def x_size(ctx: Rewriter, weights: Sequence[Any]) -> int:
    """Return the input features of a cell."""
    return int(get_constant(ctx.clip.module, weights[0]).shape[1])


def _hidden_state(
    ctx: Rewriter, node: fx.Node, layer: int, batch: int, hidden: int, initial: Any, which: int
) -> Any:
    shape = (1, hidden) if batch == 1 else (1, batch, hidden)
    given = initial[which] if initial else None

    def value(captured: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
        if given is None:
            return torch.zeros(shape)
        return captured[given][layer].reshape(shape)

    suffix = f"_l{layer}" + ("_cell" if which else "")
    return ctx.remember(value, given, ctx.name_here() + suffix)


def _inside_frame(
    ctx: Rewriter, node: fx.Node, x: fx.Node, weights: Sequence[Any], mode: str, initial: Any
) -> fx.Node:
    """Unroll over an axis that is not time; both directions run packed as one cell."""
    if initial:
        raise ctx.refuse(node, "it starts from a given hidden vector", "start from zeros")
    val = node.args[0].meta["val"]  # type: ignore[union-attr]
    length = int(val.shape[1 if node.args[6] else 0])
    single = [_cell(ctx, [w], mode) for w in weights]
    packed = _cell(ctx, weights, mode)
    size, hidden, directions = x_size(ctx, weights[0]), packed.hidden, len(weights)
    projected = [cell.project_input(x) for cell in single]
    half = hidden // directions
    h: fx.Node | None = None
    c: fx.Node | None = None
    steps = []
    assert size > 0
    for i in range(length):
        parts = []
        for d, p in enumerate(projected):
            at = i if d == 0 else length - 1 - i
            row = ctx.emit(_aten.slice.Tensor, (p, 1, at, at + 1))
            parts.append(ctx.emit(_aten.view.default, (row, [-1, packed.gates * half])))
        gates = _interleave(ctx, parts, packed.gates, half)
        if h is None:
            zero = ctx.emit(_aten.mul.Scalar, (_cut(ctx, gates, 0, hidden), 0.0))
            h, c = zero, zero if mode == "LSTM" else None
        h, c = packed.step(gates, h, c)
        steps.append(h)
    out = []
    for i in range(length):
        forward = steps[i]
        if directions == 2:
            forward = _cut(ctx, steps[i], 0, half)
            back = _cut(ctx, steps[length - 1 - i], half, hidden)
            forward = ctx.emit(_aten.cat.default, ([forward, back], 1))
        out.append(ctx.emit(_aten.view.default, (forward, [-1, 1, hidden])))
    return ctx.emit(_aten.cat.default, (out, 1))


def _interleave(ctx: Rewriter, parts: list[fx.Node], gates: int, half: int) -> fx.Node:
    if len(parts) == 1:
        return parts[0]
    pieces = [_cut(ctx, p, g * half, (g + 1) * half) for g in range(gates) for p in parts]
    return ctx.emit(_aten.cat.default, (pieces, 1))


register_op(
    "recurrent", torch.ops.spectral_edge.recurrent.default, "nn.GRU / nn.LSTM / nn.RNN", _rule
)


def _scan_rule(ctx: Rewriter, node: fx.Node) -> list[Any]:
    body_node, carries, frames, extra = node.args
    body = getattr(ctx.clip.module, str(body_node.target))  # type: ignore[union-attr]
    values = ctx.aligned([ctx.value(f) for f in frames])  # type: ignore[union-attr]
    timed = [v for v in values if v.axis is not None]
    if not timed or any(v.axis != 0 or not v.pure for v in timed):
        raise ctx.refuse(node, "scan runs over an axis that is not time alone", "scan over time")
    memories = [_carry(ctx, c, i) for i, c in enumerate(carries)]  # type: ignore[arg-type]
    nodes = [m.node for m in memories]
    extras = [ctx.env[e].node if isinstance(e, fx.Node) else e for e in extra]  # type: ignore[union-attr]
    chunk = ctx.chunk(timed[0])
    stacked: list[list[fx.Node]] = []
    for i in range(chunk):
        now = [ctx.emit(_aten.select.int, (v.node, 0, i)) for v in values]
        results = _inline(ctx, body, [*nodes, *now, *extras])
        nodes = results[: len(memories)]
        stacked.append(
            [ctx.emit(_aten.unsqueeze.default, (y, 0)) for y in results[len(memories) :]]
        )
    for memory, new in zip(memories, nodes, strict=True):
        memory.following = ctx.kept_while_warming_up(timed[0], new, memory.node)
    outs: list[Any] = [None] * len(memories)
    for column in zip(*stacked, strict=True):
        joined = column[0] if chunk == 1 else ctx.emit(_aten.cat.default, (list(column), 0))
        outs.append(replace(timed[0], node=joined, clip=node, axis=0, past=ctx.UNBOUNDED))
    return outs


def _carry(ctx: Rewriter, carry: fx.Node, index: int) -> Any:
    def initial(captured: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
        return captured[carry]

    return ctx.remember(initial, carry, f"{ctx.name_here()}_scan_{index}")


def _inline(ctx: Rewriter, body: fx.GraphModule, inputs: list[Any]) -> list[fx.Node]:
    """Emit the body of a scan once; sizes in it must not depend on the batch."""
    env: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for n in body.graph.nodes:
        if n.op == "placeholder":
            env[n] = next(given)
        elif n.op == "call_function":
            args = fx.map_arg(n.args, env.__getitem__)
            env[n] = ctx.emit(n.target, args, dict(fx.map_arg(n.kwargs, env.__getitem__)))
        elif n.op == "output":
            return list(fx.map_arg(tuple(n.args[0]), env.__getitem__))
        else:
            raise ctx.refuse(n, "scan's cell holds something else than tensor ops", "simplify it")
    raise AssertionError("scan body without output")


RULES[torch.ops.higher_order.scan] = _scan_rule
