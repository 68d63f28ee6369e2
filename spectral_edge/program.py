"""The step program: the only object between training and device.

One hop in, one hop out, every bit of memory in named state tensors::

    outputs, next_states = step(inputs, states)

A :class:`StepProgram` holds that step as a ``torch.fx`` graph of ATen ops (float, or with
``quantized_decomposed`` quantize/dequantize nodes after :func:`spectral_edge.quantize`), together
with what is known about it: names, states, delay, receptive field.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from spectral_edge.errors import StreamError
from spectral_edge.frontend import StftFrontend
from spectral_edge.qparams import QParams

__all__ = ["QParams", "StateSpec", "StepProgram", "TensorSpec", "state_input", "state_output"]

PRECISIONS = ("float32", "float16", "w8a8", "w8a16", "w8a32-dynamic")


@dataclass(frozen=True)
class TensorSpec:
    """Name, one-hop shape (batch 1) and dtype of an input or output; time axis or None."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    time_dim: int | None = None
    qparams: QParams | None = None


@dataclass(frozen=True)
class StateSpec:
    """One memory of a step program.

    Attributes:
        shape: shape at batch 1; axis 0 is the batch.
        dtype: dtype that the *deployed* program keeps (``int8`` after w8a8 quantisation).
        initial: real (dequantised) initial values, float32 (or int32), broadcast over the batch.
        qparams: quantisation of the state, equal for input and output; None when not quantised.
        exact: the state keeps its dtype when the program is quantised (counters, unbounded sums).
    """

    shape: tuple[int, ...]
    dtype: str
    initial: NDArray[Any] = field(repr=False, compare=False)
    qparams: QParams | None = None
    exact: bool = False

    @property
    def elements(self) -> int:
        """Number of values at batch 1."""
        return int(np.prod(self.shape))


def state_input(name: str) -> str:
    """Tensor name of state ``name`` as an input of the step, in every format."""
    return f"state.{name}"


def state_output(name: str) -> str:
    """Tensor name of state ``name`` as an output of the step, in every format."""
    return f"state.{name}.next"


@dataclass(frozen=True)
class StepProgram:
    """One hop of a model with explicit states.

    Attributes:
        module: graph module ``(inputs..., states...) -> (outputs..., next states...)``, a flat
        tuple;
            works for any batch size; float tensors at the boundary also when quantised.
        inputs: specs in call order; ``shape[time_dim]`` is ``hop_multiple`` frames.
        outputs: specs in return order; names are ``output`` or the keys of the returned dict.
        states: name -> spec, in call order; outputs come back in the same order.
        output_kind: ``tensor``, ``tuple`` or ``dict``: how the model returned its outputs.
        delay: frames of lookahead; output frame n belongs to input frame n - delay.
        receptive_field: input frames that an output frame depends on (None when unbounded).
        hop_multiple: frames consumed by one step.
        precision: one of ``float32 float16 w8a8 w8a16 w8a32-dynamic``.
        recipe: name of the quantisation recipe, or None.
        golden_inputs: a real calibration sequence, kept for the golden rollout of a bundle.
        macs: multiply-accumulates of one step at batch 1.
        provenance: plain data about where the program came from.
        frontend: of a program split from a model that starts at the waveform; None otherwise.
    """

    CLOCK: ClassVar[str] = "clock"  # int32 state: hops since the start (programs with lookahead)
    LENGTH: ClassVar[str] = "length"  # int32 state: frames of the clip; set by the host at its end
    LENGTH_UNKNOWN: ClassVar[int] = 1 << 30

    module: torch.fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: OrderedDict[str, StateSpec]
    output_kind: str = "tensor"
    delay: int = 0
    receptive_field: int | None = None
    hop_multiple: int = 1
    precision: str = "float32"
    recipe: str | None = None
    golden_inputs: tuple[torch.Tensor, ...] | None = None
    macs: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    frontend: StftFrontend | None = None

    @property
    def qparams(self) -> dict[str, QParams]:
        """Quantisation of every boundary tensor by its tensor name (states under both names)."""
        table = {t.name: t.qparams for t in (*self.inputs, *self.outputs) if t.qparams}
        for name, spec in self.states.items():
            if spec.qparams:
                table[state_input(name)] = table[state_output(name)] = spec.qparams
        return table

    @property
    def node_count(self) -> int:
        """Ops of the graph that compute or move data; parameters and boundary are not counted."""
        nodes = (n for n in self.module.graph.nodes if n.op == "call_function")
        return sum(n.target is not operator.getitem for n in nodes)

    @property
    def state_elements(self) -> int:
        """Values kept between hops."""
        return sum(s.elements for s in self.states.values())

    @property
    def exported(self) -> ExportedProgram:
        """The step at batch 1 as a ``torch.export.ExportedProgram`` with static shapes."""
        args = [torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in self.inputs]
        args += list(self.initial_states(1))
        with torch.no_grad():
            return torch.export.export(self.module, tuple(args), strict=False)

    def initial_states(self, batch: int = 1) -> tuple[torch.Tensor, ...]:
        """Return the state tensors before the first hop, real-valued, for ``batch`` streams."""
        return tuple(
            torch.from_numpy(np.array(s.initial)).expand(batch, *s.shape[1:]).clone()
            for s in self.states.values()
        )

    def step(
        self, inputs: Sequence[torch.Tensor], states: Sequence[torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Run one hop: (inputs, states) -> (outputs, next states)."""
        flat = self.module(*inputs, *states)
        return tuple(flat[: len(self.outputs)]), tuple(flat[len(self.outputs) :])

    def run(self, *clips: torch.Tensor) -> Any:
        """Run whole clips hop by hop from the initial state.

        Args:
            *clips: the model's inputs, time on each input's ``time_dim``, any length and batch.

        Returns:
            What ``model(*clips)`` returns, same structure and shapes.

        Raises:
            StreamError: a clip with no full hop, or inputs of different lengths.
        """
        from spectral_edge.streaming.rollout import run_clip

        return run_clip(self, clips)

    def with_(self, **changes: Any) -> StepProgram:
        """Return a copy with fields replaced."""
        return replace(self, **changes)

    def check_inputs(self, clips: Sequence[torch.Tensor]) -> int:
        """Validate clips against the inputs and return the number of whole steps they hold."""
        if len(clips) != len(self.inputs):
            raise StreamError(f"got {len(clips)} inputs, the program has {len(self.inputs)}")
        frames = None
        for clip, spec in zip(clips, self.inputs, strict=True):
            if clip.ndim != len(spec.shape):
                raise StreamError(
                    f"input {spec.name!r} has {clip.ndim} dimensions, expected {len(spec.shape)}"
                )
            if spec.time_dim is None:
                continue
            length = clip.shape[spec.time_dim]
            if frames is not None and length != frames:
                raise StreamError(f"input {spec.name!r} has {length} frames, another has {frames}")
            frames = length
            for axis, (got, want) in enumerate(zip(clip.shape, spec.shape, strict=True)):
                if axis not in (0, spec.time_dim) and got != want:
                    raise StreamError(
                        f"input {spec.name!r} has {got} on axis {axis}, expected {want}"
                    )
        if frames is None:
            return 1
        steps = frames // self.hop_multiple
        if steps < 1:
            raise StreamError(f"clip has {frames} frames, one step takes {self.hop_multiple}")
        return steps
