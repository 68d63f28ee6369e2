"""Walking a clip graph and building the graph of one hop.

Every tensor that has a time axis becomes a :class:`Value`: the new node holds the ``chunk`` newest
frames that can be known, and ``offset`` says how far they lag behind the input. With hop n the
graph
computes frames ``n·chunk - offset …`` of the clip tensor. A left pad makes a tensor known *early*
(negative offset), a convolution without padding makes it late; a causal layer does both and ends
at 0.
What must be remembered between hops becomes a state (:mod:`.memory`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil, lcm
from typing import Any

import torch
from torch import fx

from spectral_edge.errors import NotStreamable
from spectral_edge.program import StateSpec
from spectral_edge.streaming import memory
from spectral_edge.streaming.memory import Captured, State
from spectral_edge.streaming.trace import LONG, ClipGraph
from spectral_edge.streaming.value import Pair, Refused, StaticPair, Value, module_path, refusal

__all__ = ["Rewriter"]

_aten = torch.ops.aten
SIZES_ONLY = {
    "sym_size", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like",
}  # fmt: skip
JUDGES = {
    _aten.cat.default,
    _aten.slice_scatter.default,
    _aten.stft.default,
    _aten.stft.center,
    torch.ops.higher_order.scan,
}  # rules that look at a refused operand themselves


class Rewriter:
    """State of one rewriting; rules call its methods.

    Args:
        clip: the traced model.
        rules: ATen op -> rule.
        on_pairs: rule for ops on scores of frames against frames.
        flushes: False for a model without delay, whose stream never runs past the end of a clip.
    """

    UNBOUNDED = Fraction(1 << 40)  # the past of a recurrence

    def __init__(
        self,
        clip: ClipGraph,
        rules: dict[Any, Callable[[Rewriter, fx.Node], Any]],
        on_pairs: Callable[[Rewriter, fx.Node], Any],
        *,
        flushes: bool = True,
    ) -> None:
        self.clip = clip
        self.rules = rules
        self.on_pairs = on_pairs
        self.flushes = flushes
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.inputs: list[fx.Node] = []
        self.states: list[State] = []
        self.hop = self._hop_multiple()
        self.histories: dict[Any, fx.Node] = {}
        self.delays: dict[Any, Value] = {}
        self.held: dict[Any, Value] = {}
        self.counters: dict[Any, fx.Node] = {}  # frame numbers of this hop, one count for all
        self.steady: set[fx.Node] = set()  # constant over time: nothing to remember
        self.clock_node: fx.Node | None = None
        self.length_node: fx.Node | None = None
        self._batch: fx.Node | None = None
        self._current: fx.Node | None = None
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
                self.inputs.append(new)
                self.env[node] = Value(new, node, axis)
            elif node.op == "output":
                return self._outputs(node)
            else:
                self.visit(node)
        raise AssertionError("graph without output")

    def visit(self, node: fx.Node) -> None:
        """Rewrite one node; what cannot stream is refused when something uses it."""
        self._current = node
        if node.op == "get_attr":
            if isinstance(node.meta.get("val"), torch.Tensor):
                self.env[node] = Value(self.graph.get_attr(str(node.target)), node)
        elif node.op == "call_function":
            try:
                self.env[node] = self._call(node)
            except NotStreamable as error:
                self.env[node] = Refused(error)
        else:
            raise refusal(node, f"a {node.op} survived tracing", "report this model")

    def _call(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat)):
            return None  # size arithmetic: rules read shapes from the metadata
        if self.is_static_pair(node):
            return StaticPair(node)
        if op_name(node) not in SIZES_ONLY and node.target not in JUDGES:
            for n in node.all_input_nodes:
                if isinstance(self.env.get(n), Refused):
                    raise self.env[n].error
        scores = any(isinstance(self.env.get(n), Pair) for n in node.all_input_nodes)
        if scores and len(self.time_axes_of(node)) == 2:
            return self.on_pairs(self, node)
        rule = self.rules.get(node.target)
        if rule is None:
            raise refusal(
                node,
                "there is no streaming rule for this op",
                "write it with supported ops (docs/how-to/stream-your-own-model.md lists them)",
            )
        return rule(self, node)

    def _outputs(self, node: fx.Node) -> list[Value]:
        leaves = torch.utils._pytree.tree_leaves(node.args[0])
        values = [self.value(leaf) for leaf in leaves]
        for value, leaf in zip(values, leaves, strict=True):
            if not value.pure:
                raise refusal(
                    leaf, "this output has no time axis of its own", "return one value per frame"
                )
            length = leaf.meta["val"].shape[value.axis]
            if self.clip.size(length, LONG) != int(LONG * value.rate):
                raise refusal(
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
        """Return what a clip node (given as an fx argument) stands for.

        Raises:
            NotStreamable: it has no streaming form.
        """
        found = self.env[arg]
        if isinstance(found, Refused):
            raise found.error
        if not isinstance(found, Value):
            raise refusal(
                arg, "it relates every frame to every other frame", "attend within a window"
            )
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
        return len(self.time_axes_of(node)) == 2 and self.length_only(node)

    def length_only(self, node: fx.Node) -> bool:
        """Return True when a clip tensor depends on parameters and the number of frames only."""
        if node not in self._static:
            if node.op == "placeholder":
                self._static[node] = False
            elif op_name(node) in SIZES_ONLY:
                self._static[node] = True
            else:
                self._static[node] = all(self.length_only(n) for n in node.all_input_nodes)
        return self._static[node]

    def mark_static(self, node: fx.Node, static: bool) -> None:
        """Declare whether a placeholder of a scan's body depends on parameters only."""
        self._static[node] = static

    def arrive(self, node: fx.Node) -> None:
        """Name what is emitted next after ``node``."""
        self._current = node

    def time_axis(self, node: fx.Node, val: torch.Tensor | None = None) -> int | None:
        """Return the time axis of a clip node; more than one is refused."""
        axes = self.time_axes(node.meta["val"] if val is None else val)
        if len(axes) > 1:
            raise refusal(
                node,
                "it relates every frame to every other frame",
                "attend within a window of past frames",
            )
        return axes[0] if axes else None

    def chunk(self, value: Value) -> int:
        """Return how many frames of ``value`` one step computes."""
        return int(self.hop * value.rate)

    def per_stream(self, size: Any) -> bool:
        """Return True for a size that grows with the batch."""
        return self.clip.size(size, LONG, 1) != self.clip.size(size, LONG, 2)

    def step_shape(self, val: torch.Tensor) -> list[Any]:
        """Return the shape that clip tensor ``val`` has in the step graph, batch axes as -1."""
        shape: list[Any] = []
        for size in val.shape:
            if self.per_stream(size):
                shape.append(-1)
            else:
                slope = self.clip.slope(size)
                shape.append(int(slope * self.hop) if slope else self.clip.size(size, LONG))
        return shape

    def concrete(self, val: torch.Tensor) -> list[Fraction]:
        """Return the shape at the probe batch, time axes at one input frame's share."""
        return [
            s if (s := self.clip.slope(size)) else Fraction(self.clip.size(size, LONG))
            for size in val.shape
        ]

    # -- emitting -------------------------------------------------------------------------------

    def emit(
        self, target: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        """Add a step node; it keeps the module path and source line of the clip node."""
        node = self.graph.call_function(target, tuple(args), kwargs or {})
        if self._current is not None:
            for key in ("nn_module_stack", "stack_trace", "source_fn_stack"):
                if key in self._current.meta:
                    node.meta[key] = self._current.meta[key]
            node.meta["clip_node"] = self._current.name
        return node

    def moved(self, node: fx.Node, ndim: int, source: int, destination: int) -> fx.Node:
        """Return a tensor with one axis moved elsewhere."""
        order = list(range(ndim))
        order.insert(destination % ndim, order.pop(source % ndim))
        return self.emit(_aten.permute.default, (node, order))

    def batch_size(self) -> fx.Node:
        """Return a node that holds the batch size of the first input."""
        if self._batch is None:
            with self.graph.inserting_after(self.inputs[-1]):
                self._batch = self.graph.call_function(_aten.sym_size.int, (self.inputs[0], 0))
        return self._batch

    def history(self, value: Value, count: int) -> fx.Node:
        """Return ``count`` remembered frames followed by the newest ones, along the time axis."""
        return memory.history(self, value, count)

    def delayed(self, value: Value, frames: int) -> Value:
        """Return ``value`` delayed by ``frames`` of its own frames."""
        return memory.delayed(self, value, frames)

    def aligned(self, values: Sequence[Value]) -> list[Value]:
        """Delay values with time so that all lag equally."""
        return memory.aligned(self, values)

    def remember(
        self,
        initial: Callable[[Captured], torch.Tensor],
        needs: fx.Node | None = None,
        name: str | None = None,
        *,
        exact: bool = False,
    ) -> State:
        """Add a state; the caller sets ``following`` to the node that becomes its next value.

        Args:
            initial: value before the first hop at batch 1, from captured clip tensors.
            needs: the clip tensor to capture for ``initial``, if any.
            name: state name; by default the path of the module that is being rewritten.
            exact: it keeps its dtype when the program is quantised (counters, unbounded sums).
        """
        name = self._state_name(name or self.name_here())
        last = self.states[-1].node if self.states else self.inputs[-1]
        with self.graph.inserting_after(last):
            node = self.graph.placeholder(f"state_{name}")
        state = State(name, node, node, initial, needs, exact)
        self.states.append(state)
        return state

    def keep_frame(
        self,
        value: Value,
        fill: float = 0.0,
        *,
        exact: bool = False,
        dtype: torch.dtype | None = None,
    ) -> memory.Kept:
        """Add a state for one frame of ``value``, filled; of its dtype unless told another."""
        shape, own = memory.zeros_like_frame(self, value, 1)
        dtype = dtype or own
        return memory.Kept(self, shape, lambda _: torch.full(shape, fill, dtype=dtype), exact=exact)

    def _state_name(self, base: str) -> str:
        taken = {s.name for s in self.states}
        unique, n = base, 1
        while unique in taken:
            n += 1
            unique = f"{base}_{n}"
        return unique

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

    # -- finishing ------------------------------------------------------------------------------

    def state_specs(self) -> OrderedDict[str, StateSpec]:
        """Return the specs of all states, with initial values read off the clip graph."""
        needed = {s.needs for s in self.states if s.needs is not None}
        captured = memory.capture(self.clip, needed) if needed else {}
        specs: OrderedDict[str, StateSpec] = OrderedDict()
        for state in self.states:
            initial = state.initial(captured)
            dtype = str(initial.dtype).removeprefix("torch.")
            specs[state.name] = StateSpec(
                tuple(initial.shape), dtype, initial.numpy(), exact=state.exact
            )
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
        module.eval()
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


def op_name(node: fx.Node) -> str:
    """Return the name of an ATen op without namespace and overload, "" for other targets."""
    return str(getattr(getattr(node.target, "_schema", None), "name", "")).split("::")[-1]
