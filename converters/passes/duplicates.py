"""One node for one computation."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

__all__ = ["merge_duplicates"]


def merge_duplicates(module: torch.fx.GraphModule) -> bool:
    """Merge nodes with the same op and the same arguments.

    Pre: ops are pure (a step program has no other). Post: no two nodes compute the same value.
    """
    seen: dict[Any, Node] = {}
    changed = False
    for node in list(module.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.op, node.target, _key(node.args), _key(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)
            changed = True
    return changed


def _key(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return ("sequence", *(_key(v) for v in value))
    if isinstance(value, dict):
        return ("mapping", *((k, _key(v)) for k, v in sorted(value.items())))
    if isinstance(value, slice):
        return ("slice", _key(value.start), _key(value.stop), _key(value.step))
    # 1, 1.0 and True compare equal but mean different things to an op
    return value if isinstance(value, Node) else (type(value).__name__, value)
