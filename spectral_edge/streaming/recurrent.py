"""Recurrent modules: traced as one op each, rewritten into explicit cells.

``nn.GRU``, ``nn.LSTM`` and ``nn.RNN`` would be unrolled to a concrete number of frames by tracing.
:func:`opaque_recurrence` swaps them for modules with the same parameters that call one custom op
with a symbolic length. The rule below turns that op into cells when it runs over time (one step per
frame, hidden vectors become states), and unrolls it inside the hop when it runs over another axis
such as frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from spectral_edge.errors import NotStreamable
from spectral_edge.streaming import edges, memory
from spectral_edge.streaming.cells import GATES, Cell, cut
from spectral_edge.streaming.fold import get_constant
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.rules import register_op
from spectral_edge.streaming.value import Refused, Value, refusal

__all__ = ["opaque_recurrence"]

_aten = torch.ops.aten


@torch.library.custom_op("spectral_edge::recurrent", mutates_args=())
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
        y, h, _ = torch._VF.lstm(x, initial, weights, *common)
    else:
        run = {"GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}[mode]
        y, h = getattr(torch._VF, run)(x, initial[0], weights, *common)
    return y.contiguous(), h.contiguous()


@recurrent.register_fake
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
        self.has_bias, self.hidden_size = inner.bias, inner.hidden_size
        self.input_size, self.num_layers = inner.input_size, inner.num_layers
        self.names = [name for layer in inner._all_weights for name in layer]
        self.weights = inner  # its forward is never called

    def flatten_parameters(self) -> None:
        """Nothing to do: called by models before they run the recurrence."""

    def forward(self, x: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        initial = [] if hx is None else list(hx) if isinstance(hx, tuple) else [hx]
        weights = [getattr(self.weights, name) for name in self.names]
        y, h = recurrent(
            x, initial, weights, self.mode, self.layers, self.bidirectional, self.batch_first,
            self.has_bias,
        )  # fmt: skip
        return y, (h, h) if self.mode == "LSTM" else h


def opaque_recurrence(model: nn.Module, path: str = "") -> nn.Module:
    """Swap every GRU, LSTM and RNN below ``model`` (in place) for its traceable stand-in."""
    if isinstance(model, nn.RNNBase) and model.mode in GATES:
        if model.proj_size:
            raise NotStreamable(
                f"module {path or '(root)'}: an LSTM with proj_size={model.proj_size} has no "
                "streaming rule. Use an LSTM without projection and a Linear after it."
            )
        return _Opaque(model)
    for name, child in list(model.named_children()):
        swapped = opaque_recurrence(child, f"{path}.{name}".strip("."))
        if swapped is not child:
            setattr(model, name, swapped)
    return model


def _rule(ctx: Rewriter, node: fx.Node) -> list[Any]:
    x_node, _initial, weights, _mode, layers, bidirectional, batch_first, has_bias = node.args
    value = memory.settled(ctx, ctx.value(x_node))
    per_cell = 4 if has_bias else 2
    assert isinstance(weights, (list, tuple))
    assert isinstance(layers, int)
    directions = 2 if bidirectional else 1
    constants = [get_constant(ctx.clip.module, w) for w in weights]  # type: ignore[arg-type]
    cells = [constants[i : i + per_cell] for i in range(0, len(constants), per_cell)]
    over_time = value.axis == (1 if batch_first else 0)
    if over_time and bidirectional:
        raise refusal(
            node,
            "a bidirectional recurrence over time needs the end of the clip",
            "make it one-directional, or run it over frequency",
        )
    if over_time and not value.pure:
        raise refusal(node, "time is merged with another axis", "keep time on its own axis")
    x = value.node
    if not batch_first:
        x = ctx.emit(_aten.permute.default, (x, [1, 0, 2]))
    for layer in range(layers):
        chosen = cells[layer * directions : (layer + 1) * directions]
        if over_time:
            x = _over_time(ctx, node, value, x, chosen[0], layer)
        else:
            x = _inside_frame(ctx, node, x, chosen)
    if not batch_first:
        x = ctx.emit(_aten.permute.default, (x, [1, 0, 2]))
    result = replace(value, node=x, clip=node, axis=ctx.time_axis(node, node.meta["val"][0]))
    last = refusal(
        node, "it uses the hidden state after the last frame", "use the outputs per frame"
    )
    return [replace(result, past=value.past if not over_time else ctx.UNBOUNDED), Refused(last)]


def _over_time(
    ctx: Rewriter,
    node: fx.Node,
    value: Value,
    x: fx.Node,
    weights: Sequence[torch.Tensor],
    layer: int,
) -> fx.Node:
    initial, mode = node.args[1], str(node.args[3])
    cell = Cell(ctx, mode, [weights], ctx.name_here())
    batch = memory.batch_multiple(ctx, value.clip, 0 if node.args[6] else 1)
    if batch is None:
        raise refusal(node, "its input has no batch axis", "keep a batch axis")
    memories = [
        _hidden_state(ctx, node, layer, (batch, cell.hidden), initial, which)
        for which in range(2 if mode == "LSTM" else 1)
    ]
    nodes = [
        m.node if batch == 1 else ctx.emit(_aten.reshape.default, (m.node, [-1, cell.hidden]))
        for m in memories
    ]
    chunk, size = ctx.chunk(value), weights[0].shape[1]
    flat = ctx.emit(_aten.reshape.default, (x, [-1, chunk * size]))
    outputs = []
    for i in range(chunk):
        frame = flat if chunk == 1 else cut(ctx, flat, i * size, (i + 1) * size)
        h, c = cell.step(cell.project(frame), nodes[0], nodes[1] if len(nodes) > 1 else None)
        outputs.append(h)
        new = [h] if c is None else [h, c]
        nodes = [
            edges.kept_while_warming_up(ctx, value, now, before, i)
            for now, before in zip(new, nodes, strict=True)
        ]
    for state, now in zip(memories, nodes, strict=True):
        shape = [-1, batch, cell.hidden]
        state.following = now if batch == 1 else ctx.emit(_aten.reshape.default, (now, shape))
    joined = outputs[0] if chunk == 1 else ctx.emit(_aten.cat.default, (outputs, 1))
    return ctx.emit(_aten.reshape.default, (joined, [-1, chunk, cell.hidden]))


def _hidden_state(
    ctx: Rewriter, node: fx.Node, layer: int, size: tuple[int, int], initial: Any, which: int
) -> memory.State:
    batch, hidden = size
    shape = (1, hidden) if batch == 1 else (1, batch, hidden)
    given = initial[which] if initial else None
    if given is not None and not ctx.length_only(given):
        raise refusal(
            node,
            "its initial hidden vector depends on the input",
            "start from a parameter or zeros",
        )

    def value(captured: memory.Captured) -> torch.Tensor:
        return torch.zeros(shape) if given is None else captured[given][layer].reshape(shape)

    suffix = f"_l{layer}" + ("_cell" if which else "")
    return ctx.remember(value, given, ctx.name_here() + suffix)


def _inside_frame(
    ctx: Rewriter, node: fx.Node, x: fx.Node, weights: Sequence[Sequence[torch.Tensor]]
) -> fx.Node:
    """Unroll over an axis that is not time; both directions run packed as one cell.

    The backward direction reads the flipped sequence, so that one slice per step feeds both.
    """
    if node.args[1]:
        raise refusal(node, "it starts from a given hidden vector", "start from zeros")
    mode, directions = str(node.args[3]), len(weights)
    val = node.args[0].meta["val"]  # type: ignore[union-attr]
    length = int(val.shape[1 if node.args[6] else 0])
    cell = Cell(ctx, mode, weights, ctx.name_here(), own_input=directions == 2)
    if directions == 2:
        x = ctx.emit(_aten.cat.default, ([x, ctx.emit(_aten.flip.default, (x, [1]))], 2))
    projected = [
        ctx.emit(_aten.reshape.default, (p, [-1, length * width]))
        for p, width in zip(cell.project(x), cell.widths, strict=True)
    ]
    h: fx.Node | None = None
    c: fx.Node | None = None
    steps = []
    for i in range(length):
        gates = [
            cut(ctx, p, i * width, (i + 1) * width)
            for p, width in zip(projected, cell.widths, strict=True)
        ]
        if h is None:
            h = ctx.emit(_aten.mul.Scalar, (cut(ctx, gates[-1], 0, cell.hidden), 0.0))
            c = h if mode == "LSTM" else None
        h, c = cell.step(gates, h, c)
        steps.append(h)
    joined = steps[0] if length == 1 else ctx.emit(_aten.cat.default, (steps, 1))
    out = ctx.emit(_aten.reshape.default, (joined, [-1, length, cell.hidden]))
    if directions == 1:
        return out
    half = cell.hidden // 2
    ahead = ctx.emit(_aten.slice.Tensor, (out, 2, 0, half))
    back = ctx.emit(_aten.slice.Tensor, (out, 2, half, cell.hidden))
    back = ctx.emit(_aten.flip.default, (back, [1]))
    return ctx.emit(_aten.cat.default, ([ahead, back], 2))


register_op(
    "recurrence",
    torch.ops.spectral_edge.recurrent.default,
    "nn.GRU / nn.LSTM / nn.RNN over time, or over another axis inside the frame",
    _rule,
)
