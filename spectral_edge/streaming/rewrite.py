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

import torch
from torch import fx

from spectral_edge.errors import NotStreamable
from spectral_edge.program import StateSpec, StepProgram
from spectral_edge.streaming.trace import TRACE_FRAMES, ClipGraph

__all__ = ["Rewriter", "Value", "where"]

_aten = torch.ops.aten
SIZES_ONLY = ("sym_size", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like")


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
    """A memory under construction; ``initial`` yields its value at batch 1 from captured tensors."""

    name: str
    node: fx.Node
    following: fx.Node
    initial: Callable[[dict[fx.Node, torch.Tensor]], torch.Tensor]
    needs: fx.Node | None = None  # clip tensor that ``initial`` reads


class Rewriter:
    """State of one rewriting; rules call its methods.

    Args:
        clip: the traced model.
        rules: ATen op -> rule.
        flushes: False for a model without delay, whose stream never runs past the end of a clip.
    """

    UNBOUNDED = Fraction(1 << 40)  # the past of a recurrence

    def __init__(
        self,
        clip: ClipGraph,
        rules: dict[Any, Callable[[Rewriter, fx.Node], Any]],
        *,
        flushes: bool = True,
    ) -> None:
        self.clip = clip
        self.rules = rules
        self.flushes = flushes
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.states: list[_State] = []
        self.hop = self._hop_multiple()
        self._histories: dict[tuple[fx.Node, int], fx.Node] = {}
        self._delays: dict[tuple[fx.Node, int], Value] = {}
        self._batch: fx.Node | None = None
        self._inputs: list[fx.Node] = []
        self._current: fx.Node | None = None
        self._held: dict[tuple[fx.Node, float, bool], Value] = {}
        self._clock_node: fx.Node | None = None
        self._length_node: fx.Node | None = None
        self._static: dict[fx.Node, bool] = {}

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
        from spectral_edge.streaming.attention import (
            Pair,
            StaticPair,
            on_pairs,
        )

        value = node.meta.get("val")
        if value is None or isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat)):
            return None  # size arithmetic: rules read shapes from the metadata
        if self.is_static_pair(node):
            return StaticPair(node)
        if any(isinstance(self.env.get(n), Pair) for n in node.all_input_nodes):
            if len(self.time_axes_of(node)) == 2:
                return on_pairs(self, node)
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

    def value(self, arg: Any) -> Value:
        """Return what a clip node (given as an fx argument) stands for."""
        found = self.env[arg]
        assert isinstance(found, Value)
        return found

    # -- shapes and time ------------------------------------------------------------------------

    def time_axes(self, val: torch.Tensor) -> list[int]:
        """Return the axes of a clip tensor that grow with the number of frames."""
        return [i for i, size in enumerate(val.shape) if self.clip.slope(size) != 0]

    def time_axes_of(self, node: fx.Node) -> list[int]:
        """Return the time axes of a clip node, [] for one that is not a tensor."""
        val = node.meta.get("val")
        return self.time_axes(val) if isinstance(val, torch.Tensor) else []

    def is_static_pair(self, node: fx.Node) -> bool:
        """Return True for a tensor over pairs of frames that depends on their number only."""
        return len(self.time_axes_of(node)) == 2 and self._length_only(node)

    def _length_only(self, node: fx.Node) -> bool:
        if node not in self._static:
            name = getattr(getattr(node.target, "_schema", None), "name", "").split("::")[-1]
            if node.op == "placeholder":
                self._static[node] = False
            elif name in SIZES_ONLY:
                self._static[node] = True
            else:
                self._static[node] = all(self._length_only(n) for n in node.all_input_nodes)
        return self._static[node]

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
            state = self.remember(*self._frames_before(value, count))
            before, rows = state.node, self.batch_multiple(value.clip, 0)
            shape = [1 if n == -1 else n for n in self.step_shape(value.clip.meta["val"])][1:]
            shape[value.axis - 1] = count
            if rows > 1:
                before = self.emit(_aten.view.default, (before, [-1, *shape]))
            full = self.emit(_aten.cat.default, ([before, value.node], value.axis))
            chunk = self.chunk(value)
            state.following = self.emit(
                _aten.slice.Tensor, (full, value.axis, chunk, chunk + count)
            )
            if rows > 1:
                state.following = self.emit(
                    _aten.view.default,
                    (self.emit(_aten.contiguous.default, (state.following,)), [-1, rows, *shape]),
                )
            self._histories[key] = full
        return self._histories[key]

    def remember(
        self,
        initial: Callable[[dict[fx.Node, torch.Tensor]], torch.Tensor],
        needs: fx.Node | None = None,
        name: str | None = None,
    ) -> _State:
        """Add a state; the caller sets ``following`` to the node that becomes its next value.

        Args:
            initial: value before the first hop at batch 1, from captured clip tensors.
            needs: the clip tensor to capture for ``initial``, if any.
            name: state name; by default the path of the module that is being rewritten.
        """
        name = self._state_name(name)
        last = self.states[-1].node if self.states else self._inputs[-1]
        with self.graph.inserting_after(last):
            node = self.graph.placeholder(f"state_{name}")
        state = _State(name, node, node, initial, needs)
        self.states.append(state)
        return state

    def _frames_before(
        self, value: Value, count: int
    ) -> tuple[Callable[[dict[fx.Node, torch.Tensor]], torch.Tensor], fx.Node | None]:
        """Return the initial value of a state that holds ``count`` frames before the first hop.

        Clip frames with a negative index do not exist; they are only reached while the program
        warms up, and are zero.
        """
        axis, val = value.axis, value.clip.meta["val"]
        assert axis is not None
        rows = self.batch_multiple(value.clip, 0)
        shape = [rows, *(1 if n == -1 else n for n in self.step_shape(val)[1:])]
        shape[axis] = count
        first = -value.offset - count
        known = min(count, max(0, first + count))

        def initial(captured: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
            frames = torch.zeros(shape, dtype=val.dtype)
            if known:
                source = captured[value.clip].narrow(axis, max(0, first), known)
                frames.narrow(axis, count - known, known).copy_(source)
            return frames if rows == 1 else frames[None]

        return initial, value.clip if known else None

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

    def _state_name(self, name: str | None) -> str:
        assert self._current is not None
        base = name or self.name_here()
        taken = {s.name for s in self.states}
        unique, n = base, 1
        while unique in taken:
            n += 1
            unique = f"{base}_{n}"
        return unique

    # -- edges of the clip ---------------------------------------------------------------------

    def held(
        self, value: Value, fill: float, *, at_start: bool = True, at_end: bool = False
    ) -> Value:
        """Return ``value`` held at ``fill`` outside the clip.

        A tensor with lookahead carries warm-up frames before its first one (layers with a bias make
        something of nothing), and flush frames after its last. Padding says what stands there.
        """
        late = at_start and value.offset > 0
        at_end = at_end and self.flushes
        raw_input = value.node in self._inputs and fill == 0.0
        if value.axis is None or not (late or (at_end and not raw_input)):
            return value
        key = (value.node, fill, at_end)
        if key not in self._held:
            valid = self._inside_clip(value, at_start=late, at_end=at_end and not raw_input)
            node = self.emit(_aten.where.ScalarOther, (valid, value.node, fill))
            self._held[key] = replace(value, node=node)
        return replace(self._held[key], clip=value.clip, past=value.past)

    def kept_while_warming_up(self, value: Value, new: fx.Node, before: fx.Node) -> fx.Node:
        """Return ``new``, or ``before`` on hops whose newest frame of ``value`` is before the clip."""
        if value.offset <= 0:
            return new
        if self.chunk(value) != 1:
            raise self.refuse(
                value.clip,
                "recurrence after lookahead at a hop of several frames",
                "put the recurrence before the lookahead",
            )
        started = self.emit(_aten.ge.Scalar, (self.clock(), value.offset))
        return self.emit(_aten.where.self, (started, new, before))

    def _inside_clip(self, value: Value, *, at_start: bool, at_end: bool) -> fx.Node:
        """Return a bool node, shaped to broadcast along the time axis of ``value``."""
        assert value.axis is not None
        chunk, ndim = self.chunk(value), value.clip.meta["val"].ndim
        index = self.clock()
        if chunk > 1:
            ramp = self.constant(torch.arange(chunk, dtype=torch.int32), "ramp")
            scaled = self.emit(_aten.mul.Scalar, (index, chunk))
            index = self.emit(_aten.add.Tensor, (scaled, ramp))
        tests = []
        if at_start:
            tests.append(self.emit(_aten.ge.Scalar, (index, value.offset)))
        if at_end:
            length = value.clip.meta["val"].shape[value.axis]
            extra = self.clip.size(length, 5040) - int(5040 * value.rate)
            end = self._clip_length()
            if value.rate.numerator != 1:
                end = self.emit(_aten.mul.Scalar, (end, value.rate.numerator))
            if value.rate.denominator != 1:
                end = self.emit(
                    _aten.div.Scalar_mode, (end, value.rate.denominator), {"rounding_mode": "floor"}
                )
            if extra + value.offset:
                end = self.emit(_aten.add.Scalar, (end, extra + value.offset))
            tests.append(self.emit(_aten.lt.Tensor, (index, end)))
        valid = tests[0]
        if len(tests) > 1:
            valid = self.emit(_aten.logical_and.default, tuple(tests))
        shape = [1] * ndim
        shape[value.axis] = chunk
        return self.emit(_aten.view.default, (valid, shape))

    def clock(self) -> fx.Node:
        """Return hops since the start as an int32 node of shape [1]; all streams run in step."""
        if self._clock_node is None:
            state = self.remember(
                lambda _: torch.zeros(1, dtype=torch.int32), None, StepProgram.CLOCK
            )
            self._clock_node = self.emit(_aten.slice.Tensor, (state.node, 0, 0, 1))
            state.following = self.emit(_aten.add.Scalar, (state.node, 1))
        return self._clock_node

    def _clip_length(self) -> fx.Node:
        """Return input frames of the clip as an int32 node; the host sets it when it flushes."""
        if self._length_node is None:
            unknown = StepProgram.LENGTH_UNKNOWN
            state = self.remember(
                lambda _: torch.full((1,), unknown, dtype=torch.int32), None, StepProgram.LENGTH
            )
            self._length_node = self.emit(_aten.slice.Tensor, (state.node, 0, 0, 1))
        return self._length_node

    # -- constants and names ---------------------------------------------------------------------

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """Register a tensor with the program and return a node for it."""
        owner, unique, n = self.clip.module, name, 1
        while hasattr(owner, unique):
            if torch.equal(getattr(owner, unique), value):
                break
            unique, n = f"{name}_{n}", n + 1
        else:
            if value.dtype.is_floating_point:
                owner.register_parameter(unique, torch.nn.Parameter(value.clone()))
            else:
                owner.register_buffer(unique, value.clone())
        return self.graph.get_attr(unique)

    def name_here(self) -> str:
        """Return the path of the module being rewritten as an identifier."""
        assert self._current is not None
        path = module_path(self._current) or self._current.name
        return re.sub(r"[^0-9a-zA-Z]+", "_", path).strip("_")

    def batch_multiple(self, node: fx.Node, axis: int) -> int:
        """Return rows per stream of a clip tensor's batch axis (bands folded into the batch)."""
        size = node.meta["val"].shape[axis]
        one, two = self.clip.size(size, TRACE_FRAMES, 1), self.clip.size(size, TRACE_FRAMES, 2)
        if two != 2 * one:
            raise self.refuse(
                node, "it must be remembered but has no batch on axis 0", "keep the batch first"
            )
        return one

    # -- finishing ------------------------------------------------------------------------------

    def state_specs(self) -> OrderedDict[str, StateSpec]:
        """Return the specs of all states, with initial values read off the clip graph."""
        needed = {s.needs for s in self.states if s.needs is not None}
        captured = _capture(self.clip, needed) if needed else {}
        specs: OrderedDict[str, StateSpec] = OrderedDict()
        for state in self.states:
            initial = state.initial(captured)
            dtype = str(initial.dtype).removeprefix("torch.")
            specs[state.name] = StateSpec(tuple(initial.shape), dtype, initial.numpy())
        return specs

    def module(self, outputs: Sequence[Value]) -> fx.GraphModule:
        """Return the step graph module."""
        self._drop_unread_states([v.node for v in outputs])
        self.graph.output(
            (*(v.node for v in outputs), *(s.following for s in self.states)),
        )
        self.graph.eliminate_dead_code()
        self.graph.lint()
        module = fx.GraphModule(self.clip.module, self.graph)
        module.eval()  # type: ignore[no-untyped-call]
        return module

    def _drop_unread_states(self, roots: list[fx.Node]) -> None:
        """Forget states that nothing but their own update reads."""
        live: set[fx.Node] = set()
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node in live:
                continue
            live.add(node)
            waiting += node.all_input_nodes
            waiting += [s.following for s in self.states if s.node is node]
        dead = [s for s in self.states if s.node not in live]
        self.states = [s for s in self.states if s.node in live]
        self.graph.output((*roots, *(s.following for s in self.states)))
        self.graph.eliminate_dead_code()
        for state in dead:
            self.graph.erase_node(state.node)
        self.graph.erase_node(next(iter(reversed(self.graph.nodes))))

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
