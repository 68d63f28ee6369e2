"""Spelling a float step graph in the few forms that the quantiser handles.

Nothing here changes what the graph computes (up to a float32 rounding of a constant):

- subgraphs of constants become one constant; no-ops vanish;
- Python numbers in arithmetic become constant tensors, so that they get qparams like any operand;
- ``addmm``, ``mm`` and ``matmul`` with a constant matrix become ``linear``;
- every convolution and linear layer gets a bias; average pooling is a depth-wise convolution;
- ``clamp`` becomes ``relu``/``hardtanh`` where it is one; ``neg``, ``pow(x, 2)``, ``rsub`` and
  ``alpha`` become multiplications, additions and subtractions.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, fx

from spectral_edge.program import StepProgram

from .graph import (
    add_constant,
    arguments,
    get_constant,
    is_float_tensor,
    output_nodes,
    record_values,
    replace_node,
)
from .ops import WEIGHTED

__all__ = ["normalise"]

_aten = torch.ops.aten
Values = dict[fx.Node, Any]

_NO_OPS = {
    _aten.alias.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.detach.default,
    _aten.lift_fresh_copy.default,
    _aten.dropout.default,
    _aten.to.dtype,
    _aten.to.dtype_layout,
    _aten._to_copy.default,
}
_WITH_SCALARS: dict[Any, Any] = {
    _aten.add.Scalar: _aten.add.Tensor,
    _aten.sub.Scalar: _aten.sub.Tensor,
    _aten.mul.Scalar: _aten.mul.Tensor,
    _aten.div.Scalar: _aten.div.Tensor,
    _aten.rsub.Tensor: _aten.rsub.Scalar,
}
_ARITHMETIC = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor}
LARGE_MASK = -1e9
_EVERYTHING = 2**31  # a slice that ends here or later takes the whole axis


def normalise(program: StepProgram, module: fx.GraphModule) -> None:
    """Rewrite ``module`` (a copy of the program's graph) in place."""
    _placeholders_first(module)
    _fold_constants(module, record_values(program, module))
    _each(program, module, _drop_no_op)
    _each(program, module, _simplify)
    _each(program, module, _infinite_masks)
    _each(program, module, _scalars_to_constants)
    _each(program, module, _matmul_to_linear)
    _each(program, module, _average_to_convolution)
    _each(program, module, _add_missing_bias)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _each(
    program: StepProgram,
    module: fx.GraphModule,
    rule: Callable[[fx.GraphModule, fx.Node, Values], None],
) -> None:
    values = record_values(program, module)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            rule(module, node, values)


def _placeholders_first(module: fx.GraphModule) -> None:
    nodes = list(module.graph.nodes)
    for node in reversed(nodes):
        if node.op == "placeholder":
            next(iter(module.graph.nodes)).prepend(node)


def _fold_constants(module: fx.GraphModule, values: Values) -> None:
    """Compute what depends on constants only; a folded float parameter stays trainable."""
    varying: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(n in varying for n in node.all_input_nodes):
            varying.add(node)
    returned = output_nodes(module.graph)
    for node in list(module.graph.nodes):
        value = values.get(node)
        if node.op != "call_function" or node in varying or not isinstance(value, Tensor):
            continue
        if node not in returned and all(user not in varying for user in node.users):
            continue  # only the last constant of a chain is kept
        trainable = value.is_floating_point() and _has_parameter(module, node)
        constant = add_constant(module, node, f"{node.name}_folded", value, trainable=trainable)
        node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()


def _has_parameter(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "get_attr":
        return isinstance(get_constant(module, node), torch.nn.Parameter)
    return any(_has_parameter(module, n) for n in node.all_input_nodes)


def _drop_no_op(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    source = arguments(node, 1)[0]
    if not isinstance(source, fx.Node) or not isinstance(values[source], Tensor):
        return
    if node.target in _NO_OPS:
        nothing = values[node].dtype == values[source].dtype
        nothing &= node.target is not _aten.dropout.default or not arguments(node, 3)[2]
    elif node.target is _aten.slice.Tensor:
        _, _, start, end, step = arguments(node, 5)
        nothing = not start and step in (None, 1) and (end is None or _is_huge(end))
    else:
        return
    if nothing:
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)


def _is_huge(end: Any) -> bool:
    return isinstance(end, int) and end >= _EVERYTHING


def _simplify(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    if not is_float_tensor(values[node]):
        return
    node.target = _WITH_SCALARS.get(node.target, node.target)
    x, *others = arguments(node, 3)
    if node.target is _aten.clamp.default:
        low, high = others
        if low == 0 and high is None:
            replace_node(node, _aten.relu.default, (x,), values)
        elif low is not None and high is not None:
            replace_node(node, _aten.hardtanh.default, (x, float(low), float(high)), values)
    elif node.target is _aten.neg.default:
        replace_node(node, _aten.mul.Tensor, (x, -1.0), values)
    elif node.target is _aten.square.default or (
        node.target is _aten.pow.Tensor_Scalar and others[0] == 2
    ):
        replace_node(node, _aten.mul.Tensor, (x, x), values)
    elif node.target is _aten.rsub.Scalar:
        node.args = (others[0], x, *node.args[2:])
        node.target = _aten.sub.Tensor
    elif node.target is _aten.div.Tensor and isinstance(others[0], (int, float)):
        replace_node(node, _aten.mul.Tensor, (x, 1.0 / others[0]), values)


def _infinite_masks(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    """Write masks as large finite numbers, whose products with 0 are 0."""
    node.args = fx.node.map_aggregate(
        node.args, lambda a: LARGE_MASK if isinstance(a, float) and a == -inf else a
    )
    for source in node.all_input_nodes:
        if source.op == "get_attr" and is_float_tensor(values[source]):
            with torch.no_grad():
                get_constant(module, source).clamp_(min=LARGE_MASK)


def _scalars_to_constants(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    """Make every operand of add, sub, mul (and both of div) a tensor; remove ``alpha``."""
    if not is_float_tensor(values[node]):
        return
    if node.target not in (*_ARITHMETIC, _aten.div.Tensor):
        return
    first, second, third = arguments(node, 3)
    alpha: Any = node.kwargs.get("alpha", third)
    operands = [_as_tensor(module, node, a) for a in (first, second)]
    if alpha not in (None, 1):
        factor = _as_tensor(module, node, float(alpha))
        with module.graph.inserting_before(node):
            operands[1] = module.graph.call_function(_aten.mul.Tensor, (operands[1], factor))
        operands[1].meta = dict(node.meta)
    node.args, node.kwargs = tuple(operands), {}


def _as_tensor(module: fx.GraphModule, before: fx.Node, operand: Any) -> fx.Node:
    if isinstance(operand, fx.Node):
        return operand
    value = torch.tensor([float(operand)], dtype=torch.float32)
    return add_constant(module, before, f"{before.name}_constant", value)


def _matmul_to_linear(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    if node.target is _aten.addmm.default and not node.kwargs:
        bias, x, matrix = arguments(node)[:3]
        if bias.op != "get_attr" or get_constant(module, bias).ndim != 1:
            return
    elif node.target in (_aten.mm.default, _aten.matmul.default):
        bias, x, matrix = None, *arguments(node)[:2]
    else:
        return
    if matrix.op != "get_attr" or get_constant(module, matrix).ndim != 2 or values[x].ndim < 2:
        return
    value = get_constant(module, matrix)
    trainable = isinstance(value, torch.nn.Parameter)
    weight = add_constant(
        module, node, f"{node.name}_weight", value.t().contiguous(), trainable=trainable
    )
    replace_node(node, _aten.linear.default, (x, weight, bias), values)


def _average_to_convolution(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    """Average pooling sums codes and divides: engines round the many ties differently."""
    if node.target not in (_aten.avg_pool1d.default, _aten.avg_pool2d.default):
        return
    n = 1 if node.target is _aten.avg_pool1d.default else 2
    defaults: list[Any] = [None, None, [], [0] * n, False, True, None]
    given: list[Any] = [*node.args, *defaults[len(node.args) :]]
    x, kernel, stride, padding, ceil_mode, count, divisor = given
    if node.kwargs or ceil_mode or divisor or (any(padding) and not count):
        return
    if values[x].ndim != n + 2:
        return
    channels = values[x].shape[1]
    kernel, stride, padding = ([*v] * (n // len(v)) for v in (kernel, stride or kernel, padding))
    weight = torch.full((channels, 1, *kernel), 1.0 / prod(kernel))
    constant = add_constant(module, node, f"{node.name}_mean", weight)
    op = _aten.conv1d.default if n == 1 else _aten.conv2d.default
    replace_node(node, op, (x, constant, None, stride, padding, [1] * n, channels), values)


def _add_missing_bias(module: fx.GraphModule, node: fx.Node, values: Values) -> None:
    where = WEIGHTED.get(node.target)
    if where is None:
        return
    args = arguments(node, where.bias + 1)
    if args[where.bias] is not None:
        return
    channel_axis = -1 if node.target is _aten.linear.default else 1
    zeros = torch.zeros(values[node].shape[channel_axis])
    args[where.bias] = add_constant(module, node, f"{node.name}_bias", zeros)
    node.args = tuple(args)
