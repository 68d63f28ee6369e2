"""From the cleaned step graph to operators: the loop, and the services that lowerings use.

Every ATen op has a :class:`Rule`. The loop decides for each node whether it runs on codes (all
inputs quantised, quantise nodes alone read the result, and the rule has an integer kernel that
XNNPACK takes) or as a float island between DEQUANTIZE and QUANTIZE. Islands stay inside the XNNPACK
partition; an integer operator that XNNPACK refuses cuts it in two, which costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from spectral_edge.errors import ConversionError, UnsupportedOp
from spectral_edge.qparams import QParams

from .builder import Builder, Quantization
from .layout import Perm, Shape, identity, physical, same_order
from .schema import schema
from .values import Const, Value
from .versions import op_version

__all__ = ["Call", "Lowering", "Rule", "lowers", "supported_ops"]

Operand = Value | Const
MAX_PRODUCT_RATIO = 2.0**8  # XNNPACK: two scales' product over the result's stays below

Bounds = tuple[float | None, float | None]
RELU_RANGES: dict[Bounds, str] = {
    (0.0, None): "RELU",
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
}


@dataclass(frozen=True)
class Call:
    """One node to lower: bound arguments (nodes replaced by operands), output, activation."""

    node: Node
    op: str
    args: dict[str, Any]
    shape: Shape
    qparams: QParams | None
    activation: str = "NONE"

    @property
    def name(self) -> str:
        """Name for the tensors that this call makes."""
        return self.node.name

    @property
    def quantised(self) -> bool:
        """True when the call runs on codes."""
        return self.qparams is not None

    def __getitem__(self, key: str) -> Any:
        return self.args[key]


@dataclass(frozen=True)
class Rule:
    """How an op is lowered.

    Attributes:
        function: writes the operators and returns the result (a tuple for several outputs).
        integer: says whether the call may run on codes; False forces a float island.
        moves: data movement: runs in any dtype and keeps qparams.
        fuses: a following ReLU, ReLU6 or clamp to [-1, 1] may become its activation.
    """

    function: Callable[[Lowering, Call], Any]
    integer: Callable[[Call], bool]
    moves: bool
    fuses: bool


_RULES: dict[str, Rule] = {}


def lowers(
    *names: str,
    integer: bool | Callable[[Call], bool] = False,
    moves: bool = False,
    fuses: bool = False,
) -> Callable[[Callable[[Lowering, Call], Any]], Callable[[Lowering, Call], Any]]:
    """Register the decorated function as the lowering of ATen ops ``names``."""
    accepts = integer if callable(integer) else (lambda _call: bool(integer))

    def register(function: Callable[[Lowering, Call], Any]) -> Callable[[Lowering, Call], Any]:
        for name in names:
            _RULES[name] = Rule(function, accepts, moves, fuses)
        return function

    return register


def supported_ops() -> tuple[str, ...]:
    """ATen ops that the writer spells."""
    return tuple(sorted(_RULES))


def rule_of(name: str) -> Rule | None:
    """Rule of an ATen op, None when there is none."""
    return _RULES.get(name)


@dataclass
class Lowering:
    """The file under construction and what it already holds."""

    builder: Builder = field(default_factory=Builder)
    _dequantised: dict[int, Value] = field(default_factory=dict)
    _quantised: dict[tuple[int, QParams], Value] = field(default_factory=dict)
    _reshaped: dict[tuple[int, Shape], int] = field(default_factory=dict)
    _transposed: dict[tuple[int, Shape, Perm], int] = field(default_factory=dict)
    _origin: dict[int, int] = field(default_factory=dict)
    _memo: dict[Any, Value] = field(default_factory=dict)

    # --- new tensors -------------------------------------------------------------------------

    def new(
        self, name: str, shape: Sequence[int], perm: Perm, dtype: str, qparams: QParams | None
    ) -> Value:
        """Add a tensor for a result of logical ``shape`` stored in order ``perm``."""
        shape = tuple(shape)
        quantization = None
        if qparams is not None:
            dtype = qparams.dtype
            quantization = Quantization((qparams.scale,), (qparams.zero_point,))
        index = self.builder.tensor(name, physical(shape, perm), dtype, quantization)
        return Value(index, shape, perm, dtype, qparams)

    def result(self, call: Call, perm: Perm, shape: Sequence[int] | None = None) -> Value:
        """Add the result tensor of ``call``: codes when it runs on codes, else float32."""
        return self.new(call.name, shape or call.shape, perm, "float32", call.qparams)

    def like(self, value: Value, name: str, shape: Sequence[int], perm: Perm) -> Value:
        """Add a tensor with dtype and qparams of ``value``."""
        return self.new(name, shape, perm, value.dtype, value.qparams)

    def numbers(self, values: Sequence[int] | NDArray[Any]) -> int:
        """Tensor index of an int32 constant (axes, shapes, paddings)."""
        return self.builder.constant("numbers", np.asarray(values, np.int32))

    def memo(self, key: Any, make: Callable[[], Value]) -> Value:
        """Return what ``make`` returned the first time for ``key``."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def emit(
        self,
        code: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        **fields: Any,
    ) -> None:
        """Append an operator with the version that its tensors need."""
        infos = [self.builder.tensors[i] for i in (*inputs, *outputs) if i >= 0]
        self.builder.operator(code, op_version(code, infos), inputs, outputs, options, **fields)

    def activation(self, name: str) -> int:
        """Schema number of a fused activation."""
        return int(getattr(schema().ActivationFunctionType, name))

    # --- changing the spelling of a value ---------------------------------------------------

    def as_float(self, operand: Operand) -> Operand:
        """Return the operand as float32 (DEQUANTIZE is written once per tensor)."""
        if isinstance(operand, Const):
            return Const(operand.real) if operand.scales is not None else operand
        if operand.qparams is None:
            return operand
        if operand.tensor not in self._dequantised:
            name = f"{self.builder.tensors[operand.tensor].name}.float"
            made = self.new(name, operand.shape, operand.perm, "float32", None)
            source = self.shaped(operand.tensor, operand.physical)
            self.emit("DEQUANTIZE", [source], [made.tensor])
            self._dequantised[operand.tensor] = made
        made = self._dequantised[operand.tensor]
        return Value(made.tensor, operand.shape, operand.perm, "float32")

    def as_codes(self, value: Value, qparams: QParams, name: str) -> Value:
        """Return the value quantised with ``qparams`` (QUANTIZE when it is not already)."""
        if value.qparams == qparams:
            return value
        key = (value.tensor, qparams)
        if value.qparams is not None and value.qparams.scale != qparams.scale:
            # XNNPACK changes an int8 scale with a multiplier of 8 fraction bits: through float
            real = self.as_float(value)
            assert isinstance(real, Value)
            return self.as_codes(real, qparams, name)
        if key not in self._quantised:
            made = self.new(name, value.shape, value.perm, qparams.dtype, qparams)
            source = self.shaped(value.tensor, value.physical)
            self.emit("QUANTIZE", [source], [made.tensor], "QuantizeOptions")
            self._quantised[key] = made
        made = self._quantised[key]
        return Value(made.tensor, value.shape, value.perm, qparams.dtype, qparams)

    def shaped(self, tensor: int, shape: Shape) -> int:
        """Tensor index with physical ``shape``: RESHAPE from the first tensor of a chain."""
        base = self._origin.get(tensor, tensor)
        for candidate in (tensor, base):
            if self.builder.tensors[candidate].shape == tuple(shape):
                return candidate
        key = (base, tuple(shape))
        if key not in self._reshaped:
            info = self.builder.tensors[base]
            made = self.builder.tensor(f"{info.name}.view", shape, info.dtype, info.quantization)
            self.emit(
                "RESHAPE",
                [base, self.numbers(shape)],
                [made],
                "ReshapeOptions",
                newShape=np.array(shape, np.int32),
            )
            self._reshaped[key] = made
            self._origin[made] = base
        return self._reshaped[key]

    def index(self, operand: Operand, perm: Perm | None = None, name: str = "constant") -> int:
        """Tensor index of an operand in layout ``perm`` (its own when None).

        Writes RESHAPE or TRANSPOSE only when bytes or shape differ; constants are reordered here.
        """
        if isinstance(operand, Const):
            perm = perm or tuple(range(operand.array.ndim))
            stored = operand.transposed(perm)
            return self.builder.constant(name, stored.array, stored.quantization(stored.axis))
        return self.laid(operand, perm or operand.perm).tensor

    def tensor_of(self, operand: Operand, name: str) -> Value:
        """Return the operand as a tensor of the file, constants included."""
        if isinstance(operand, Value):
            return operand
        index = self.index(operand, None, name)
        qparams = None
        if operand.scales is not None and operand.axis is None:
            qparams = QParams(float(operand.scales), operand.zero_point)
        dtype = self.builder.tensors[index].dtype
        return Value(index, operand.shape, identity(len(operand.shape)), dtype, qparams)

    def laid(self, value: Value, perm: Perm) -> Value:
        """Return the value in layout ``perm``, its tensor having exactly that physical shape."""
        if same_order(value.shape, value.perm, perm):
            tensor = self.shaped(value.tensor, physical(value.shape, perm))
        else:
            tensor = self._transpose(value, perm)
        return Value(tensor, value.shape, perm, value.dtype, value.qparams)

    def _transpose(self, value: Value, perm: Perm) -> int:
        key = (value.tensor, value.physical, tuple(value.perm.index(p) for p in perm))
        if key not in self._transposed:
            source = self.shaped(value.tensor, value.physical)
            name = f"{self.builder.tensors[source].name}.transposed"
            made = self.like(value, name, value.shape, perm)
            self.emit(
                "TRANSPOSE", [source, self.numbers(key[2])], [made.tensor], "TransposeOptions"
            )
            self._transposed[key] = made.tensor
        return self._transposed[key]

    def copy(self, value: Value, name: str) -> Value:
        """Return the value in a tensor of its own (a RESHAPE to the same shape)."""
        made = self.like(value, name, value.shape, value.perm)
        shape = value.physical
        self.emit(
            "RESHAPE",
            [value.tensor, self.numbers(shape)],
            [made.tensor],
            "ReshapeOptions",
            newShape=np.array(shape, np.int32),
        )
        return made

    # --- one node ----------------------------------------------------------------------------

    def lower(self, call: Call, rule: Rule) -> Any:
        """Lower one call: on codes, moving data, or as a float island."""
        operands = [a for a in _flat(call.args.values()) if isinstance(a, (Value, Const))]
        values = [o for o in operands if isinstance(o, Value)]
        if rule.moves:
            return rule.function(self, call)
        on_codes = (
            call.qparams is not None
            and bool(values)
            and all(v.qparams is not None for v in values)
            and rule.integer(call)
        )
        if on_codes:
            return rule.function(self, call)
        args = _map(call.args, lambda o: self.as_float(o))
        return rule.function(self, replace(call, args=args, qparams=None))

    def unsupported(self, node: Node, why: str = "") -> UnsupportedOp:
        """Return the error for a node that cannot be spelled."""
        reason = why or "the TFLite writer has no lowering for it"
        return UnsupportedOp(
            f"node {node.name!r} ({node.target}) at {module_path(node)}: {reason}. "
            f"Rewrite it with supported ops: {', '.join(supported_ops())}"
        )


