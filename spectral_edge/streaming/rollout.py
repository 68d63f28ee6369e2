"""Running a step program over clips: the only loop over hops on the torch side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from spectral_edge.program import StepProgram

__all__ = ["run_clip", "unroll"]

Tensors = tuple[torch.Tensor, ...]


def unroll(
    program: StepProgram, clips: Sequence[torch.Tensor], states: Tensors | None = None
) -> Iterator[tuple[Tensors, Tensors]]:
    """Feed clips hop by hop and yield ``(outputs, states after the hop)`` for each step.

    Args:
        program: float or quantised step program.
        clips: the program's inputs, time on each input's ``time_dim``; same batch.
        states: states to start from; the initial states when None.

    Raises:
        StreamError: clips that do not fit the program.
    """
    steps = program.check_inputs(clips)
    if states is None:
        states = program.initial_states(clips[0].shape[0])
    hop = program.hop_multiple
    for n in range(steps):
        frame = [
            clip if spec.time_dim is None else clip.narrow(spec.time_dim, n * hop, hop)
            for clip, spec in zip(clips, program.inputs, strict=True)
        ]
        outputs, states = program.step(frame, states)
        yield outputs, states


def run_clip(program: StepProgram, clips: Sequence[torch.Tensor]) -> Any:
    """Return what the model returns for ``clips``, computed hop by hop; see StepProgram.run."""
    with torch.no_grad():
        hops = [outputs for outputs, _ in unroll(program, clips)]
    joined = [
        torch.cat([hop[i] for hop in hops], dim=spec.time_dim)
        if spec.time_dim is not None
        else hops[-1][i]
        for i, spec in enumerate(program.outputs)
    ]
    return pack_outputs(program, joined)


def pack_outputs(program: StepProgram, tensors: Sequence[torch.Tensor]) -> Any:
    """Return outputs in the structure in which the model returned them."""
    if program.output_kind == "dict":
        return {spec.name: t for spec, t in zip(program.outputs, tensors, strict=True)}
    if program.output_kind == "tuple":
        return tuple(tensors)
    return tensors[0]
