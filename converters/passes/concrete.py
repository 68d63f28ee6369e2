"""Static shapes and folded constants."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from .common import op_name

__all__ = ["concrete"]

_CHECKS = ("aten._assert", "aten.sym_constrain")  # torch.export's run-time checks
_DEQUANTIZE = ("dequantize_per_tensor", "dequantize_per_channel")


def concrete(module: torch.fx.GraphModule, example: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """Return a copy of ``module`` specialised to the shapes of ``example``.

    Pre: ``module(*example)`` runs. Post: every node carries ``meta["val"]``; nodes that give
    numbers (sizes) or check shapes are gone; a tensor that depends on constants only is a
    ``get_attr`` buffer, except that dequantised constants keep
    their codes (quantised ones are folded to codes).
    """
    module = _copy(module)
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(*example)
    for node in list(module.graph.nodes):
        if not node.users and op_name(node).startswith(_CHECKS):
            module.graph.erase_node(node)
        elif node.op == "call_function" and not _holds_tensor(node.meta["val"]):
            value = node.meta["val"]
            for user in list(node.users):
                user.args = _substitute(user.args, node, value)
                user.kwargs = _substitute(user.kwargs, node, value)
    for node, value in recorder.folded.items():
        if node.users:
            _make_buffer(module, node, value)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Recorder(torch.fx.Interpreter):
    """Runs the graph once, writes ``meta["val"]``, and remembers constant results."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.constant: set[Node] = set()
        self.folded: dict[Node, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op != "output":
            n.meta["val"] = _describe(result)
        if n.op == "get_attr" or (n.op == "call_function" and isinstance(result, int | float)):
            self.constant.add(n)  # sizes are numbers at these shapes
        elif n.op == "call_function" and all(p in self.constant for p in n.all_input_nodes):
            if isinstance(result, torch.Tensor) and not _keeps_codes(n):
                self.constant.add(n)
                self.folded[n] = result.detach().clone()
            elif not isinstance(result, torch.Tensor):
                self.constant.add(n)
        return result


def _keeps_codes(node: Node) -> bool:
    return op_name(node).rpartition(".")[2] in _DEQUANTIZE


def _copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Copy graph and node metadata; share parameters (nothing writes to them)."""
    graph = torch.fx.Graph()
    mapping: dict[Node, Node] = {}
    output = graph.graph_copy(module.graph, mapping)
    graph.output(output)
    for old, new in mapping.items():
        new.meta = copy.copy(old.meta)
    return torch.fx.GraphModule(module, graph)


def _describe(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, (tuple, list)):
        return tuple(_describe(v) for v in value)
    return value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, torch.Tensor)


def _substitute(arguments: Any, node: Node, value: Any) -> Any:
    return torch.fx.node.map_aggregate(arguments, lambda a: value if a is node else a)


def _make_buffer(module: torch.fx.GraphModule, node: Node, value: torch.Tensor) -> None:
    name = f"_folded_{node.name}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = {**node.meta, "val": _describe(value)}
    node.replace_all_uses_with(constant)
    module.graph.erase_node(node)
