"""From a float step graph to a prepared one (quantiser modules) to a frozen one (int8).

The frozen graph is the canonical form that writers read: int8 weights and int32 biases as buffers
behind ``dequantize``, and a ``quantize``/``dequantize`` pair on every activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers quantized_decomposed)

from spectral_edge.program import QParams, StepProgram

from .fake_quant import (
    ACTIVATION_RANGE,
    BIAS_RANGE,
    WEIGHT_RANGE,
    ActivationQuantizer,
    BiasQuantizer,
    WeightQuantizer,
)
from .graph import add_constant, arguments, copy_graph, get_constant, output_nodes, record_values
from .islands import mark_islands
from .normalise import normalise
from .observers import Observer
from .ops import WEIGHTED
from .quantizer import REQUANTIZE, Annotation, annotate, moves_codes, reads_codes

__all__ = [
    "REDUCES",
    "activation_qparams",
    "freeze_graph",
    "insert_quantizers",
    "quantizer_of",
    "quantizers",
]

REDUCES = "spectral_edge.reduces"  # meta key: elements that a mean is taken of
_GROUP = "spectral_edge_quantizer"  # node.meta: target of the quantiser of its group


def insert_quantizers(
    program: StepProgram, make_observer: Callable[[], Observer]
) -> fx.GraphModule:
    """Return a normalised copy of the program's graph with quantiser modules in it."""
    module = copy_graph(program.module)
    normalise(program, module)
    annotation = annotate(program, module)
    values = record_values(program, module)
    mark_islands(program, module.graph, annotation.statistics)
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.mean.dim:
            node.meta[REDUCES] = values[node.args[0]].numel() // values[node].numel()
    targets = _add_activation_quantizers(module, annotation, make_observer)
    first = next(n for n in module.graph.nodes if n.op in ("call_function", "output"))
    moved = {n for n in annotation.group if moves_codes(n) and reads_codes(n, annotation.group)}
    for node in list(module.graph.nodes):
        if node in annotation.group and node.op != "get_attr":
            target = targets[annotation.group[node]]
            node.meta[_GROUP] = target
            if node not in moved or node in annotation.exact:
                _call_quantizer(module, node, target, annotation, first)
    for user, constant in annotation.constants:
        _quantize_constant(module, user, constant, targets[annotation.group[constant]])
    for node in list(module.graph.nodes):
        if node.target in WEIGHTED and node not in annotation.exact:
            _quantize_weight(module, node)
    module.graph.lint()
    module.recompile()
    return module


def quantizers(module: fx.GraphModule) -> list[ActivationQuantizer]:
    """Return the activation quantisers of a prepared graph, one per group."""
    return [m for m in module.modules() if isinstance(m, ActivationQuantizer)]


def masked_sums(
    module: fx.GraphModule,
) -> Iterator[tuple[ActivationQuantizer, ActivationQuantizer]]:
    """Yield (quantiser of a mask, quantiser of scores plus mask) of a prepared, observed graph."""
    for node in module.graph.nodes:
        result = quantizer_of(module, node) if node.target is torch.ops.aten.add.Tensor else None
        for operand in node.all_input_nodes if result is not None else ():
            mask = quantizer_of(module, operand)
            constant = operand.op == "call_module" and operand.all_input_nodes[0].op == "get_attr"
            if constant and result is not None and mask is not None and mask.observer.masked:
                yield mask, result


def _add_activation_quantizers(
    module: fx.GraphModule, annotation: Annotation, make_observer: Callable[[], Observer]
) -> dict[fx.Node, str]:
    targets = {}
    for root in dict.fromkeys(annotation.group.values()):
        targets[root] = f"quantizers.{root.name}"
        quantizer = ActivationQuantizer(annotation.fixed.get(root), make_observer())
        module.add_submodule(targets[root], quantizer)
    return targets


