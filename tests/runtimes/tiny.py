"""A denoiser small enough to be written by hand, as a real bundle with a TFLite and an ONNX member.

One 1x1 convolution over [features, state] per output::

    mask   = sigmoid(W_m · [features, past])      past' = W_s · [features, past]
    bias   = W_b · [features, past]

``through=True`` makes the mask a constant 255/256 and the bias 0: a session returns its input.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.frontend import StftFrontend
from spectral_edge.qparams import QParams

FEATURES = QParams(4 / 128, 0)
MASK = QParams(1 / 256, -128)
LOGIT = QParams(16 / 256, 0)
BIAS = QParams(1 / 256, 0)
ACTIVATIONS = {"features": FEATURES, "past": FEATURES, "logit": LOGIT, "mask": MASK, "bias": BIAS}
SHAPES = {"features": 3, "past": 3, "mask": 1, "bias": 2}  # channels


@dataclass(frozen=True)
class Weights:
    """Convolutions by output name: int8[out, 6] and its scale, int32 bias[out]."""

    codes: Mapping[str, NDArray[np.int8]]
    scales: Mapping[str, float]
    biases: Mapping[str, NDArray[np.int32]]


def make_weights(*, through: bool) -> Weights:
    """Return constant or seeded random weights."""
    rng = np.random.default_rng(7)
    rows = {"logit": 1, "bias": 2, "past": 3}
    scales = {name: float(np.float32(1 / 128)) for name in rows}
    codes = {name: rng.integers(-100, 101, (n, 6)).astype(np.int8) for name, n in rows.items()}
    biases = {name: rng.integers(-500, 500, n).astype(np.int32) for name, n in rows.items()}
    codes["past"] = np.hstack([np.eye(3) * 40, np.eye(3) * 80]).astype(np.int8)
    if through:
        for name in ("logit", "bias"):
            codes[name] = np.zeros_like(codes[name])
            biases[name] = np.zeros_like(biases[name])
        biases["logit"] += int(8.0 / (FEATURES.scale * scales["logit"]))
    return Weights(codes, scales, biases)


def tiny_bundle(
    path: Path,
    *,
    through: bool = False,
    precision: str = "w8a8",
    formats: tuple[str, ...] = ("tflite", "onnx"),
    frontend: StftFrontend | None = None,
    golden_hops: int = 40,
    changes: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write the bundle; ``changes`` overrides manifest keys."""
    frontend = frontend or StftFrontend()
    weights = make_weights(through=through)
    members: dict[str, bytes] = {"card.md": b"# tiny\n"}
    files: dict[str, Any] = {}
    if "onnx" in formats:
        members["model.onnx"] = _onnx_model(weights, frontend.bins, precision)
        files["onnx"] = {"member": "model.onnx", "nodes": 6, "opset": 21, "layout": {}}
    if "tflite" in formats:
        members["model.tflite"] = _tflite_model(weights, frontend.bins, precision)
        names = ("features", "mask", "bias", "state.past", "state.past.next")
        layout = {name: [0, 2, 3, 1] for name in names}
        files["tflite"] = {"member": "model.tflite", "operators": 5, "layout": layout}
    quantized = precision == "w8a8"
    if quantized:
        members["golden.npz"] = _golden(weights, frontend.bins, golden_hops)
    dtype = "int8" if quantized else "float32"

    def entry(name: str) -> dict[str, Any]:
        q = ACTIVATIONS[name]
        return {
            "name": name,
            "shape": [1, SHAPES[name], 1, frontend.bins],
            "dtype": dtype,
            "scale": q.scale if quantized else None,
            "zero_point": q.zero_point if quantized else None,
        }

    manifest: dict[str, Any] = {
        "format": "spectral-edge bundle",
        "version": 1,
        "name": "tiny",
        "precision": precision,
        "recipe": "w8a8" if quantized else None,
        "frontend": frontend.to_dict(),
        "frontend_fingerprint": frontend.fingerprint,
        "delay": 0,
        "hop_multiple": 1,
        "receptive_field": None,
        "inputs": [entry("features") | {"time_dim": 2}],
        "outputs": [entry("mask") | {"time_dim": 2}, entry("bias") | {"time_dim": 2}],
        "states": [entry("past") | {"initial_code": 0, "initial": None}],
        "formats": files,
        "qparams": [[n, q.scale, q.zero_point] for n, q in ACTIVATIONS.items()]
        if quantized
        else [],
        "node_count": 6,
        "macs": 36 * frontend.bins,
        "state_bytes": 3 * frontend.bins * np.dtype(dtype).itemsize,
        "metrics": {},
        "provenance": {},
    }
    return write_bundle(path, manifest | dict(changes or {}), members)


