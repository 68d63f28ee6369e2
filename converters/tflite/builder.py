"""A TFLite model under construction: tensors, constants, operators, one signature.

The builder knows the file format and nothing about torch. Buffers are aligned to 16 bytes (the
generated Python classes align them to 1, which kernels on ARM must not rely on).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .schema import schema

__all__ = ["Builder", "Quantization", "TensorInfo"]

_ALIGNMENT = 16
_TYPES = {
    "float32": "FLOAT32",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "uint8": "UINT8",
    "float16": "FLOAT16",
}


_COUNTER_DTYPES = {"int32", "int64", "bool"}


@dataclass(frozen=True)
class Quantization:
    """Scales (float32 bits kept) and zero points of a tensor; ``axis`` is its physical axis."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True)
class TensorInfo:
    """What the file says about one tensor; ``data`` is set for constants."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    data: bytes | None = None


@dataclass
class _Operator:
    code: str
    version: int
    inputs: list[int]
    outputs: list[int]
    options_type: str
    options: Any


@dataclass
class Builder:
    """Collects one subgraph and writes it."""

    tensors: list[TensorInfo] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    _constants: dict[Any, int] = field(default_factory=dict)
    _names: Counter[str] = field(default_factory=Counter)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        quantization: Quantization | None = None,
    ) -> int:
        """Add a tensor that an operator or the caller fills; returns its index."""
        return self._add(TensorInfo(self._unique(name), tuple(shape), dtype, quantization))

    def constant(
        self, name: str, array: NDArray[Any], quantization: Quantization | None = None
    ) -> int:
        """Add constant data (equal constants are stored once); returns its index."""
        array = np.asarray(array, order="C")
        data = array.tobytes()
        key = (data, array.shape, array.dtype.name, quantization)
        if key not in self._constants:
            info = TensorInfo(self._unique(name), array.shape, array.dtype.name, quantization, data)
            self._constants[key] = self._add(info)
        return self._constants[key]

    def rename(self, index: int, name: str) -> None:
        """Give a tensor another name."""
        if self.tensors[index].name != name:
            self.tensors[index] = replace(self.tensors[index], name=self._unique(name))

    def operator(
        self,
        code: str,
        version: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        **fields: Any,
    ) -> None:
        """Append an operator; ``options`` names its option table, ``fields`` are the values."""
        table = None
        if options is not None:
            table = getattr(schema(), f"{options}T")()
            for key, value in fields.items():
                if not hasattr(table, key):
                    raise AttributeError(f"{options} has no field {key!r}")
                setattr(table, key, value)
        self.operators.append(
            _Operator(code, version, list(inputs), list(outputs), options or "NONE", table)
        )

    @property
    def op_versions(self) -> dict[str, int]:
        """Highest version used of every operator code."""
        versions: dict[str, int] = {}
        for op in self.operators:
            versions[op.code] = max(op.version, versions.get(op.code, 0))
        return dict(sorted(versions.items()))

    @property
    def op_counts(self) -> dict[str, int]:
        """Number of operators of every code."""
        return dict(sorted(Counter(op.code for op in self.operators).items()))

    @property
    def op_dtypes(self) -> dict[tuple[str, str], int]:
        """Number of operators of every code and dtype of the first operand that is no index."""
        counts: Counter[tuple[str, str]] = Counter()
        for op in self.operators:
            dtypes = [self.tensors[i].dtype for i in op.inputs if i >= 0]
            counts[op.code, next((d for d in dtypes if d != "int32"), "int32")] += 1
        return dict(sorted(counts.items()))

    def finish(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        signature: str,
        description: str,
        metadata: Mapping[str, bytes],
    ) -> bytes:
        """Write the file: ``inputs`` and ``outputs`` map signature names to tensor indices."""
        import flatbuffers

        s = schema()
        self._hoist_counters(set(inputs.values()))
        buffers: list[Any] = [_aligned_buffer(None)]
        model, graph = s.ModelT(), s.SubGraphT()
        graph.name = "main"
        graph.tensors = [self._pack_tensor(info, buffers) for info in self.tensors]
        graph.inputs = np.array(list(inputs.values()), np.int32)
        graph.outputs = np.array(list(outputs.values()), np.int32)
        model.version = 3
        model.description = description
        model.operatorCodes, graph.operators = self._pack_operators()
        model.subgraphs = [graph]
        model.signatureDefs = [_signature(signature, inputs, outputs)]
        model.metadata = []
        for key, value in metadata.items():
            entry = s.MetadataT()
            entry.name, entry.buffer = key, len(buffers)
            buffers.append(_aligned_buffer(value))
            model.metadata.append(entry)
        model.buffers = buffers
        writer = flatbuffers.Builder(1 << 16)
        writer.Finish(model.Pack(writer), file_identifier=b"TFL3")
        return bytes(writer.Output())

    def _hoist_counters(self, inputs: set[int]) -> None:
        """Move operators on integers and booleans to the front where they read only inputs.

        XNNPACK takes none of them; ahead of everything they do not cut its partition in two.
        """
        known = inputs | {i for i, t in enumerate(self.tensors) if t.data is not None}
        first, rest = [], []
        for op in self.operators:
            dtypes = {self.tensors[i].dtype for i in op.inputs if self.tensors[i].data is None}
            if known.issuperset(op.inputs) and dtypes and dtypes <= _COUNTER_DTYPES:
                first.append(op)
                known.update(op.outputs)
            else:
                rest.append(op)
        self.operators = first + rest

    def _add(self, info: TensorInfo) -> int:
        self.tensors.append(info)
        return len(self.tensors) - 1

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name};{count}"

    def _pack_tensor(self, info: TensorInfo, buffers: list[Any]) -> Any:
        s = schema()
        tensor = s.TensorT()
        tensor.name = info.name
        tensor.shape = np.array(info.shape, np.int32)
        tensor.hasRank = True
        tensor.type = getattr(s.TensorType, _TYPES[info.dtype])
        tensor.buffer = 0
        if info.data is not None:
            tensor.buffer = len(buffers)
            buffers.append(_aligned_buffer(info.data))
        if info.quantization is not None:
            q = s.QuantizationParametersT()
            q.scale = np.array(info.quantization.scales, np.float32)
            q.zeroPoint = np.array(info.quantization.zero_points, np.int64)
            q.quantizedDimension = info.quantization.axis
            tensor.quantization = q
        return tensor

    def _pack_operators(self) -> tuple[list[Any], list[Any]]:
        s = schema()
        codes: dict[tuple[str, int], int] = {}
        packed_codes: list[Any] = []
        packed: list[Any] = []
        for op in self.operators:
            key = (op.code, op.version)
            if key not in codes:
                codes[key] = len(packed_codes)
                code = s.OperatorCodeT()
                code.builtinCode = getattr(s.BuiltinOperator, op.code)
                code.deprecatedBuiltinCode = min(code.builtinCode, 127)
                code.version = op.version
                packed_codes.append(code)
            entry = s.OperatorT()
            entry.opcodeIndex = codes[key]
            entry.inputs = np.array(op.inputs, np.int32)
            entry.outputs = np.array(op.outputs, np.int32)
            entry.builtinOptionsType = getattr(s.BuiltinOptions, op.options_type)
            entry.builtinOptions = op.options
            packed.append(entry)
        return packed_codes, packed


def _signature(key: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
    s = schema()
    signature = s.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = key, 0
    for side, table in (("inputs", inputs), ("outputs", outputs)):
        entries = []
        for name, index in table.items():
            entry = s.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            entries.append(entry)
        setattr(signature, side, entries)
    return signature


def _aligned_buffer(data: bytes | None) -> Any:
    s = schema()

    class AlignedBuffer(s.BufferT):  # type: ignore[misc,name-defined]
        """A buffer whose data starts on a 16-byte boundary of the file."""

        def Pack(self, builder: Any) -> Any:  # noqa: N802 (name of the generated method)
            vector = None
            if self.data:
                builder.StartVector(1, len(self.data), _ALIGNMENT)
                builder.head -= len(self.data)
                builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
                vector = builder.EndVector()
            s.BufferStart(builder)
            if vector is not None:
                s.BufferAddData(builder, vector)
            return s.BufferEnd(builder)

    buffer = AlignedBuffer()
    buffer.data = data
    return buffer
