"""Float islands with the same bits in every engine, where a recurrence would remember a difference.

Layer norms and running statistics stay float32 in an int8 network. Two engines add the same float32
numbers in another order, and LiteRT's square root is up to two units in the last place off
(measured; XNNPACK's fma3 kernel), so that now and then a code after the island differs by one. In a
feed-forward network that passes; a recurrent state carries it on for as long as it remembers, a
cumulative norm for ever. So what such a state depends on is spelled with operations whose results
IEEE 754 fixes:

- sums are taken of codes, which are whole numbers: float32 adds those exactly in any order as long
  as the sum stays below 2^24 (a square of codes is below 2^16, and mostly far below);
- a square root is corrected by its exact residual (Dekker's splitting, Numerische Mathematik 18,
  1971), after which it is the nearest float32 whatever it was before;
- the rest is element-wise: additions, products and quotients, which every engine rounds correctly;
- the tensor that the island ends in has a power of two as its scale (``separate.py``), because one
  engine divides by a scale where another multiplies by its reciprocal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers quantized_decomposed)

from spectral_edge.program import StepProgram

from .graph import add_constant, arguments, closure, output_nodes, record_values
from .ops import MOVE

__all__ = ["ISLAND", "mark_islands", "spell_islands"]

ISLAND = "spectral_edge.island"  # meta key: a float value that a recurrent state depends on

_aten = torch.ops.aten
_quantized = torch.ops.quantized_decomposed
_QUANTIZE = _quantized.quantize_per_tensor.default
_DEQUANTIZE = _quantized.dequantize_per_tensor.default
_SPLITTER = 2.0**12 + 1  # halves a float32 significand
_TINY = 1e-30  # keeps 0 / 0 out of the square root of 0


def spell_islands(program: StepProgram) -> None:
    """Rewrite the float islands of a frozen program (in place) that recurrent states depend on."""
    module = program.module
    spelling = _Spelling(program, module)
    remembered = _remembered(program, module.graph)
    for node in list(module.graph.nodes):
        rule = _RULES.get(node.target) if node in remembered else None
        if rule is not None:
            rule(spelling, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def mark_islands(program: StepProgram, graph: fx.Graph, statistics: set[fx.Node]) -> None:
    """Mark in a normalised graph what float islands compute and recurrent states depend on."""
    for node in _remembered(program, graph):
        if node in statistics or node.target in _ISLANDS:
            node.meta[ISLAND] = True


def _remembered(program: StepProgram, graph: fx.Graph) -> set[fx.Node]:
    """Return what the next values of recurrent states are computed from."""
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    states = placeholders[len(program.inputs) :]
    following = output_nodes(graph)[len(program.outputs) :]
    found: set[fx.Node] = set()
    for before, after in zip(states, following, strict=True):
        before_it = closure([after], lambda n: n.all_input_nodes)
        if before in before_it and _is_computed_from(after, before, before_it):
            found |= before_it
    return found


def _is_computed_from(after: fx.Node, before: fx.Node, between: set[fx.Node]) -> bool:
    """Say whether ``after`` is more than ``before`` moved about: a delay line forgets."""
    depends, moved = {before}, {before}
    for node in before.graph.nodes:
        if node in between and any(n in depends for n in node.all_input_nodes):
            depends.add(node)
            moves = node.target in (_QUANTIZE, _DEQUANTIZE) or node.target in MOVE
            if moves and all(n in moved for n in node.all_input_nodes if n in depends):
                moved.add(node)
    return after not in moved


class _Spelling:
    """Emits nodes before the one that they stand for; codes of a value are made once."""

    def __init__(self, program: StepProgram, module: fx.GraphModule) -> None:
        self.module = module
        self.values = record_values(program, module)
        self._codes: dict[fx.Node, fx.Node] = {}
        self._before: fx.Node = next(iter(module.graph.nodes))

    def at(self, node: fx.Node) -> None:
        """Emit before ``node`` from now on, under names that begin with its own."""
        self._before = node

    def emit(self, target: Any, *args: Any) -> fx.Node:
        """Add a call; numbers become constants."""
        operands = tuple(self.constant(a) if isinstance(a, float) else a for a in args)
        with self.module.graph.inserting_before(self._before):
            node = self.module.graph.create_node(
                "call_function", target, operands, name=f"{self._before.name}_part"
            )
        node.meta = {k: v for k, v in self._before.meta.items() if k == "nn_module_stack"}
        return node

    def constant(self, number: float) -> fx.Node:
        """Return the node of a float32 constant."""
        value = torch.tensor([number], dtype=torch.float32)
        return add_constant(self.module, self._before, f"{self._before.name}_number", value)

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Let everyone read ``new`` instead of ``node``."""
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)

    def mul(self, a: Any, b: Any) -> fx.Node:
        return self.emit(_aten.mul.Tensor, a, b)

    def sub(self, a: Any, b: Any) -> fx.Node:
        return self.emit(_aten.sub.Tensor, a, b)

    def codes(self, value: fx.Node, scale: float) -> fx.Node:
        """Return ``value``, which is on a grid of step ``scale``, in units of it: whole numbers."""
        if value not in self._codes:
            before, self._before = self._before, value.next
            scaled = self.mul(value, 1.0 / scale)
            self._codes[value] = self.emit(_aten.round.default, scaled)
            self._before = before
        return self._codes[value]

    def root(self, x: fx.Node, guard: bool) -> fx.Node:
        """Return the square root of ``x``, correctly rounded; 0 of 0 needs the guard."""
        s = self.emit(_aten.sqrt.default, x)
        c = self.mul(s, _SPLITTER)
        high = self.sub(c, self.sub(c, s))
        low = self.sub(s, high)
        twice_high = self.emit(_aten.add.Tensor, high, high)
        residual = self.sub(x, self.mul(high, high))
        residual = self.sub(residual, self.mul(twice_high, low))
        residual = self.sub(residual, self.mul(low, low))
        twice = self.emit(_aten.add.Tensor, s, s)
        if guard:
            twice = self.emit(_aten.add.Tensor, twice, _TINY)
        return self.emit(_aten.add.Tensor, s, self.emit(_aten.div.Tensor, residual, twice))


