"""Functions of one int8 code become tables of 256 entries, computed as the golden rollout does.

Every float operation is done in float64 and rounded to float32, so a table entry is the golden
integer itself; a polynomial in float32 could end on the other side of a rounding boundary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expr import Expr, replaced
from .view import Buffer, contiguous

__all__ = ["TABULATED", "without_detours", "with_tables"]

# operations that cost more than a load; anything above them joins the same table
TABULATED = frozenset(
    "exp log logistic tanh rsqrt pow sin cos elu gelu gelu_tanh hard_swish div sqrt".split()
)

Array = NDArray[Any]


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))


_FUNCTIONS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "relu1": lambda x: np.clip(x, -1, 1),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def _value(e: Expr, done: dict[int, Array], codes: Array) -> Array:
    """Value of one node for every code; arguments are done."""
    args = [done[id(a)] for a in e.args]
    if e.op == "leaf":
        return codes
    if e.is_number:
        return np.array(e.attrs[0], e.dtype)
    if e.op == "dequantize":
        zero_point, scale = e.attrs
        return (args[0].astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    if e.op == "quantize":
        inverse, zero_point, low, high = e.attrs
        nearest = np.rint(np.nan_to_num(args[0] * np.float32(inverse), nan=-np.inf))
        return np.clip(nearest + float(zero_point), float(low), float(high)).astype(e.dtype)
    if e.op == "leaky":
        wide = args[0].astype(np.float64)
        return np.where(wide >= 0, wide, wide * float(e.attrs[0])).astype(np.float32)
    wide = [a.astype(np.float64) for a in args]
    return np.asarray(_FUNCTIONS[e.op](*wide)).astype(np.float32)


def _known(e: Expr) -> bool:
    return e.op in _FUNCTIONS or e.op in ("leaf", "number", "dequantize", "quantize", "leaky")


def with_tables(expr: Expr) -> Expr:
    """Replace the largest subtrees of one int8 leaf that hold a costly operation."""
    # per node: the one int8 leaf below it (None: only numbers, False: more than that), is it costly
    facts: dict[int, tuple[Any, bool]] = {}

    def survey(e: Expr) -> tuple[Any, bool]:
        if id(e) not in facts:
            below = [survey(a) for a in e.args]
            if e.op == "leaf" and e.view is not None:
                key = (id(e.view.buffer), e.view.offset, e.view.strides)
                facts[id(e)] = (key if e.dtype == "int8" else False, False)
            else:
                keys = {k for k, _ in below if k is not None}
                single = not keys or (len(keys) == 1 and False not in keys)
                one = (next(iter(keys)) if keys else None) if single and _known(e) else False
                facts[id(e)] = (one, e.op in TABULATED or any(c for _, c in below))
        return facts[id(e)]

    survey(expr)
    made: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        if id(e) not in made:
            key, costly = facts[id(e)]
            if isinstance(key, tuple) and costly and e.dtype in ("int8", "float32"):
                made[id(e)] = _tabulated(e)
            else:
                args = tuple(visit(a) for a in e.args)
                made[id(e)] = Expr(e.op, e.dtype, args, e.attrs, e.view)
        return made[id(e)]

    return visit(expr)


def _tabulated(expr: Expr) -> Expr:
    codes = np.arange(-128, 128).astype(np.int8)
    done: dict[int, Array] = {}
    source: list[Expr] = []

    def evaluate(e: Expr) -> Expr | None:
        if e.op == "leaf":
            source.append(e)
        with np.errstate(all="ignore"):
            done[id(e)] = _value(e, done, codes)
        return None

    replaced(expr, evaluate)
    values = np.broadcast_to(done[id(expr)], (256,)).astype(expr.dtype)
    table = Buffer(expr.dtype, 256, "const", np.ascontiguousarray(values))
    return Expr("table", expr.dtype, (source[0],), (), contiguous(table, (256,)))


def without_detours(expr: Expr) -> Expr:
    """Take the nearest code as a real where it was only made to be dequantised again."""

    def change(e: Expr) -> Expr | None:
        if e.op != "dequantize" or e.args[0].op not in ("quantize", "requantize", "code_mul"):
            return None
        inner = e.args[0]
        if inner.attrs[-3] != e.attrs[0]:
            return None
        attrs = (e.attrs[1], *inner.attrs)
        return Expr(f"real_{inner.op}", "float32", inner.args, attrs)

    return replaced(expr, change)
