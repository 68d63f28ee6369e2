"""From operators to lazy values and kernels: the walk, and what the rules of operators use.

A rule gets an operator and returns the value of its output. Values stay lazy until somebody needs
them in memory; then everything that leads to them becomes one loop, or the epilogue of the kernel
(convolution, product, reduction) that they start from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from spectral_edge.errors import UnsupportedOp

from .expr import Expr, Lazy, dequantized, leaf, leaves, number, quantized, remapped
from .kernels import Dense, Kernel, Loop
from .read import Graph, Operator, Tensor
from .roots import deferred, places
from .view import Buffer, View, contiguous

__all__ = ["Lowering", "lower_graph", "lowers"]

Rule = Callable[["Lowering", Operator], "Lazy | Sequence[Lazy]"]
MAX_DEPTH = 150  # of one expression: it is walked recursively

_RULES: dict[str, Rule] = {}


def lowers(*codes: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of operators ``codes``."""

    def register(rule: Rule) -> Rule:
        for code in codes:
            _RULES[code] = rule
        return rule

    return register


def supported() -> tuple[str, ...]:
    """Operators that have a rule."""
    return tuple(sorted(_RULES))


@dataclass
class Lowering:
    """The program under construction.

    Attributes:
        exact: the file holds codes, so float islands sum in float64 as the golden rollout does.
        values: value of every tensor so far, by index.
        kernels: in the order in which they run.
        inputs: where the inputs of the graph lie, by index.
    """

    graph: Graph
    exact: bool
    values: dict[int, Lazy] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    inputs: dict[int, View] = field(default_factory=dict)
    _places: dict[int, View] = field(default_factory=dict)
    _deferred: frozenset[int] = frozenset()
    _pending: dict[int, Kernel] = field(default_factory=dict)

    def value(self, tensor: Tensor) -> Lazy:
        """Value of a tensor; constants of one element are numbers."""
        if tensor.index not in self.values:
            assert tensor.data is not None
            if tensor.size == 1 and tensor.dtype != "int8":
                scalar = number(tensor.data.reshape(-1)[0], tensor.dtype)
                self.values[tensor.index] = Lazy(tensor.shape, scalar)
            else:
                flat = np.ascontiguousarray(tensor.data.reshape(-1))
                buffer = Buffer(tensor.dtype, tensor.size, "const", flat)
                self.values[tensor.index] = Lazy(
                    tensor.shape, leaf(contiguous(buffer, tensor.shape))
                )
        return self.values[tensor.index]

    def real(self, op: Operator, tensor: Tensor, shape: tuple[int, ...] | None = None) -> Expr:
        """The float32 value of a tensor of codes or reals, broadcast to ``shape``."""
        wanted = tensor.shape if shape is None else shape
        if tensor.dtype == "float32":
            return self.spread(op, self.value(tensor), wanted)
        op.require(tensor.dtype in ("int8", "int16"), f"cannot read {tensor.dtype} as reals")
        op.require(tensor.quantised, "has codes without one scale")
        if tensor.data is not None and tensor.size == 1:
            code = np.float32(int(tensor.data.reshape(-1)[0]) - tensor.zero_point)
            return number(float(code * np.float32(tensor.scale)))
        codes = self.spread(op, self.value(tensor), wanted)
        return dequantized(codes, tensor.scale, tensor.zero_point)

    def finished(self, op: Operator, expr: Expr) -> Lazy:
        """The float32 result ``expr`` of an operator, quantised when its output has codes."""
        made = op.output
        if made.dtype == "float32":
            return Lazy(made.shape, expr)
        op.require(made.dtype in ("int8", "int16") and made.quantised, f"writes {made.dtype}")
        return Lazy(made.shape, quantized(expr, made.scale, made.zero_point, made.dtype))

    def spread(self, op: Operator, value: Lazy, shape: tuple[int, ...]) -> Expr:
        """Expression of a value broadcast to ``shape``."""
        if value.shape == shape:
            return value.expr
        spread = remapped(value.expr, lambda view: view.broadcast(shape))
        if spread is None or len(value.shape) > len(shape):
            raise op.wrong(f"cannot spread {list(value.shape)} over {list(shape)}")
        return spread

    def reshaped(self, value: Lazy, shape: tuple[int, ...]) -> Lazy:
        """Another shape with the same element order; copies only when strides cannot say it."""
        made = remapped(value.expr, lambda view: view.reshaped(shape))
        if made is None:
            made = leaf(contiguous(self.stored(value).buffer, shape))
        return Lazy(shape, made)

    def in_memory(self, value: Lazy) -> View:
        """Where a value lies; computes it when it is not in memory."""
        view = value.view
        if view is not None and view.buffer.kind != "pending":
            return view
        return self.stored(value)

    def stored(self, value: Lazy) -> View:
        """Compute a value into a buffer of its own."""
        out = contiguous(Buffer(value.expr.dtype, math.prod(value.shape)), value.shape)
        self.store(value, out)
        return out

    def place(self, tensor: Tensor) -> View:
        """Where a tensor should be written."""
        if tensor.index not in self._places:
            buffer = Buffer(tensor.dtype, tensor.size)
            self._places[tensor.index] = contiguous(buffer, tensor.shape)
        return self._places[tensor.index]

    def pending(self, kernel: Kernel) -> Expr:
        """Hold a kernel back until its epilogue is known; returns its accumulator."""
        self._pending[id(kernel.acc)] = kernel
        return kernel.raw

    def settle(self, expr: Expr) -> None:
        """Run every held kernel that ``expr`` reads."""
        for view in leaves(expr):
            if id(view.buffer) in self._pending:
                self._flush(self._pending[id(view.buffer)])

    def store(self, value: Lazy, out: View) -> None:
        """Append the kernel that computes ``value`` into ``out``."""
        held = {
            id(v.buffer): self._pending[id(v.buffer)]
            for v in leaves(value.expr)
            if id(v.buffer) in self._pending
        }
        host = None
        self._merge([k for k in held.values() if isinstance(k, Dense)])
        for kernel in sorted(held.values(), key=lambda k: -math.prod(k.shape)):
            if id(kernel.acc) not in self._pending:
                continue  # merged
            if host is None and self._fuse(kernel, value, out):
                host = kernel
            else:
                self._flush(kernel)
        if host is None:
            acc = Buffer("float32", 0, "pending")
            self.kernels.append(Loop(value.shape, acc, value.expr, out))
        else:
            del self._pending[id(host.acc)]
            self.kernels.append(host)

    def _fuse(self, kernel: Kernel, value: Lazy, out: View) -> bool:
        """Make ``value`` the epilogue of ``kernel`` if it reads each accumulator in its place."""
        for view in leaves(value.expr):
            own = view.buffer is kernel.acc
            if own and not (view.is_packed and view.offset == 0 and view.size == kernel.acc.size):
                return False
        expr = remapped(value.expr, lambda view: view.reshaped(kernel.shape))
        place = out.reshaped(kernel.shape)
        if expr is None or place is None:
            return False
        kernel.expr, kernel.out = expr, place
        return True

    def _flush(self, kernel: Kernel) -> None:
        """Run a held kernel now: its accumulators become a buffer."""
        del self._pending[id(kernel.acc)]
        buffer, kernel.acc = kernel.acc, Buffer(kernel.acc.dtype, kernel.acc.size, "pending")
        buffer.kind = "scratch"
        kernel.expr, kernel.out = kernel.raw, contiguous(buffer, kernel.shape)
        self.kernels.append(kernel)

    def _merge(self, kernels: list[Dense]) -> None:
        """Matrix-vector products of one vector become one product."""
        groups: dict[object, list[Dense]] = {}
        for kernel in kernels:
            if math.prod(kernel.x.shape[:3]) == 1 and kernel.weight.shape[0] == 1:
                x = kernel.x
                key = (id(x.buffer), x.offset, x.shape, x.strides, kernel.zero_point)
                groups.setdefault(key, []).append(kernel)
        for group in groups.values():
            if len(group) < 2:
                continue
            weight = np.concatenate([k.weight for k in group], axis=-1)
            bias = np.concatenate([k.bias for k in group])
            first, size = group[0], len(bias)
            acc = Buffer(first.acc.dtype, size, "pending")
            joined = Dense(
                (1, 1, 1, size),
                acc,
                x=first.x,
                weight=weight,
                bias=bias,
                zero_point=first.zero_point,
            )
            parent, at = Buffer(acc.dtype, size), 0
            for kernel in group:
                del self._pending[id(kernel.acc)]
                kernel.acc.kind, kernel.acc.parent, kernel.acc.shift = "scratch", parent, at
                at += len(kernel.bias)
            joined.expr, joined.out = joined.raw, contiguous(parent, joined.shape)
            self.kernels.append(joined)

    # --- the walk ----------------------------------------------------------------------------

    def run(self) -> None:
        """Lower every operator."""
        self._places = places(self.graph)
        self._deferred = deferred(self.graph)
        for tensor in self.graph.inputs.values():
            whole = contiguous(Buffer(tensor.dtype, tensor.size, "fixed"), tensor.shape)
            view = self._places.get(tensor.index, whole)
            self.inputs[tensor.index] = view
            self.values[tensor.index] = Lazy(tensor.shape, leaf(view))
        for op in self.graph.operators:
            rule = _RULES.get(op.code)
            if rule is None:
                raise UnsupportedOp(
                    f"operator {op.position} is {op.code}, which has no C form; "
                    f"there are {', '.join(supported())}"
                )
            made = rule(self, op)
            values = [made] if isinstance(made, Lazy) else list(made)
            op.require(len(values) == len(op.outputs), "has the wrong number of outputs")
            for tensor, value in zip(op.outputs, values, strict=True):
                wanted = tensor.shape, tensor.dtype
                op.require(
                    (value.shape, value.expr.dtype) == wanted,
                    f"gives {value.expr.dtype}{list(value.shape)}, the file says "
                    f"{tensor.dtype}{list(tensor.shape)}",
                )
                self.values[tensor.index] = self._settled(tensor, value)

    def _settled(self, tensor: Tensor, value: Lazy) -> Lazy:
        """Leave a value lazy where its readers compute it, else put it into its place."""
        view = value.view
        if (view is not None and view.buffer.kind != "pending") or value.expr.is_number:
            return value
        if tensor.index in self._deferred and value.expr.depth <= MAX_DEPTH:
            return value
        out = self.place(tensor)
        self.store(value, out)
        return Lazy(tensor.shape, leaf(out))


def lower_graph(graph: Graph) -> Lowering:
    """Lower a checked graph.

    Raises:
        UnsupportedOp: an operator without a rule, or in a form that its rule does not take.
        ConversionError: an operator whose tensors do not fit together.
    """
    from . import lower_data, lower_elementwise, lower_reduce, lower_sums  # noqa: F401 (fill the table of rules)

    exact = any(t.dtype in ("int8", "int16") for t in graph.tensors)
    lowering = Lowering(graph, exact)
    lowering.run()
    return lowering
