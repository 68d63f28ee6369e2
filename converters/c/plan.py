"""The frozen plan: kernels in order, and the place of every buffer.

Buffers of one dtype share a pool. A scratch buffer's place is free again after the last kernel that
reads it; inputs, outputs and states keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spectral_edge.errors import ConversionError

from .expr import Lazy
from .kernels import Kernel
from .lower import Lowering
from .read import Graph, Tensor
from .view import Buffer, View, contiguous

__all__ = ["Move", "Plan", "plan_step"]

ALIGNMENT = 64  # bytes
MAX_POOL_BYTES = 1 << 30
NEXT = ".next"
# A delay line slides through memory of so many steps more before it is moved back to the start.
SLIDE_STEPS = 15
MAX_SLIDE_BYTES = 1 << 14  # more memory than this is not worth a move


@dataclass(frozen=True)
class Move:
    """Hand over one state: ``source`` becomes ``target``; they may overlap."""

    target: View
    source: View

    @property
    def distance(self) -> int:
        """Elements from the present to the next state, where both lie in one buffer."""
        return _at(self.source) - _at(self.target)


@dataclass(frozen=True)
class Plan:
    """Everything the writer of the text needs.

    Attributes:
        kernels: in the order in which they run.
        inputs: where the caller writes, states included; packed views.
        outputs: where the caller reads, next states included; packed views.
        moves: the hand-over of states that have to be copied.
        slides: the hand-over of delay lines, whose next state lies a few elements behind the
            present one: after a step their buffers begin that much later.
        places: first element of every buffer in the pool of its dtype, by ``id``.
        pools: elements of every pool.
        exact: float islands sum in float64.
    """

    kernels: tuple[Kernel, ...]
    inputs: Mapping[str, View]
    outputs: Mapping[str, View]
    moves: tuple[Move, ...]
    slides: tuple[Move, ...]
    places: Mapping[int, int]
    pools: Mapping[str, int]
    exact: bool

    @property
    def bytes(self) -> int:
        """Bytes of all pools."""
        return sum(n * np.dtype(d).itemsize for d, n in self.pools.items())

    @property
    def state_bytes(self) -> int:
        """Bytes of the states that change hands."""
        moves = (*self.moves, *self.slides)
        return sum(m.target.size * np.dtype(m.target.buffer.dtype).itemsize for m in moves)

    def slide(self, buffer: Buffer) -> int:
        """Elements by which a buffer begins later after a step, 0 for most."""
        root = buffer.root
        return next((m.distance for m in self.slides if m.target.buffer.root is root), 0)

    def start(self, view: View) -> int:
        """First element of a view in its pool."""
        return self.places[id(view.buffer.root)] + view.buffer.start + view.offset


def plan_step(graph: Graph, lowering: Lowering) -> Plan:
    """Settle outputs and states, and give every buffer its place.

    Raises:
        ConversionError: a state does not have the shape and dtype of its successor.
    """
    inputs = {name: lowering.inputs[t.index] for name, t in graph.inputs.items()}
    hosts: dict[int, set[str]] = {}
    for name, view in inputs.items():
        hosts.setdefault(id(view.buffer.root), set()).add(name)
    outputs: dict[str, View] = {}
    moves: list[Move] = []
    owners = {n: s for n in graph.outputs if (s := n.removesuffix(NEXT)) != n and s in inputs}
    for name, state in owners.items():
        tensor = graph.outputs[name]
        outputs[name] = _output(lowering, tensor, hosts, state)
        before = graph.inputs[state]
        if (before.shape, before.dtype) != (tensor.shape, tensor.dtype):
            raise ConversionError(
                f"a state is {before.dtype}{list(before.shape)} before a step and "
                f"{tensor.dtype}{list(tensor.shape)} after it"
            )
        source, target = outputs[name], inputs[state]
        if (source.buffer.root, _at(source)) != (target.buffer.root, _at(target)):
            moves.append(Move(target, source))
    # the caller may write over an output while the hand-over still waits: nothing else lies there
    for name, view in outputs.items():
        hosts.setdefault(id(view.buffer.root), set()).add(name)
    for name, tensor in graph.outputs.items():
        if name not in owners:
            outputs[name] = _output(lowering, tensor, hosts, None)
            hosts.setdefault(id(outputs[name].buffer.root), set()).add(name)
    outputs = {name: outputs[name] for name in graph.outputs}
    ports = [*inputs.values(), *outputs.values()]
    slides = tuple(m for m in moves if _can_slide(m, ports))
    for move in slides:
        move.target.buffer.root.size += SLIDE_STEPS * move.distance
    places, pools = _allocate(lowering.kernels, ports)
    return Plan(
        tuple(lowering.kernels),
        inputs,
        outputs,
        tuple(m for m in moves if m not in slides),
        slides,
        places,
        pools,
        lowering.exact,
    )


def _can_slide(move: Move, ports: list[View]) -> bool:
    """Say whether the buffer of a state holds nothing else that has an address of its own."""
    root = move.target.buffer.root
    guests = [p for p in ports if p.buffer.root is root]
    size = move.distance * np.dtype(root.dtype).itemsize * SLIDE_STEPS
    inside = move.source.buffer.root is root and root.kind == "fixed"
    packed = move.source.is_packed and move.target.is_packed
    return inside and packed and len(guests) == 2 and 0 < size <= MAX_SLIDE_BYTES


def _at(view: View) -> int:
    return view.buffer.start + view.offset


def _output(
    lowering: Lowering, tensor: Tensor, hosts: dict[int, set[str]], state: str | None
) -> View:
    """Where an output lies; a copy unless the value already lies packed and nobody moves it."""
    value = lowering.values.get(tensor.index) or lowering.value(tensor)
    view = value.view
    if view is not None and view.is_packed and view.buffer.root.kind in ("scratch", "fixed"):
        guests = hosts.get(id(view.buffer.root), set())
        if guests <= ({state} if state else set()):
            view.buffer.root.kind = "fixed"
            return view
    buffer = Buffer(tensor.dtype, tensor.size, "fixed")
    out = contiguous(buffer, tensor.shape)
    lowering.store(Lazy(tensor.shape, value.expr), out)
    return out


def _allocate(kernels: list[Kernel], ports: list[View]) -> tuple[dict[int, int], dict[str, int]]:
    """First fit over live ranges, one pool per dtype."""
    spans: dict[int, tuple[Buffer, int, int]] = {}
    last = len(kernels)

    def touch(buffer: Buffer, when: int) -> None:
        root = buffer.root
        if root.kind == "const":
            return
        _, first, end = spans.get(id(root), (root, when, when))
        fixed = root.kind == "fixed"
        spans[id(root)] = root, -1 if fixed else first, last if fixed else max(end, when)

    for view in ports:
        touch(view.buffer, -1)
    for i, kernel in enumerate(kernels):
        assert kernel.out is not None
        touch(kernel.out.buffer, i)
        for view in kernel.reads():
            touch(view.buffer, i)
        for buffer in kernel.scratch:
            touch(buffer, i)
    places: dict[int, int] = {}
    pools: dict[str, int] = {}
    live: dict[str, list[tuple[int, int, int]]] = {}  # (end, offset, size)
    for key, (buffer, first, end) in sorted(spans.items(), key=lambda s: (s[1][1], -s[1][0].size)):
        step = ALIGNMENT // np.dtype(buffer.dtype).itemsize
        size = -(-buffer.size // step) * step
        held = [h for h in live.get(buffer.dtype, []) if h[0] >= first]
        offset = 0
        for _, taken, length in sorted(held, key=lambda h: h[1]):
            if offset + size <= taken:
                break
            offset = max(offset, taken + length)
        live[buffer.dtype] = [*held, (end, offset, size)]
        places[key] = offset
        pools[buffer.dtype] = max(pools.get(buffer.dtype, 0), offset + size)
    total = sum(n * np.dtype(d).itemsize for d, n in pools.items())
    if total > MAX_POOL_BYTES:
        raise ConversionError(f"the step needs {total} bytes of memory, at most {MAX_POOL_BYTES}")
    return places, dict(sorted(pools.items()))
