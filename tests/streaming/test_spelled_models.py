"""Parametrised weights, in-place ops, norms by stored statistics, data movement, structures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import spectral_edge as se
from tests.streaming.support import Net, streams


def causal(layer: nn.Module, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), layer, *more)


def targets(program: se.StepProgram) -> list[str]:
    return [str(n.target) for n in program.module.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "old", "standardised"])
def test_parametrised_weights_are_computed_once(kind: str) -> None:
    conv = nn.Conv1d(4, 4, 3)
    if kind == "standardised":
        net: nn.Module = Net(
            lambda s, x: F.conv1d(F.pad(x, (2, 0)), (s.w - s.w.mean()) / s.w.std()),
            w=nn.Parameter(torch.randn(4, 4, 3)),
        )
    elif kind == "old":
        with pytest.warns(FutureWarning):
            net = causal(nn.utils.weight_norm(conv))
    else:
        net = causal(getattr(parametrizations, kind)(conv))
    program = streams(net, torch.randn(1, 4, 8), 2)
    assert program.node_count == 3  # join, keep, convolve


class Halved(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w * 0.5


def test_parametrised_recurrence() -> None:
    net = Net(lambda s, x: s.r(x)[0], r=nn.GRU(5, 6, batch_first=True))
    parametrize.register_parametrization(net.part("r"), "weight_hh_l0", Halved())
    streams(net, torch.randn(1, 8, 5), 1)


def test_in_place_activations() -> None:
    streams(causal(nn.Conv1d(4, 4, 3), nn.ReLU(True), nn.Hardswish(True)), torch.randn(1, 4, 8), 2)


def test_in_place_addition_seen_by_an_alias() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = s.c(F.pad(x, (2, 0)))
        skip = y
        y += 1
        return torch.relu_(y * 2) + skip

    streams(Net(body, c=nn.Conv1d(4, 4, 3)), torch.randn(1, 4, 8), 2)


def test_channels_assigned() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y = x.clone()
        y[:, 1:3] = s.c(x)[:, 1:3] * 2
        y[:, 0] = 0
        return y

    streams(Net(body, c=nn.Conv1d(4, 4, 1)), torch.randn(1, 4, 8), 2)


@pytest.mark.parametrize(
    ("net", "shape", "axis"),
    [
        (nn.Sequential(nn.BatchNorm1d(4), causal(nn.Conv1d(4, 4, 3))), (1, 4, 8), 2),
        (nn.InstanceNorm1d(4, track_running_stats=True), (1, 4, 8), 2),
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm2d(3)), (1, 3, 8, 6), 2),
    ],
    ids=["before", "instance", "after linear"],
)
def test_norms_by_stored_statistics(net: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    streams(net, torch.randn(shape), axis)


def test_norm_after_transposed_convolution_is_folded() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 6, (1, 4), (1, 2), (0, 1), groups=2), nn.BatchNorm2d(6), nn.PReLU(6)
    )
    program = streams(net, torch.randn(1, 4, 8, 6), 2)
    assert targets(program).count("aten.conv2d.default") == 1
    assert not any("mul" in t or "transpose" in t for t in targets(program))


MOVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gate by chunk": (lambda s, x: _gate(*x.chunk(2, 1)), {}),
    "glu": (lambda s, x: F.glu(x, 1), {}),
    "shuffle by views": (
        lambda s, x: x.reshape(x.shape[0], 2, 3, -1, 8).transpose(1, 2).flatten(1, 2),
        {},
    ),
    "shuffle": (lambda s, x: F.channel_shuffle(x, 2), {}),
    "constant joined": (
        lambda s, x: torch.cat([x, s.e.expand(x.shape[0], 1, x.shape[2], 8)], 1),
        {"e": torch.randn(1, 1, 1, 8)},
    ),
    "band coordinate": (
        lambda s, x: torch.cat(
            [x, torch.linspace(0, 1, 8).view(1, 1, 1, 8).expand(x.shape[0], 1, x.shape[2], 8)], 1
        ),
        {},
    ),
    "index by list": (lambda s, x: x[:, [0, 2, 4]], {}),
    "index by buffer": (lambda s, x: x[..., s.i], {"i": torch.tensor([3, 1, 0])}),
    "select": (lambda s, x: x[:, 2].unsqueeze(1) * x, {}),
    "flatten bands": (lambda s, x: x.permute(0, 2, 1, 3).flatten(2).transpose(1, 2), {}),
    "sort, top, maximum": (
        lambda s, x: x.sort(-1).values + x.topk(8, -1)[0] + x.max(-1, keepdim=True)[0],
        {},
    ),
    "layer norm": (
        lambda s, x: s.n(x.transpose(1, 2)).transpose(1, 2),
        {"n": nn.LayerNorm((6, 8))},
    ),
    "group norm per frame": (
        lambda s, x: (
            s.n(x.transpose(1, 2).reshape(-1, 6, 8)).reshape(x.shape[0], -1, 6, 8).transpose(1, 2)
        ),
        {"n": nn.GroupNorm(2, 6)},
    ),
    "roll over bands": (lambda s, x: x.roll(1, -1) + x.flip(1), {}),
    "choose": (lambda s, x: torch.where(x.mean(1, keepdim=True) > 0, x, torch.zeros_like(x)), {}),
    "dropout": (lambda s, x: F.dropout(x, training=s.training), {}),
}


def _gate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a * torch.sigmoid(b)


@pytest.mark.parametrize("name", MOVES)
def test_within_a_frame(name: str) -> None:
    body, parts = MOVES[name]
    assert not streams(Net(body, **parts), torch.randn(1, 6, 8, 8), 2).states


class ThreeInputs(nn.Module):
    """Spectrum, features at another axis order, and an embedding without time."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv1d(3, 4, 3, padding=1)
        self.aux = nn.Linear(2, 4)
        self.time = nn.GRU(4, 4, batch_first=True)

    def forward(
        self, spectrum: torch.Tensor, aux: torch.Tensor, voice: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        z = self.look(spectrum) + self.aux(aux).transpose(1, 2) + voice[:, :, None]
        h = self.time(z.transpose(1, 2))[0]
        return {"mask": torch.sigmoid(z), "hidden": h, "vad": h.mean(-1)}


def test_several_inputs_and_a_dict_of_outputs() -> None:
    example = (torch.randn(1, 3, 8), torch.randn(1, 8, 2), torch.randn(1, 4))
    program = streams(ThreeInputs(), example, (2, 1, None))
    assert [t.name for t in program.inputs] == ["spectrum", "aux", "voice"]
    assert [t.name for t in program.outputs] == ["mask", "hidden", "vad"]
    assert [t.time_dim for t in program.outputs] == [2, 1, 1]
    assert program.delay == 1


def test_a_tuple_of_outputs() -> None:
    net = Net(lambda s, x: (x * 2, s.c(F.pad(x, (2, 0)))), c=nn.Conv1d(4, 4, 3))
    program = streams(net, torch.randn(1, 4, 8), 2)
    assert [t.name for t in program.outputs] == ["output_0", "output_1"]


def test_the_model_is_not_changed() -> None:
    net = Net(lambda s, x: s.r(s.n(x))[0], n=nn.LayerNorm(5), r=nn.GRU(5, 6, batch_first=True))
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    se.streamify(net, torch.randn(1, 8, 5), 1)
    assert net.training
    assert type(net.r) is nn.GRU
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_stream_goes_on_from_any_state() -> None:
    """Feeding a clip in two halves, states carried over, gives what one run gives."""
    from spectral_edge.streaming.rollout import unroll

    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.r(s.c(F.pad(x, (2, 0))).transpose(1, 2))[0].cumsum(1),
        c=nn.Conv1d(4, 5, 3),
        r=nn.LSTM(5, 6, batch_first=True),
    ).eval()
    program = se.streamify(net, torch.randn(1, 4, 8), 2)
    clip = torch.randn(3, 4, 40)
    with torch.no_grad():
        *_, (_, states) = unroll(program, [clip[..., :23]])
        late = [y[0] for y, _ in unroll(program, [clip[..., 23:]], states)]
        want = net(clip)[:, 23:]
    assert torch.allclose(torch.cat(late, 1), want, atol=1e-5 * float(want.abs().max()))


def test_other_initial_states_are_where_the_stream_starts() -> None:
    """From a given hidden vector the stream equals the recurrence started there."""
    from spectral_edge.streaming.rollout import unroll

    torch.manual_seed(0)
    net = Net(lambda s, x: s.r(x)[0], r=nn.GRU(5, 6, batch_first=True)).eval()
    program = se.streamify(net, torch.randn(1, 8, 5), 1)
    clip, hidden = torch.randn(2, 9, 5), torch.randn(2, 6)
    with torch.no_grad():
        got = torch.cat([y[0] for y, _ in unroll(program, [clip], (hidden,))], 1)
        want = net.part("r")(clip, hidden[None])[0]
    assert torch.allclose(got, want, atol=1e-6)