def _call_quantizer(
    module: fx.GraphModule, node: fx.Node, target: str, annotation: Annotation, first: fx.Node
) -> None:
    """Quantise ``node`` for all its users, except along the path of exact states."""
    users = list(node.users)
    if node in annotation.exact:
        users = [u for u in users if u not in annotation.exact]
        if node not in annotation.statistics:
            users = [u for u in users if u.op != "output"]
    if not users:
        return
    where = (
        module.graph.inserting_before(first)
        if node.op == "placeholder"
        else module.graph.inserting_after(node)
    )
    with where:
        call = module.graph.call_module(target, (node,))
    call.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, call)


def _quantize_constant(
    module: fx.GraphModule, user: fx.Node, constant: fx.Node, target: str
) -> None:
    with module.graph.inserting_before(user):
        call = module.graph.call_module(target, (constant,))
    call.meta = {_GROUP: target}
    user.replace_input_with(constant, call)


def _quantize_weight(module: fx.GraphModule, node: fx.Node) -> None:
    where = WEIGHTED[node.target]
    args = arguments(node)
    x, weight, bias = (args[i] for i in (where.x, where.weight, where.bias))
    constants = all(n.op == "get_attr" for n in (weight, bias))
    source = quantizer_of(module, x)
    if not constants or source is None:
        return
    axis = where.axis
    if node.target is torch.ops.aten.convolution.default and args[6]:  # transposed
        axis = 1
    weight_quantizer = WeightQuantizer(get_constant(module, weight).shape, axis)
    bias_quantizer = BiasQuantizer(source, weight_quantizer)
    for position, quantizer, kind in (
        (where.weight, weight_quantizer, "weight"),
        (where.bias, bias_quantizer, "bias"),
    ):
        target = f"quantizers.{node.name}_{kind}"
        module.add_submodule(target, quantizer)
        with module.graph.inserting_before(node):
            args[position] = module.graph.call_module(target, (args[position],))
    node.args = tuple(args)


def quantizer_of(module: fx.GraphModule, node: Any) -> ActivationQuantizer | None:
    """Return the activation quantiser of the group that ``node`` is in, None for float values."""
    target = node.meta.get(_GROUP) if isinstance(node, fx.Node) else None
    if target is None:
        return None
    quantizer = module.get_submodule(target)
    assert isinstance(quantizer, ActivationQuantizer)
    return quantizer


def activation_qparams(module: fx.GraphModule) -> tuple[list[QParams | None], list[QParams | None]]:
    """Return qparams of every placeholder and of every returned tensor of a prepared graph."""

    def of(node: Any) -> QParams | None:
        quantizer = quantizer_of(module, node)
        return None if quantizer is None else quantizer.qparams()

    # an exact state is float at the boundary although others may read it quantised
    inputs = [
        of(n) if all(u.op == "call_module" for u in n.users) else None
        for n in module.graph.nodes
        if n.op == "placeholder"
    ]
    returned = [None if _has_quantizer(n) else of(n) for n in output_nodes(module.graph)]
    return inputs, returned


def _has_quantizer(node: fx.Node) -> bool:
    return any(u.op == "call_module" and u.target == node.meta.get(_GROUP) for u in node.users)


def freeze_graph(prepared: fx.GraphModule) -> fx.GraphModule:
    """Return the canonical int8 graph of a prepared one, which stays as it is."""
    module = copy_graph(prepared)
    for node in list(module.graph.nodes):
        if node.op == "call_module":
            quantizer = module.get_submodule(str(node.target))
            if isinstance(quantizer, WeightQuantizer):
                _freeze_weight(module, node, quantizer)
            elif isinstance(quantizer, BiasQuantizer):
                _freeze_bias(module, node, quantizer)
            elif isinstance(quantizer, ActivationQuantizer):
                _freeze_activation(module, node, quantizer)
        elif moves_codes(node) and _GROUP in node.meta and not _has_quantizer(node):
            _freeze_movement(module, node)
    for node in list(module.graph.nodes):
        if node.target is REQUANTIZE:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
        node.meta.pop(_GROUP, None)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    used: dict[str, Any] = {
        str(n.target): get_constant(module, n).detach()
        for n in module.graph.nodes
        if n.op == "get_attr"
    }
    return fx.GraphModule(used, module.graph)


