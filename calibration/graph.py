"""Small helpers over ``torch.fx`` step graphs: constants, names, recorded values."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from spectral_edge.program import StepProgram

__all__ = [
    "add_constant",
    "arguments",
    "closure",
    "copy_graph",
    "get_constant",
    "is_float_tensor",
    "module_path",
    "output_nodes",
    "record_values",
    "replace_node",
]


def copy_graph(module: fx.GraphModule) -> fx.GraphModule:
    """Return a deep copy that shares no tensor and keeps node metadata."""
    copied = copy.deepcopy(module)
    for old, new in zip(module.graph.nodes, copied.graph.nodes, strict=True):
        new.meta = dict(old.meta)
    return copied


def arguments(node: fx.Node, count: int = 0) -> list[Any]:
    """Return the positional arguments of ``node``, filled up with None to ``count``."""
    return [*node.args, *[None] * (count - len(node.args))]


def get_constant(module: nn.Module, node: fx.Node) -> Tensor:
    """Return the tensor (parameter or buffer) that a ``get_attr`` node stands for."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def add_constant(
    module: fx.GraphModule, before: fx.Node, name: str, value: Tensor, *, trainable: bool = False
) -> fx.Node:
    """Register ``value`` under a free name like ``name``; return its ``get_attr`` node."""
    stem = name.replace(".", "_")
    unique, count = stem, 1
    while hasattr(module, unique):
        unique, count = f"{stem}_{count}", count + 1
    if trainable:
        module.register_parameter(unique, nn.Parameter(value.detach().clone()))
    else:
        module.register_buffer(unique, value.detach().clone())
    with module.graph.inserting_before(before):
        return module.graph.get_attr(unique)


def replace_node(
    node: fx.Node, target: Any, args: tuple[Any, ...], values: dict[fx.Node, Any]
) -> fx.Node:
    """Put a call of ``target`` where ``node`` is, under its name, metadata and recorded value."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, args)
    new.meta = dict(node.meta)
    values[new] = values[node]
    node.replace_all_uses_with(new)
    name = node.name
    node.graph.erase_node(node)
    new.name = name
    return new


def closure(start: Iterable[fx.Node], neighbours: Any) -> set[fx.Node]:
    """Return what ``neighbours`` (node -> nodes) leads to from ``start``, ``start`` among it."""
    reached: set[fx.Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(neighbours(node))
    return reached


def output_nodes(graph: fx.Graph) -> list[Any]:
    """Return what the graph returns, in order."""
    returned = next(iter(reversed(graph.nodes))).args[0]
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def record_values(program: StepProgram, module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Run ``module`` for one hop of zeros and return the value of every node."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    inputs = [torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in program.inputs]
    with torch.no_grad():
        Recorder(module, garbage_collect_values=False).run(*inputs, *program.initial_states(1))
    return values


def is_float_tensor(value: Any) -> bool:
    """Say whether a recorded value is a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()


def module_path(node: fx.Node) -> str:
    """Return the path of the module that a node came from, or ''."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = list(stack.values())[-1][0]
    return str(path)
