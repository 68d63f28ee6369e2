"""Element-wise operators with broadcasting, activations, and other functions of one value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spectral_edge.qparams import QParams

from .arithmetic import (
    MAX_RATIO,
    MIN_PRODUCT_RATIO,
    MIN_RATIO,
    binary,
    cast,
    common_dtype,
    unary,
)
from .lowering import MAX_PRODUCT_RATIO, RELU_RANGES, Bounds, Call, Lowering, lowers
from .values import Const, Value, real_scalar

__all__ = ["clamp_range", "saturates"]

SIGMOID_GRID = QParams(1.0 / 256.0, -128)
TANH_GRID = QParams(1.0 / 128.0, 0)


def _operand(call: Call, *names: str) -> Value | Const:
    """The argument under the first of ``names`` that exists, numbers turned into constants."""
    value = next(call[n] for n in names if n in call.args)
    if isinstance(value, float):
        return real_scalar(value)
    return Const(np.array(value)) if isinstance(value, int) else value


def _both(call: Call) -> tuple[Value | Const, Value | Const]:
    return _operand(call, "self", "input"), _operand(call, "other", "exponent", "max", "min")


def _has_exact_codes(operand: Value | Const) -> bool:
    return (
        isinstance(operand, Value)
        or operand.scalar is not None
        or (operand.scales is not None and operand.axis is None)
    )


def _integer_sum(call: Call) -> bool:
    operands = _both(call)
    return (
        call.args.get("alpha", 1) == 1
        and all(_has_exact_codes(o) for o in operands)
        and all(MIN_RATIO <= r <= MAX_RATIO for r in _ratios(call, operands))
    )


def _integer_product(call: Call) -> bool:
    operands = _both(call)
    if not all(_has_exact_codes(o) for o in operands):
        return False
    ratio = math.prod(_scale(o) for o in operands) / _step(call)
    return MIN_PRODUCT_RATIO <= ratio < MAX_PRODUCT_RATIO


def _integer_square(call: Call) -> bool:
    return MIN_PRODUCT_RATIO <= _scale(call["self"]) ** 2 / _step(call) < MAX_PRODUCT_RATIO


def _step(call: Call) -> float:
    assert call.qparams is not None
    return call.qparams.scale


def _scale(operand: Value | Const) -> float:
    """Scale with which an operand is written; scalars are one code."""
    if isinstance(operand, Value):
        return 1.0 if operand.qparams is None else operand.qparams.scale
    if operand.scales is not None:
        return float(np.max(operand.scales))
    return abs(operand.scalar or 1.0)


def _ratios(call: Call, operands: tuple[Value | Const, ...]) -> list[float]:
    """Scales of the summands over that of the sum; scalars adapt theirs."""
    return [_scale(o) / _step(call) for o in operands if isinstance(o, Value) or o.scalar is None]


def _lower_binary(low: Lowering, call: Call, code: str, swapped: bool = False) -> Value:
    a, b = _both(call)
    alpha = call.args.get("alpha", 1)
    if alpha != 1:
        if isinstance(b, Const):
            b = real_scalar(b.array * alpha)
        else:
            b = binary(low, "MUL", b, real_scalar(alpha), f"{call.name}.alpha", b.shape)
    if swapped:
        a, b = b, a
    return binary(
        low, code, a, b, call.name, call.shape, call.qparams, low.activation(call.activation)
    )


@lowers("aten.add", integer=_integer_sum, fuses=True)
def lower_add(low: Lowering, call: Call) -> Value:
    """ADD."""
    return _lower_binary(low, call, "ADD")


@lowers("aten.sub", integer=_integer_sum, fuses=True)
def lower_sub(low: Lowering, call: Call) -> Value:
    """SUB."""
    return _lower_binary(low, call, "SUB")


@lowers("aten.rsub", integer=_integer_sum, fuses=True)
def lower_rsub(low: Lowering, call: Call) -> Value:
    """SUB with exchanged operands."""
    return _lower_binary(low, call, "SUB", swapped=True)


@lowers("aten.mul", integer=_integer_product, fuses=True)
def lower_mul(low: Lowering, call: Call) -> Value:
    """MUL."""
    return _lower_binary(low, call, "MUL")


@lowers("aten.div", fuses=True)
def lower_div(low: Lowering, call: Call) -> Value:
    """DIV; FLOOR_DIV of whole numbers."""
    if call.args.get("rounding_mode") == "floor" and common_dtype(*_both(call)) == "int32":
        return binary(low, "FLOOR_DIV", *_both(call), call.name, call.shape)
    if call.args.get("rounding_mode") is not None:
        raise low.unsupported(call.node, "rounding division has no lowering")
    a, b = (cast(low, o, "float32") if isinstance(o, Value) else o for o in _both(call))
    activation = low.activation(call.activation)
    return binary(low, "DIV", a, b, call.name, call.shape, call.qparams, activation)


@lowers("aten.maximum")
def lower_maximum(low: Lowering, call: Call) -> Value:
    """MAXIMUM."""
    return _lower_binary(low, call, "MAXIMUM")


@lowers("aten.minimum")
def lower_minimum(low: Lowering, call: Call) -> Value:
    """MINIMUM."""
    return _lower_binary(low, call, "MINIMUM")


@lowers("aten.square", integer=_integer_square, fuses=True)
def lower_square(low: Lowering, call: Call) -> Value:
    """MUL of the value with itself."""
    x = call["self"]
    return binary(
        low, "MUL", x, x, call.name, call.shape, call.qparams, low.activation(call.activation)
    )


@lowers("aten.pow", integer=lambda call: call.args["exponent"] == 2 and _integer_square(call))
def lower_pow(low: Lowering, call: Call) -> Value:
    """MUL for squares, SQRT and RSQRT for ±1/2, else POW."""
    x, exponent = call["self"], call["exponent"]
    if exponent == 2:
        return binary(low, "MUL", x, x, call.name, call.shape, call.qparams)
    if exponent in (0.5, -0.5):
        return unary(low, "SQRT" if exponent > 0 else "RSQRT", x, call.name)
    return _lower_binary(low, call, "POW")


# --- clamps ---------------------------------------------------------------------------------


def clamp_range(op: str, args: dict[str, Any]) -> Bounds | None:
    """Bounds of a ReLU-like op, None when ``op`` is not one."""
    if op == "aten.relu":
        return 0.0, None
    if op == "aten.relu6":
        return 0.0, 6.0
    if op == "aten.hardtanh":
        return float(args["min_val"]), float(args["max_val"])
    if op in ("aten.clamp", "aten.clamp_min", "aten.clamp_max"):
        bounds = args.get("min"), args.get("max")
        if all(b is None or isinstance(b, (int, float)) for b in bounds):
            low, high = (None if b is None else float(b) for b in bounds)
            return low, high
    return None


def saturates(bounds: Bounds, qparams: QParams | None) -> bool:
    """True when quantising with ``qparams`` already clamps to ``bounds``."""
    if qparams is None:
        return False
    low, high = (qparams.scale * (c - qparams.zero_point) for c in qparams.code_range)
    return (bounds[0] is None or low >= bounds[0]) and (bounds[1] is None or high <= bounds[1])


def _bounds(call: Call) -> Bounds:
    bounds = clamp_range(call.op, call.args)
    return (None, None) if bounds is None else bounds


def _integer_clamp(call: Call) -> bool:
    bounds = _bounds(call)
    ratio = _scale(call["self"]) / _step(call)
    fits = MIN_PRODUCT_RATIO <= ratio < MAX_PRODUCT_RATIO
    return fits and (bounds in RELU_RANGES or saturates(bounds, call.qparams))


@lowers(
    "aten.relu",
    "aten.relu6",
    "aten.hardtanh",
    "aten.clamp",
    "aten.clamp_min",
    "aten.clamp_max",
    integer=_integer_clamp,
)
def lower_clamp(low: Lowering, call: Call) -> Value:
    """A clamp that nothing could fuse.

    On codes: MUL by one with the clamp as its activation, because XNNPACK has no int8 RELU. In
    float: RELU, RELU6, RELU_N1_TO_1, or MAXIMUM and MINIMUM.
    """
    x: Value = call["self"]
    bounds = _bounds(call)
    code = RELU_RANGES.get(bounds)
    if call.quantised:
        one, activation = real_scalar(1.0), low.activation(code or "NONE")
        return binary(low, "MUL", x, one, call.name, call.shape, call.qparams, activation)
    if code is not None:
        return unary(low, code, x, call.name)
    for operator, bound in (("MAXIMUM", bounds[0]), ("MINIMUM", bounds[1])):
        if bound is not None:
            x = binary(low, operator, x, real_scalar(bound), call.name, call.shape)
    return x


# --- functions of one value -----------------------------------------------------------------


def _on_grid(grid: QParams) -> Any:
    return lambda call: call.qparams == grid


@lowers("aten.sigmoid", integer=_on_grid(SIGMOID_GRID))
def lower_sigmoid(low: Lowering, call: Call) -> Value:
    """LOGISTIC."""
    return _lower_function(low, call, "LOGISTIC")


@lowers("aten.tanh", integer=_on_grid(TANH_GRID))
def lower_tanh(low: Lowering, call: Call) -> Value:
    """TANH."""
    return _lower_function(low, call, "TANH")


@lowers("aten.leaky_relu")
def lower_leaky_relu(low: Lowering, call: Call) -> Value:
    """LEAKY_RELU in float: of the int8 kernel's codes only 84 % were right (measured)."""
    slope = float(call["negative_slope"])
    return _lower_function(low, call, "LEAKY_RELU", "LeakyReluOptions", alpha=slope)