def _freeze_weight(module: fx.GraphModule, node: fx.Node, quantizer: WeightQuantizer) -> None:
    codes = quantizer.codes(get_constant(module, node.all_input_nodes[0]))
    scales = quantizer.channel_scales()
    _dequantize_per_channel(module, node, codes, scales, quantizer.axis, WEIGHT_RANGE)


def _freeze_bias(module: fx.GraphModule, node: fx.Node, quantizer: BiasQuantizer) -> None:
    bias = get_constant(module, node.all_input_nodes[0])
    scales = quantizer.scales(bias.numel())
    _dequantize_per_channel(module, node, quantizer.codes(bias), scales, 0, BIAS_RANGE)


def _dequantize_per_channel(
    module: fx.GraphModule,
    node: fx.Node,
    codes: Tensor,
    scales: Tensor,
    axis: int,
    limits: tuple[int, int],
) -> None:
    name = node.name.removeprefix("quantizers_")
    zeros = torch.zeros(scales.numel(), dtype=torch.int64)
    parts = [
        add_constant(module, node, f"{name}_{part}", value)
        for part, value in (("codes", codes), ("scales", scales), ("zero_points", zeros))
    ]
    with module.graph.inserting_before(node):
        real = module.graph.create_node(
            "call_function",
            torch.ops.quantized_decomposed.dequantize_per_channel.default,
            (*parts, axis, *limits, codes.dtype),
            name=f"{name}_dq",
        )
    node.replace_all_uses_with(real)
    module.graph.erase_node(node)


def _freeze_activation(
    module: fx.GraphModule, node: fx.Node, quantizer: ActivationQuantizer
) -> None:
    value = node.all_input_nodes[0]
    qparams = quantizer.qparams()
    if value.op == "get_attr":
        real_value = get_constant(module, value).detach().numpy()
        codes = torch.from_numpy(np.asarray(qparams.quantize(real_value)))
        stored = add_constant(module, node, f"{value.name}_codes", codes)
        real = _dequantize(module, node, stored, qparams, f"{value.name}_dq")
    else:
        real = _pair(module, node, value, qparams)
    node.replace_all_uses_with(real)
    module.graph.erase_node(node)


def _freeze_movement(module: fx.GraphModule, node: fx.Node) -> None:
    quantizer = quantizer_of(module, node)
    assert quantizer is not None
    users = list(node.users)
    real = _pair(module, node.next, node, quantizer.qparams())
    for user in users:
        user.replace_input_with(node, real)


def _pair(module: fx.GraphModule, before: fx.Node, value: fx.Node, qparams: QParams) -> fx.Node:
    with module.graph.inserting_before(before):
        codes = module.graph.create_node(
            "call_function",
            torch.ops.quantized_decomposed.quantize_per_tensor.default,
            (value, qparams.scale, qparams.zero_point, *ACTIVATION_RANGE, torch.int8),
            name=f"{value.name}_q",
        )
    codes.meta = dict(value.meta)
    return _dequantize(module, before, codes, qparams, f"{value.name}_dq", value.meta)


def _dequantize(
    module: fx.GraphModule,
    before: fx.Node,
    codes: fx.Node,
    qparams: QParams,
    name: str,
    meta: dict[str, Any] | None = None,
) -> fx.Node:
    with module.graph.inserting_before(before):
        real = module.graph.create_node(
            "call_function",
            torch.ops.quantized_decomposed.dequantize_per_tensor.default,
            (codes, qparams.scale, qparams.zero_point, *ACTIVATION_RANGE, torch.int8),
            name=name,
        )
    real.meta = dict(meta or {})
    return real
