"""Quantisation-aware training: the prepared step graph unrolled, truncated back-propagation.

What is trained is the graph that ships, hop by hop with its states, so weights and scales learn to
live with the errors that come back through the states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from spectral_edge.errors import CalibrationError, SpecError
from spectral_edge.program import StepProgram
from spectral_edge.streaming.rollout import pack_outputs

from .calibrate import Progress, Stream, collect_streams, run_streams, steps_of
from .fake_quant import quantizers_cached

__all__ = ["QatConfig", "train"]

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class QatConfig:
    """How to fine-tune a prepared program.

    Attributes:
        loss: ``loss(outputs, targets) -> scalar``; outputs in the structure that the model returns,
            some hops long. None: relative squared error of every output.
        data: ``(inputs, targets)`` pairs; inputs as in ``sequences``; targets any structure of
            tensors with time on the axis of the first output, aligned with the program's outputs
            (``delay`` included). None: the calibration sequences, with the float program's outputs
            as targets (distillation).
        steps: optimiser steps at most.
        batch: streams side by side.
        bptt_hops: hops per optimiser step; states carry over, gradients stop there.
        lr: Adam's learning rate of weights and biases.
        scale_lr: learning rate of scales, relative to the scale.
        zero_point_lr: learning rate of zero points, in codes.
        clip_norm: largest norm of the gradient.
        held_out: share of the streams (at least one) that decides what is kept.
        evaluate_every: optimiser steps between two looks at the held-out streams.
        patience: stop after this many looks without a better loss.
        seed: of the order of the streams.

    Raises:
        SpecError: a value outside its range.
    """

    loss: Loss | None = None
    data: Iterable[tuple[Sequence[Tensor], Any]] | None = None
    steps: int = 200
    batch: int = 8
    bptt_hops: int = 32
    lr: float = 1e-4
    scale_lr: float = 1e-3
    zero_point_lr: float = 1e-2
    clip_norm: float = 1.0
    held_out: float = 0.1
    evaluate_every: int = 50
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "bptt_hops", "evaluate_every", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(f"QatConfig {name} is {value!r}, must be an int of 1 or more")
        for name in ("lr", "scale_lr", "zero_point_lr"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"QatConfig {name} is {getattr(self, name)!r}, must be in [0, 1)")
        if not self.clip_norm > 0:
            raise SpecError(f"QatConfig clip_norm is {self.clip_norm!r}, must be positive")
        if not 0 < self.held_out < 1:
            raise SpecError(f"QatConfig held_out is {self.held_out!r}, must be in (0, 1)")


@dataclass(frozen=True)
class _Example:
    """One stream with what the outputs should be."""

    inputs: Stream
    targets: Any
    steps: int


def train(
    program: StepProgram,
    prepared: StepProgram,
    streams: Sequence[Stream],
    config: QatConfig,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train ``prepared`` in place; it ends as the best of all looks, calibration alone included.

    Args:
        program: the float program, source of targets when ``config.data`` is None.
        prepared: a calibrated program with quantisers.
        streams: the calibration streams.
        config: see :class:`QatConfig`.
        progress: called after every optimiser step.

    Returns:
        Plain data: ``kept`` (``qat`` or ``ptq``), ``ptq_loss``, ``qat_loss``, ``steps``.

    Raises:
        CalibrationError: no data.
    """
    examples, loss = _examples(program, streams, config, progress)
    count = max(1, round(config.held_out * len(examples)))
    held_out = examples[-count:]
    training = examples[:-count] or held_out
    state = prepared.module.state_dict()
    best, kept = copy.deepcopy(state), "ptq"
    ptq_loss = best_loss = _evaluate(prepared, held_out, loss, config.batch)
    qat_loss = float("inf")
    waited = done = 0
    for done in _optimise(prepared, training, loss, config, progress):
        if done % config.evaluate_every and done != config.steps:
            continue
        current = _evaluate(prepared, held_out, loss, config.batch)
        qat_loss = min(qat_loss, current)
        waited += 1
        if current < best_loss:
            best, best_loss, kept, waited = copy.deepcopy(state), current, "qat", 0
        if waited == config.patience:
            break
    prepared.module.load_state_dict(best)
    return {"kept": kept, "ptq_loss": ptq_loss, "qat_loss": qat_loss, "steps": done}


def _examples(
    program: StepProgram,
    streams: Sequence[Stream],
    config: QatConfig,
    progress: Progress | None,
) -> tuple[list[_Example], Loss]:
    """Return the data with targets, and the loss."""
    if config.data is None:
        outputs = run_streams(program, streams, 16, progress, "float targets")
        examples = [
            _Example(s, pack_outputs(program, o), steps_of(program, s))
            for s, o in zip(streams, outputs, strict=True)
        ]
    else:
        examples = [
            _Example(stream, _row(targets, row), steps_of(program, stream))
            for inputs, targets in config.data
            for row, stream in enumerate(collect_streams(program, [inputs]))
        ]
        if not examples:
            raise CalibrationError("QatConfig data is empty: give (inputs, targets) pairs")
    return examples, config.loss or _relative_error(examples)


def _row(targets: Any, row: int) -> Any:
    return pytree.tree_map(lambda t: t[row : row + 1], targets)


