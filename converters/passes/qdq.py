"""Quantise/dequantise pairs that change nothing."""

from __future__ import annotations

import torch

from .common import is_dequantize, is_quantize, qparams_of

__all__ = ["drop_repeated_qdq"]


def drop_repeated_qdq(module: torch.fx.GraphModule) -> bool:
    """Drop a pair directly after a dequantise of the same qparams.

    Exact: a dequantised code quantises to the same code. Post: no quantise node reads a dequantise
    node of its own qparams.
    """
    changed = False
    for node in list(module.graph.nodes):
        if not is_quantize(node) or not is_dequantize(node.args[0]):
            continue
        if qparams_of(node) == qparams_of(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
            module.graph.erase_node(node)
            changed = True
    return changed
