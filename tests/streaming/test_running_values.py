"""Sums, extrema and norms that run over all the past; linear attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.support import Net, assert_law, streams


def cumulative_norm(s: Any, x: torch.Tensor) -> Any:  # [batch, channels, frames]
    count = torch.arange(1, x.shape[2] + 1, dtype=x.dtype) * x.shape[1]
    mean = x.sum(1).cumsum(1) / count
    power = (x * x).sum(1).cumsum(1) / count
    variance = (power - mean * mean).clamp_min(0)
    return (x - mean.unsqueeze(1)) / (variance + 1e-5).sqrt().unsqueeze(1) * s.gain


def cumulative() -> dict[str, Any]:
    return {"gain": nn.Parameter(torch.randn(4, 1))}


def test_cumulative_layer_norm() -> None:
    program = streams(Net(cumulative_norm, **cumulative()), torch.randn(1, 4, 8), 2)
    assert all(s.exact for s in program.states.values())


def test_cumulative_norm_after_lookahead() -> None:
    net = Net(
        lambda s, x: cumulative_norm(s, s.look(x)),
        look=nn.Conv1d(4, 4, 3, padding=1),
        **cumulative(),
    )
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 1


def test_cumulative_norm_of_long_clips_obeys_the_float64_law() -> None:
    torch.manual_seed(0)
    net = Net(cumulative_norm, **cumulative()).eval()
    program = se.streamify(net, torch.randn(1, 4, 8), 2, check_lengths=(2000,))
    assert_law(net, program, [torch.randn(1, 4, 8)], (2000,))


@pytest.mark.parametrize(
    "op",
    [
        lambda x: x.cummax(2).values,
        lambda x: x.cummin(2)[0],
        lambda x: x.logcumsumexp(2),
        lambda x: torch.sigmoid(x).cumprod(2),
        lambda x: x.cumsum(2) / torch.ones_like(x).cumsum(2),
    ],
    ids=["cummax", "cummin", "logcumsumexp", "cumprod", "mean"],
)
@pytest.mark.parametrize("place", ["plain", "after lookahead", "two frames per hop"])
def test_running_ops(op: Any, place: str) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = op(s.look(x) if place == "after lookahead" else x)
        if place == "two frames per hop":
            y = s.up(s.down(F.pad(y, (1, 0))))
        return y

    net = Net(
        body,
        look=nn.Conv1d(4, 4, 3, padding=1),
        down=nn.Conv1d(4, 5, 3, 2),
        up=nn.ConvTranspose1d(5, 4, 2, 2),
    )
    streams(net, torch.randn(1, 4, 8), 2)


def test_linear_attention() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        q, k, v = s.qkv(x).chunk(3, dim=-1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("btd,bte->btde", k, v).cumsum(1)
        norm = torch.einsum("btd,btd->bt", q, k.cumsum(1)).unsqueeze(-1)
        return torch.einsum("btd,btde->bte", q, memory) / (norm + 1e-6)

    streams(Net(body, qkv=nn.Linear(5, 12)), torch.randn(1, 8, 5), 1)


def test_attention_pooling_over_the_past() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        weight = s.score(x).exp()
        return (weight * x).cumsum(1) / weight.cumsum(1)

    streams(Net(body, score=nn.Linear(5, 1)), torch.randn(1, 8, 5), 1)


def test_squeeze_and_excitation_by_running_mean() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        mean = x.cumsum(2) / torch.arange(1, x.shape[2] + 1)
        return x * torch.sigmoid(s.l(mean.transpose(1, 2))).transpose(1, 2)

    streams(Net(body, l=nn.Linear(4, 4)), torch.randn(1, 4, 8), 2)


def test_windowed_normalisation() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        mean = F.avg_pool1d(F.pad(x, (9, 0)), 10, 1)
        power = F.avg_pool1d(F.pad(x * x, (9, 0)), 10, 1)
        return (x - mean) / (power - mean * mean).clamp_min(0).add(1e-3).sqrt()

    assert streams(Net(body), torch.randn(1, 4, 8), 2).receptive_field == 10
