"""The loop over a step graph: which node becomes which call, and the boundary of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from spectral_edge.errors import ConversionError
from spectral_edge.qparams import QParams

from . import (
    lower_conv,
    lower_elementwise,
    lower_linear,
    lower_logic,
    lower_movement,
    lower_reduce,
)
from .layout import Perm, channels_last, identity
from .lower_elementwise import clamp_range, saturates
from .lowering import (
    RELU_RANGES,
    Call,
    Lowering,
    constant_operand,
    dequantised_constant,
    rule_of,
)
from .values import Const, Value

__all__ = ["Boundary", "LoweredProgram", "lower_program"]

# importing these modules fills the table of rules
_FAMILIES = (
    lower_conv,
    lower_elementwise,
    lower_linear,
    lower_logic,
    lower_movement,
    lower_reduce,
)
_CHANNELS_LAST_SIGNAL = ("aten.conv1d", "aten.max_pool1d", "aten.avg_pool1d")
_LAST_AXIS = ("aten.linear", "aten.matmul", "aten.bmm", "aten.mm", "aten.layer_norm")


@dataclass(frozen=True)
class Boundary:
    """A named tensor at the edge of the file; ``like`` names an input with the same layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    qparams: QParams | None
    like: str | None = None


@dataclass
class LoweredProgram:
    """A lowered step graph: the file's builder, signature tensors, layouts."""

    lowering: Lowering
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, Perm] = field(default_factory=dict)


@dataclass
class _Walk:
    """State of the loop over the nodes."""

    module: torch.fx.GraphModule
    op_name: Callable[[Node], str]
    arguments: Callable[[Node], dict[str, Any]]
    lowered: LoweredProgram
    values: dict[Node, Any] = field(default_factory=dict)
    fused: dict[Node, Node] = field(default_factory=dict)  # activation -> producer


def lower_program(
    module: torch.fx.GraphModule,
    inputs: Sequence[Boundary],
    outputs: Sequence[Boundary],
    op_name: Callable[[Node], str],
    arguments: Callable[[Node], dict[str, Any]],
) -> LoweredProgram:
    """Lower a cleaned step graph.

    Args:
        module: graph with static shapes in ``meta["val"]``.
        inputs: one per placeholder, in order.
        outputs: one per returned tensor, in order.
        op_name: gives the op of a node without its overload.
        arguments: gives the bound arguments of a node.

    Raises:
        UnsupportedOp: a node that has no lowering.
    """
    walk = _Walk(module, op_name, arguments, LoweredProgram(Lowering()))
    walk.fused = _fusions(walk)
    producers = set(walk.fused.values())
    placeholders = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            walk.values[node] = _input(walk, node, next(placeholders))
        elif node.op == "get_attr":
            walk.values[node] = constant_operand(_attribute(module, str(node.target)))
        elif node.op == "call_function" and node not in producers:
            walk.values[node] = _node(walk, node)
        elif node.op == "output":
            for spec, value in zip(outputs, _flatten(node.args[0]), strict=True):
                _output(walk, value, spec)
    return walk.lowered


def _attribute(module: torch.fx.GraphModule, path: str) -> torch.Tensor:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in _flatten(v)]
    return [value]


# --- quantise nodes and fusions -------------------------------------------------------------


def _is(walk: _Walk, node: Node, suffix: str) -> bool:
    return node.op == "call_function" and walk.op_name(node).endswith(suffix)


def _target_qparams(walk: _Walk, node: Node) -> QParams | None:
    """Qparams that all readers of ``node`` quantise it with, None when they do not agree."""
    found = set()
    for user in node.users:
        if not _is(walk, user, "quantized_decomposed.quantize_per_tensor"):
            return None
        found.add(_qparams(user))
    return found.pop() if len(found) == 1 else None


def _qparams(node: Node) -> QParams:
    scale, zero_point, low, high, dtype = node.args[1:6]
    name = str(dtype).removeprefix("torch.")
    q = QParams(float(scale), int(zero_point), name)  # type: ignore[arg-type]
    if (low, high) != q.code_range:
        raise ConversionError(
            f"node {node.name!r} quantises to {low}…{high}, activations use all of {q.code_range}"
        )
    return q


def _fusions(walk: _Walk) -> dict[Node, Node]:
    """Pairs of activation and producer that become one operator."""
    pairs: dict[Node, Node] = {}
    for node in walk.module.graph.nodes:
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            continue
        bounds = clamp_range(walk.op_name(node), walk.arguments(node))
        producer = node.args[0]
        if bounds is None or producer.op != "call_function" or len(producer.users) != 1:
            continue
        rule = rule_of(walk.op_name(producer))
        known = bounds in RELU_RANGES or saturates(bounds, _target_qparams(walk, node))
        if rule is not None and rule.fuses and known and producer not in pairs:
            pairs[node] = producer
    return pairs


