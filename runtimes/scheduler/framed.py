"""A step that takes several frames, fed one frame per hop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnfit, StreamError
from spectral_edge.manifest import TensorEntry
from spectral_edge.runtimes.engines.base import Port, Ports, StepEngine

__all__ = ["FramedEngine"]

HELD, POSITION = "#frames.", "#position"  # names among the states that no module path can have


class FramedEngine(StepEngine):
    """An engine with one frame per hop, made of one whose step takes ``frames`` of them.

    Frames are collected; with the last of a group the step runs, and its outputs are given out one
    by one: on that hop the first of the group, on the next the second. Outputs are therefore later
    by ``frames - 1`` hops than the program's own delay.

    Attributes:
        inner: the engine that runs the step.
        position: frames collected for the next step.

    Args:
        engine: runs the step of ``bundle``.
        bundle: says how many frames a step takes and on which axis they lie.

    Raises:
        RuntimeUnfit: an output has another number of frames than the input.
    """

    def __init__(self, engine: StepEngine, bundle: Bundle) -> None:
        self.frames = int(bundle.manifest["hop_multiple"])
        self.inner, self.name, self.kind = engine, engine.name, engine.kind
        self.threads, self._initial = engine.threads, engine._initial
        entries = {t.name: (t, self._axis(t, bundle)) for t in (*bundle.inputs, *bundle.outputs)}
        ports = engine.ports
        self.ports = Ports(
            {n: _one_frame(p, entries[n][1]) for n, p in ports.inputs.items()},
            {n: _one_frame(p, entries[n][1]) for n, p in ports.outputs.items()},
            ports.states,
        )
        self.inputs = {n: np.zeros(p.stored_shape, p.dtype) for n, p in self.ports.inputs.items()}
        self.outputs = {n: np.zeros(p.stored_shape, p.dtype) for n, p in self.ports.outputs.items()}
        groups = {**ports.inputs, **ports.outputs}
        # whole groups, in stored layout: a shared engine's own buffers do not stay between hops
        self._groups = {n: np.zeros(p.stored_shape, p.dtype) for n, p in groups.items()}
        self._frame_views = {
            n: [
                _frame(p.to_logical(self._groups[n]), entries[n][1], i).transpose(p.axes)
                for i in range(self.frames)
            ]
            for n, p in groups.items()
        }
        self.position = 0
        self.invoke = self._invoke
        self.hand_over = self._hand_over
        self._ran = False

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()

    def reset(self) -> None:
        """Return to the states before the first hop, with no frame collected."""
        self.inner.reset()
        self._clear()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the states, and of what is collected and not yet given out."""
        held = {HELD + name: group.copy() for name, group in self._groups.items()}
        return {**self.inner.state(), **held, POSITION: np.array(self.position, np.int32)}

    def load_state(self, states: Mapping[str, NDArray[Any]]) -> None:
        """Set everything that :meth:`state` gave.

        Raises:
            StreamError: a value is missing, unknown, or has another shape or dtype.
        """
        states = dict(states)
        held = {name: states.pop(HELD + name, None) for name in self._groups}
        position = states.pop(POSITION, None)
        for name, group in self._groups.items():
            value = held[name]
            if value is None or value.shape != group.shape or value.dtype != group.dtype:
                raise StreamError(f"state {HELD + name!r} must be {group.dtype}{list(group.shape)}")
        if position is None or position.shape != () or not 0 <= int(position) < self.frames:
            raise StreamError(f"state {POSITION!r} must be an integer of 0…{self.frames - 1}")
        self.inner.load_state(states)
        self._clear()
        for name, group in self._groups.items():
            group[...] = held[name]
        self.position = int(position)
        self._give_out()

    def pass_over(self, codes: Mapping[str, Any]) -> None:
        """Take the frame in and give ``codes`` out, without running the step."""
        self._collect()
        if self.position == self.frames:
            self.position = 0
            for name, code in codes.items():
                self._groups[name][...] = code
        for name, code in codes.items():
            self.outputs[name][...] = code

    def _invoke(self) -> None:
        self._collect()
        if self.position == self.frames:
            self.position, self._ran = 0, True
            for name, array in self.inner.inputs.items():
                array[...] = self._groups[name]
            self.inner.invoke()
            for name, array in self.inner.outputs.items():
                self._groups[name][...] = array
        self._give_out()

    def _give_out(self) -> None:
        for name, array in self.outputs.items():
            array[...] = self._frame_views[name][self.position]

    def _hand_over(self) -> None:
        if self._ran:
            self._ran = False
            self.inner.hand_over()

    def _collect(self) -> None:
        for name, array in self.inputs.items():
            self._frame_views[name][self.position][...] = array
        self.position += 1

    def _clear(self) -> None:
        self.position, self._ran = 0, False
        for array in (*self._groups.values(), *self.outputs.values()):
            array.fill(0)

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        return self.inner._state_arrays()

    def _axis(self, entry: TensorEntry, bundle: Bundle) -> int:
        axis = entry.time_dim
        if axis is None or entry.shape[axis] != self.frames:
            raise RuntimeUnfit(
                f"{entry.name!r} of {bundle.path.name} has shape {list(entry.shape)}, a session "
                f"needs {self.frames} frames in a step of hop_multiple {self.frames}"
            )
        return axis


def _one_frame(port: Port, axis: int) -> Port:
    shape = list(port.shape)
    shape[axis] = 1
    return replace(port, shape=tuple(shape))


def _frame(logical: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return frame ``index`` as a view with one frame on ``axis``."""
    at = [slice(None)] * logical.ndim
    at[axis] = slice(index, index + 1)
    return logical[tuple(at)]