def _relative_error(examples: Sequence[_Example]) -> Loss:
    """Squared error of every output divided by that output's mean power over all the data."""
    columns = zip(*(pytree.tree_leaves(e.targets) for e in examples), strict=True)
    powers = [
        max(sum(float(t.square().sum()) for t in c) / sum(t.numel() for t in c), 1e-12)
        for c in columns
    ]

    def loss(outputs: Any, targets: Any) -> Tensor:
        pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(targets), powers, strict=True)
        return torch.stack([(y - t).square().mean() / power for y, t, power in pairs]).mean()

    return loss


def _evaluate(prepared: StepProgram, examples: Sequence[_Example], loss: Loss, width: int) -> float:
    """Return the mean loss over whole streams, weighted by length."""
    outputs = run_streams(prepared, [e.inputs for e in examples], width)
    total = sum(
        e.steps * float(loss(pack_outputs(prepared, o), _cut(e.targets, prepared, e.steps, 0, 0)))
        for e, o in zip(examples, outputs, strict=True)
    )
    return total / sum(e.steps for e in examples)


def _optimise(
    prepared: StepProgram,
    examples: Sequence[_Example],
    loss: Loss,
    config: QatConfig,
    progress: Progress | None,
) -> Iterator[int]:
    """Do one optimiser step after another; yield how many were done."""
    module = prepared.module
    optimizer = torch.optim.Adam(_parameter_groups(module, config))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    windows = _Windows(prepared, examples, config)
    for done in range(1, config.steps + 1):
        inputs, targets, states = windows.next()
        outputs: list[tuple[Tensor, ...]] = []
        with quantizers_cached(module):
            for n in range(windows.hops):
                output, states = prepared.step(windows.frame(inputs, n), states)
                outputs.append(output)
            value = loss(_join(prepared, outputs), targets)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        schedule.step()
        windows.states = tuple(s.detach() for s in states)
        if progress is not None:
            progress("train", done, config.steps)
        yield done


def _parameter_groups(module: nn.Module, config: QatConfig) -> list[dict[str, Any]]:
    rates = {"shift": config.scale_lr, "zero_point": config.zero_point_lr}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = config.lr
            if name.startswith("quantizers."):
                rate = rates[name.rsplit(".", 1)[-1]]
            groups.setdefault(rate, []).append(parameter)
    return [{"params": params, "lr": rate} for rate, params in groups.items()]


def _join(program: StepProgram, hops: Sequence[tuple[Tensor, ...]]) -> Any:
    joined = [
        torch.cat([hop[i] for hop in hops], dim=spec.time_dim)
        if spec.time_dim is not None
        else hops[-1][i]
        for i, spec in enumerate(program.outputs)
    ]
    return pack_outputs(program, joined)


def _cut(targets: Any, program: StepProgram, steps: int, start: int, hops: int) -> Any:
    """Return ``hops`` hops of targets that are ``steps`` hops long (0: all of them)."""
    axis = program.outputs[0].time_dim

    def cut(t: Tensor) -> Tensor:
        if axis is None:
            return t
        size = t.shape[axis] // steps
        return t.narrow(axis, start * size, (hops or steps) * size)

    return pytree.tree_map(cut, targets)


class _Windows:
    """Consecutive pieces of ``hops`` hops from ``batch`` lanes, each lane stream after stream."""

    def __init__(
        self, program: StepProgram, examples: Sequence[_Example], config: QatConfig
    ) -> None:
        self.program = program
        self.hops = min(config.bptt_hops, max(e.steps for e in examples))
        self.examples = [e for e in examples if e.steps >= self.hops]
        self.states = program.initial_states(config.batch)
        self._initial = program.initial_states(1)
        self._random = torch.Generator().manual_seed(config.seed)
        self._queue: list[int] = []
        self._lanes = [(self._draw(), 0) for _ in range(config.batch)]

    def next(self) -> tuple[list[Tensor], Any, tuple[Tensor, ...]]:
        """Return inputs and targets of the next piece and the states to start from."""
        inputs, targets = [], []
        for lane, (number, start) in enumerate(self._lanes):
            if start + self.hops > self.examples[number].steps:
                number, start = self._draw(), 0
                for state, initial in zip(self.states, self._initial, strict=True):
                    state[lane : lane + 1] = initial
            example = self.examples[number]
            inputs.append(self._piece(example.inputs, start))
            targets.append(_cut(example.targets, self.program, example.steps, start, self.hops))
            self._lanes[lane] = (number, start + self.hops)
        joined = pytree.tree_map(lambda *t: torch.cat(t), *targets)
        return [torch.cat(t) for t in zip(*inputs, strict=True)], joined, self.states

    def frame(self, inputs: Sequence[Tensor], n: int) -> list[Tensor]:
        """Return hop ``n`` of a piece."""
        size = self.program.hop_multiple
        return [
            x if spec.time_dim is None else x.narrow(spec.time_dim, n * size, size)
            for x, spec in zip(inputs, self.program.inputs, strict=True)
        ]

    def _piece(self, inputs: Stream, start: int) -> list[Tensor]:
        size = self.program.hop_multiple
        return [
            x if spec.time_dim is None else x.narrow(spec.time_dim, start * size, self.hops * size)
            for x, spec in zip(inputs, self.program.inputs, strict=True)
        ]

    def _draw(self) -> int:
        if not self._queue:
            self._queue = torch.randperm(len(self.examples), generator=self._random).tolist()
        return self._queue.pop()
