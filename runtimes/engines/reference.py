"""The step program itself, run by torch on codes: what every other engine is held against.

Not for devices and not in the registry: it needs the program in memory, which no bundle holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnfit
from spectral_edge.qparams import QParams

from .base import StepEngine

if TYPE_CHECKING:
    from spectral_edge.program import StepProgram

__all__ = ["ReferenceEngine"]


class ReferenceEngine(StepEngine):
    """A step of a bundle on the program it was exported from.

    Args:
        bundle: describes the boundary: names, shapes, dtypes, qparams, initial states.
        program: the program, quantised or float.

    Raises:
        RuntimeUnfit: the program has other tensors or states than the bundle.
    """

    name = "reference"
    kind = "torch"

    def __init__(self, bundle: Bundle, program: StepProgram) -> None:
        super().__init__(bundle, threads=1)
        names = [t.name for t in (*program.inputs, *program.outputs)] + list(program.states)
        wanted = [t.name for t in (*bundle.inputs, *bundle.outputs)] + list(bundle.states)
        if names != wanted:
            raise RuntimeUnfit(
                f"the program has tensors {names}, {bundle.path.name} has {wanted}; "
                "pass the program the bundle was exported from"
            )
        self._program = program
        self._qparams = {t.name: t.qparams for t in (*bundle.inputs, *bundle.outputs)}
        self._state_qparams = {name: spec.qparams for name, spec in bundle.states.items()}
        ports = self.ports
        self.inputs = {n: np.zeros(p.stored_shape, p.dtype) for n, p in ports.inputs.items()}
        self.outputs = {n: np.zeros(p.stored_shape, p.dtype) for n, p in ports.outputs.items()}
        self._states = {n: np.zeros(p.shape, p.dtype) for n, (p, _) in ports.states.items()}
        self._next = {name: array.copy() for name, array in self._states.items()}
        self.invoke = self._invoke
        self.hand_over = self._hand_over
        self.reset()

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "engine": self.name,
            "version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "delegate": None,
            "delegate_nodes": None,
            "state_copies": "python",
            "total_nodes": self._program.node_count,
        }

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        return self._states

    def _invoke(self) -> None:
        import torch

        def real(array: NDArray[Any], q: QParams | None) -> torch.Tensor:
            return torch.from_numpy(q.dequantize(array) if q else array.copy())

        def code(value: torch.Tensor, q: QParams | None) -> NDArray[Any]:
            array = value.detach().numpy()
            return q.quantize(array) if q else array

        inputs = [real(a, self._qparams[n]) for n, a in self.inputs.items()]
        states = [real(a, self._state_qparams[n]) for n, a in self._states.items()]
        with torch.no_grad():
            outputs, following = self._program.step(inputs, states)
        for (name, array), value in zip(self.outputs.items(), outputs, strict=True):
            array[...] = code(value, self._qparams[name])
        for (name, array), value in zip(self._next.items(), following, strict=True):
            array[...] = code(value, self._state_qparams[name])

    def _hand_over(self) -> None:
        for name, array in self._states.items():
            array[...] = self._next[name]
