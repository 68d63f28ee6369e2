"""What exported files say about quantisation, and whether it is what the program says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from spectral_edge.program import StepProgram, state_input, state_output

from .passes.common import is_quantize, origin
from .tflite.schema import schema

__all__ = [
    "ONNX_METADATA_KEY",
    "onnx_qparams",
    "program_qparams",
    "tflite_qparams",
    "verify_qparams",
]

ONNX_METADATA_KEY = "spectral_edge.qparams"

Pair = tuple[float, int]


def tflite_qparams(data: bytes) -> dict[str, Pair]:
    """Return tensor name -> (scale, zero point) of all activations in a TFLite file.

    Boundary tensors appear under their signature names. Constants are left out.
    """
    s = schema()
    model = s.ModelT.InitFromObj(s.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    found: dict[str, Pair] = {}
    by_index: dict[int, Pair] = {}
    for index, tensor in enumerate(graph.tensors):
        q = tensor.quantization
        content = model.buffers[tensor.buffer].data
        if q is None or q.scale is None or (content is not None and len(content)):
            continue
        by_index[index] = (float(np.float32(q.scale[0])), int(q.zeroPoint[0]))
        found[_text(tensor.name)] = by_index[index]
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            if entry.tensorIndex in by_index:
                found[_text(entry.name)] = by_index[entry.tensorIndex]
    return found


def onnx_qparams(data: bytes) -> dict[str, Pair]:
    """Return value name -> (scale, zero point) of all activations in an ONNX file.

    Taken from quantise and dequantise nodes with one scale; boundary tensors that only pass through
    data movement have no such node, theirs stand in the model's metadata.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(data)
    stored = {i.name: i for i in model.graph.initializer}
    found: dict[str, Pair] = {}
    for entry in model.metadata_props:
        if entry.key == ONNX_METADATA_KEY:
            for name, (scale, zero_point) in json.loads(entry.value).items():
                found[name] = (float(np.float32(scale)), int(zero_point))
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        scale = numpy_helper.to_array(stored[node.input[1]])
        if value in stored or scale.size != 1:
            continue
        zero_point = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else 0
        found[value] = (float(np.float32(scale)), int(zero_point))
    return found


def program_qparams(program: StepProgram) -> list[tuple[str, float, int]]:
    """Return (tensor name, scale, zero point) of all activations of a quantised program.

    Boundary tensors have their names in the files, others the name of the node that is quantised.
    """
    table = {
        name: (q.scale, q.zero_point)
        for name, q in program.qparams.items()
        if q.dtype in ("int8", "int16")
    }
    for name, pair in _inner_qparams(program.module):
        table.setdefault(name, pair)
    return [(name, *pair) for name, pair in table.items()]


def _inner_qparams(module: torch.fx.GraphModule) -> Iterator[tuple[str, Pair]]:
    varying = _varying(module)
    for node in module.graph.nodes:
        if node not in varying or not is_quantize(node):
            continue
        source: Any = node.args[0]
        pair = (float(np.float32(node.args[1])), int(node.args[2]))
        if source.op == "call_function":
            requantised = origin(source)[1] is not None
            yield (node.name if requantised else source.name), pair
        elif source.op == "placeholder":  # the quantised reading of a float state
            yield node.name, pair


def _varying(module: torch.fx.GraphModule) -> set[Node]:
    """Nodes that depend on an input and that an output depends on."""
    needed: set[Node] = set()
    for node in reversed(module.graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
    varying: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or varying.intersection(node.all_input_nodes):
            varying.add(node)
    return varying & needed


def verify_qparams(
    program: StepProgram, tflite: bytes | None = None, onnx: bytes | None = None
) -> list[str]:
    """Compare the scales and zero points of a program with those in its files, bit for bit.

    Returns:
        One line per mismatch, none when all is well: a boundary tensor with other qparams, a state
        whose output differs from its input, an activation of the program that a file lacks, an
        activation of a file that the program lacks.
    """
    expected = {name: (scale, zp) for name, scale, zp in program_qparams(program)}
    boundary = program.qparams
    problems: list[str] = []
    for kind, data, read in (("tflite", tflite, tflite_qparams), ("onnx", onnx, onnx_qparams)):
        if data is None:
            continue
        found = read(data)
        for name, q in boundary.items():
            if q.dtype == "int8" and found.get(name) != (q.scale, q.zero_point):
                problems.append(
                    f"{kind}: {name} has {found.get(name)}, expected {(q.scale, q.zero_point)}"
                )
        for state in program.states:
            before, after = found.get(state_input(state)), found.get(state_output(state))
            if before != after:
                problems.append(f"{kind}: state {state} goes in with {before}, out with {after}")
        lacking = set(expected.values()) - set(found.values())
        foreign = set(found.values()) - set(expected.values())
        for name, pair in expected.items():
            if pair in lacking:
                problems.append(f"{kind}: no tensor has {pair} of {name}")
        for name, pair in found.items():
            if pair in foreign:
                problems.append(f"{kind}: {name} has {pair}, which the program does not")
    return problems


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