def reference_step(
    weights: Weights, features: NDArray[np.int8], past: NDArray[np.int8]
) -> dict[str, NDArray[np.int8]]:
    """Run one hop on codes [1, C, 1, bins] in float32, as fake-quant torch would."""
    x = FEATURES.dequantize(np.concatenate([features, past], axis=1))
    out = {}
    for name in ("logit", "bias", "past"):
        w = weights.codes[name].astype(np.float32) * np.float32(weights.scales[name])
        b = weights.biases[name] * np.float32(FEATURES.scale * weights.scales[name])
        y = np.einsum("oc,bctf->botf", w, x) + b[None, :, None, None]
        out[name] = ACTIVATIONS[name].quantize(y)
    logit = LOGIT.dequantize(out.pop("logit"))
    out["mask"] = MASK.quantize(1 / (1 + np.exp(-logit)))
    return out


def _golden(weights: Weights, bins: int, hops: int) -> bytes:
    rng = np.random.default_rng(3)
    features = rng.integers(-128, 128, (hops, 1, 3, 1, bins)).astype(np.int8)
    past = np.zeros((1, 3, 1, bins), np.int8)
    outputs: dict[str, list[NDArray[np.int8]]] = {"mask": [], "bias": []}
    for hop in features:
        step = reference_step(weights, hop, past)
        past = step.pop("past")
        for name, value in step.items():
            outputs[name].append(value)
    stream = io.BytesIO()
    np.savez(
        stream,
        **{"input.features": features, "state.past": past},
        **{f"output.{name}": np.stack(values) for name, values in outputs.items()},
    )
    return stream.getvalue()


