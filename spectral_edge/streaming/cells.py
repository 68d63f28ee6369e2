"""Cell equations of GRU, LSTM and RNN (PyTorch documentation) with as few nodes as possible.

Rows of the weight matrices are regrouped so that one activation serves neighbouring gates; several
cells that run side by side (directions, groups) are packed into one with block matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter

__all__ = ["Cell", "cut", "linear"]

_aten = torch.ops.aten
GATES = {"GRU": 3, "LSTM": 4, "RNN_TANH": 1, "RNN_RELU": 1}
ORDER = {"LSTM": (0, 1, 3, 2)}  # i f o g


def linear(
    ctx: Rewriter, x: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None, name: str
) -> fx.Node:
    """Emit a linear layer with constants of its own."""
    w = ctx.constant(weight.contiguous(), name + "_weight")
    b = None if bias is None else ctx.constant(bias, name + "_bias")
    return ctx.emit(_aten.linear.default, (x, w, b))


def cut(ctx: Rewriter, x: fx.Node, start: int, end: int) -> fx.Node:
    """Emit a slice along axis 1."""
    return ctx.emit(_aten.slice.Tensor, (x, 1, start, end))


class Cell:
    """One recurrent cell, or several side by side.

    Args:
        ctx: the rewriting.
        mode: ``GRU``, ``LSTM``, ``RNN_TANH`` or ``RNN_RELU``.
        tensors: per packed cell: w_ih, w_hh and, with bias, b_ih, b_hh, in PyTorch's layout.
        name: prefix of the constants.
        own_input: every packed cell reads its own part of the input (True), or all the same.
    """

    def __init__(
        self,
        ctx: Rewriter,
        mode: str,
        tensors: Sequence[Sequence[torch.Tensor]],
        name: str,
        *,
        own_input: bool = False,
    ) -> None:
        self.ctx, self.mode, self.name = ctx, mode, name
        self.hidden = sum(t[1].shape[1] for t in tensors)
        self.gates = GATES[mode]
        order = ORDER.get(mode, tuple(range(self.gates)))
        self.w_ih = _pack([t[0] for t in tensors], order, blocks=own_input)
        self.w_hh = _pack([t[1] for t in tensors], order, blocks=True)
        has_bias = len(tensors[0]) == 4
        zero = torch.zeros(self.gates * self.hidden)
        b_ih = _pack([t[2] for t in tensors], order, blocks=False) if has_bias else zero
        self.b_hh = _pack([t[3] for t in tensors], order, blocks=False) if has_bias else zero
        self.b_ih = b_ih + self.b_hh
        if mode == "GRU":
            self.b_ih[2 * self.hidden :] = b_ih[2 * self.hidden :]

    @property
    def widths(self) -> list[int]:
        """Widths of the tensors that ``project`` returns."""
        return [2 * self.hidden, self.hidden] if self.mode == "GRU" else [self.gates * self.hidden]

    def project(self, x: fx.Node) -> list[fx.Node]:
        """Input half of the gates, for any leading axes."""
        start, parts = 0, []
        for i, width in enumerate(self.widths):
            rows = slice(start, start + width)
            name = f"{self.name}_ih{i or ''}"
            parts.append(linear(self.ctx, x, self.w_ih[rows], self.b_ih[rows], name))
            start += width
        return parts

    def step(
        self, gates: Sequence[fx.Node], h: fx.Node, c: fx.Node | None
    ) -> tuple[fx.Node, fx.Node | None]:
        """One step from the projected input: returns (h, c)."""
        if self.mode == "GRU":
            return self._gru(gates, h), None
        emit, n = self.ctx.emit, self.hidden
        half = linear(self.ctx, h, self.w_hh, None, f"{self.name}_hh")
        total = emit(_aten.add.Tensor, (gates[0], half))
        if self.mode != "LSTM":
            act = _aten.tanh if self.mode == "RNN_TANH" else _aten.relu
            return emit(act.default, (total,)), None
        assert c is not None
        ifo = emit(_aten.sigmoid.default, (cut(self.ctx, total, 0, 3 * n),))
        g = emit(_aten.tanh.default, (cut(self.ctx, total, 3 * n, 4 * n),))
        i, f, o = (cut(self.ctx, ifo, k * n, (k + 1) * n) for k in range(3))
        kept = emit(_aten.mul.Tensor, (f, c))
        c = emit(_aten.add.Tensor, (kept, emit(_aten.mul.Tensor, (i, g))))
        return emit(_aten.mul.Tensor, (o, emit(_aten.tanh.default, (c,)))), c

    def _gru(self, gates: Sequence[fx.Node], h: fx.Node) -> fx.Node:
        emit, n = self.ctx.emit, self.hidden
        half = linear(self.ctx, h, self.w_hh[: 2 * n], None, f"{self.name}_hh")
        rz = emit(_aten.sigmoid.default, (emit(_aten.add.Tensor, (gates[0], half)),))
        r, z = cut(self.ctx, rz, 0, n), cut(self.ctx, rz, n, 2 * n)
        inner = linear(self.ctx, h, self.w_hh[2 * n :], self.b_hh[2 * n :], f"{self.name}_hn")
        candidate = emit(_aten.add.Tensor, (gates[1], emit(_aten.mul.Tensor, (r, inner))))
        new = emit(_aten.tanh.default, (candidate,))
        change = emit(_aten.mul.Tensor, (z, emit(_aten.sub.Tensor, (h, new))))
        return emit(_aten.add.Tensor, (new, change))


def _pack(parts: Sequence[torch.Tensor], order: Sequence[int], *, blocks: bool) -> torch.Tensor:
    """Reorder gates and interleave cells: gate-major, cell-minor rows."""
    split = [p.chunk(len(order), dim=0) for p in parts]
    rows = []
    for gate in order:
        pieces = [s[gate] for s in split]
        joined = torch.block_diag(*pieces) if blocks else torch.cat(pieces)  # type: ignore[no-untyped-call]
        rows.append(joined)
    return torch.cat(rows)
