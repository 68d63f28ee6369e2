"""The golden rollout of a bundle: what torch gives, hop by hop, on real input.

Quantised programs are rolled out in exact integer arithmetic (:mod:`.exact`): a float32 sum that
flips one code early would make every engine look wrong later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectral_edge.program import StateSpec, StepProgram, TensorSpec

from .exact import ExactStep

__all__ = ["FLOAT_HOPS", "MAX_HOPS", "fake_quant_agreement", "golden_rollout", "initial_code"]

Tensors = tuple[torch.Tensor, ...]
Step = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], tuple[Tensors, Tensors]]

MAX_HOPS = 512  # enough for a proof of 500
MAX_WINDOWS = 64  # of a program over windows or pictures
WINDOW_VALUES = 1 << 22  # of all of them together
FLOAT_HOPS = 64  # float arrays are four times as large and prove no codes


def golden_rollout(
    program: StepProgram, reference: StepProgram | None = None
) -> tuple[dict[str, NDArray[Any]], str]:
    """Run the program closed loop in torch and collect integers.

    Args:
        program: float or quantised; its ``golden_inputs`` are used, or seeded noise without them.
        reference: float program to run on the same inputs.

    Returns:
        Arrays ``input.<name>`` and ``output.<name>`` [hops, …one-hop shape], ``state.<name>`` after
        the last hop, each in its deployed dtype; with ``reference`` also ``float.<output>`` on the
        hops that ``float.hops`` lists. And a word on where the inputs come from.
    """
    clips, source = _clips(program)
    limit = MAX_HOPS if program.precision != "float32" else FLOAT_HOPS
    if _is_window(program):
        hops = min(len(clips[0]), limit)
    else:
        hops = min(program.check_inputs(clips), limit)
    inputs = [_hops(clip, spec, hops) for clip, spec in zip(clips, program.inputs, strict=True)]
    coded = [_encode(x, spec) for x, spec in zip(inputs, program.inputs, strict=True)]
    real = [_decode(x, spec) for x, spec in zip(coded, program.inputs, strict=True)]
    step = program.step if program.precision == "float32" else ExactStep(program).step
    outputs, states = _rollout(program, step, real)
    arrays: dict[str, NDArray[Any]] = {}
    for spec, codes in zip(program.inputs, coded, strict=True):
        arrays[f"input.{spec.name}"] = codes
    for spec, values in zip(program.outputs, outputs, strict=True):
        arrays[f"output.{spec.name}"] = _encode(values, spec)
    for (name, state), values in zip(program.states.items(), states, strict=True):
        arrays[f"state.{name}"] = _encode(values, state)
    if reference is not None:
        floats, _ = _rollout(reference, reference.step, inputs)
        kept = np.arange(0, hops, -(-hops // FLOAT_HOPS), dtype=np.int32)
        for spec, values in zip(program.outputs, floats, strict=True):
            arrays[f"float.{spec.name}"] = values[kept]
        arrays["float.hops"] = kept
    return arrays, source


def fake_quant_agreement(
    program: StepProgram, golden: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Share of golden codes that fake-quantised torch (float32 sums) gives too, per output."""
    hops = FLOAT_HOPS
    inputs = [_decode(golden[f"input.{t.name}"][:hops], t) for t in program.inputs]
    outputs, _ = _rollout(program, program.step, inputs)
    return {
        spec.name: float(np.mean(_encode(values, spec) == golden[f"output.{spec.name}"][:hops]))
        for spec, values in zip(program.outputs, outputs, strict=True)
    }


def initial_code(spec: StateSpec) -> NDArray[Any]:
    """Initial value of a state at batch 1 in its deployed dtype."""
    real = np.broadcast_to(np.asarray(spec.initial), spec.shape)
    return _encode(real, spec)


def _clips(program: StepProgram) -> tuple[tuple[torch.Tensor, ...], str]:
    if program.golden_inputs is not None:
        size = sum(clip[0].numel() for clip in program.golden_inputs)
        keep = max(1, min(MAX_WINDOWS, WINDOW_VALUES // size)) if _is_window(program) else 1
        return tuple(clip[:keep] for clip in program.golden_inputs), "calibration data"
    generator = torch.Generator().manual_seed(0)
    clips = []
    for spec in program.inputs:
        shape = list(spec.shape)
        if spec.time_dim is not None:
            shape[spec.time_dim] *= FLOAT_HOPS
        clips.append(torch.randn(shape, generator=generator))
    return tuple(clips), "noise (the program carries no calibration data)"


def _is_window(program: StepProgram) -> bool:
    """A program without time: every window (or picture) of the clips' batch counts as a hop."""
    return not program.states and all(spec.time_dim is None for spec in program.inputs)


def _hops(clip: torch.Tensor, spec: TensorSpec, hops: int) -> NDArray[Any]:
    """Cut a clip into hops: [hops, …one-hop shape]."""
    if spec.time_dim is None:
        windows = clip.numpy()[:, None]
        return windows[:hops] if len(windows) > 1 else np.repeat(windows, hops, axis=0)
    size = spec.shape[spec.time_dim]
    cut = clip.narrow(spec.time_dim, 0, hops * size)
    return np.stack([part.numpy() for part in torch.split(cut, size, spec.time_dim)])


def _encode(values: NDArray[Any], spec: TensorSpec | StateSpec) -> NDArray[Any]:
    if spec.qparams is not None:
        return spec.qparams.quantize(values)
    return np.ascontiguousarray(values, dtype=spec.dtype)


def _decode(codes: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return spec.qparams.dequantize(codes) if spec.qparams is not None else codes


def _rollout(
    program: StepProgram, step: Step, inputs: list[NDArray[Any]]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Outputs of every hop, stacked, and the final states; real values."""
    states = program.initial_states(1)
    collected: list[list[NDArray[Any]]] = [[] for _ in program.outputs]
    with torch.no_grad():
        for hop in range(len(inputs[0])):
            frame = [torch.from_numpy(np.ascontiguousarray(x[hop])) for x in inputs]
            outputs, states = step(frame, states)
            for rows, value in zip(collected, outputs, strict=True):
                rows.append(value.numpy().copy())
    return [np.stack(rows) for rows in collected], [s.numpy().copy() for s in states]
