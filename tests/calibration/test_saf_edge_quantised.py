"""The shipped kind of network: streamified, quantised on sound, compared in closed loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import spectral_edge as se
from spectral_edge.calibration.sensitivity import sensitivity
from spectral_edge.program import StepProgram
from tests.calibration.step_programs import check_canonical, onnxruntime_codes
from tests.tolerances import ONNXRUNTIME_CODES_EQUAL, W8A8_OPS_SQNR_DB


def features(clips: int, frames: int, seed: int) -> Tensor:
    """Return spectra of noise whose level moves: float32[clips, 3, frames, 257]."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(clips, 1, frames, 257, generator=generator).cumsum(2).sin().abs()
    real, imag = (level * torch.randn(clips, 1, frames, 257, generator=generator) for _ in range(2))
    magnitude = (real.square() + imag.square() + 1e-12).sqrt()
    gain = magnitude**-0.7
    return torch.cat([gain * magnitude, gain * real, gain * imag], 1)


@pytest.fixture(scope="module")
def programs() -> tuple[StepProgram, StepProgram]:
    torch.manual_seed(0)
    model = se.models.saf_edge_nano(se.StftFrontend()).eval()
    program = se.streamify(model, torch.randn(1, 3, 8, 257), time_dim=2, check_lengths=())
    return program, se.quantize(program, [(features(4, 60, 1),)])


def test_every_boundary_tensor_is_int8_and_states_are_tied(
    programs: tuple[StepProgram, StepProgram],
) -> None:
    program, quantised = programs
    check_canonical(quantised)
    assert [t.name for t in quantised.outputs] == ["mask", "bias"]
    assert len(quantised.states) == len(program.states)
    assert all(spec.dtype == "int8" for spec in quantised.states.values())
    assert all(spec.qparams.scale > 0 for spec in quantised.states.values())
    # the state of the stem is a piece of the input: one group from the microphone on
    assert quantised.qparams["state.stem_0"] == quantised.qparams["features"]
    assert quantised.outputs[0].qparams == se.QParams(1 / 256, -128)


def test_closed_loop_stays_close_to_float(programs: tuple[StepProgram, StepProgram]) -> None:
    program, quantised = programs
    clip = features(2, 80, 9)
    ours, theirs = program.run(clip), quantised.run(clip)
    power = ours["mask"].square().mean()
    sqnr = 10 * torch.log10(power / (ours["mask"] - theirs["mask"]).square().mean())
    assert sqnr > W8A8_OPS_SQNR_DB
    table = sensitivity(program, quantised, [(clip[:1, :, :10],)])
    assert table[0].sqnr_db <= table[-1].sqnr_db
    assert np.isfinite(table[0].sqnr_db)
    assert any(entry.module.startswith("layers.0") for entry in table)


def test_onnx_runtime_gives_the_same_codes(programs: tuple[StepProgram, StepProgram]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    share, worst = onnxruntime_codes(programs[1], steps=5)
    assert share >= ONNXRUNTIME_CODES_EQUAL
    assert worst <= 1
