"""Every way to write a left pad, a shift, or a stack of frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.support import Net, streams


def conv(**more: Any) -> nn.Conv1d:
    return nn.Conv1d(4, 4, 3, **more)


def shift_by_assignment(s: Any, x: torch.Tensor) -> Any:
    y = torch.zeros_like(x)
    y[..., 1:] = x[..., :-1]
    return y + x


CAUSAL: dict[str, Any] = {
    "constant": lambda: Net(lambda s, x: s.c(F.pad(x, (2, 0), value=-3.0)), c=conv()),
    "modules": lambda: nn.Sequential(
        nn.ConstantPad1d((2, 0), 1.5), conv(), nn.ZeroPad1d((2, 0)), conv()
    ),
    "zeros joined": lambda: Net(
        lambda s, x: s.c(torch.cat([x.new_zeros(x.shape[0], 4, 2), x], 2)), c=conv()
    ),
    "parameters joined": lambda: Net(
        lambda s, x: s.c(torch.cat([s.p.expand(x.shape[0], 4, 2), x], 2)),
        c=conv(),
        p=nn.Parameter(torch.randn(1, 4, 2)),
    ),
    "first frame joined": lambda: Net(
        lambda s, x: s.c(torch.cat([x[..., :1].repeat(1, 1, 2), x], 2)), c=conv()
    ),
    "first frame expanded": lambda: Net(
        lambda s, x: s.c(torch.cat([x[..., :1].expand(-1, -1, 2), x], 2)), c=conv()
    ),
    "replicate": lambda: Net(lambda s, x: s.c(F.pad(x, (2, 0), mode="replicate")), c=conv()),
    "replicate, deeper": lambda: Net(
        lambda s, x: s.c(F.pad(torch.relu(s.d(F.pad(x, (2, 0)))), (4, 0), mode="replicate")),
        d=conv(),
        c=conv(dilation=2),
    ),
    "replicate through layers": lambda: Net(
        lambda s, x: s.c(torch.sigmoid(s.d(F.pad(x, (4, 0), mode="replicate")))), d=conv(), c=conv()
    ),
    "replicate and a skip": lambda: Net(
        lambda s, x: (
            s.c(F.pad(x, (2, 0), mode="replicate")) + F.pad(x, (2, 0), mode="replicate")[..., :-2]
        ),
        c=conv(),
    ),
    "replicate before a GRU": lambda: Net(
        lambda s, x: s.r(F.pad(x, (2, 0), mode="replicate").transpose(1, 2))[0][:, :-2],
        r=nn.GRU(4, 4, batch_first=True),
    ),
    "shift by joining": lambda: Net(
        lambda s, x: x - torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], 2)
    ),
    "shift by padding": lambda: Net(lambda s, x: x - F.pad(x, (1, 0))[..., :-1]),
    "shift by assignment": lambda: Net(shift_by_assignment),
    "torch.diff": lambda: Net(lambda s, x: torch.diff(x, prepend=torch.zeros_like(x[..., :1]))),
    "frames joined along channels": lambda: Net(
        lambda s, x: torch.cat([F.pad(x, (i, 0))[..., : x.shape[2]] for i in range(3)], 1)
    ),
    "frames stacked": lambda: Net(
        lambda s, x: torch.stack([x, F.pad(x, (1, 0))[..., :-1]], 2).flatten(1, 2)
    ),
    "unfold": lambda: Net(
        lambda s, x: F.pad(x, (2, 0)).unfold(2, 3, 1).permute(0, 1, 3, 2).flatten(1, 2)
    ),
    "kernel made of the input": lambda: Net(
        lambda s, x: (F.pad(x, (2, 0)).unfold(2, 3, 1) * s.k(x).unflatten(1, (4, 3)).transpose(2, 3).softmax(-1)).sum(-1),  # noqa: E501
        k=nn.Conv1d(4, 12, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str) -> None:
    assert streams(CAUSAL[name](), torch.randn(1, 4, 8), 2).delay == 0


@pytest.mark.parametrize("mode", ["constant", "replicate"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pad_after_lookahead(mode: str, stride: int) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.c(F.pad(s.look(x), (2, 0) if stride == 1 else (3, 0), mode=mode))
        return s.up(y) if stride == 2 else y

    net = Net(
        body,
        look=conv(padding=1),
        c=nn.Conv1d(4, 4, 3 if stride == 1 else 5, stride),
        up=nn.ConvTranspose1d(4, 4, 2, 2),
    )
    streams(net, torch.randn(1, 4, 8), 2)


def test_replicate_at_both_ends_of_two_layers() -> None:
    net = Net(
        lambda s, x: s.b(torch.relu(s.a(x))),
        a=nn.Conv1d(4, 4, 3, padding=1, padding_mode="replicate"),
        b=nn.Conv1d(4, 4, 5, padding=2, padding_mode="replicate"),
    )
    assert streams(net, torch.randn(1, 4, 8), 2).delay == 3


def test_replicate_over_bands_and_frames() -> None:
    net = Net(lambda s, x: s.c(F.pad(x, (1, 1, 2, 0), mode="replicate")), c=nn.Conv2d(4, 4, 3))
    streams(net, torch.randn(1, 4, 8, 6), 2)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_other_padding_over_bands_only(mode: str) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = F.pad(x, (1, 1, 0, 0), mode=mode)
        out: torch.Tensor = s.c(F.pad(y, (0, 0, 2, 0)))
        return out

    streams(Net(body, c=nn.Conv2d(4, 4, 3)), torch.randn(1, 4, 8, 6), 2)


@pytest.mark.parametrize("kernel", [(1, 3), (3, 3), (3, 8)])
def test_nn_unfold_of_frames_and_bands(kernel: tuple[int, int]) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        b, c, t, _ = x.shape
        patches = F.unfold(F.pad(x, (0, 0, kernel[0] - 1, 0)), kernel)
        out: torch.Tensor = patches.reshape(b, c * kernel[0] * kernel[1], t, 9 - kernel[1])
        return out

    program = streams(Net(body), torch.randn(1, 4, 8, 8), 2)
    assert "aten.im2col.default" not in {str(n.target) for n in program.module.graph.nodes}


@pytest.mark.parametrize("axis", [-1, -2])
def test_time_axis_counted_from_the_end(axis: int) -> None:
    pads = (2, 0) if axis == -1 else (0, 0, 2, 0)
    kernel = (1, 3) if axis == -1 else (3, 1)
    net = Net(lambda s, x: s.c(F.pad(x, pads)), c=nn.Conv2d(4, 4, kernel))
    program = streams(net, torch.randn(1, 4, 7, 7), axis)
    assert program.inputs[0].time_dim == 4 + axis
