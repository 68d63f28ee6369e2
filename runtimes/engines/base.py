"""What every engine does: one step of the program on arrays that are bound once.

An engine owns its buffers. The front end writes codes into ``inputs`` and reads ``outputs`` in
place; the states live inside and move on with :attr:`StepEngine.hand_over`, so that a hop allocates
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import StreamError

__all__ = ["Port", "StepEngine", "ports_of"]


@dataclass(frozen=True)
class Port:
    """A boundary tensor of the step in one file format.

    Attributes:
        name: tensor name in the file.
        shape: logical shape (batch 1, one hop).
        dtype: NumPy dtype name.
        axes: stored axis i is logical axis ``axes[i]``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape as the file has it."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def to_stored(self, logical: NDArray[Any]) -> NDArray[Any]:
        """Return ``logical`` as a view in the file's axis order."""
        return logical.transpose(self.axes)

    def to_logical(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return ``stored`` as a view in logical axis order."""
        return stored.transpose(tuple(int(i) for i in np.argsort(self.axes)))


@dataclass(frozen=True)
class Ports:
    """All boundary tensors of a step; states by their own name, in and out."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    states: dict[str, tuple[Port, Port]]


def ports_of(bundle: Bundle, kind: str) -> Ports:
    """Return the boundary tensors as format ``kind`` ("tflite" or "onnx") stores them."""

    def port(name: str, shape: tuple[int, ...], dtype: str) -> Port:
        return Port(name, shape, dtype, bundle.layout(kind, name, len(shape)))

    return Ports(
        {t.name: port(t.name, t.shape, t.dtype) for t in bundle.inputs},
        {t.name: port(t.name, t.shape, t.dtype) for t in bundle.outputs},
        {
            s.name: (
                port(f"state.{s.name}", s.shape, s.dtype),
                port(f"state.{s.name}.next", s.shape, s.dtype),
            )
            for s in bundle.states.values()
        },
    )


class StepEngine(ABC):
    """One stream of one program on one engine.

    Attributes:
        name: engine name, such as ``litert``.
        kind: bundle format it runs, ``tflite`` or ``onnx``.
        inputs: name -> array in stored layout; write here before :attr:`invoke`. The arrays live as
            long as the engine does and never move.
        outputs: name -> array in stored layout; read here after :attr:`invoke`.
        invoke: runs the program once on ``inputs`` and the present states.
        hand_over: makes the states that :attr:`invoke` returned the present states.
    """

    name: str
    kind: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    invoke: Callable[[], object]
    hand_over: Callable[[], object]

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.ports = ports_of(bundle, self.kind)
        self.threads = threads
        self._initial = bundle.initial_states()

    def step(self) -> None:
        """Run one hop: ``invoke`` and ``hand_over``."""
        self.invoke()
        self.hand_over()

    def reset(self) -> None:
        """Return to the states before the first hop."""
        self.load_state(self._initial)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of every present state by name, in logical layout."""
        arrays = self._state_arrays()
        return {
            name: np.ascontiguousarray(port.to_logical(arrays[name])).copy()
            for name, (port, _) in self.ports.states.items()
        }

    def load_state(self, states: Mapping[str, NDArray[Any]]) -> None:
        """Set every present state; shapes and dtypes as :meth:`state` returns them.

        Raises:
            StreamError: a state is missing, unknown, or has another shape or dtype.
        """
        if set(states) != set(self.ports.states):
            raise StreamError(f"states are {sorted(states)}, must be {sorted(self.ports.states)}")
        for name, (port, _) in self.ports.states.items():
            value = states[name]
            if value.shape != port.shape or value.dtype != port.dtype:
                raise StreamError(
                    f"state {name!r} is {value.dtype}{list(value.shape)}, "
                    f"must be {port.dtype}{list(port.shape)}"
                )
        arrays = self._state_arrays()
        for name, (port, _) in self.ports.states.items():
            arrays[name][...] = port.to_stored(states[name])

    @abstractmethod
    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays, in stored layout, that the next :attr:`invoke` reads states from."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain data: engine, version, threads, delegate, node counts."""
