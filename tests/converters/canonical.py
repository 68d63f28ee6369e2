"""A small quantiser for the converter tests: puts a float step graph into canonical int8 form.

Independent of the package's own quantiser, so that writers are tested on the form itself. Ranges
are given by random data; ops that only move data share one range with their inputs.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers quantized_decomposed)
from torch.fx import Node

from spectral_edge.program import StateSpec, StepProgram, TensorSpec
from spectral_edge.qparams import QParams

Q = torch.ops.quantized_decomposed
QUANTIZE, DEQUANTIZE = Q.quantize_per_tensor.default, Q.dequantize_per_tensor.default
FIXED = {
    "aten.sigmoid": QParams(1 / 256, -128),
    "aten.softmax": QParams(1 / 256, -128),
    "aten.tanh": QParams(1 / 128, 0),
}
MOVES = [
    "cat",
    "slice",
    "pad",
    "constant_pad_nd",
    "view",
    "reshape",
    "permute",
    "transpose",
    "movedim",
    "squeeze",
    "unsqueeze",
    "select",
    "flatten",
    "upsample_nearest2d",
    "upsample_nearest1d",
    "expand",
    "repeat",
    "stack",
    "split",
    "chunk",
    "getitem",
    "roll",
    "flip",
    "amax",
    "max_pool2d",
    "max_pool1d",
    "clone",
    "dropout",
    "narrow",
    "unbind",
    "index_select",
]
RELUS = ("aten.relu", "aten.relu6", "aten.hardtanh")
FUSING = ("aten.conv1d", "aten.conv2d", "aten.linear", "aten.add")
WEIGHTED = ("aten.conv1d", "aten.conv2d", "aten.linear")


def op(node: Node) -> str:
    """Op without overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(node.target, "__name__", node.op)


def step_program(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor] = (),
    output_names: Sequence[str] = ("output",),
) -> StepProgram:
    """Float program of ``model(*inputs, *states) -> (*outputs, *next states)``."""
    args = (*inputs, *states)
    exported = torch.export.export(model.eval(), args, strict=False)
    module = exported.module(check_guards=False)
    for node in module.graph.nodes:
        if node.op == "output":
            result = node.args[0]
            flat = list(result) if isinstance(result, (list, tuple)) else [result]
            node.args = (flat,)
    module.recompile()
    with torch.no_grad():
        results = model(*args)
    results = results if isinstance(results, (list, tuple)) else (results,)
    names = [p.name for p in module.graph.nodes if p.op == "placeholder"]
    return StepProgram(
        module=torch.fx.GraphModule(module, _plain(module)),
        inputs=tuple(
            TensorSpec(n, tuple(t.shape), str(t.dtype).removeprefix("torch."))
            for n, t in zip(names, inputs, strict=False)
        ),
        outputs=tuple(
            TensorSpec(n, tuple(r.shape)) for n, r in zip(output_names, results, strict=False)
        ),
        states=OrderedDict(
            (f"s{i}", StateSpec(tuple(s.shape), "float32", np.zeros(s.shape, np.float32)))
            for i, s in enumerate(states)
        ),
    )


def _plain(module: torch.fx.GraphModule) -> torch.fx.Graph:
    """Copy of the graph without the tree code of torch.export: positional in, flat list out."""
    graph = torch.fx.Graph()
    mapping: dict[Node, Node] = {}
    output = graph.graph_copy(module.graph, mapping)
    graph.output(output)
    for old, new in mapping.items():
        new.meta = dict(old.meta)
    return graph