def module_path(node: Node) -> str:
    """Path of the module that a node came from, as far as the graph remembers."""
    stack = node.meta.get("nn_module_stack")
    if stack:
        path = str(list(stack.values())[-1][0])
        return f"module {path!r}" if path else "the root module"
    return "an unrecorded module"


def constant_operand(tensor: torch.Tensor) -> Const:
    """Turn a torch constant into an operand."""
    array = tensor.detach().cpu().contiguous().numpy()
    return Const(array.astype(np.float32) if array.dtype == np.float64 else array)


def dequantised_constant(codes: Const, args: dict[str, Any]) -> Const:
    """Operand of a dequantise node on a constant (per tensor or per channel)."""
    if "scales" in args:
        zero_points = args["zero_points"]
        points = {0} if zero_points is None else set(zero_points.array.flatten().tolist())
        if len(points) != 1:
            raise ConversionError(
                f"per-channel zero points are {sorted(points)}, must all be equal: "
                "quantise weights symmetrically"
            )
        scales = np.asarray(args["scales"].array, np.float32).reshape(-1)
        return Const(codes.array, scales, int(points.pop()), int(args["axis"]) % codes.array.ndim)
    return Const(codes.array, np.asarray(args["scale"], np.float32), int(args["zero_point"]))


def has_integer_weight(call: Call) -> bool:
    """True when the weight is a constant of codes, and the integer kernel takes the scales."""
    return weight_fits(call, call["input"], call["weight"])


