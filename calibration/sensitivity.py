"""Where quantisation hurts: float and int8 side by side in closed loop, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any, cast

import torch
from torch import Tensor, fx

from spectral_edge.errors import CalibrationError
from spectral_edge.program import StepProgram

from .calibrate import Progress, collect_streams, rollout, steps_of
from .graph import is_float_tensor, module_path

__all__ = ["TensorSensitivity", "sensitivity"]

WIDTH = 16  # streams side by side


@dataclass(frozen=True)
class TensorSensitivity:
    """How well one tensor survives quantisation.

    Attributes:
        name: node of the step graph.
        op: what computes it, ``input`` or ``state`` for a placeholder.
        module: path of the module it came from in the model, or ''.
        sqnr_db: power of the float tensor over power of the difference, in dB, over all hops.
    """

    name: str
    op: str
    module: str
    sqnr_db: float


class _Recorder(fx.Interpreter):
    """Runs a step graph like the graph itself and keeps some of its values."""

    def __init__(self, module: fx.GraphModule, wanted: dict[str, str]) -> None:
        super().__init__(module)
        self.wanted = wanted  # node name -> key
        self.values: dict[str, Tensor] = {}

    def __call__(self, *args: Tensor) -> Any:
        return self.run(*args)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted and is_float_tensor(value):
            self.values[self.wanted[n.name]] = value
        return value


def sensitivity(
    program: StepProgram,
    quantised: StepProgram,
    sequences: Iterable[Sequence[Tensor]],
    progress: Progress | None = None,
) -> list[TensorSensitivity]:
    """Compare every quantised tensor with its float original, each program with its own states.

    Args:
        program: the float program.
        quantised: what :func:`spectral_edge.quantize` made of it.
        sequences: as for :func:`spectral_edge.quantize`.
        progress: called as ``progress(what, done, total)``.

    Returns:
        One entry per tensor, worst first.

    Raises:
        CalibrationError: no sequences, wrong shapes, or programs that are not of one model.
    """
    if _boundary(program) != _boundary(quantised):
        raise CalibrationError(
            f"the programs differ: {_boundary(program)} and {_boundary(quantised)}; "
            "give the float program and the int8 one made from it"
        )
    streams = collect_streams(program, sequences)
    originals = {n.name: n for n in program.module.graph.nodes}
    pairs = {
        f"{name}_dq": name
        for name in originals
        if any(n.name == f"{name}_dq" for n in quantised.module.graph.nodes)
    }
    exact = _Recorder(program.module, {name: name for name in pairs.values()})
    coarse = _Recorder(quantised.module, pairs)
    power = dict.fromkeys(pairs.values(), 0.0)
    error = dict.fromkeys(pairs.values(), 0.0)
    total = sum(steps_of(program, s) for s in streams)
    done = 0
    with torch.no_grad():
        both = zip(
            rollout(program.with_(module=cast(Any, exact)), streams, WIDTH),
            rollout(quantised.with_(module=cast(Any, coarse)), streams, WIDTH),
            strict=True,
        )
        for (members, _, _), _ in both:
            for name, value in exact.values.items():
                power[name] += float(value.double().square().sum())
                error[name] += float((coarse.values[name] - value).double().square().sum())
            done += len(members)
            if progress is not None:
                progress("compare", done, total)
    table = [
        TensorSensitivity(
            name,
            _op(program, originals[name]),
            module_path(originals[name]),
            _decibel(p, error[name]),
        )
        for name, p in power.items()
    ]
    return sorted(table, key=lambda entry: entry.sqnr_db)


def _boundary(program: StepProgram) -> dict[str, tuple[int, ...]]:
    tensors = {t.name: t.shape for t in (*program.inputs, *program.outputs)}
    return {**tensors, **{name: spec.shape for name, spec in program.states.items()}}


def _op(program: StepProgram, node: fx.Node) -> str:
    if node.op == "placeholder":
        placeholders = [n.name for n in program.module.graph.nodes if n.op == "placeholder"]
        return "input" if placeholders.index(node.name) < len(program.inputs) else "state"
    return str(node.target).removesuffix(".default")


def _decibel(power: float, error: float) -> float:
    if error == 0:
        return inf
    return 10 * log10(power / error) if power > 0 else -inf