class _Ranges(torch.fx.Interpreter):
    """Minimum and maximum of every tensor."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[Node, tuple[float, float]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        tensors = [result] if isinstance(result, torch.Tensor) else []
        if isinstance(result, (tuple, list)):
            tensors = [t for t in result if isinstance(t, torch.Tensor)]
        for t in tensors:
            if t.is_floating_point() and t.numel():
                low, high = self.seen.get(n, (0.0, 0.0))
                self.seen[n] = (min(low, float(t.min())), max(high, float(t.max())))
        return result


def quantised(program: StepProgram, seed: int = 0, runs: int = 4) -> StepProgram:
    """Return the program in canonical w8a8 form, ranges from random closed-loop hops."""
    module = program.module
    ranges = _Ranges(module)
    generator = torch.Generator().manual_seed(seed)
    states = program.initial_states(1)
    with torch.no_grad():
        for _ in range(runs):
            inputs = [torch.randn(t.shape, generator=generator) for t in program.inputs]
            flat = ranges.run(*inputs, *states)
            states = tuple(flat[len(program.outputs) :])
    groups = _groups(program, ranges.seen)
    copied = torch.fx.GraphModule(module, _plain(module))
    by_name = {n.name: n for n in module.graph.nodes}
    _insert(copied, {n: groups.get(by_name.get(n.name)) for n in copied.graph.nodes})
    return _with_specs(program, copied)


def _data_inputs(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def _groups(program: StepProgram, seen: dict[Node, tuple[float, float]]) -> dict[Node, QParams]:
    """Qparams per node: one for each set of nodes that must share."""
    parent: dict[Node, Node] = {}

    def find(n: Node) -> Node:
        while parent.setdefault(n, n) is not n:
            n = parent[n]
        return n

    nodes = list(program.module.graph.nodes)
    placeholders = [n for n in nodes if n.op == "placeholder"]
    results = next(n for n in nodes if n.op == "output").args[0]
    ties = list(
        zip(placeholders[len(program.inputs) :], results[len(program.outputs) :], strict=True)
    )
    for node in nodes:
        if node.op == "call_function" and op(node).removeprefix("aten.") in MOVES:
            ties += [(i, node) for i in _data_inputs(node)]
    for a, b in ties:
        parent[find(a)] = find(b)
    low_high: dict[Node, tuple[float, float]] = {}
    fixed: dict[Node, QParams] = {}
    for node in nodes:
        if node not in seen or node.op == "get_attr" or _is_fused(node):
            continue
        root = find(node)
        low, high = low_high.get(root, (0.0, 0.0))
        low_high[root] = (min(low, seen[node][0]), max(high, seen[node][1]))
        if op(node) in FIXED:
            fixed[root] = FIXED[op(node)]
    table = {}
    for node in nodes:
        root = find(node)
        if root in low_high and not _is_fused(node) and node.op != "get_attr":
            table[node] = fixed.get(root) or _affine(*low_high[root])
    return table


def _affine(low: float, high: float) -> QParams:
    scale = float(np.float32(max(high - low, 1e-3) / 255))
    return QParams(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _is_fused(node: Node) -> bool:
    users = list(node.users)
    return op(node) in FUSING and len(users) == 1 and op(users[0]) in RELUS


def _insert(module: torch.fx.GraphModule, table: dict[Node, QParams | None]) -> None:
    graph = module.graph
    for node in list(graph.nodes):
        if op(node) in WEIGHTED:
            _quantise_weights(module, node, table)
    for node in list(graph.nodes):
        q = table.get(node)
        if q is None or op(node) in ("aten.split", "aten.chunk", "aten.unbind"):
            continue
        args = (q.scale, q.zero_point, -128, 127, torch.int8)
        with graph.inserting_after(node):
            quantize = graph.call_function(QUANTIZE, (node, *args))
        with graph.inserting_after(quantize):
            dequantize = graph.call_function(DEQUANTIZE, (quantize, *args))
        node.replace_all_uses_with(dequantize, delete_user_cb=lambda u, k=quantize: u is not k)
    graph.lint()
    module.recompile()


def _quantise_weights(
    module: torch.fx.GraphModule, node: Node, table: dict[Node, QParams | None]
) -> None:
    graph, x = module.graph, node.args[0]
    while table.get(x) is None:
        x = x.args[0]
    scale_in = np.float32(table[x].scale)
    weight = operator.attrgetter(str(node.args[1].target))(module).detach()
    peak = weight.abs().flatten(1).amax(1).clamp_min(1e-6)
    scales = (peak / 127).float()
    shape = (-1, *[1] * (weight.ndim - 1))
    codes = torch.round(weight / scales.reshape(shape)).clamp(-127, 127).to(torch.int8)
    bias = torch.zeros(weight.shape[0])
    if len(node.args) > 2 and node.args[2] is not None:
        bias = operator.attrgetter(str(node.args[2].target))(module).detach()
    bias_scales = torch.from_numpy(scale_in * scales.numpy())
    bias_codes = torch.round(bias.double() / bias_scales.double()).to(torch.int32)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    name = node.name
    tensors = {"w": codes, "ws": scales, "wz": zeros, "b": bias_codes, "bs": bias_scales}
    made = {}
    with graph.inserting_before(node):
        for key, tensor in tensors.items():
            module.register_buffer(f"{name}_{key}", tensor)
            made[key] = graph.get_attr(f"{name}_{key}")
        w = graph.call_function(
            Q.dequantize_per_channel.default,
            (made["w"], made["ws"], made["wz"], 0, -127, 127, torch.int8),
        )
        b = graph.call_function(
            Q.dequantize_per_channel.default,
            (made["b"], made["bs"], made["wz"], 0, -(2**31), 2**31 - 1, torch.int32),
        )
    node.args = (node.args[0], w, b, *node.args[3:])


def _with_specs(program: StepProgram, module: torch.fx.GraphModule) -> StepProgram:
    """Fill the specs from the pairs at the boundary."""
    nodes = list(module.graph.nodes)
    placeholders = [n for n in nodes if n.op == "placeholder"]
    results = next(n for n in nodes if n.op == "output").args[0]

    def qparams(n: Node) -> QParams | None:
        if n.op == "placeholder":
            n = next(iter(n.users))
        return QParams(n.args[1], n.args[2]) if n.target in (QUANTIZE, DEQUANTIZE) else None

    from dataclasses import replace

    count = len(program.inputs)
    inputs = [
        replace(t, qparams=qparams(n))
        for t, n in zip(program.inputs, placeholders[:count], strict=True)
    ]
    outputs = [
        replace(t, qparams=qparams(n)) for t, n in zip(program.outputs, results, strict=False)
    ]
    states = OrderedDict(
        (name, replace(s, dtype="int8", qparams=qparams(n)))
        for (name, s), n in zip(program.states.items(), placeholders[count:], strict=True)
    )
    return program.with_(
        module=module,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=states,
        precision="w8a8",
    )
