"""Reads a TFLite file into a small frozen graph and believes none of it.

Files come from strangers: every index, size and shape is checked here, once. What the rules of
single operators need beyond that they check themselves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.converters.tflite.schema import schema
from spectral_edge.errors import ConversionError

__all__ = ["Graph", "Operator", "Tensor", "read_graph"]

MAX_TENSORS = 50_000
MAX_ELEMENTS = 1 << 26  # of one tensor
MAX_RANK = 8
DTYPES = {
    "FLOAT32": "float32",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: ``data`` is set for constants, ``scales`` for quantised tensors."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0
    data: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def quantised(self) -> bool:
        """True for codes with one scale."""
        return len(self.scales) == 1 and self.dtype in ("int8", "int16", "int32")

    @property
    def scale(self) -> float:
        """The one scale."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The one zero point."""
        return self.zero_points[0]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator; an absent input is None; ``options`` are read by name."""

    code: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any]
    position: int

    def input(self, index: int) -> Tensor:
        """Return an input that must be there."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise self.wrong(f"has no input {index}")
        return tensor

    def numbers(self, index: int) -> list[int]:
        """Return a constant input of integers (axes, shapes, amounts)."""
        tensor = self.input(index)
        if tensor.data is None or tensor.dtype not in ("int32", "int64"):
            raise self.wrong(f"needs constant integers as input {index}")
        return [int(v) for v in tensor.data.reshape(-1)]

    @property
    def output(self) -> Tensor:
        """The only output."""
        return self.outputs[0]

    def wrong(self, why: str) -> ConversionError:
        """Return the error that names this operator."""
        return ConversionError(f"operator {self.position} ({self.code}) {why}")

    def require(self, holds: bool, why: str) -> None:
        """Raise :meth:`wrong` unless ``holds``."""
        if not holds:
            raise self.wrong(why)


