"""Batch normalisation in eval mode folded into the convolution or linear layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["fold_batch_norm", "get_constant", "set_constant"]

_aten = torch.ops.aten
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input}
_PRODUCERS = {
    _aten.conv1d.default, _aten.conv2d.default, _aten.conv1d.padding, _aten.conv2d.padding,
    _aten.linear.default, *_TRANSPOSED,
}  # fmt: skip


def get_constant(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """Return the tensor that a ``get_attr`` node stands for."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach()


def set_constant(
    module: fx.GraphModule, like: fx.Node, name: str, value: torch.Tensor, *, learned: bool = True
) -> fx.Node:
    """Register ``value`` with the module and return a ``get_attr`` node before ``like``."""
    unique, count = name, 1
    while hasattr(module, unique):
        unique, count = f"{name}_{count}", count + 1
    if learned and value.dtype.is_floating_point:
        module.register_parameter(unique, torch.nn.Parameter(value.clone()))
    else:
        module.register_buffer(unique, value.clone())
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
        found = _parameters(node)
        if found is None:
            continue
        x, gamma, beta, mean, var, eps = found
        variance = get_constant(module, var)
        factor = (variance + eps).rsqrt()
        if gamma is not None:
            factor = factor * get_constant(module, gamma)
        shift = -get_constant(module, mean) * factor
        if beta is not None:
            shift = shift + get_constant(module, beta)
        if _on_channels(x) and len(x.users) == 1 and x.args[1].op == "get_attr":
            _fold_into(module, x, factor, shift)
            new = x
        else:
            new = _as_affine(module, node, x, factor, shift)
        for reader in list(node.users) if isinstance(node.meta["val"], tuple) else [node]:
            reader.replace_all_uses_with(new)
            module.graph.erase_node(reader)
        if node.graph is not None and node in module.graph.nodes:
            module.graph.erase_node(node)
        removed += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return removed


def _parameters(node: fx.Node) -> Any:
    """Return (x, gamma, beta, mean, var, eps) of a norm by stored statistics, else None."""
    args: Any = node.args
    if node.target is _aten._native_batch_norm_legit_no_training.default:
        return (*args[:5], args[6])
    if node.target is _aten.batch_norm.default:
        return None if args[5] else (*args[:5], args[7])
    if node.target is _aten.instance_norm.default:
        return None if args[5] else (*args[:5], args[7])
    return None


def _fold_into(
    module: fx.GraphModule, producer: fx.Node, factor: torch.Tensor, shift: torch.Tensor
) -> None:
    weight = get_constant(module, producer.args[1])  # type: ignore[arg-type]
    bias_node = producer.args[2] if len(producer.args) > 2 else None
    bias = get_constant(module, bias_node) if isinstance(bias_node, fx.Node) else 0.0
    new_weight = _scaled(producer, weight, factor)
    new_bias = bias * factor + shift
    stem = str(producer.args[1].target).replace(".", "_")  # type: ignore[union-attr]
    args = list(producer.args) + [None] * (3 - len(producer.args))
    args[1] = set_constant(module, producer, f"{stem}_folded", new_weight)
    args[2] = set_constant(module, producer, f"{stem}_folded_bias", new_bias)
    producer.args = tuple(args)


def _on_channels(x: fx.Node) -> bool:
    """Return True for a producer whose output channels are the axis that the norm scales."""
    if x.target is _aten.linear.default:
        return bool(x.meta["val"].ndim == 2)
    return x.target in _PRODUCERS


def _scaled(producer: fx.Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale the output channels of a weight; transposed convolutions keep them on axis 1."""
    if producer.target not in _TRANSPOSED:
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    groups = producer.args[6] if len(producer.args) > 6 else 1
    assert isinstance(groups, int)
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    shape = (groups, 1, -1, *[1] * (weight.ndim - 2))
    return (parts * factor.reshape(shape)).reshape(weight.shape)


def _as_affine(
    module: fx.GraphModule, node: fx.Node, x: fx.Node, factor: torch.Tensor, shift: torch.Tensor
) -> fx.Node:
    shape = (-1, *[1] * (x.meta["val"].ndim - 2))
    scale = set_constant(module, node, f"{node.name}_scale", factor.reshape(shape))
    offset = set_constant(module, node, f"{node.name}_shift", shift.reshape(shape))
    with module.graph.inserting_before(node):
        scaled = module.graph.call_function(_aten.mul.Tensor, (x, scale))
        result = module.graph.call_function(_aten.add.Tensor, (scaled, offset))
    for new in (scaled, result):
        new.meta = {**node.meta, "val": x.meta["val"]}
    return result
