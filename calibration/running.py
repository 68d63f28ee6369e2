"""Sums that grow for as long as the stream does, and the statistics made of them.

A running mean is (sum so far) / (frames so far). Both grow without bound, so no scale found on
calibration clips holds on a longer stream; and the variance made of two of them is a small
difference of large numbers. Int8 fits neither: from the reductions that feed a running sum to the
tensor that is normalised by it, everything stays float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from spectral_edge.program import StepProgram

from .graph import closure, output_nodes
from .ops import MOVE

__all__ = ["running_statistics"]

_aten = torch.ops.aten
_ADDS = {_aten.add.Tensor, _aten.add.Scalar}
_REDUCTIONS = {_aten.sum.dim_IntList, _aten.mean.dim, _aten.cumsum.default}
_MATRICES = {_aten.matmul.default, _aten.bmm.default, _aten.mm.default}

# What statistics are made with. An activation or a layer with weights ends them.
_ARITHMETIC = {
    *_ADDS,
    *_REDUCTIONS,
    *_MATRICES,
    *(MOVE - {_aten.where.self, _aten.cat.default}),
    _aten._to_copy.default,
    _aten.to.dtype,
    _aten.clamp.default,
    _aten.clamp_min.default,
    _aten.div.Tensor,
    _aten.mul.Tensor,
    _aten.pow.Tensor_Scalar,
    _aten.reciprocal.default,
    _aten.relu.default,
    _aten.rsqrt.default,
    _aten.sqrt.default,
    _aten.sub.Tensor,
}


def running_statistics(program: StepProgram, module: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes of a normalised graph that compute with running sums and must stay float.

    A running sum is an exact state to which each step adds something (no decay). Forward from it
    go arithmetic and reductions up to the first node that something else reads, backward the
    reductions and squares of what is added.
    """
    found: set[fx.Node] = set()
    for path in _running_sums(program, module):
        found |= _forward(path)
        for node in path:
            if node.target in _ADDS:
                for operand in set(node.all_input_nodes) - path:
                    _backward(operand, found)
    return {n for n in found if n.op == "call_function"}


def _running_sums(program: StepProgram, module: fx.GraphModule) -> Iterator[set[fx.Node]]:
    """Yield, for every running sum, the nodes from the state to what it becomes."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    states = placeholders[len(program.inputs) :]
    following = output_nodes(module.graph)[len(program.outputs) :]
    for spec, before, after in zip(program.states.values(), states, following, strict=True):
        path = _between(before, after) if spec.exact else set()
        called = {n.target for n in path if n is not before}
        if called & _ADDS and called <= _ADDS | MOVE:
            yield path


def _between(before: fx.Node, after: fx.Node) -> set[fx.Node]:
    """Return the nodes on all paths from ``before`` to ``after``, both among them."""
    following = closure([before], lambda n: n.users)
    return following & closure([after], lambda n: n.all_input_nodes)


def _forward(path: set[fx.Node]) -> set[fx.Node]:
    reached: set[fx.Node] = set()
    waiting = list(path)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            if node in path or all(_continues(u) for u in node.users):
                waiting += [u for u in node.users if _continues(u) and u.op != "output"]
    return reached


def _continues(node: fx.Node) -> bool:
    if node.op == "output":
        return True
    constant = any(n.op == "get_attr" for n in node.all_input_nodes)
    return node.target in _ARITHMETIC and not (constant and node.target in _MATRICES)


def _backward(node: fx.Node, found: set[fx.Node]) -> bool:
    """Add the reductions and squares that end in ``node``; say whether there are any."""
    if node.op != "call_function":
        return False
    square = node.target is _aten.mul.Tensor and node.args[0] is node.args[1]
    inside = square or node.target in _REDUCTIONS
    if inside or node.target in MOVE:
        below = [_backward(n, found) for n in node.all_input_nodes]  # visit every one
        inside |= any(below)
    if inside:
        found.add(node)
    return inside
