"""Everything the TFLite interpreters (LiteRT, tflite-runtime, TensorFlow) have in common.

The Python interpreters offer ``set_tensor`` and ``get_tensor``, which copy and allocate (1…6 µs per
step, measured). After ``allocate_tensors`` the boundary tensors of a static graph keep their place
for the life of the interpreter, so their addresses are taken once and everything works on that
memory. They are compared again at every reset; an interpreter that moved one is refused.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnfit

from .base import Port, StepEngine
from .copies import plan_copies

__all__ = ["TfliteEngine", "view_of"]

SIGNATURE = "step"


def view_of(address: int, port: Port) -> NDArray[Any]:
    """Return the array in stored layout that lies at ``address``; it does not own the memory."""
    memory = (ctypes.c_char * port.nbytes).from_address(address)
    return np.ndarray(port.stored_shape, port.dtype, memoryview(memory))


class TfliteEngine(StepEngine):
    """A step on any interpreter with the Python interface of ``tf.lite.Interpreter``."""

    kind = "tflite"

    def __init__(self, bundle: Bundle, threads: int, interpreter_class: Any, version: str) -> None:
        super().__init__(bundle, threads)
        self.version = version
        member = bundle.manifest["formats"][self.kind]["member"]
        content = bundle.member(member)
        try:
            with _without_greeting():
                self._interpreter = interpreter_class(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            self._details = self._signature_details()
        except (ValueError, RuntimeError) as error:
            raise RuntimeUnfit(
                f"{self.name} {version} cannot run {member} of {bundle.path.name} "
                f"({_first_line(error)}); see `spectral-edge inspect` for the runtime it needs"
            ) from error
        self._check_ports(bundle)
        self._addresses = self._find_addresses()
        self.inputs = {n: view_of(self._addresses[p.name], p) for n, p in self.ports.inputs.items()}
        self.outputs = {
            n: view_of(self._addresses[p.name], p) for n, p in self.ports.outputs.items()
        }
        self._states = {
            name: view_of(self._addresses[port.name], port)
            for name, (port, _) in self.ports.states.items()
        }
        self.invoke = self._interpreter.invoke
        self._copies = plan_copies(
            [
                (self._addresses[entry.name], self._addresses[leave.name], entry.nbytes)
                for entry, leave in self.ports.states.values()
            ]
        )
        self.hand_over = self._copies.run
        self.reset()

    def reset(self) -> None:
        if self._find_addresses() != self._addresses:
            raise RuntimeUnfit(
                f"{self.name} {self.version} moved a tensor between hops; use engine='onnxruntime'"
            )
        super().reset()

    def describe(self) -> dict[str, Any]:
        nodes = [op["op_name"] for op in self._interpreter._get_ops_details()]
        delegated = nodes.count("DELEGATE")
        return {
            "engine": self.name,
            "version": self.version,
            "threads": self.threads,
            "delegate": "XNNPACK" if delegated else None,
            "delegate_nodes": delegated,
            "state_copies": self._copies.backend,
            "total_nodes": len(nodes) - delegated,
        }

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        return self._states

    def _signature_details(self) -> dict[str, dict[str, Any]]:
        """Return tensor details by signature name; the runner is dropped, it would block invoke."""
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        return {**runner.get_input_details(), **runner.get_output_details()}

    def _find_addresses(self) -> dict[str, int]:
        """Return the memory address of every boundary tensor; no reference to them stays alive."""
        tensor = self._interpreter.tensor
        return {
            name: int(tensor(details["index"])().ctypes.data)
            for name, details in self._details.items()
        }

    def _check_ports(self, bundle: Bundle) -> None:
        states = [port for pair in self.ports.states.values() for port in pair]
        for port in (*self.ports.inputs.values(), *self.ports.outputs.values(), *states):
            details = self._details.get(port.name)
            if details is None:
                raise RuntimeUnfit(
                    f"the TFLite file of {bundle.path.name} has no tensor {port.name!r}; "
                    f"it has {sorted(self._details)}; export the bundle again"
                )
            shape, dtype = tuple(int(n) for n in details["shape"]), np.dtype(details["dtype"])
            if shape != port.stored_shape or dtype != port.dtype:
                raise RuntimeUnfit(
                    f"tensor {port.name!r} of {bundle.path.name} is {dtype}{list(shape)} in the "
                    f"file and {port.dtype}{list(port.stored_shape)} in the manifest; "
                    "export the bundle again"
                )


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep the "INFO: Created … delegate" line that LiteRT writes for every model off stderr.

    There is no switch for it, so file descriptor 2 is a temporary file meanwhile; any other line
    that was written goes to stderr afterwards.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if not line.startswith(b"INFO: Created TensorFlow Lite"):
                    os.write(2, line)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
