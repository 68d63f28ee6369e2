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
    hops = program.check_inputs(clips)
    frames = hops * program.hop_multiple
    flush = -(-program.delay // program.hop_multiple) * program.hop_multiple
    states = list(program.initial_states(clips[0].shape[0]))
    if StepProgram.LENGTH in program.states:
        states[list(program.states).index(StepProgram.LENGTH)].fill_(frames)
    padded = [
        clip if spec.time_dim is None else _followed_by_zeros(clip, spec.time_dim, frames, flush)
        for clip, spec in zip(clips, program.inputs, strict=True)
    ]
    with torch.no_grad():
        steps = [outputs for outputs, _ in unroll(program, padded, tuple(states))]
    joined = []
    for i, spec in enumerate(program.outputs):
        assert spec.time_dim is not None
        whole = torch.cat([step[i] for step in steps], dim=spec.time_dim)
        rate = spec.shape[spec.time_dim] / program.hop_multiple  # output frames per input frame
        start, length = int(program.delay * rate), int(frames * rate)
        joined.append(whole.narrow(spec.time_dim, start, length))
    return pack_outputs(program, joined)


def _followed_by_zeros(clip: torch.Tensor, axis: int, frames: int, extra: int) -> torch.Tensor:
    clip = clip.narrow(axis, 0, frames)
    if not extra:
        return clip
    shape = list(clip.shape)
    shape[axis] = extra
    return torch.cat([clip, clip.new_zeros(shape)], dim=axis)


def pack_outputs(program: StepProgram, tensors: Sequence[torch.Tensor]) -> Any:
    """Return outputs in the structure in which the model returned them."""
    if program.output_kind == "dict":
        return {spec.name: t for spec, t in zip(program.outputs, tensors, strict=True)}
    if program.output_kind == "tuple":
        return tuple(tensors)
    return tensors[0]
