"""C text of single operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .expr import Expr, Number
from .literals import C_TYPES, float_text

__all__ = ["form"]

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARE = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "and": "&",
    "or": "|",
}
# operation -> (form for float32 programs, form that rounds the float64 value)
FUNCTIONS = {
    "max": ("se_max({0}, {1})",) * 2,
    "min": ("se_min({0}, {1})",) * 2,
    "neg": ("-{0}",) * 2,
    "abs": ("fabsf({0})",) * 2,
    "sqrt": ("sqrtf({0})",) * 2,
    "floor": ("floorf({0})",) * 2,
    "ceil": ("ceilf({0})",) * 2,
    "round": ("rintf({0})",) * 2,  # half to even
    "relu": ("se_max({0}, 0.0f)",) * 2,
    "relu6": ("se_min(se_max({0}, 0.0f), 6.0f)",) * 2,
    "relu1": ("se_min(se_max({0}, -1.0f), 1.0f)",) * 2,
    "rsqrt": ("1.0f / sqrtf({0})", "(float)(1.0 / sqrt((double){0}))"),
    "exp": ("se_exp({0})", "(float)exp((double){0})"),
    "log": ("se_log({0})", "(float)log((double){0})"),
    "logistic": ("se_logistic({0})", "(float)(1.0 / (1.0 + exp(-(double){0})))"),
    "tanh": ("se_tanh({0})", "(float)tanh((double){0})"),
    "sin": ("sinf({0})", "(float)sin((double){0})"),
    "cos": ("cosf({0})", "(float)cos((double){0})"),
    "pow": ("powf({0}, {1})", "(float)pow((double){0}, (double){1})"),
    "elu": (
        "({0} > 0.0f ? {0} : se_exp({0}) - 1.0f)",
        "(float)({0} > 0.0f ? (double){0} : expm1((double){0}))",
    ),
    "gelu": (
        "0.5f * {0} * (1.0f + erff({0} * 0.707106781f))",
        "(float)(0.5 * {0} * (1.0 + erf((double){0} * 0.70710678118654752)))",
    ),
    "gelu_tanh": ("se_gelu_tanh({0})",) * 2,
    "hard_swish": ("{0} * se_min(se_max({0} + 3.0f, 0.0f), 6.0f) * 0.166666667f",) * 2,
    "prelu": ("({0} >= 0.0f ? {0} : {0} * {1})",) * 2,
    "select": ("({0} ? {1} : {2})",) * 2,
    "not": ("(uint8_t)!{0}",) * 2,
}


def form(e: Expr, args: list[str], exact: bool) -> str:
    """C expression of one operation; ``exact`` programs take functions from float64."""
    if e.op in INFIX:
        return f"{args[0]} {INFIX[e.op]} {args[1]}"
    if e.op in ("max", "min") and e.dtype != "float32":
        return f"({args[0]} {'>' if e.op == 'max' else '<'} {args[1]} ? {args[0]} : {args[1]})"
    if e.op in FUNCTIONS:
        return FUNCTIONS[e.op][exact].format(*args)
    if e.op in COMPARE:
        return f"(uint8_t)({args[0]} {COMPARE[e.op]} {args[1]})"
    return _FORMS[e.op](e, args, e.attrs)


def _code_product(args: list[str], a: Sequence[Any]) -> str:
    return f"(float)(({args[0]} - ({a[0]})) * ({args[1]} - ({a[1]})))"


def _nearest(
    real: str, factor: str, zero_point: Number, low: Number, high: Number, *, as_real: bool = False
) -> str:
    least, most = float_text(float(low) - zero_point), float_text(float(high) - zero_point)
    cast = "" if as_real else "(int32_t)"
    return f"{cast}se_round({real} * {factor}, {least}, {most})"


def _leaky(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"({args[0]} >= 0.0f ? {args[0]} : {args[0]} * {float_text(a[0])})"


def _dequantize(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"(float)({args[0]} - ({a[0]})) * {float_text(a[1])}"


def _quantize(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"({_nearest(args[0], float_text(a[0]), *a[1:])} + ({a[1]}))"


def _requantize(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"({_nearest(f'(float){args[0]}', args[1], *a)} + ({a[0]}))"


def _code_mul(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"({_nearest(_code_product(args, a), float_text(a[2]), *a[3:])} + ({a[3]}))"


def _real_quantize(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    nearest = _nearest(args[0], float_text(a[1]), *a[2:], as_real=True)
    return f"{nearest} * {float_text(a[0])}"


def _real_requantize(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    nearest = _nearest(f"(float){args[0]}", args[1], *a[1:], as_real=True)
    return f"{nearest} * {float_text(a[0])}"


def _real_code_mul(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    nearest = _nearest(_code_product(args, a[1:]), float_text(a[3]), *a[4:], as_real=True)
    return f"{nearest} * {float_text(a[0])}"


def _code_add(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    za, zb, fa, fb, shift, zero_point, low, high = a
    total = f"({args[0]} - ({za})) * {fa} + ({args[1]} - ({zb})) * {fb}"
    nearest = f"(({total} + {1 << (shift - 1)}) >> {shift}) + ({zero_point})"
    return f"se_clamp({nearest}, {low}, {high})"


def _sub16(_e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    return f"{args[0]} - {args[1]}"


def _mean(_e: Expr, args: list[str], a: Sequence[Any]) -> str:
    return f"(float)({args[0]} / {a[0]})"


def _cast(e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    source = e.args[0].dtype
    if e.dtype == "bool":
        return f"(uint8_t)({args[0]} != 0)"
    if source.startswith("float") and not e.dtype.startswith("float"):
        return f"({C_TYPES[e.dtype]})se_whole({args[0]})"
    return f"({C_TYPES[e.dtype]}){args[0]}"


def _wrap(e: Expr, args: list[str], sign: str) -> str:
    unsigned = "u" + C_TYPES[e.dtype]
    return f"({C_TYPES[e.dtype]})(({unsigned}){args[0]} {sign} ({unsigned}){args[1]})"


def _wrap_add(e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    return _wrap(e, args, "+")


def _wrap_sub(e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    return _wrap(e, args, "-")


def _wrap_mul(e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    return _wrap(e, args, "*")


def _floor_div(e: Expr, args: list[str], _a: Sequence[Any]) -> str:
    return f"({C_TYPES[e.dtype]})se_floor_div({args[0]}, {args[1]})"


_FORMS: dict[str, Callable[[Expr, list[str], Sequence[Any]], str]] = {
    "leaky": _leaky,
    "dequantize": _dequantize,
    "quantize": _quantize,
    "requantize": _requantize,
    "code_mul": _code_mul,
    "real_quantize": _real_quantize,
    "real_requantize": _real_requantize,
    "real_code_mul": _real_code_mul,
    "code_add": _code_add,
    "sub16": _sub16,
    "mean": _mean,
    "cast": _cast,
    "wrap_add": _wrap_add,
    "wrap_sub": _wrap_sub,
    "wrap_mul": _wrap_mul,
    "floor_div": _floor_div,
}
