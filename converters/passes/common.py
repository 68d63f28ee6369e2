"""What the passes share: names of ops, bound arguments, quantise/dequantise pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers quantized_decomposed)
from torch.fx import Node

__all__ = [
    "DEQUANTIZE",
    "QUANTIZE",
    "arguments",
    "is_dequantize",
    "is_quantize",
    "op_name",
    "origin",
    "qparams_of",
    "shape_of",
]

_quantized = torch.ops.quantized_decomposed
QUANTIZE = _quantized.quantize_per_tensor.default
DEQUANTIZE = _quantized.dequantize_per_tensor.default


def op_name(node: Node) -> str:
    """Return ``aten.conv2d`` for a node of any conv2d overload, else the target's own name."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket)
    return getattr(node.target, "__name__", str(node.target))


def arguments(node: Node) -> dict[str, Any]:
    """Bind a node's arguments to the names of its op schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(node.args)}
    bound: dict[str, Any] = {}
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args):
            bound[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def is_quantize(node: Any) -> bool:
    """True for a per-tensor quantise node."""
    return isinstance(node, Node) and node.target is QUANTIZE


def is_dequantize(node: Any) -> bool:
    """True for a per-tensor dequantise node."""
    return isinstance(node, Node) and node.target is DEQUANTIZE


def qparams_of(node: Node) -> tuple[Any, ...]:
    """Scale, zero point, code range and dtype of a per-tensor quantise or dequantise node."""
    return tuple(node.args[1:6])


def origin(node: Node) -> tuple[Node, tuple[Any, ...] | None]:
    """Return the node before a quantise/dequantise pair and the pair's qparams.

    ``(node, None)`` when ``node`` is not the dequantise half of a pair.
    """
    if is_dequantize(node) and is_quantize(node.args[0]):
        quantize = node.args[0]
        assert isinstance(quantize, Node)
        if qparams_of(quantize) == qparams_of(node):
            source = quantize.args[0]
            assert isinstance(source, Node)
            return source, qparams_of(node)
    return node, None


def shape_of(node: Node) -> tuple[int, ...]:
    """Static shape of a node's tensor."""
    return tuple(node.meta["val"].shape)