def _onnx_model(weights: Weights, bins: int, precision: str) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    quantized = precision == "w8a8"
    code = TensorProto.INT8 if quantized else TensorProto.FLOAT
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def qparams(name: str, q: QParams) -> list[str]:
        return [
            constant(f"{name}.scale", np.float32(q.scale)),
            constant(f"{name}.zp", np.int8(q.zero_point)),
        ]

    def dequantize(name: str, q: QParams) -> str:
        if not quantized:
            return name
        out = f"{name}.real"
        nodes.append(helper.make_node("DequantizeLinear", [name, *qparams(name, q)], [out]))
        return out

    def quantize(real: str, name: str, q: QParams) -> str:
        if not quantized:
            nodes.append(helper.make_node("Identity", [real], [name]))
            return name
        nodes.append(helper.make_node("QuantizeLinear", [real, *qparams(f"{name}.q", q)], [name]))
        return name

    ins = [dequantize("features", FEATURES), dequantize("state.past", FEATURES)]
    nodes.append(helper.make_node("Concat", ins, ["both"], axis=1))
    joined = "both"
    if quantized:
        joined = dequantize(quantize("both", "joined", FEATURES), FEATURES)
    targets = {"logit": "logit", "bias": "bias", "past": "state.past.next"}
    for name, target in targets.items():
        w, scale = weights.codes[name][:, :, None, None], np.float32(weights.scales[name])
        bias_scale = np.float32(FEATURES.scale) * scale
        if quantized:
            weight, bias = f"{name}.w.real", f"{name}.b.real"
            constant(f"{name}.w", w)
            constant(f"{name}.b", weights.biases[name])
            args = [f"{name}.w", constant(f"{name}.ws", scale)]
            nodes.append(helper.make_node("DequantizeLinear", args, [weight]))
            args = [f"{name}.b", constant(f"{name}.bs", bias_scale)]
            nodes.append(helper.make_node("DequantizeLinear", args, [bias]))
        else:
            weight = constant(f"{name}.w", w.astype(np.float32) * scale)
            bias = constant(f"{name}.b", (weights.biases[name] * bias_scale).astype(np.float32))
        nodes.append(helper.make_node("Conv", [joined, weight, bias], [f"{name}.y"]))
        quantize(f"{name}.y", target, ACTIVATIONS[name])
    nodes.append(helper.make_node("Sigmoid", [dequantize("logit", LOGIT)], ["mask.y"]))
    quantize("mask.y", "mask", MASK)

    def info(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, code, [1, channels, 1, bins])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [info("features", 3), info("state.past", 3)],
        [info("mask", 1), info("bias", 2), info("state.past.next", 3)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


class _TfliteBuilder:
    """Collects tensors and operators of one subgraph."""

    def __init__(self, quantized: bool) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.s, self.quantized = schema, quantized
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[int] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        q: QParams | None,
        data: NDArray[Any] | None = None,
        scales: list[float] | None = None,
    ) -> int:
        s, tensor = self.s, self.s.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        types = {"int8": s.TensorType.INT8, "int32": s.TensorType.INT32}
        types["float32"] = s.TensorType.FLOAT32
        dtype = str(data.dtype) if data is not None else "int8" if self.quantized else "float32"
        tensor.type = types[dtype]
        if self.quantized and (q or scales):
            tensor.quantization = s.QuantizationParametersT()
            tensor.quantization.scale = scales or [q.scale]  # type: ignore[union-attr]
            tensor.quantization.zeroPoint = [q.zero_point] if q else [0] * len(scales or [])
        if data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, code: str, ins: list[int], outs: list[int], options: Any = None) -> None:
        number = getattr(self.s.BuiltinOperator, code)
        if number not in self.codes:
            self.codes.append(number)
        op = self.s.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.codes.index(number), ins, outs
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            op.builtinOptionsType = getattr(self.s.BuiltinOptions, kind)
            op.builtinOptions = options
        self.operators.append(op)

    def model(self, ins: dict[str, int], outs: dict[str, int]) -> bytes:
        import flatbuffers

        s = self.s
        graph = s.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(ins.values()), list(outs.values())
        model = s.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = []
        for number in self.codes:
            code = s.OperatorCodeT()
            code.builtinCode = number
            code.deprecatedBuiltinCode = min(number, 127)
            code.version = 3 if number == s.BuiltinOperator.CONV_2D else 2
            model.operatorCodes.append(code)
        signature = s.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "step", 0
        signature.inputs, signature.outputs = [], []
        for table, target in ((ins, signature.inputs), (outs, signature.outputs)):
            for name, index in table.items():
                entry = s.TensorMapT()
                entry.name, entry.tensorIndex = name, index
                target.append(entry)
        model.signatureDefs = [signature]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _tflite_model(weights: Weights, bins: int, precision: str) -> bytes:
    quantized = precision == "w8a8"
    b = _TfliteBuilder(quantized)
    s = b.s
    features = b.tensor("features", (1, 1, bins, 3), FEATURES)
    past = b.tensor("state.past", (1, 1, bins, 3), FEATURES)
    joined = b.tensor("joined", (1, 1, bins, 6), FEATURES)
    concat = s.ConcatenationOptionsT()
    concat.axis = 3
    b.operator("CONCATENATION", [features, past], [joined], concat)
    made = {}
    for name in ("logit", "bias", "past"):
        w, scale = weights.codes[name], np.float32(weights.scales[name])
        bias_scale = np.float32(FEATURES.scale) * scale
        kernel: NDArray[Any] = w[:, None, None, :]
        shift: NDArray[Any] = weights.biases[name]
        if not quantized:
            kernel, shift = kernel * scale, (shift * bias_scale).astype(np.float32)
        filters = b.tensor(f"{name}.w", kernel.shape, None, kernel, [float(scale)])
        offset = b.tensor(f"{name}.b", shift.shape, None, shift, [float(bias_scale)])
        made[name] = b.tensor(f"{name}.y", (1, 1, bins, len(w)), ACTIVATIONS[name])
        conv = s.Conv2DOptionsT()
        conv.strideW = conv.strideH = conv.dilationWFactor = conv.dilationHFactor = 1
        conv.padding = s.Padding.VALID
        b.operator("CONV_2D", [joined, filters, offset], [made[name]], conv)
    mask = b.tensor("mask", (1, 1, bins, 1), MASK)
    b.operator("LOGISTIC", [made["logit"]], [mask])
    return b.model(
        {"features": features, "state.past": past},
        {"mask": mask, "bias": made["bias"], "state.past.next": made["past"]},
    )