@dataclass(frozen=True, eq=False)
class Graph:
    """A checked file: operators in an order in which they can run, and the ``step`` signature."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @cached_property
    def consumers(self) -> dict[int, list[Operator]]:
        """Operators that read a tensor, by tensor index; once per operator."""
        readers: dict[int, list[Operator]] = {}
        for op in self.operators:
            for index in dict.fromkeys(t.index for t in op.inputs if t is not None):
                readers.setdefault(index, []).append(op)
        return readers


def read_graph(content: bytes, signature: str = "step") -> Graph:
    """Read the bytes of a TFLite file.

    Raises:
        ConversionError: damaged, or not the one subgraph with the signature that the writer makes.
        RuntimeUnavailable: no package with the schema classes is installed.
    """
    tables = schema()
    try:
        return _read(bytes(content), tables, signature)
    except ConversionError:
        raise
    except (
        struct.error,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        KeyError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ConversionError(f"the TFLite file is damaged ({type(error).__name__})") from error


def _read(content: bytes, tables: Any, signature: str) -> Graph:
    if len(content) < 16 or content[4:8] != b"TFL3":
        raise ConversionError("this is no TFLite file")
    model = tables.Model.GetRootAs(content, 0)
    _check(model.SubgraphsLength() == 1, "it does not have exactly one subgraph")
    graph = model.Subgraphs(0)
    count = graph.TensorsLength()
    _check(0 < count <= MAX_TENSORS, f"it has {count} tensors")
    tensors = tuple(_tensor(tables, model, graph.Tensors(i), i) for i in range(count))
    ports = _signature(model, tensors, signature)
    inputs, outputs = ports
    known = {t.index for t in tensors if t.data is not None}
    for tensor in inputs.values():
        _check(tensor.index not in known, "an input is a constant or named twice")
        known.add(tensor.index)
    operators = []
    _check(graph.OperatorsLength() <= MAX_TENSORS, "it has too many operators")
    for i in range(graph.OperatorsLength()):
        op = _operator(tables, model, graph.Operators(i), tensors, i)
        for read in op.inputs:
            op.require(read is None or read.index in known, "reads a tensor before it is written")
        for made in op.outputs:
            op.require(made.index not in known, "writes a tensor twice")
            known.add(made.index)
        operators.append(op)
    for tensor in outputs.values():
        _check(tensor.index in known, "an output is never written")
    return Graph(tensors, tuple(operators), inputs, outputs)


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise ConversionError(f"the TFLite file cannot be used: {why}")


def _vector(length: Callable[[], int], item: Callable[[int], Any], limit: int) -> list[Any]:
    count = length()
    _check(0 <= count <= limit, "a list is too long")
    return [item(i) for i in range(count)]


def _names(tables: type) -> dict[int, str]:
    return {v: k for k, v in vars(tables).items() if isinstance(v, int)}


def _tensor(tables: Any, model: Any, table: Any, index: int) -> Tensor:
    shape = tuple(int(n) for n in _vector(table.ShapeLength, table.Shape, MAX_RANK))
    size = math.prod(shape)
    _check(all(n > 0 for n in shape) and size <= MAX_ELEMENTS, f"tensor {index} has shape {shape}")
    name = _names(tables.TensorType).get(table.Type(), "an unknown type")
    _check(name in DTYPES, f"tensor {index} is {name}")
    dtype = DTYPES[name]
    scales: tuple[float, ...] = ()
    points: tuple[int, ...] = ()
    axis, quantization = 0, table.Quantization()
    if quantization is not None and quantization.ScaleLength():
        limit = max(shape, default=1)
        scales = tuple(
            float(s) for s in _vector(quantization.ScaleLength, quantization.Scale, limit)
        )
        points = tuple(
            int(z) for z in _vector(quantization.ZeroPointLength, quantization.ZeroPoint, limit)
        ) or (0,) * len(scales)
        axis = int(quantization.QuantizedDimension())
        good = all(math.isfinite(s) and s > 0 for s in scales) and len(points) == len(scales)
        _check(good and all(abs(z) < 1 << 15 for z in points), f"tensor {index} has bad scales")
        if len(scales) > 1:
            inside = 0 <= axis < len(shape) and shape[axis] == len(scales)
            _check(inside, f"tensor {index} has {len(scales)} scales")
    return Tensor(index, shape, dtype, scales, points, axis, _data(model, table, shape, dtype))


def _data(model: Any, table: Any, shape: tuple[int, ...], dtype: str) -> NDArray[Any] | None:
    number = int(table.Buffer())
    _check(number < max(model.BuffersLength(), 1), "a tensor names a buffer that is not there")
    if number == 0:
        return None
    buffer = model.Buffers(number)
    if buffer is None or not buffer.DataLength():
        return None
    raw = np.asarray(buffer.DataAsNumpy())
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    _check(raw.dtype == np.uint8 and raw.size == wanted, "a constant has the wrong length")
    array = np.frombuffer(raw.tobytes(), np.dtype(dtype).newbyteorder("<")).astype(dtype)
    return array.reshape(shape)


def _operator(
    tables: Any, model: Any, table: Any, tensors: tuple[Tensor, ...], position: int
) -> Operator:
    which = int(table.OpcodeIndex())
    _check(which < model.OperatorCodesLength(), f"operator {position} has no code")
    entry = model.OperatorCodes(which)
    number = max(int(entry.BuiltinCode()), int(entry.DeprecatedBuiltinCode()))
    code = _names(tables.BuiltinOperator).get(number, f"number {number}")
    inputs = [int(i) for i in _vector(table.InputsLength, table.Inputs, 1000)]
    outputs = [int(i) for i in _vector(table.OutputsLength, table.Outputs, 1000)]
    count = len(tensors)
    inside = all(-1 <= i < count for i in inputs) and all(0 <= i < count for i in outputs)
    _check(inside and bool(outputs), f"operator {position} ({code}) names no tensor of the file")
    return Operator(
        code,
        int(entry.Version()),
        tuple(None if i < 0 else tensors[i] for i in inputs),
        tuple(tensors[i] for i in outputs),
        _options(tables, table),
        position,
    )


def _options(tables: Any, table: Any) -> dict[str, Any]:
    kind = _names(tables.BuiltinOptions).get(int(table.BuiltinOptionsType()), "NONE")
    union = table.BuiltinOptions()
    if kind == "NONE" or union is None:
        return {}
    options = getattr(tables, kind)()
    options.Init(union.Bytes, union.Pos)
    return dict(_scalars(options))


def _scalars(options: Any) -> Iterator[tuple[str, Any]]:
    """Values of the option table that are single numbers; lists are not needed by any rule."""
    for name in dir(type(options)):
        if not name[:1].isupper() or name.endswith(("AsNumpy", "Length", "IsNone")):
            continue
        if name == "Init" or "GetRoot" in name or "BufferHas" in name:
            continue
        if hasattr(options, f"{name}Length"):
            continue
        yield name, getattr(options, name)()


def _signature(
    model: Any, tensors: tuple[Tensor, ...], wanted: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for table in _vector(model.SignatureDefsLength, model.SignatureDefs, 16):
        if table.SignatureKey() == wanted.encode():
            inputs = _ports(table.InputsLength, table.Inputs, tensors)
            return inputs, _ports(table.OutputsLength, table.Outputs, tensors)
    raise ConversionError(f"the TFLite file has no signature {wanted!r}")


def _ports(
    length: Callable[[], int], item: Callable[[int], Any], tensors: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    ports: dict[str, Tensor] = {}
    for entry in _vector(length, item, 4096):
        name, index = (entry.Name() or b"").decode("utf-8"), int(entry.TensorIndex())
        _check(0 <= index < len(tensors) and name not in ports, "its signature is damaged")
        ports[name] = tensors[index]
    _check(bool(ports), "its signature is empty")
    return ports