def _activation(walk: _Walk, node: Node) -> str:
    bounds = clamp_range(walk.op_name(node), walk.arguments(node))
    return RELU_RANGES.get(bounds, "NONE") if bounds is not None else "NONE"


# --- nodes ----------------------------------------------------------------------------------


def _node(walk: _Walk, node: Node) -> Any:
    low, op = walk.lowered.lowering, walk.op_name(node)
    if op == "getitem":
        source, index = node.args
        return walk.values[source][index]  # type: ignore[index]
    if op.startswith("quantized_decomposed."):
        return _quantise_node(walk, node, op, _resolved(walk, walk.arguments(node)))
    producer = walk.fused.get(node, node)
    activation = "NONE" if producer is node else _activation(walk, node)
    name, args = walk.op_name(producer), _resolved(walk, walk.arguments(producer))
    target = _target_qparams(walk, node)
    rule = rule_of(name)
    if rule is None:
        raise low.unsupported(node)
    meta = node.meta["val"]
    shape = tuple(meta.shape) if isinstance(meta, torch.Tensor) else ()
    return low.lower(Call(node, name, args, shape, target, activation), rule)


def _quantise_node(walk: _Walk, node: Node, op: str, args: dict[str, Any]) -> Any:
    low, source = walk.lowered.lowering, args["input"]
    if op.startswith("quantized_decomposed.dequantize"):
        return dequantised_constant(source, args) if isinstance(source, Const) else source
    if not op.endswith("quantize_per_tensor"):
        raise low.unsupported(node, "activations are quantised per tensor")
    q = _qparams(node)
    if isinstance(source, Const):
        return Const(q.quantize(source.real), np.asarray(q.scale, np.float32), q.zero_point)
    return low.as_codes(source, q, node.name)


def _resolved(walk: _Walk, args: dict[str, Any]) -> dict[str, Any]:
    def lookup(value: Any) -> Any:
        return walk.values[value] if isinstance(value, Node) else value

    return {
        k: [lookup(x) for x in v] if isinstance(v, (list, tuple)) else lookup(v)
        for k, v in args.items()
    }


# --- boundary -------------------------------------------------------------------------------


def _input(walk: _Walk, node: Node, spec: Boundary) -> Value:
    perm = channels_last(4) if len(spec.shape) == 4 else identity(len(spec.shape))
    if len(spec.shape) == 3 and _is_signal(walk, node):
        perm = channels_last(3)
    qparams = spec.qparams if spec.dtype == "int8" else None
    value = walk.lowered.lowering.new(spec.name, spec.shape, perm, spec.dtype, qparams)
    walk.lowered.inputs[spec.name] = value.tensor
    walk.lowered.layouts[spec.name] = perm
    return value


def _is_signal(walk: _Walk, node: Node) -> bool:
    """True when the first op with a wish for a layout of rank 3 is a 1-D convolution or pool."""
    queue, seen = [node], {node}
    while queue:
        for user in queue.pop(0).users:
            if user in seen or user.op != "call_function":
                continue
            name = walk.op_name(user)
            if name in _CHANNELS_LAST_SIGNAL:
                return True
            if name in _LAST_AXIS:
                return False
            meta = user.meta["val"]
            if isinstance(meta, torch.Tensor) and meta.ndim == 3:
                seen.add(user)
                queue.append(user)
    return False


def _output(walk: _Walk, node: Node, spec: Boundary) -> None:
    lowered, low = walk.lowered, walk.lowered.lowering
    value = walk.values[node]
    if isinstance(value, Const):
        value = low.tensor_of(value, spec.name)
    if spec.qparams is not None and spec.dtype == "int8":
        value = low.as_codes(value, spec.qparams, spec.name)
    else:
        value = low.as_float(value)
    perm = lowered.layouts.get(spec.like or "", value.perm)
    if spec.like is None and len(spec.shape) != 3:
        perm = channels_last(4) if len(spec.shape) == 4 else identity(len(spec.shape))
    value = low.laid(value, perm)
    taken = {*lowered.inputs.values(), *lowered.outputs.values()}
    if value.tensor in taken or low.builder.tensors[value.tensor].data is not None:
        value = low.copy(value, spec.name)
    low.builder.rename(value.tensor, spec.name)
    lowered.outputs[spec.name] = value.tensor
    lowered.layouts[spec.name] = perm