def _lower_function(
    low: Lowering, call: Call, code: str, options: str | None = None, **fields: Any
) -> Value:
    x = call["self"]
    made = low.result(call, x.perm)
    low.emit(code, [low.index(x)], [made.tensor], options, **fields)
    return made


_FLOAT_FUNCTIONS = {
    "aten.abs": "ABS",
    "aten.neg": "NEG",
    "aten.exp": "EXP",
    "aten.log": "LOG",
    "aten.sqrt": "SQRT",
    "aten.rsqrt": "RSQRT",
    "aten.sin": "SIN",
    "aten.cos": "COS",
    "aten.floor": "FLOOR",
    "aten.ceil": "CEIL",
    "aten.round": "ROUND",
    "aten.hardswish": "HARD_SWISH",
}


@lowers(*_FLOAT_FUNCTIONS)
def lower_float_function(low: Lowering, call: Call) -> Value:
    """One float operator."""
    return _lower_function(low, call, _FLOAT_FUNCTIONS[call.op])


@lowers("aten.gelu")
def lower_gelu(low: Lowering, call: Call) -> Value:
    """GELU."""
    approximate = call["approximate"] == "tanh"
    return _lower_function(low, call, "GELU", "GeluOptions", approximate=approximate)


@lowers("aten.elu")
def lower_elu(low: Lowering, call: Call) -> Value:
    """ELU with alpha and scales of 1."""
    if any(float(call[k]) != 1.0 for k in ("alpha", "scale", "input_scale")):
        raise low.unsupported(call.node, "alpha and scales other than 1 have no lowering")
    return _lower_function(low, call, "ELU")


