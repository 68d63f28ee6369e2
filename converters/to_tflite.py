"""TFLite files from step programs, written directly.

No converter in between: scales are copied verbatim (float32 bits), operator versions stay under the
oldest runtime promised, and tensors lie channels-last in memory so that no TRANSPOSE is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from spectral_edge.program import StepProgram, state_input, state_output

from .passes import clean
from .passes.common import arguments, op_name
from .tflite.program import Boundary, LoweredProgram, lower_program
from .tflite.versions import RUNTIME_FLOOR

__all__ = ["TfliteFile", "to_tflite", "write_tflite"]

SIGNATURE = "step"


@dataclass(frozen=True)
class TfliteFile:
    """A written model and what the manifest says about it.

    Attributes:
        data: the file.
        layout: tensor name -> permutation: physical axis i is logical axis perm[i]. Names whose
            layout is the logical order are absent.
        operators: number of operators.
        op_counts: operator code -> how many.
        op_versions: operator code -> highest version used.
        op_dtypes: (operator code, dtype of its data) -> how many, for the coverage table.
        runtime_floor: runtime -> oldest version that registers all of them.
    """

    data: bytes
    layout: dict[str, list[int]]
    operators: int
    op_counts: dict[str, int]
    op_versions: dict[str, int]
    op_dtypes: dict[tuple[str, str], int]
    runtime_floor: dict[str, str]


def to_tflite(program: StepProgram) -> bytes:
    """Write ``program`` as a TFLite file with one signature, ``step``.

    Inputs, outputs and states are int8 where the program quantises them, else float32. Rank-4
    tensors at the boundary are NHWC; see :func:`write_tflite` for the layout table.

    Raises:
        UnsupportedOp: an op that has no lowering.
    """
    return write_tflite(program).data


def write_tflite(program: StepProgram) -> TfliteFile:
    """Write ``program`` and report layout, operators and versions.

    Raises:
        UnsupportedOp: an op that has no lowering.
    """
    lowered = _lower(program)
    builder = lowered.lowering.builder
    data = builder.finish(
        lowered.inputs,
        lowered.outputs,
        signature=SIGNATURE,
        description="spectral-edge step",
        metadata={"min_runtime_version": RUNTIME_FLOOR["tflite-runtime"].encode().ljust(16, b"\0")},
    )
    layout = {
        name: list(perm) for name, perm in lowered.layouts.items() if list(perm) != sorted(perm)
    }
    return TfliteFile(
        data,
        layout,
        len(builder.operators),
        builder.op_counts,
        builder.op_versions,
        builder.op_dtypes,
        dict(RUNTIME_FLOOR),
    )


def _lower(program: StepProgram) -> LoweredProgram:
    example: list[Any] = [
        torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in program.inputs
    ]
    example += list(program.initial_states(1))
    module = clean(program.module, example)
    inputs = [_boundary(t.name, t) for t in program.inputs]
    inputs += [_boundary(state_input(n), s) for n, s in program.states.items()]
    outputs = [_boundary(t.name, t) for t in program.outputs]
    outputs += [_boundary(state_output(n), s, state_input(n)) for n, s in program.states.items()]
    return lower_program(module, inputs, outputs, op_name, arguments)


def _boundary(name: str, spec: Any, like: str | None = None) -> Boundary:
    dtype = spec.qparams.dtype if spec.qparams is not None else spec.dtype
    return Boundary(name, tuple(spec.shape), dtype, spec.qparams, like)
