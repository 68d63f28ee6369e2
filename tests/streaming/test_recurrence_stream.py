"""GRU, LSTM and RNN over time (states) and over frequency inside a frame (unrolled)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.support import Net, streams

KINDS = (nn.GRU, nn.LSTM, nn.RNN)
Kind = Any


@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_batch_first(kind: Kind) -> None:
    net = Net(lambda s, x: s.r(x)[0], r=kind(5, 6, 2, batch_first=True))
    program = streams(net, torch.randn(1, 8, 5), 1)
    assert program.delay == 0
    assert program.receptive_field is None
    per_layer = 2 if kind is nn.LSTM else 1
    assert [s.shape for s in program.states.values()] == [(1, 6)] * 2 * per_layer


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_first_without_bias(kind: Kind) -> None:
    net = Net(lambda s, x: s.r(x.transpose(0, 1))[0].transpose(0, 1), r=kind(5, 6, bias=False))
    streams(net, torch.randn(1, 8, 5), 1)


def test_relu_rnn() -> None:
    net = Net(lambda s, x: s.r(x)[0], r=nn.RNN(5, 6, nonlinearity="relu", batch_first=True))
    streams(net, torch.randn(1, 8, 5), 1)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_bidirectional_over_bands_keeps_no_state(kind: Kind, layers: int) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:  # [batch, frames, bands, features]
        y = s.r(x.reshape(-1, 7, 5))[0]
        return y.reshape(x.shape[0], x.shape[1], 7, 12)

    net = Net(body, r=kind(5, 6, layers, batch_first=True, bidirectional=True))
    program = streams(net, torch.randn(1, 8, 7, 5), 1)
    assert not program.states
    assert program.receptive_field == 1


@pytest.mark.parametrize("kind", KINDS)
def test_over_time_with_bands_in_the_batch(kind: Kind) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:  # [batch, frames, bands, features]
        b, t = x.shape[0], x.shape[1]
        y = s.r(x.permute(0, 2, 1, 3).reshape(-1, t, 5))[0]
        return y.reshape(b, 7, t, 6).permute(0, 2, 1, 3)

    program = streams(Net(body, r=kind(5, 6, batch_first=True)), torch.randn(1, 8, 7, 5), 1)
    assert {s.shape for s in program.states.values()} == {(1, 7, 6)}


def test_initial_hidden_vector_is_a_parameter() -> None:
    net = Net(
        lambda s, x: s.r(x, s.h.expand(1, x.shape[0], 6).contiguous())[0],
        r=nn.GRU(5, 6, batch_first=True),
        h=nn.Parameter(torch.randn(1, 1, 6)),
    )
    program = streams(net, torch.randn(1, 8, 5), 1)
    (state,) = program.states.values()
    assert torch.allclose(torch.from_numpy(state.initial), net.part("h").detach()[0])


def test_lstm_starts_from_two_parameters_or_from_zeros() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        hidden = (s.h.repeat(1, x.shape[0], 1), s.c.expand(-1, x.shape[0], -1))
        y, _ = s.r(x, hidden)
        out: torch.Tensor = s.g(y, torch.zeros(1, x.shape[0], 6))[0]
        return out

    net = Net(
        body,
        r=nn.LSTM(5, 6, batch_first=True),
        g=nn.GRU(6, 6, batch_first=True),
        h=nn.Parameter(torch.randn(1, 1, 6)),
        c=nn.Parameter(torch.randn(1, 1, 6)),
    )
    streams(net, torch.randn(1, 8, 5), 1)


def test_several_frames_per_hop() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.fast(x.transpose(1, 2))[0].transpose(1, 2)
        z = s.slow(s.down(F.pad(y, (1, 0))).transpose(1, 2))[0]
        up: torch.Tensor = s.up(z.transpose(1, 2))
        return up

    net = Net(
        body,
        fast=nn.GRU(4, 4, batch_first=True),
        down=nn.Conv1d(4, 5, 3, 2),
        slow=nn.LSTM(5, 6, batch_first=True),
        up=nn.ConvTranspose1d(6, 4, 2, 2),
    )
    assert streams(net, torch.randn(1, 4, 8), 2).hop_multiple == 2


@pytest.mark.parametrize("down", [1, 2])
def test_recurrence_after_lookahead_waits_for_the_first_frame(down: int) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.r(s.look(x).transpose(1, 2))[0].transpose(1, 2)
        if down == 1:
            return y
        out: torch.Tensor = s.up(s.down(y))
        return out

    net = Net(
        body,
        look=nn.Conv1d(4, 5, 5, padding=2),
        r=nn.GRU(5, 6, batch_first=True),
        down=nn.Conv1d(6, 6, 2, 2),
        up=nn.ConvTranspose1d(6, 4, 2, 2),
    )
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 2


def test_recurrence_over_padded_frames() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        out: torch.Tensor = s.r(F.pad(x, (0, 0, 2, 0)))[0][:, :-2]
        return out

    assert streams(Net(body, r=nn.GRU(5, 4, batch_first=True)), torch.randn(1, 8, 5), 1).delay == 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_groups_of_a_split_are_packed(bidirectional: bool) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        if bidirectional:  # over bands
            a, b = x.reshape(-1, 6, 6).chunk(2, dim=-1)
            y = torch.cat([s.a(a)[0], s.b(b)[0]], dim=-1)
            return y.reshape(x.shape[0], x.shape[1], 6, 16)
        a, b = x[:, :, 0].chunk(2, dim=-1)
        return torch.cat([s.a(a)[0], s.b(b)[0]], dim=-1)

    def gru() -> nn.GRU:
        return nn.GRU(3, 4, batch_first=True, bidirectional=bidirectional)

    program = streams(Net(body, a=gru(), b=gru()), torch.randn(1, 8, 6, 6), 1)
    sigmoids = [n for n in program.module.graph.nodes if "sigmoid" in str(n.target)]
    assert len(sigmoids) == (6 if bidirectional else 1)  # one per step, not one per cell
    assert len(program.states) == (0 if bidirectional else 1)


def test_a_gru_step_is_short() -> None:
    net = Net(lambda s, x: s.r(x)[0], r=nn.GRU(5, 6, batch_first=True))
    assert streams(net, torch.randn(1, 8, 5), 1).node_count <= 16
