"""The first arrow: from an ``nn.Module`` over clips to a proven :class:`StepProgram`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectral_edge.errors import SpecError
from spectral_edge.program import StepProgram, TensorSpec
from spectral_edge.streaming.optable import ON_PAIRS, RULES
from spectral_edge.streaming.recurrent import opaque_recurrence
from spectral_edge.streaming.rewrite import Rewriter
from spectral_edge.streaming.tidy import tidy
from spectral_edge.streaming.trace import ClipGraph, trace
from spectral_edge.streaming.value import Value
from spectral_edge.streaming.verify import CHECK_LENGTHS, verify
from spectral_edge.streaming.waveform import SpectralNetwork, Transform, find_transforms, prove

__all__ = ["streamify"]


def streamify(
    model: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    time_dim: int | Sequence[int | None],
    *,
    check_lengths: Sequence[int] = CHECK_LENGTHS,
    sample_rate: int = 16_000,
) -> StepProgram:
    """Derive the one-hop program of a causal model and prove it.

    The model is traced over clips of symbolic length; every op that reaches across time is
    rewritten
    into the current frame plus explicit state; the result is compared with the model on random
    clips.

    Args:
        model: any module; traced in eval mode, not changed.
        example: one tensor per input of ``forward``; only rank, dtype and sizes other than batch
            and time count.
        time_dim: time axis, one for all inputs or one per input (None: an input without time).
        check_lengths: lengths in steps of the clips compared; empty skips the comparison.
        sample_rate: Hz, for the front end of a model that starts at the waveform.

    Returns:
        A float32 program with ``program.run(clip) == model(clip)``. A model from waveform to
        waveform (``torch.stft`` with ``center=False``, or convolutions with a Fourier basis, and
        the inverse) is split: the program is the network between the transforms, from features to
        a mask, and ``program.frontend`` does the transforms.

    Raises:
        NotStreamable: an op that is not causal with finite lookahead: where, why, what instead.
        ParityError: the derived program differs from the model (never returned silently).
        SpecError: example and time_dim do not fit together.
    """
    tensors = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise SpecError("example must be a tensor or a tuple of tensors")
    dims = [time_dim] * len(tensors) if isinstance(time_dim, int) else list(time_dim)
    if len(dims) != len(tensors):
        raise SpecError(f"time_dim has {len(dims)} entries, example has {len(tensors)} tensors")
    dims = [
        d + t.ndim if d is not None and d < 0 else d for d, t in zip(dims, tensors, strict=True)
    ]
    model = _copy(model).eval()
    transform = find_transforms(model, tensors)
    if transform is not None:
        return _split(model, transform, tensors[0], check_lengths, sample_rate)
    clip = trace(opaque_recurrence(_copy(model)), tensors, dims)
    program = _rewrite(clip)
    if check_lengths:
        error = verify(program, model, tensors, check_lengths)
        program = program.with_(
            provenance={**program.provenance, "streaming_parity": f"{error:.1e} of the peak"}
        )
    return program.with_(provenance={**program.provenance, "model": type(model).__name__})


def _split(
    model: nn.Module,
    transform: Transform,
    wave: torch.Tensor,
    check_lengths: Sequence[int],
    sample_rate: int,
) -> StepProgram:
    """Stream what stands between the transforms of a model; see :mod:`.waveform`."""
    network = SpectralNetwork(model, transform, wave, sample_rate).eval()
    frontend = network.frontend
    features = torch.zeros(1, frontend.channels, 8, frontend.bins)
    program = streamify(network, features, 2, check_lengths=check_lengths)
    if check_lengths:
        prove(program, network, model, wave)
    provenance = {**program.provenance, "model": type(model).__name__}
    return program.with_(frontend=frontend, provenance=provenance)


def _copy(model: nn.Module) -> nn.Module:
    """Deep copy; tensors that hooks compute (old weight norm) are copied by value."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def _rewrite(clip: ClipGraph) -> StepProgram:
    rewriter = Rewriter(clip, RULES, ON_PAIRS)
    outputs = rewriter.run()
    delay = max(ceil(v.offset / v.rate) for v in outputs)
    if delay == 0 and StepProgram.LENGTH in {s.name for s in rewriter.states}:
        rewriter = Rewriter(clip, RULES, ON_PAIRS, flushes=False)
        outputs = rewriter.run()
    module = rewriter.module(outputs)
    states = rewriter.state_specs()
    past = max(v.past for v in outputs)
    program = StepProgram(
        module=module,
        inputs=tuple(
            TensorSpec(name, _input_shape(x, axis, rewriter.hop), _dtype(x), axis)
            for name, x, axis in zip(clip.input_names, clip.example, clip.time_dims, strict=True)
        ),
        outputs=tuple(
            _output_spec(rewriter, name, value)
            for name, value in zip(clip.output_names, outputs, strict=True)
        ),
        states=states,
        output_kind=clip.output_kind,
        delay=delay,
        receptive_field=None if past >= rewriter.UNBOUNDED else ceil(past) + delay + 1,
        hop_multiple=rewriter.hop,
    )
    before = _census(program)
    tidy(program.module, lambda batch: _zeros(program, batch))
    graph = {"derived": before, "tidied": _census(program)}
    return program.with_(macs=_count_macs(program), provenance={"graph": graph})


def _census(program: StepProgram) -> dict[str, int]:
    """Count what costs time and memory besides arithmetic."""
    targets = [str(n.target) for n in program.module.graph.nodes if n.op == "call_function"]
    return {
        "nodes": program.node_count,
        "transposes": sum(t.startswith(("aten.permute", "aten.transpose")) for t in targets),
        "state_values": program.state_elements,
    }


def _input_shape(x: torch.Tensor, axis: int | None, hop: int) -> tuple[int, ...]:
    shape = [1, *x.shape[1:]]
    if axis is not None:
        shape[axis] = hop
    return tuple(shape)


def _output_spec(rewriter: Rewriter, name: str, value: Value) -> TensorSpec:
    val: Any = value.clip.meta["val"]
    shape = tuple(1 if n == -1 else int(n) for n in rewriter.step_shape(val))
    return TensorSpec(name, shape, _dtype(val), value.axis)


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _zeros(program: StepProgram, batch: int) -> list[torch.Tensor]:
    """Return inputs and states of the step for a batch size."""
    inputs = [
        torch.zeros((batch, *t.shape[1:]), dtype=getattr(torch, t.dtype)) for t in program.inputs
    ]
    return [*inputs, *program.initial_states(batch)]


def _count_macs(program: StepProgram) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        program.module(*_zeros(program, 1))
    return int(counter.get_total_flops()) // 2
