"""Statistics that stay float in an int8 network: exact in every engine, right however long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spectral_edge as se
from spectral_edge.calibration.islands import spell_islands
from spectral_edge.program import StepProgram
from spectral_edge.runtimes.engines.registry import load_engine
from tests.tolerances import RUNNING_STATISTICS_SQNR_DB

ENGINES = ("litert", "onnxruntime")


class CumulativeNorm(nn.Module):
    """Normalises by mean and variance of all frames so far, as Conv-TasNet's cLN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, channels, frames]
        count = torch.arange(1, x.shape[2] + 1, dtype=x.dtype) * x.shape[1]
        mean = (x.sum(1).cumsum(1) / count).unsqueeze(1)
        power = (x.square().sum(1).cumsum(1) / count).unsqueeze(1)
        return (x - mean) * ((power - mean.square()).clamp_min(0) + 1e-5).rsqrt()


def cumulative(channels: int = 12) -> nn.Module:
    layers = [nn.Conv1d(channels, channels, 1), CumulativeNorm(), nn.Conv1d(channels, channels, 1)]
    return nn.Sequential(*layers, CumulativeNorm())


class NormedRecurrence(nn.Module):
    """A GRU between layer norms, the second of which reads the GRU's own output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(24), nn.LayerNorm(24)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.again = nn.GRU(24, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, 24]
        return self.again(self.second(x + self.gru(self.first(x))[0]))[0]


def quantised(model: nn.Module, shape: tuple[int, ...], axis: int, seed: int) -> StepProgram:
    torch.manual_seed(seed)
    program = se.streamify(model, torch.randn(shape), axis, check_lengths=(1, 7))
    lengths = list(shape)
    lengths[axis] = 80
    return se.quantize(program, [(torch.randn(lengths),) for _ in range(3)])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("model", "shape", "axis"),
    [(cumulative, (1, 12, 9), 2), (NormedRecurrence, (1, 9, 24), 1)],
    ids=["cumulative norm", "layer norm before a GRU"],
)
def test_engines_agree_on_every_bit(
    model: type[nn.Module], shape: tuple[int, ...], axis: int, seed: int, tmp_path: Path
) -> None:
    """No code and no float32 sum differs, though both engines add and take roots their own way."""
    torch.manual_seed(seed)
    bundle = se.export(quantised(model(), shape, axis, seed), tmp_path / "net.seb")
    report = se.check(bundle, engines=ENGINES)
    for engine in report.engines:
        for tensor in engine.tensors:
            assert tensor.equal == 1.0, (engine.engine, tensor)


def test_running_statistics_hold_beyond_the_calibration_clips() -> None:
    """Sums grow on, and the level changes, long after anything that calibration saw."""
    program = se.streamify(cumulative(), torch.randn(1, 12, 9), 2, check_lengths=(1, 7))
    torch.manual_seed(0)
    int8 = se.quantize(program, [(torch.randn(1, 12, 50),) for _ in range(4)])
    frames = 1000
    x = torch.randn(1, 12, frames)
    x[..., frames // 2 :] *= 0.5
    wanted, seen = (last_outputs(p, x, frames // 2) for p in (program, int8))
    sqnr = 10 * np.log10((wanted**2).sum() / ((wanted - seen) ** 2).sum())
    assert sqnr >= RUNNING_STATISTICS_SQNR_DB


def last_outputs(program: StepProgram, x: torch.Tensor, start: int) -> np.ndarray:
    states, outputs = program.initial_states(1), []
    with torch.no_grad():
        for t in range(x.shape[2]):
            (y,), states = program.step([x[..., t : t + 1]], states)
            outputs.append(y.numpy())
    return np.concatenate(outputs[start:], axis=2)


def test_what_nothing_remembers_keeps_its_own_operators() -> None:
    """A feed-forward layer norm is one node in ONNX and stays that."""
    model = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 4))
    int8 = quantised(model, (1, 9, 24), 1, seed=0)
    targets = [n.target for n in int8.module.graph.nodes]
    assert torch.ops.aten.layer_norm.default in targets
    assert torch.ops.aten.sqrt.default not in targets


class RootOfSum(nn.Module):
    """A running sum of square roots, so that the roots are remembered."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt().cumsum(1)


@pytest.mark.parametrize("engine", [*ENGINES, "tflite-runtime"])
def test_spelled_roots_are_correctly_rounded_in_every_engine(engine: str, tmp_path: Path) -> None:
    """Also where the engine's own square root is not; 0 and wide magnitudes included."""
    values = 20_000
    program = se.streamify(RootOfSum(), torch.rand(1, 3, values), 1, check_lengths=())
    spell_islands(program)
    bundle = se.export(program, tmp_path / "root.seb")
    loaded = load_engine(bundle, engine)
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(-25, 25, values)).astype(np.float32)
    x[:3] = (0.0, 1.0, 4.0)
    loaded.inputs["x"][...] = x
    loaded.step()
    np.testing.assert_array_equal(loaded.outputs["output"].reshape(-1), np.sqrt(x))
