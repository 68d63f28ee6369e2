"""Streamed and quantised models, states fed back as raw codes, on both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import spectral_edge as se
from spectral_edge.converters.coverage import delegation
from spectral_edge.converters.exact import ExactStep
from spectral_edge.converters.file_qparams import verify_qparams
from spectral_edge.converters.golden import golden_rollout
from spectral_edge.converters.to_onnx import write_onnx
from spectral_edge.converters.to_tflite import write_tflite
from spectral_edge.program import StepProgram
from tests.converters.gallery import LitertStep, onnx_session, run_onnx
from tests.tolerances import LITERT_CODES_EQUAL, ONNXRUNTIME_CODES_EQUAL


class Spectral(nn.Module):
    """Causal 2-D convolutions, depth-wise in time, a gate, up-sampling, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, (2, 3), stride=(1, 2), padding=(0, 1))
        self.time = nn.Conv2d(8, 8, (3, 1), groups=8, dilation=(2, 1))
        self.gate = nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 1, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.stem(F.pad(x, (0, 0, 1, 0))))
        h = h + self.time(F.pad(h, (0, 0, 4, 0))) * torch.sigmoid(self.gate(h))
        h = F.interpolate(h, size=(h.shape[2], 2 * h.shape[3]), mode="nearest")[..., :33]
        return torch.sigmoid(self.out(h))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(24, 16)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.leave = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.leave(self.gru(F.relu(self.enter(x)))[0]))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(24, 16, 3, dilation=2)
        self.b = nn.Conv1d(16, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(F.pad(x, (4, 0)))))


class Lookahead(nn.Module):
    """Two future frames: states hold counters, edges are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(24, 16, 3, padding=1)
        self.b = nn.Conv1d(16, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


class Normed(nn.Module):
    """Float islands: layer norm and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.mix = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.mix(self.norm(x)))


MODELS = {
    "spectral": (Spectral, (1, 2, 20, 33), 2),
    "recurrent": (Recurrent, (1, 20, 24), 1),
    "signal": (Signal, (1, 24, 20), 2),
    "lookahead": (Lookahead, (1, 24, 20), 2),
    "normed": (Normed, (1, 20, 24), 1),
}
HOPS = 500


@pytest.fixture(scope="module", params=MODELS)
def programs(request: pytest.FixtureRequest) -> tuple[StepProgram, StepProgram]:
    """The float and the int8 program of a model."""
    kind, shape, time_dim = MODELS[request.param]
    torch.manual_seed(0)
    program = se.streamify(kind().eval(), torch.randn(shape), time_dim=time_dim)
    long = [HOPS if i == time_dim else n for i, n in enumerate(shape)]
    return program, se.quantize(program, [(torch.randn(long),)])


def _initial(program: StepProgram) -> dict[str, NDArray[Any]]:
    from spectral_edge.converters.golden import initial_code

    return {f"state.{n}": initial_code(s) for n, s in program.states.items()}


def _closed_loop(
    step: Any, program: StepProgram, golden: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """All outputs, and the last states, of an engine that feeds back its own states."""
    states = _initial(program)
    rows: dict[str, list[NDArray[Any]]] = {t.name: [] for t in program.outputs}
    for hop in range(len(golden[f"input.{program.inputs[0].name}"])):
        feeds = {t.name: golden[f"input.{t.name}"][hop] for t in program.inputs}
        results = step({**feeds, **states})
        states = {n: results[f"{n}.next"] for n in states}
        for name, values in rows.items():
            values.append(results[name])
    return {f"output.{n}": np.stack(v) for n, v in rows.items()} | states


def _compare(golden: dict[str, NDArray[Any]], got: dict[str, NDArray[Any]], share: float) -> None:
    for name, values in got.items():
        difference = np.abs(values.astype(np.int64) - golden[name].astype(np.int64))
        assert difference.max() <= 1, name
        assert np.mean(difference == 0) >= share, name


def test_engines_give_the_codes_of_torch(programs: tuple[StepProgram, StepProgram]) -> None:
    _, program = programs
    golden, _ = golden_rollout(program)
    assert len(golden[f"input.{program.inputs[0].name}"]) >= HOPS
    file, onnx = write_tflite(program), write_onnx(program)
    assert verify_qparams(program, file.data, onnx.data) == []
    assert delegation(file.data).partitions == 1
    litert = LitertStep(file.data, file.layout)
    _compare(golden, _closed_loop(litert, program, golden), LITERT_CODES_EQUAL)
    session = onnx_session(onnx.data)
    _compare(
        golden,
        _closed_loop(lambda feeds: run_onnx(session, feeds), program, golden),
        ONNXRUNTIME_CODES_EQUAL,
    )


def test_exact_step_is_fake_quantised_torch_but_for_rounding(
    programs: tuple[StepProgram, StepProgram],
) -> None:
    _, program = programs
    exact = ExactStep(program)
    inputs = [torch.randn(t.shape) for t in program.inputs]
    states = program.initial_states(1)
    for _ in range(5):
        want, after = program.step(inputs, states)
        got, _ = exact.step(inputs, states)
        for spec, a, b in zip(program.outputs, want, got, strict=True):
            assert spec.qparams is not None
            assert (a - b).abs().max() <= 1.01 * spec.qparams.scale
        states = after


def test_float_program_in_litert(programs: tuple[StepProgram, StepProgram]) -> None:
    program, _ = programs
    golden, source = golden_rollout(program)
    assert "noise" in source
    file = write_tflite(program)
    got = _closed_loop(LitertStep(file.data, file.layout), program, golden)
    for name, values in got.items():
        assert np.abs(values - golden[name]).max() <= 1e-5 * max(1.0, np.abs(golden[name]).max())
