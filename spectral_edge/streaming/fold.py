"""Batch normalisation in eval mode folded into the convolution or linear layer before it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

__all__ = ["fold_batch_norm", "get_constant", "set_constant"]

_aten = torch.ops.aten
_PRODUCERS = {
    _aten.conv1d.default, _aten.conv2d.default, _aten.conv1d.padding, _aten.conv2d.padding,
    _aten.linear.default,
}  # fmt: skip


def get_constant(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """Return the tensor that a ``get_attr`` node stands for."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach()


def set_constant(module: fx.GraphModule, like: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    """Register ``value`` as a parameter or buffer and return a ``get_attr`` node before ``like``."""
    unique, count = name, 1
    while hasattr(module, unique):
        unique, count = f"{name}_{count}", count + 1
    module.register_parameter(unique, torch.nn.Parameter(value, requires_grad=True))
    with module.graph.inserting_before(like):
        node = module.graph.get_attr(unique)
    node.meta["val"] = value
    return node


def fold_batch_norm(module: fx.GraphModule) -> int:
    """Fold every eval-mode batch norm whose producer is a conv or linear used only by it.

    Other batch norms become one multiplication and one addition with constants. Works in place.

    Returns:
        Number of batch norms removed.
    """
    removed = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not _aten.batch_norm.default:
            continue
        x, gamma, beta, mean, var, training, _, eps = node.args[:8]
        if training:
            continue
        variance = get_constant(module, var)
        factor = (variance + eps).rsqrt()
        if gamma is not None:
            factor = factor * get_constant(module, gamma)
        shift = -get_constant(module, mean) * factor
        if beta is not None:
            shift = shift + get_constant(module, beta)
        if x.target in _PRODUCERS and len(x.users) == 1 and x.args[1].op == "get_attr":
            _fold_into(module, x, factor, shift)
            node.replace_all_uses_with(x)
        else:
            _as_affine(module, node, x, factor, shift)
        module.graph.erase_node(node)
        removed += 1
    _drop_counter_updates(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return removed


def _fold_into(
    module: fx.GraphModule, producer: fx.Node, factor: torch.Tensor, shift: torch.Tensor
) -> None:
    weight = get_constant(module, producer.args[1])  # type: ignore[arg-type]
    bias_node = producer.args[2] if len(producer.args) > 2 else None
    bias = get_constant(module, bias_node) if isinstance(bias_node, fx.Node) else 0.0
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    new_bias = bias * factor + shift
    stem = str(producer.args[1].target).replace(".", "_")  # type: ignore[union-attr]
    args = list(producer.args) + [None] * (3 - len(producer.args))
    args[1] = set_constant(module, producer, f"{stem}_folded", new_weight)
    args[2] = set_constant(module, producer, f"{stem}_folded_bias", new_bias)
    producer.args = tuple(args)


def _as_affine(
    module: fx.GraphModule, node: fx.Node, x: fx.Node, factor: torch.Tensor, shift: torch.Tensor
) -> None:
    shape = (-1, *[1] * (x.meta["val"].ndim - 2))
    scale = set_constant(module, node, f"{node.name}_scale", factor.reshape(shape))
    offset = set_constant(module, node, f"{node.name}_shift", shift.reshape(shape))
    with module.graph.inserting_before(node):
        scaled = module.graph.call_function(_aten.mul.Tensor, (x, scale))
        result = module.graph.call_function(_aten.add.Tensor, (scaled, offset))
    for new in (scaled, result):
        new.meta = dict(node.meta)
    node.replace_all_uses_with(result)


def _drop_counter_updates(module: fx.GraphModule) -> None:
    """Remove what is left of training-mode bookkeeping: in-place updates nobody reads."""
    for node in reversed(list(module.graph.nodes)):
        in_place = node.op == "call_function" and node.target in (_aten.add_.Tensor, operator.iadd)
        if in_place and not node.users and node.args[0].op == "get_attr":
            module.graph.erase_node(node)
