"""Strides, transposed convolutions, pooling, up-sampling and regrouping of frames in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.support import Net, streams


def up(stride: int = 2, **more: Any) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(4, 4, 2, stride, **more)


def down(s: Any, x: torch.Tensor) -> Any:
    y: torch.Tensor = s.down(F.pad(x, (1, 0)))
    return y


def halved() -> nn.Conv1d:
    return nn.Conv1d(4, 4, 3, 2)


CLIP = (1, 4, 16)

CASES: dict[str, tuple[Any, int, int]] = {  # net, hop_multiple, delay
    "symmetric u-net": (
        lambda: Net(
            lambda s, x: s.u(torch.relu(s.d(x))) + x,
            d=nn.Conv1d(4, 6, 4, 2, padding=1),
            u=nn.ConvTranspose1d(6, 4, 4, 2, padding=1),
        ),
        2,
        3,
    ),
    "two levels": (
        lambda: Net(
            lambda s, x: s.u(s.uu(torch.relu(s.dd(s.d(x)))) + s.d(x)) + x,
            d=nn.Conv1d(4, 6, 4, 2, padding=1),
            u=nn.ConvTranspose1d(6, 4, 4, 2, padding=1),
            dd=nn.Conv1d(6, 6, 4, 2, padding=1),
            uu=nn.ConvTranspose1d(6, 6, 4, 2, padding=1),
        ),
        4,
        7,
    ),
    "output padding": (
        lambda: Net(
            lambda s, x: s.u(torch.relu(s.d(x))),
            d=nn.Conv1d(4, 6, 3, 2, padding=1),
            u=nn.ConvTranspose1d(6, 4, 3, 2, padding=1, output_padding=1),
        ),
        2,
        1,
    ),
    "transposed, stride 1": (
        lambda: Net(lambda s, x: s.u(x)[..., :-2], u=nn.ConvTranspose1d(4, 4, 3)),
        1,
        0,
    ),
    "repetition": (
        lambda: Net(lambda s, x: F.interpolate(down(s, x), scale_factor=2.0), down=halved()),
        2,
        0,
    ),
    "repeat_interleave": (
        lambda: Net(lambda s, x: down(s, x).repeat_interleave(2, 2), down=halved()),
        2,
        0,
    ),
    "sub-pixel": (
        lambda: Net(
            lambda s, x: s.u(down(s, x)).reshape(x.shape[0], 4, 2, -1).transpose(2, 3).flatten(2),
            down=halved(),
            u=nn.Conv1d(4, 8, 1),
        ),
        2,
        0,
    ),
    "average pool": (lambda: Net(lambda s, x: F.avg_pool1d(F.pad(x, (3, 0)), 4, 1)), 1, 0),
    "average pool, padded": (lambda: Net(lambda s, x: F.avg_pool1d(x, 3, 1, 1)), 1, 1),
    "max pool": (lambda: Net(lambda s, x: F.max_pool1d(F.pad(x, (2, 0)), 3, 1)), 1, 0),
    "max pool, padded": (lambda: Net(lambda s, x: F.max_pool1d(x, 3, 1, 1)), 1, 1),
    "max pool, stride": (lambda: Net(lambda s, x: s.u(F.max_pool1d(x, 2)), u=up()), 2, 0),
    "power pool": (
        lambda: Net(lambda s, x: F.lp_pool1d(F.pad(x, (1, 0)).abs() + 0.1, 2.0, 2, 1)),
        1,
        0,
    ),
    "every other frame": (lambda: Net(lambda s, x: s.u(x[..., ::2]), u=up()), 2, 0),
    "odd frames": (lambda: Net(lambda s, x: s.u(x[..., 1::2]), u=up()), 2, 0),
    "unfold with a step": (
        lambda: Net(
            lambda s, x: s.u(F.pad(x, (1, 0)).unfold(2, 3, 2).permute(0, 1, 3, 2).flatten(1, 2)),
            u=nn.ConvTranspose1d(12, 4, 2, 2),
        ),
        2,
        0,
    ),
    "output at half rate": (lambda: Net(lambda s, x: (down(s, x), x), down=halved()), 2, 0),
    "learned waveform filter bank": (
        lambda: Net(
            lambda s, x: s.u(torch.relu(s.d(F.pad(x, (4, 0)))))[..., : x.shape[-1]],
            d=nn.Conv1d(4, 6, 8, 4),
            u=nn.ConvTranspose1d(6, 4, 8, 4),
        ),
        4,
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rate(name: str) -> None:
    make, hop, delay = CASES[name]
    program = streams(make(), torch.randn(CLIP), 2)
    assert (program.hop_multiple, program.delay) == (hop, delay)


def test_frames_joined_by_reshape_and_split_again() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        pairs = s.l(x.reshape(x.shape[0], x.shape[1] // 2, 10))
        out: torch.Tensor = pairs.reshape(x.shape[0], -1, 5)
        return out

    program = streams(Net(body, l=nn.Linear(10, 10)), torch.randn(1, 8, 5), 1)
    assert (program.hop_multiple, len(program.states)) == (2, 0)


def test_bands_laid_out_in_time() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:  # a convolution over frames × bands
        y = s.c(F.pad(x.reshape(x.shape[0], 1, -1), (4, 0)))
        out: torch.Tensor = y.reshape(x.shape[0], 2, x.shape[1], 4).transpose(1, 2)
        return out

    streams(Net(body, c=nn.Conv1d(1, 2, 5)), torch.randn(1, 8, 4), 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, (2, 3), (1, 2), padding=(0, 1)),
        nn.ConvTranspose2d(4, 4, (3, 3), padding=(0, 1), groups=4, dilation=(2, 1)),
    ],
    ids=["strided bands", "grouped, dilated"],
)
def test_transposed_over_frames_and_bands(layer: nn.ConvTranspose2d) -> None:
    extra = (layer.kernel_size[0] - 1) * layer.dilation[0]
    net = Net(lambda s, x: torch.relu(s.n(s.u(x)))[:, :, :-extra], u=layer, n=nn.BatchNorm2d(4))
    program = streams(net, torch.randn(1, 4, 8, 5), 2)
    assert "mul" not in {str(n.target) for n in program.module.graph.nodes}, "norm is folded"


@pytest.mark.parametrize(
    "body",
    [
        lambda s, x: F.max_pool2d(F.pad(x, (0, 0, 2, 0)), (3, 2), (1, 2)),
        lambda s, x: F.avg_pool2d(x, (1, 2)),
        lambda s, x: F.adaptive_avg_pool2d(x, (None, 1)),
        lambda s, x: F.interpolate(x, scale_factor=(1.0, 2.0), mode="nearest"),
        lambda s, x: F.interpolate(x, scale_factor=(1.0, 2.0), mode="bilinear"),
        lambda s, x: F.max_pool1d(x.transpose(1, 2).reshape(-1, 4, 8), 2).reshape(
            x.shape[0], x.shape[2], 4, 4
        ).transpose(1, 2),
    ],
    ids=["max", "average", "adaptive", "nearest", "bilinear", "folded"],
)  # fmt: skip
def test_pooling_over_bands(body: Any) -> None:
    streams(Net(body), torch.randn(1, 4, 8, 8), 2)