@lowers("aten.silu")
def lower_silu(low: Lowering, call: Call) -> Value:
    """X · LOGISTIC(x)."""
    x = call["self"]
    gate = unary(low, "LOGISTIC", x, f"{call.name}.gate")
    return binary(low, "MUL", x, gate, call.name, call.shape)


@lowers("aten.hardsigmoid")
def lower_hardsigmoid(low: Lowering, call: Call) -> Value:
    """RELU6(x + 3) / 6."""
    activation = low.activation("RELU6")
    three, sixth = real_scalar(3.0), real_scalar(1.0 / 6.0)
    x = binary(low, "ADD", call["self"], three, f"{call.name}.sum", call.shape, None, activation)
    return binary(low, "MUL", x, sixth, call.name, call.shape)


@lowers("aten.reciprocal")
def lower_reciprocal(low: Lowering, call: Call) -> Value:
    """1 / x."""
    return binary(low, "DIV", real_scalar(1.0), call["self"], call.name, call.shape)


@lowers("aten.log1p")
def lower_log1p(low: Lowering, call: Call) -> Value:
    """LOG(x + 1)."""
    one = real_scalar(1.0)
    x = binary(low, "ADD", call["self"], one, f"{call.name}.sum", call.shape)
    return unary(low, "LOG", x, call.name)


@lowers("aten.softplus")
def lower_softplus(low: Lowering, call: Call) -> Value:
    """RELU(x) + LOG(1 + EXP(-|x|)), which never overflows."""
    if float(call["beta"]) != 1.0:
        raise low.unsupported(call.node, "beta other than 1 has no lowering")
    x, name = call["self"], call.name
    magnitude = unary(low, "ABS", x, f"{name}.abs")
    decay = unary(low, "EXP", unary(low, "NEG", magnitude, f"{name}.neg"), f"{name}.exp")
    one = real_scalar(1.0)
    tail = unary(low, "LOG", binary(low, "ADD", decay, one, f"{name}.one", x.shape), f"{name}.log")
    return binary(low, "ADD", unary(low, "RELU", x, f"{name}.relu"), tail, name, call.shape)


@lowers("aten.prelu")
def lower_prelu(low: Lowering, call: Call) -> Value:
    """LEAKY_RELU for one slope, PRELU for channels that lie last, else of two RELUs."""
    x, slope, name = call["self"], call["weight"], call.name
    if not isinstance(slope, Const):
        raise low.unsupported(call.node, "its slope is not a constant")
    if slope.array.size == 1:
        alpha = float(slope.real.reshape(-1)[0])
        return _lower_function(low, call, "LEAKY_RELU", "LeakyReluOptions", alpha=alpha)
    if x.perm[-1] == 1:
        per_channel = slope.real.reshape([1] * (len(x.shape) - 2) + [-1]).astype(np.float32)
        made = low.result(call, x.perm)
        weight = low.builder.constant(f"{name}.slope", per_channel)
        low.emit("PRELU", [low.index(x), weight], [made.tensor])
        return made
    shape = [1] * len(x.shape)
    if slope.array.size > 1:
        shape[1] = slope.array.size
    positive = unary(low, "RELU", x, f"{name}.positive")
    negative = unary(low, "RELU", unary(low, "NEG", x, f"{name}.neg"), f"{name}.negative")
    slopes = Const(slope.array.reshape(shape).astype(np.float32))
    scaled = binary(low, "MUL", negative, slopes, f"{name}.scaled", x.shape)
    return binary(low, "SUB", positive, scaled, name, call.shape)
