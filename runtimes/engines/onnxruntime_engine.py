"""ONNX Runtime on the CPU, every tensor bound to memory of our own.

States are never copied: two bindings take turns, each reading the buffers the other writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnfit

from .base import Port, StepEngine

__all__ = ["OnnxruntimeEngine"]


class OnnxruntimeEngine(StepEngine):
    """A step on ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    kind = "onnx"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import onnxruntime

        super().__init__(bundle, threads)
        self.version = str(onnxruntime.__version__)
        member = bundle.manifest["formats"][self.kind]["member"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # keeps int8 activations int8: without it x86 turns them into uint8 and some graphs fail
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.member(member), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # its exceptions share no base but Exception
            raise RuntimeUnfit(
                f"onnxruntime {self.version} cannot run {member} of {bundle.path.name} "
                f"({str(error).splitlines()[0]}); export the bundle again or use engine='litert'"
            ) from error
        self._check_names(bundle)
        self.inputs = {name: _empty(port) for name, port in self.ports.inputs.items()}
        self.outputs = {name: _empty(port) for name, port in self.ports.outputs.items()}
        self._buffers = [
            {name: _empty(port) for name, (port, _) in self.ports.states.items()} for _ in range(2)
        ]
        self._bindings = [self._bind(0, 1), self._bind(1, 0)]
        self._turn = 0
        self.invoke = self._invoke
        self.hand_over = self._hand_over
        self.reset()

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": self.version,
            "threads": self.threads,
            "delegate": "CPUExecutionProvider",
            "delegate_nodes": None,
            "state_copies": "none",
            "total_nodes": None,
        }

    def load_state(self, states: Mapping[str, NDArray[Any]]) -> None:
        self._turn = 0
        super().load_state(states)

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        return self._buffers[self._turn]

    def _invoke(self) -> None:
        self._session.run_with_iobinding(self._bindings[self._turn])

    def _hand_over(self) -> None:
        self._turn = 1 - self._turn

    def _bind(self, read: int, write: int) -> Any:
        """Return a binding that takes states from buffer ``read`` and leaves them in ``write``."""
        binding = self._session.io_binding()
        takes = [(port, self.inputs[name]) for name, port in self.ports.inputs.items()]
        gives = [(port, self.outputs[name]) for name, port in self.ports.outputs.items()]
        for name, (entry, leave) in self.ports.states.items():
            takes.append((entry, self._buffers[read][name]))
            gives.append((leave, self._buffers[write][name]))
        for port, array in takes:
            binding.bind_input(
                port.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        for port, array in gives:
            binding.bind_output(
                port.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        return binding

    def _check_names(self, bundle: Bundle) -> None:
        pairs = self.ports.states.values()
        entries = [*self.ports.inputs.values(), *(entry for entry, _ in pairs)]
        leaves = [*self.ports.outputs.values(), *(leave for _, leave in pairs)]
        for ports, nodes in (
            (entries, self._session.get_inputs()),
            (leaves, self._session.get_outputs()),
        ):
            found = {node.name: tuple(node.shape) for node in nodes}
            for port in ports:
                if found.get(port.name) != port.stored_shape:
                    raise RuntimeUnfit(
                        f"tensor {port.name!r} of {bundle.path.name} is {found.get(port.name)} in "
                        f"the ONNX file and {port.stored_shape} in the manifest; export it again"
                    )


def _empty(port: Port) -> NDArray[Any]:
    return np.zeros(port.stored_shape, port.dtype)