def weight_fits(call: Call, x: Operand, weight: Operand) -> bool:
    """True when a product of codes with constant codes has scales that XNNPACK takes.

    Beyond the limit LiteRT fails to load the file, or crashes. It happens to activations that are
    always zero, whose scale is next to nothing.
    """
    if not isinstance(weight, Const) or weight.scales is None:
        return False
    if not isinstance(x, Value) or x.qparams is None or call.qparams is None:
        return False
    return float(np.max(weight.scales)) * x.qparams.scale / call.qparams.scale < MAX_PRODUCT_RATIO


def bias_index(low: Lowering, call: Call, x: Value, weight: Const) -> int:
    """Tensor index of the bias: int32 codes as they are, or zeros where there is none."""
    bias = call.args.get("bias")
    channels = weight.shape[0]
    if x.qparams is None:
        array = np.zeros(channels, np.float32) if bias is None else bias.array
        return low.index(Const(array), name=f"{call.name}.bias")
    assert weight.scales is not None
    scales = (np.float32(x.qparams.scale) * weight.scales).astype(np.float32)
    if bias is None:
        bias = Const(np.zeros(channels, np.int32), scales, 0, weight.axis)
    elif bias.scales is None:
        codes = np.rint(bias.array.astype(np.float64) / scales.astype(np.float64))
        bias = Const(codes.astype(np.int32), scales, 0, weight.axis)
    axis = None if bias.axis is None else 0
    return low.index(
        Const(bias.array.astype(np.int32), bias.scales, 0, axis), name=f"{call.name}.bias"
    )


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = []
    for v in values:
        flat.extend(_flat(v) if isinstance(v, (list, tuple)) else [v])
    return flat


def _map(value: Any, function: Callable[[Operand], Any]) -> Any:
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map(v, function) for v in value)
    return function(value) if isinstance(value, (Value, Const)) else value
