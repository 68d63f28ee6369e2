"""The law of streaming on small causal models: hop by hop equals the clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

import spectral_edge as se
from spectral_edge.errors import NotStreamable, ParityError, SpecError, StreamError
from tests.tolerances import STEP_EQUALS_CLIP_RELATIVE

LENGTHS = (1, 2, 3, 17, 100, 1000)


def assert_stream_equals_clip(
    model: nn.Module, program: se.StepProgram, shape: list[int], axis: int, length: int
) -> None:
    shape = list(shape)
    shape[axis] = length
    clip = torch.randn(shape)
    with torch.no_grad():
        want = model(clip)
    got = program.run(clip)
    pairs = [(want[k], got[k]) for k in want] if isinstance(want, dict) else [(want, got)]
    for a, b in pairs:
        assert a.shape == b.shape
        assert (a - b).abs().max() <= STEP_EQUALS_CLIP_RELATIVE * a.abs().max()


def randomise_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return model.eval()


class CausalBlock(nn.Module):
    """Every kind of op that the edge denoiser has, with a skip path that needs a delay line."""

    def __init__(self, dilation: int = 3) -> None:
        super().__init__()
        self.dilation = dilation
        self.stem = nn.Conv2d(3, 8, (2, 5), (1, 2), (0, 2), bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.time = nn.Conv2d(8, 8, (3, 1), dilation=(dilation, 1), groups=8)
        self.band = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu6(self.norm(self.stem(F.pad(features, (0, 0, 1, 0)))))
        y = torch.sigmoid(self.time(F.pad(x, (0, 0, 2 * self.dilation, 0))))
        x = x + self.band(x) * y
        x = F.interpolate(x, scale_factor=(1.0, 2.0), mode="nearest")[..., :17]
        out = self.head(x)
        late = F.pad(out, (0, 0, 2, 0))[:, :, :-2]
        return {"mask": torch.sigmoid(out[:, :1]), "bias": out[:, 1:] + late[:, 1:]}


@pytest.fixture(scope="module")
def block() -> tuple[nn.Module, se.StepProgram]:
    torch.manual_seed(0)
    model = randomise_norms(CausalBlock())
    return model, se.streamify(model, torch.randn(1, 3, 4, 17), 2)


@pytest.mark.parametrize("length", LENGTHS)
def test_block_stream_equals_clip(block: Any, length: int) -> None:
    model, program = block
    assert_stream_equals_clip(model, program, [2, 3, 0, 17], 2, length)


def test_program_says_what_it_remembers(block: Any) -> None:
    _, program = block
    assert program.delay == 0
    assert program.receptive_field == 1 + 1 + 6 + 2
    assert [s.shape for s in program.states.values()] == [
        (1, 3, 1, 17),
        (1, 8, 6, 9),
        (1, 2, 2, 17),
    ]
    assert [t.name for t in program.inputs] == ["features"]
    assert [t.name for t in program.outputs] == ["mask", "bias"]
    assert program.outputs[1].shape == (1, 2, 1, 17)
    assert not any("batch_norm" in str(n.target) for n in program.module.graph.nodes)


def test_exported_program_is_static_at_batch_one(block: Any) -> None:
    _, program = block
    outputs = program.exported.module()(torch.zeros(1, 3, 1, 17), *program.initial_states(1))
    assert [tuple(t.shape) for t in outputs[:2]] == [(1, 1, 1, 17), (1, 2, 1, 17)]


def test_initial_state_is_what_padding_makes_of_it() -> None:
    class PadThenSigmoid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point = nn.Conv1d(2, 4, 1)
            self.time = nn.Conv1d(4, 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.time(torch.sigmoid(self.point(F.pad(x, (4, 0)))))
            return out

    model = PadThenSigmoid().eval()
    program = se.streamify(model, torch.randn(1, 2, 9), 2)
    (state,) = program.states.values()
    assert model.point.bias is not None
    bias = torch.sigmoid(model.point.bias).detach()
    assert torch.allclose(torch.from_numpy(state.initial)[0], bias[:, None].expand(4, 4))
    assert_stream_equals_clip(model, program, [3, 2, 0], 2, 11)


def test_time_may_be_on_any_axis_and_merged_into_the_batch() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bands = nn.Conv1d(4, 4, 3, padding=1)
            self.time = nn.Conv1d(20, 20, 3, groups=20)
            self.out = nn.Linear(20, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, 4, 5]
            b, t = x.shape[0], x.shape[1]
            y = self.bands(x.reshape(b * t, 4, 5)).reshape(b, t, 20)
            y = self.time(F.pad(y.transpose(1, 2), (2, 0))).transpose(1, 2)
            out: torch.Tensor = self.out(F.layer_norm(y, (20,)))
            return out

    model = TimeFirst().eval()
    program = se.streamify(model, torch.randn(2, 7, 4, 5), 1)
    assert_stream_equals_clip(model, program, [2, 0, 4, 5], 1, 23)


def test_stride_in_time_makes_a_hop_multiple() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(2, 4, 4, stride=2)
            self.b = nn.Conv1d(4, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.a(F.pad(x, (2, 0))))
            out: torch.Tensor = self.b(F.pad(x, (1, 0)))
            return out

    model = Strided().eval()
    program = se.streamify(model, torch.randn(1, 2, 16), 2)
    assert program.hop_multiple == 4
    assert_stream_equals_clip(model, program, [2, 2, 0], 2, 4 * 13)


class RandomTcn(nn.Module):
    def __init__(self, layers: list[tuple[int, int, bool, bool]]) -> None:
        super().__init__()
        self.layers = layers
        self.convs = nn.ModuleList(
            nn.Conv1d(4, 4, k, dilation=d, groups=4 if g else 1) for k, d, _, g in layers
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for (k, d, skip, _), conv in zip(self.layers, self.convs, strict=True):
            y = torch.relu(conv(F.pad(x, ((k - 1) * d, 0))))
            x = x + y if skip else y + F.pad(x, (d, 0))[..., : -d or None]
        return x


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_random_causal_stacks(layers: list[tuple[int, int, bool, bool]]) -> None:
    model = RandomTcn(layers).eval()
    program = se.streamify(model, torch.randn(1, 4, 8), 2)
    assert program.delay == 0
    assert_stream_equals_clip(model, program, [1, 4, 0], 2, 31)


# -- refusals -----------------------------------------------------------------------------------


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:  # [batch, frames, 4]
        if self.kind == "mean over time":
            return self.inner(x - x.mean(dim=1, keepdim=True))
        if self.kind == "softmax over time":
            return torch.softmax(self.inner(x), dim=1)
        if self.kind == "attention over all time":
            return torch.softmax(x @ x.transpose(1, 2), dim=-1) @ x
        if self.kind == "reversed":
            return x.flip(1)
        if self.kind == "loop":
            frames = [self.inner(x[:, i]) for i in range(x.shape[1])]
            return torch.stack(frames, dim=1)
        if self.kind == "data dependent":
            return self.inner(x) if x.sum() > 0 else x
        if self.kind == "last frames":
            return self.inner(x[:, -3:])
        raise AssertionError(self.kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mean over time", "works over all frames"),
        ("softmax over time", "works over all frames"),
        ("attention over all time", "every frame to every other frame"),
        ("reversed", "works over all frames"),
        ("loop", "layers.scan"),
        ("data dependent", "torch.where"),
        ("last frames", "counted from the end"),
    ],
)
def test_refusals_say_where_why_and_what_instead(kind: str, words: str) -> None:
    with pytest.raises(NotStreamable, match=words) as caught:
        se.streamify(Refused(kind).eval(), torch.randn(1, 6, 4), 1)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_wrong_program_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_edge.streaming import rewrite

    monkeypatch.setattr(
        rewrite.Rewriter, "aligned", lambda self, values: list(values)
    )  # a defect: skip paths are no longer aligned
    with pytest.raises(ParityError, match="differ first at frame"):
        se.streamify(randomise_norms(CausalBlock()), torch.randn(1, 3, 4, 17), 2)


def test_bad_calls_are_explained(block: Any) -> None:
    model, program = block
    with pytest.raises(SpecError, match="entries"):
        se.streamify(model, torch.randn(1, 3, 4, 17), (2, 2))
    with pytest.raises(SpecError, match="axes"):
        se.streamify(model, torch.randn(1, 3, 4, 17), 0)
    with pytest.raises(StreamError, match="expected 17"):
        program.run(torch.randn(1, 3, 4, 18))
    with pytest.raises(StreamError, match="one step takes"):
        program.run(torch.randn(1, 3, 0, 17))