def _step_of(node: Any) -> float | None:
    """Return the scale of the grid that a value is on: dequantised, then only moved."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target is _DEQUANTIZE:
            return float(node.args[1])  # type: ignore[arg-type]
        if node.target not in MOVE or len(node.all_input_nodes) != 1:
            return None
        (node,) = node.all_input_nodes
    return None


def _whole(spelling: _Spelling, node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return a value on a grid, or a product of two, as whole numbers and their unit."""
    step = _step_of(node)
    if step is not None:
        return spelling.codes(node, step), step
    if node.target is not _aten.mul.Tensor:
        return None
    steps = [(n, _step_of(n)) for n in node.args if isinstance(n, fx.Node)]
    known = [(spelling.codes(n, s), s) for n, s in steps if s is not None]
    if len(known) != 2:
        return None
    (a, unit_a), (b, unit_b) = known
    return spelling.mul(a, b), unit_a * unit_b


def _goes_on_as_codes(node: fx.Node) -> bool:
    return all(u.target is _QUANTIZE for u in node.users)


def _sum(spelling: _Spelling, node: fx.Node) -> None:
    source, axes, keepdim = arguments(node, 3)[:3]
    if _goes_on_as_codes(node) or node.kwargs or any(a is not None for a in node.args[3:]):
        return  # an integer kernel
    spelling.at(node)
    found = _whole(spelling, source)
    if found is None:
        return
    whole, unit = found
    total = spelling.emit(_aten.sum.dim_IntList, whole, axes, bool(keepdim))
    if node.target is _aten.mean.dim:
        unit /= spelling.values[source].numel() // spelling.values[node].numel()
    spelling.replace(node, spelling.mul(total, unit))


def _layer_norm(spelling: _Spelling, node: fx.Node) -> None:
    """(k - m) / sqrt(v + eps / step²), all in units of the codes k."""
    x, shape, weight, bias, eps = arguments(node, 5)[:5]
    eps = 1e-5 if eps is None else float(eps)
    step = _step_of(x)
    if step is None:
        return
    spelling.at(node)
    k = spelling.codes(x, step)
    axes, share = list(range(-len(shape), 0)), 1.0 / math.prod(shape)
    mean = spelling.mul(spelling.emit(_aten.sum.dim_IntList, k, axes, True), share)
    power = spelling.emit(_aten.sum.dim_IntList, spelling.mul(k, k), axes, True)
    variance = spelling.sub(spelling.mul(power, share), spelling.mul(mean, mean))
    variance = spelling.emit(_aten.relu.default, variance)
    floor = max(eps / step**2, _TINY)
    deviation = spelling.root(spelling.emit(_aten.add.Tensor, variance, floor), guard=False)
    y = spelling.emit(_aten.div.Tensor, spelling.sub(k, mean), deviation)
    y = y if weight is None else spelling.mul(y, weight)
    y = y if bias is None else spelling.emit(_aten.add.Tensor, y, bias)
    spelling.replace(node, y)


def _root(spelling: _Spelling, node: fx.Node) -> None:
    spelling.at(node)
    root = spelling.root(node.args[0], guard=True)  # type: ignore[arg-type]
    if node.target is _aten.rsqrt.default:
        root = spelling.emit(_aten.div.Tensor, 1.0, root)
    spelling.replace(node, root)


_ISLANDS = {_aten.layer_norm.default, _aten.sqrt.default, _aten.rsqrt.default}
_RULES: dict[Any, Any] = {
    _aten.layer_norm.default: _layer_norm,
    _aten.mean.dim: _sum,
    _aten.rsqrt.default: _root,
    _aten.sqrt.default: _root,
    _aten.sum.dim_IntList: _sum,
}
