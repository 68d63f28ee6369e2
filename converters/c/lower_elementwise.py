"""Rules of element-wise operators: nodes of expressions."""

from __future__ import annotations

from .expr import Expr, Lazy, node, number
from .lower import Lowering, lowers
from .read import Operator, Tensor

__all__ = ["activated"]

_ACTIVATIONS = {0: None, 1: "relu", 2: "relu1", 3: "relu6"}
_FLOAT = {
    "ADD": "add",
    "SUB": "sub",
    "MUL": "mul",
    "DIV": "div",
    "MAXIMUM": "max",
    "MINIMUM": "min",
    "POW": "pow",
}
_WHOLE = {
    "ADD": "wrap_add",
    "SUB": "wrap_sub",
    "MUL": "wrap_mul",
    "MAXIMUM": "max",
    "MINIMUM": "min",
    "FLOOR_DIV": "floor_div",
}
_COMPARES = {
    "EQUAL": "eq",
    "NOT_EQUAL": "ne",
    "GREATER": "gt",
    "GREATER_EQUAL": "ge",
    "LESS": "lt",
    "LESS_EQUAL": "le",
}
_FUNCTIONS = {
    "ABS": "abs",
    "NEG": "neg",
    "EXP": "exp",
    "LOG": "log",
    "SQRT": "sqrt",
    "RSQRT": "rsqrt",
    "SIN": "sin",
    "COS": "cos",
    "FLOOR": "floor",
    "CEIL": "ceil",
    "ROUND": "round",
    "LOGISTIC": "logistic",
    "TANH": "tanh",
    "RELU": "relu",
    "RELU6": "relu6",
    "RELU_N1_TO_1": "relu1",
    "ELU": "elu",
    "HARD_SWISH": "hard_swish",
}


def activated(op: Operator, expr: Expr) -> Expr:
    """Apply the fused activation of an operator to its float32 result."""
    code = int(op.options.get("FusedActivationFunction", 0))
    op.require(code in _ACTIVATIONS, f"has an unknown activation {code}")
    name = _ACTIVATIONS.get(code)
    return expr if name is None else node(name, "float32", expr)


def _operand(low: Lowering, op: Operator) -> Expr:
    """The only operand of an operator that keeps its shape."""
    x = op.input(0)
    op.require(x.shape == op.output.shape, "changes the shape of its operand")
    return low.real(op, x)


@lowers("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "FLOOR_DIV")
def lower_binary(low: Lowering, op: Operator) -> Lazy:
    """Two operands; codes are dequantised, and sums and products of codes recognised later."""
    a, b, made = op.input(0), op.input(1), op.output
    if made.dtype in ("int32", "int64"):
        op.require(op.code in _WHOLE and a.dtype == b.dtype == made.dtype, "mixes dtypes")
        op.require(not op.options.get("FusedActivationFunction"), "clamps whole numbers")
        x, y = (low.spread(op, low.value(t), made.shape) for t in (a, b))
        return Lazy(made.shape, node(_WHOLE[op.code], made.dtype, x, y))
    op.require(op.code in _FLOAT, f"has no form for {made.dtype}")
    x, y = (low.real(op, t, made.shape) for t in (a, b))
    return low.finished(op, activated(op, node(_FLOAT[op.code], "float32", x, y)))


@lowers("SQUARED_DIFFERENCE")
def lower_squared_difference(low: Lowering, op: Operator) -> Lazy:
    """(a - b)²."""
    x, y = (low.real(op, op.input(i), op.output.shape) for i in (0, 1))
    difference = node("sub", "float32", x, y)
    return low.finished(op, node("mul", "float32", difference, difference))


@lowers("SQUARE")
def lower_square(low: Lowering, op: Operator) -> Lazy:
    """x²."""
    x = _operand(low, op)
    return low.finished(op, node("mul", "float32", x, x))


@lowers(*_FUNCTIONS)
def lower_function(low: Lowering, op: Operator) -> Lazy:
    """One operand."""
    x = _operand(low, op)
    return low.finished(op, node(_FUNCTIONS[op.code], "float32", x))


@lowers("GELU")
def lower_gelu(low: Lowering, op: Operator) -> Lazy:
    """With the error function, or the approximation by tanh."""
    name = "gelu_tanh" if op.options.get("Approximate") else "gelu"
    return low.finished(op, node(name, "float32", _operand(low, op)))


@lowers("LEAKY_RELU")
def lower_leaky_relu(low: Lowering, op: Operator) -> Lazy:
    """x, or alpha · x below zero."""
    alpha = number(float(op.options.get("Alpha", 0.0))).attrs
    return low.finished(op, node("leaky", "float32", _operand(low, op), attrs=alpha))


@lowers("PRELU")
def lower_prelu(low: Lowering, op: Operator) -> Lazy:
    """x, or slope · x below zero."""
    x, slope = (low.real(op, op.input(i), op.output.shape) for i in (0, 1))
    return low.finished(op, node("prelu", "float32", x, slope))


@lowers("QUANTIZE", "DEQUANTIZE")
def lower_quantize(low: Lowering, op: Operator) -> Lazy:
    """Between reals and codes, or from one grid to another through reals."""
    return low.finished(op, _operand(low, op))


@lowers("CAST")
def lower_cast(low: Lowering, op: Operator) -> Lazy:
    """Another dtype."""
    x, made = low.value(op.input(0)), op.output
    return Lazy(made.shape, node("cast", made.dtype, low.spread(op, x, made.shape)))


@lowers(*_COMPARES)
def lower_comparison(low: Lowering, op: Operator) -> Lazy:
    """True where the comparison holds."""
    a, b, made = op.input(0), op.input(1), op.output
    if a.dtype in ("int8", "int16"):
        x, y = (low.real(op, t, made.shape) for t in (a, b))
    else:
        op.require(a.dtype == b.dtype, "compares two dtypes")
        x, y = (low.spread(op, low.value(t), made.shape) for t in (a, b))
    return Lazy(made.shape, node(_COMPARES[op.code], "bool", x, y))


@lowers("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT")
def lower_logic(low: Lowering, op: Operator) -> Lazy:
    """And, or, not."""
    operands: list[Tensor] = [op.input(i) for i in range(len(op.inputs))]
    count = 1 if op.code == "LOGICAL_NOT" else 2
    good = len(operands) == count and all(t.dtype == "bool" for t in operands)
    op.require(good, "takes other operands than booleans")
    made = op.output
    args = [low.spread(op, low.value(t), made.shape) for t in operands]
    return Lazy(made.shape, node(op.code.removeprefix("LOGICAL_").lower(), "bool", *args))


@lowers("SELECT", "SELECT_V2")
def lower_select(low: Lowering, op: Operator) -> Lazy:
    """The second or the third operand."""
    mask, a, b, made = op.input(0), op.input(1), op.input(2), op.output
    same = (a.scales, a.zero_points) == (b.scales, b.zero_points) == (made.scales, made.zero_points)
    op.require(mask.dtype == "bool" and a.dtype == b.dtype == made.dtype and same, "mixes dtypes")
    args = [low.spread(op, low.value(t), made.shape) for t in (mask, a, b)]
    return Lazy(made.shape, node("select", made.dtype, *args))
