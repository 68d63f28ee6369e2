"""Recurrence written by hand with ``layers.scan``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.support import Net, streams

State = Any


def scan(*args: Any) -> torch.Tensor:
    y: torch.Tensor = se.layers.scan(*args)[0]
    return y


def ema(frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    state = state * 0.9 + frame * 0.1
    return state, state


def test_gru_cell() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def cell(frame: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = s.cell(frame, h)
            return h, h

        return scan(cell, x, x.new_zeros(x.shape[0], 6), 1)

    program = streams(Net(body, cell=nn.GRUCell(5, 6)), torch.randn(1, 8, 5), 1)
    assert not next(iter(program.states.values())).exact


def test_lstm_cell_with_a_tuple_state() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def cell(frame: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            h, c = s.cell(frame, state)
            return h, (h, c)

        zero = x.new_zeros(x.shape[0], 6)
        return scan(cell, x, (zero, zero.clone()), 1)

    streams(Net(body, cell=nn.LSTMCell(5, 6)), torch.randn(1, 8, 5), 1)


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_rnn_cell(kind: str) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def cell(frame: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = s.cell(frame, h)
            return h, h

        return scan(cell, x, x.new_zeros(x.shape[0], 6), 1)

    streams(Net(body, cell=nn.RNNCell(5, 6, nonlinearity=kind)), torch.randn(1, 8, 5), 1)


def test_average_with_a_learned_constant_stays_exact() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        a = torch.sigmoid(s.a)

        def cell(frame: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            e = e * (1 - a) + frame * a
            return frame / (e.abs() + 1), e

        return scan(cell, x, x.new_zeros(x.shape[0], 5), 1)

    program = streams(Net(body, a=nn.Parameter(torch.randn(5))), torch.randn(1, 8, 5), 1)
    assert all(s.exact for s in program.states.values())


def test_time_on_another_axis() -> None:
    streams(Net(lambda s, x: scan(ema, x, x.new_zeros(x.shape[0], 4), 2)), torch.randn(1, 4, 8), 2)


def test_sizes_inside_the_cell_may_depend_on_the_batch() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def cell(frame: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            q = s.l(frame).reshape(frame.shape[0], 2, 4)
            h = h * 0.9 + q.unsqueeze(-1) * q.unsqueeze(-2)
            return (h * q.unsqueeze(-1)).sum(-2).flatten(1), h

        return scan(cell, x, x.new_zeros(x.shape[0], 2, 4, 4), 1)

    streams(Net(body, l=nn.Linear(5, 8)), torch.randn(1, 8, 5), 1)


def test_dict_state() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def cell(frame: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            return frame + state["a"], {"a": state["a"] * 0.5 + frame, "b": state["b"] + 1}

        start = {"a": x.new_zeros(x.shape[0], 5), "b": x.new_zeros(x.shape[0], 1)}
        return scan(cell, x, start, 1)

    program = streams(Net(body), torch.randn(1, 8, 5), 1)
    assert len(program.states) == 1, "a state that nothing reads is dropped"


@pytest.mark.parametrize("place", ["plain", "after lookahead", "before a stride"])
def test_state_that_starts_as_the_first_frame(place: str) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.look(x) if place == "after lookahead" else x
        y = scan(ema, y, y[:, :, 0], 2)
        if place == "before a stride":
            y = s.up(s.down(F.pad(y, (1, 0))))
        return y

    net = Net(
        body,
        look=nn.Conv1d(4, 4, 3, padding=1),
        down=nn.Conv1d(4, 5, 3, 2),
        up=nn.ConvTranspose1d(5, 4, 2, 2),
    )
    streams(net, torch.randn(1, 4, 8), 2)


def test_at_half_the_frame_rate() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.down(F.pad(x, (1, 0)))
        out: torch.Tensor = s.up(scan(ema, y, y.new_zeros(y.shape[0], 5), 2))
        return out

    net = Net(body, down=nn.Conv1d(4, 5, 3, 2), up=nn.ConvTranspose1d(5, 4, 2, 2))
    streams(net, torch.randn(1, 4, 8), 2)


def test_selective_scan_layer() -> None:
    from spectral_edge.layers.selective_scan import SelectiveScan

    def body(s: Any, x: torch.Tensor) -> Any:
        u, delta, b, c = s.project(x).split([6, 6, 3, 3], dim=-1)
        out: torch.Tensor = s.scan(u, F.softplus(delta), b, c)
        return out

    net = Net(body, project=nn.Linear(5, 18), scan=SelectiveScan(6, 3))
    program = streams(net, torch.randn(1, 8, 5), 1)
    assert all(s.exact for s in program.states.values())
