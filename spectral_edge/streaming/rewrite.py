"""Walking a clip graph and building the graph of one hop.

Every tensor that has a time axis becomes a :class:`Value`: the new node holds the ``chunk`` newest
frames that can be known, and ``offset`` says how far they lag behind the input. With hop n the graph
computes frames ``n·chunk - offset …`` of the clip tensor. A left pad makes a tensor known *early*
(negative offset), a convolution without padding makes it late; a causal layer does both and ends at 0.
What must be remembered between hops becomes a state, and its value before the first hop is read off
the clip graph itself: the frames of a tensor that come before its first offset depend on padding and
weights only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, lcm
from typing import Any

import numpy as np
import torch
from torch import fx

from spectral_edge.errors import NotStreamable
from spectral_edge.program import StateSpec
from spectral_edge.streaming.trace import TRACE_FRAMES, ClipGraph

__all__ = ["Rewriter", "Value", "where"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Value:
    """A clip tensor as one hop sees it.

    Attributes:
        node: node of the step graph that holds the newest frames.
        clip: node of the clip graph it stands for.
        axis: time axis, None for a tensor without time.
        offset: frames (at this tensor's rate) by which the newest frames lag behind the input.
        rate: frames of this tensor per input frame.
        fold: (outer, inner) sizes merged with time into ``axis``; (1, 1) when the axis is time alone.
        past: input frames before the aligned one that it depends on.
    """

    node: fx.Node
    clip: fx.Node
    axis: int | None = None
    offset: int = 0
    rate: Fraction = Fraction(1)
    fold: tuple[int, int] = (1, 1)
    past: Fraction = Fraction(0)

    @property
    def pure(self) -> bool:
        """True when the time axis is not merged with another one."""
        return self.axis is not None and self.fold == (1, 1)


@dataclass
class _State:
    name: str
    value: Value
    first: int  # clip frame index of the oldest remembered frame before the first hop
    count: int
    node: fx.Node
    following: fx.Node


class Rewriter:
    """State of one rewriting; rules call its methods."""

    def __init__(
        self, clip: ClipGraph, rules: dict[Any, Callable[[Rewriter, fx.Node], Any]]
    ) -> None:
        self.clip = clip
        self.rules = rules
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.states: list[_State] = []
        self.hop = self._hop_multiple()
        self._histories: dict[tuple[fx.Node, int], fx.Node] = {}
        self._delays: dict[tuple[fx.Node, int], Value] = {}
        self._batch: fx.Node | None = None
        self._inputs: list[fx.Node] = []
        self._current: fx.Node | None = None

    # -- walking ------------------------------------------------------------------------------

    def run(self) -> list[Value]:
        """Rewrite the whole graph and return the aligned output values."""
        placeholders = iter(self.clip.time_dims)
        for node in self.clip.module.graph.nodes:
            self._current = node
            if node.op == "placeholder":
                axis = next(placeholders)
                new = self.graph.placeholder(node.name)
                self._inputs.append(new)
                self.env[node] = Value(new, node, axis)
            elif node.op == "get_attr":
                self.env[node] = Value(self.graph.get_attr(str(node.target)), node)
            elif node.op == "call_function":
                self.env[node] = self._call(node)
            elif node.op == "output":
                return self._outputs(node)
            elif node.op == "call_module":
                raise self.refuse(node, "a submodule survived tracing", "report this model")
        raise AssertionError("graph without output")

    def _call(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if value is None or isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat)):
            return None  # size arithmetic: rules read shapes from the metadata
        rule = self.rules.get(node.target)
        if rule is None:
            raise self.refuse(
                node,
                "there is no streaming rule for this op",
                "write it with supported ops (docs/how-to/stream-your-own-model.md lists them)",
            )
        return rule(self, node)

    def _outputs(self, node: fx.Node) -> list[Value]:
        leaves = [n for n in node.all_input_nodes]
        flat = torch.utils._pytree.tree_leaves(node.args[0])
        values = [self.env[leaf] for leaf in flat]
        assert len(leaves) >= 1
        for value, leaf in zip(values, flat, strict=True):
            if not value.pure:
                raise self.refuse(
                    leaf, "this output has no time axis of its own", "return one value per frame"
                )
            length = leaf.meta["val"].shape[value.axis]
            if self.clip.size(length, 5040) != int(5040 * value.rate):
                raise self.refuse(
                    leaf,
                    f"this output has {length} frames for T input frames",
                    "pad in time so that input and output have the same number of frames",
                )
        delay = max(0, *(ceil(v.offset / v.rate) for v in values))
        return [self.delayed(v, int(delay * v.rate) - v.offset) for v in values]

    def _hop_multiple(self) -> int:
        multiple = 1
        for node in self.clip.module.graph.nodes:
            for val in torch.utils._pytree.tree_leaves(node.meta.get("val")):
                if isinstance(val, torch.Tensor):
                    for size in val.shape:
                        multiple = lcm(multiple, self.clip.slope(size).denominator)
        return multiple

    # -- shapes and time ------------------------------------------------------------------------

    def time_axes(self, val: torch.Tensor) -> list[int]:
        """Return the axes of a clip tensor that grow with the number of frames."""
        return [i for i, size in enumerate(val.shape) if self.clip.slope(size) != 0]

    def time_axis(self, node: fx.Node, val: torch.Tensor | None = None) -> int | None:
        """Return the time axis of a clip node; more than one is refused (attention over all time)."""
        axes = self.time_axes(node.meta["val"] if val is None else val)
        if len(axes) > 1:
            raise self.refuse(
                node,
                "it relates every frame to every other frame",
                "attend within a window of past frames",
            )
        return axes[0] if axes else None

    def chunk(self, value: Value) -> int:
        """Return how many frames of ``value`` one step computes."""
        return int(self.hop * value.rate)

    def step_shape(self, val: torch.Tensor) -> list[Any]:
        """Return the shape that clip tensor ``val`` has in the step graph, batch axes as -1."""
        shape: list[Any] = []
        for size in val.shape:
            slope1, slope2 = self.clip.slope(size, 1), self.clip.slope(size, 2)
            if slope1:
                shape.append(int(slope1 * self.hop) if slope1 == slope2 else -1)
            else:
                one, two = (
                    self.clip.size(size, TRACE_FRAMES, 1),
                    self.clip.size(size, TRACE_FRAMES, 2),
                )
                shape.append(one if one == two else -1)
        return shape

    def concrete(self, val: torch.Tensor) -> list[int]:
        """Return the shape at the probe batch, time axes at one frame's slope (for products)."""
        return [
            int(s) if (s := self.clip.slope(size)) else self.clip.size(size, TRACE_FRAMES)
            for size in val.shape
        ]

    # -- emitting -------------------------------------------------------------------------------

    def emit(
        self, target: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        """Add a node to the step graph; it keeps the module path and source line of the clip node."""
        node = self.graph.call_function(target, tuple(args), kwargs or {})
        if self._current is not None:
            for key in ("nn_module_stack", "stack_trace", "source_fn_stack"):
                if key in self._current.meta:
                    node.meta[key] = self._current.meta[key]
            node.meta["clip_node"] = self._current.name
        return node

    def batch_size(self) -> fx.Node:
        """Return a node that holds the batch size of the first input."""
        if self._batch is None:
            with self.graph.inserting_after(self._inputs[-1]):
                self._batch = self.graph.call_function(_aten.sym_size.int, (self._inputs[0], 0))
        return self._batch

    def history(self, value: Value, count: int) -> fx.Node:
        """Return ``count`` remembered frames followed by the newest ones, along the time axis."""
        assert value.axis is not None
        if count == 0:
            return value.node
        key = (value.node, count)
        if key not in self._histories:
            name = self._state_name(value)
            with self.graph.inserting_after(self._last_placeholder()):
                state = self.graph.placeholder(f"state_{name}")
            full = self.emit(_aten.cat.default, ([state, value.node], value.axis))
            chunk = self.chunk(value)
            following = self.emit(_aten.slice.Tensor, (full, value.axis, chunk, chunk + count))
            first = -value.offset - count
            self.states.append(_State(name, value, first, count, state, following))
            self._histories[key] = full
        return self._histories[key]

    def delayed(self, value: Value, frames: int) -> Value:
        """Return ``value`` delayed by ``frames`` of its own frames."""
        if frames == 0:
            return value
        if not value.pure:
            raise self.refuse(
                value.clip,
                "time is merged with another axis where a delay line is needed",
                "add skip connections before merging time with another axis",
            )
        key = (value.node, frames)
        if key not in self._delays:
            full = self.history(value, frames)
            node = self.emit(_aten.slice.Tensor, (full, value.axis, 0, self.chunk(value)))
            self._delays[key] = replace(value, node=node, offset=value.offset + frames)
        return self._delays[key]

    def aligned(self, values: Sequence[Value]) -> list[Value]:
        """Delay values with time so that all lag equally."""
        timed = [v for v in values if v.axis is not None]
        if not timed:
            return list(values)
        latest = max(v.offset for v in timed)
        return [v if v.axis is None else self.delayed(v, latest - v.offset) for v in values]

    def _last_placeholder(self) -> fx.Node:
        return self.states[-1].node if self.states else self._inputs[-1]

    def _state_name(self, value: Value) -> str:
        assert self._current is not None
        path = module_path(self._current) or value.clip.name
        base = re.sub(r"[^0-9a-zA-Z]+", "_", path).strip("_")
        taken = {s.name for s in self.states}
        name, n = base, 1
        while name in taken:
            n += 1
            name = f"{base}_{n}"
        return name

    # -- finishing ------------------------------------------------------------------------------

    def state_specs(self) -> OrderedDict[str, StateSpec]:
        """Return the specs of all states, with initial values read off the clip graph."""
        needed = {s.value.clip for s in self.states if s.first + s.count > 0}
        captured = _capture(self.clip, needed) if needed else {}
        specs: OrderedDict[str, StateSpec] = OrderedDict()
        for state in self.states:
            axis = state.value.axis
            val = state.value.clip.meta["val"]
            shape = [1 if n == -1 else n for n in self.step_shape(val)]
            assert axis is not None
            shape[axis] = state.count
            initial = torch.zeros(shape, dtype=val.dtype)
            known = max(0, state.first + state.count)
            if known:
                frames = captured[state.value.clip].narrow(axis, max(0, state.first), known)
                initial.narrow(axis, state.count - known, known).copy_(frames)
            specs[state.name] = StateSpec(
                tuple(shape), str(val.dtype).removeprefix("torch."), np.asarray(initial)
            )
        return specs

    def module(self, outputs: Sequence[Value]) -> fx.GraphModule:
        """Return the step graph module."""
        self.graph.output(
            (*(v.node for v in outputs), *(s.following for s in self.states)),
        )
        self.graph.eliminate_dead_code()
        self.graph.lint()
        module = fx.GraphModule(self.clip.module, self.graph)
        module.eval()  # type: ignore[no-untyped-call]
        return module

    # -- refusing -------------------------------------------------------------------------------

    def refuse(self, node: fx.Node, why: str, instead: str) -> NotStreamable:
        """Return the error that says where, what, why and what to write instead."""
        return NotStreamable(f"{where(node)}: {why}. {instead[0].upper()}{instead[1:]}.")


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the innermost module a node was traced in."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return re.sub(r"^L\['self'\]\.?", "", paths[-1]) if paths else ""


def where(node: fx.Node) -> str:
    """Return module path, op and source line of a node as one phrase."""
    op = str(getattr(node.target, "name", lambda: node.target)())
    lines = [s.strip() for s in (node.meta.get("stack_trace") or "").splitlines()]
    files = [s for s in lines if s.startswith("File ")]
    place = ""
    if files:
        match = re.match(r'File "(.+)", line (\d+)', files[-1])
        if match:
            place = f" ({match[1].rsplit('/', 1)[-1]}:{match[2]})"
    return f"module {module_path(node) or '(root)'}, op {op}{place}"


def _capture(clip: ClipGraph, nodes: set[fx.Node]) -> dict[fx.Node, torch.Tensor]:
    """Run the clip graph at batch 1 and return the tensors of ``nodes``."""
    captured: dict[fx.Node, torch.Tensor] = {}

    class Capture(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in nodes:
                captured[n] = result.detach().clone()
            return result

    with torch.no_grad():
        Capture(clip.module).run(*(x[:1] for x in clip.example))
    return captured
