"""The engine ``native``: the step as C, compiled for this very machine and called directly."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import ConversionError, RuntimeUnavailable, RuntimeUnfit
from spectral_edge.step_c import bundle_source

from .base import Port, StepEngine
from .compiler import compiler_version, library_for

__all__ = ["NativeEngine"]

ALIGNMENT = 64  # bytes, of the struct


class NativeEngine(StepEngine):
    """A step compiled from C.

    :attr:`hand_over` only notes that the next states count; the next call of :attr:`invoke` moves
    them first, so that a hop is one call into C.
    """

    name = "native"
    kind = "tflite"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle, threads)
        try:
            made = bundle_source(bundle)
        except ConversionError as error:
            member = bundle.manifest["formats"][self.kind]["member"]
            raise RuntimeUnfit(
                f"engine native cannot run {member} of {bundle.path.name} ({error}); "
                "use engine='litert'"
            ) from error
        library, command = library_for(made.source)
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise RuntimeUnavailable(f"engine native cannot load {library} ({error})") from error
        self.version = compiler_version(command)
        self._made = made
        self._memory, self._struct = self._allocate()
        self.inputs = {n: self._array(p, "input") for n, p in self.ports.inputs.items()}
        self.outputs = {n: self._array(p, "output") for n, p in self.ports.outputs.items()}
        self._states = {
            n: self._array(entry, "input") for n, (entry, _) in self.ports.states.items()
        }
        for _, (_, leave) in self.ports.states.items():
            self._array(leave, "output")  # checks shape and dtype
        waiting = self._waiting()
        self._settle = self._function("settle")
        self._step = self._function("step")
        self.invoke = self._function("run")
        self.hand_over = partial(waiting.__setitem__, 0, 1)
        self.reset()

    def step(self) -> None:
        self._step()

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": self.version,
            "threads": 1,
            "delegate": None,
            "kernels": self._made.kernels,
            "memory_bytes": self._made.memory_bytes,
            "state_bytes": self._made.state_bytes,
        }

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        self._settle()
        return self._states

    def _allocate(self) -> tuple[NDArray[np.uint8], ctypes.c_void_p]:
        """Memory for the struct, and its address as the functions take it."""
        size = int(self._library.step_size())
        memory = np.zeros(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        memory = memory[start : start + size]
        address = ctypes.c_void_p(memory.ctypes.data)
        self._library.step_init(address)
        return memory, address

    def _function(self, name: str) -> Any:
        function = self._library[f"step_{name}"]
        function.restype = None
        return partial(function, self._struct)

    def _waiting(self) -> memoryview:
        """The flag of a hand-over that the next call does first."""
        function = self._library.step_waiting
        function.restype = ctypes.c_void_p
        self._flag = (ctypes.c_int32 * 1).from_address(int(function(self._struct)))
        return memoryview(self._flag).cast("B").cast("i")

    def _array(self, port: Port, side: str) -> NDArray[Any]:
        """The array over the memory of a boundary tensor; checks it against the manifest."""
        tensors = self._made.inputs if side == "input" else self._made.outputs
        found = tensors.get(port.name)
        if found is None:
            raise RuntimeUnfit(
                f"the TFLite file has no tensor {port.name!r}; it has {sorted(tensors)}; "
                "export the bundle again"
            )
        if (found.shape, found.dtype) != (port.stored_shape, port.dtype):
            raise RuntimeUnfit(
                f"tensor {port.name!r} is {found.dtype}{list(found.shape)} in the file and "
                f"{port.dtype}{list(port.stored_shape)} in the manifest; export the bundle again"
            )
        function = self._library[found.function]
        function.restype = ctypes.c_void_p
        at = int(function(self._struct)) - self._memory.ctypes.data
        assert 0 <= at <= self._memory.size - port.nbytes
        part = self._memory[at : at + port.nbytes]
        return part.view(port.dtype).reshape(port.stored_shape)
