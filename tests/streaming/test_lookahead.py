"""Lookahead becomes delay: alignment, warm-up, and what padding shows at both ends of a clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.support import Net, assert_law, streams


def conv(kernel: int, **more: Any) -> nn.Conv1d:
    return nn.Conv1d(4, 4, kernel, **more)


@pytest.mark.parametrize(
    ("layer", "delay"),
    [
        (conv(5, padding=2), 2),
        (conv(5, padding="same", dilation=2), 4),
        (conv(3, padding=2), None),  # longer than the clip: refused
        (conv(5, padding=2, padding_mode="replicate"), 2),
    ],
    ids=["symmetric", "same", "longer", "replicate"],
)
def test_symmetric_convolution(layer: nn.Conv1d, delay: int | None) -> None:
    net = Net(lambda s, x: s.c(x), c=layer)
    if delay is None:
        with pytest.raises(se.errors.NotStreamable, match="frames for T input frames"):
            streams(net, torch.randn(1, 4, 8), 2)
        return
    program = streams(net, torch.randn(1, 4, 8), 2)
    assert program.delay == delay
    assert program.receptive_field == 2 * delay + 1


def residual(s: Any, x: torch.Tensor) -> Any:
    y = s.b(torch.relu(s.a(x) + 1)) * torch.sigmoid(s.point(x))
    return x + y


def test_residuals_are_aligned() -> None:
    net = Net(residual, a=conv(5, padding=2), b=conv(3, padding=1), point=conv(1))
    program = streams(net, torch.randn(1, 4, 8), 2)
    assert program.delay == 3
    assert sum(s.shape == (1, 4, 3) for s in program.states.values()) == 2  # two delay lines


@pytest.mark.slow
def test_every_length_from_1_to_300() -> None:
    torch.manual_seed(0)
    net = Net(residual, a=conv(5, padding=2), b=conv(3, padding=1), point=conv(1)).eval()
    program = se.streamify(net, torch.randn(1, 4, 8), 2)
    assert_law(net, program, [torch.randn(1, 4, 8)], range(1, 301))


def test_explicit_shift() -> None:
    net = Net(lambda s, x: s.c(F.pad(x, (0, 2))[..., 2:]), c=conv(1))
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 2


def test_cut_and_filled_with_zeros() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        return torch.cat([x[:, 2:], torch.zeros_like(x[:, :2])], dim=1) + x

    assert streams(Net(body), torch.randn(1, 8, 5), 1).delay == 2


def test_norm_and_activation_between_symmetric_layers() -> None:
    net = Net(
        lambda s, x: s.b(torch.sigmoid(s.n(s.a(x)))),
        a=conv(5, padding=2),
        n=nn.BatchNorm1d(4),
        b=conv(5, padding=2),
    )
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 4


@pytest.mark.parametrize("axis", [2, 3])
def test_two_dimensional(axis: int) -> None:
    kernel = (5, 3) if axis == 2 else (3, 5)
    net = Net(
        lambda s, x: s.b(F.elu(s.a(x))) + x,
        a=nn.Conv2d(3, 4, 3, padding=1),
        b=nn.Conv2d(4, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2)),
    )
    shape = (1, 3, 8, 9) if axis == 2 else (1, 3, 9, 8)
    assert streams(net, torch.randn(shape), axis).delay == 3


@pytest.mark.parametrize(
    "body",
    [
        lambda s, x: s.a(x)[..., :-4],
        lambda s, x: s.a(x)[..., : x.shape[-1]],
        lambda s, x: s.a(x).narrow(2, 0, x.shape[-1]),
    ],
    ids=["from the end", "to the length", "narrow"],
)
def test_padding_and_chomp_is_causal(body: Any) -> None:
    net = Net(body, a=conv(3, padding=4, dilation=2))
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 0


def test_states_after_lookahead_forget_the_warm_up() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.r(s.a(x).transpose(1, 2))[0].transpose(1, 2)
        out: torch.Tensor = s.b(y.cumsum(2) * 0.1)
        return out

    net = Net(body, a=conv(3, padding=1), b=conv(3, padding=1), r=nn.GRU(4, 4, batch_first=True))
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 2


def test_frames_folded_into_the_batch_are_delayed_too() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.l(x.reshape(-1, 3, 5))
        late = s.d(y.reshape(x.shape[0], x.shape[1], -1).transpose(1, 2)).transpose(1, 2)
        return (y + late.reshape(-1, 3, 5)).reshape(x.shape)

    net = Net(body, l=nn.Linear(5, 5), d=nn.Conv1d(15, 15, 3, padding=1))
    assert streams(net, torch.randn(1, 8, 3, 5), 1).delay == 1


def test_constant_over_time_needs_no_delay_line() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        return torch.cat([s.c(x), s.e.expand(x.shape[0], 2, x.shape[2])], dim=1)

    net = Net(body, c=conv(3, padding=1), e=nn.Parameter(torch.randn(1, 2, 1)))
    assert len(streams(net, torch.randn(1, 4, 8), 2).states) == 1


def test_outputs_with_different_delays_come_out_aligned() -> None:
    net = Net(lambda s, x: (s.a(x), s.b(F.pad(x, (2, 0))), x), a=conv(5, padding=2), b=conv(3))
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 2
