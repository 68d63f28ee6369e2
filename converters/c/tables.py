"""Functions of one int8 code become tables of 256 entries, as the golden rollout computes them.

Every float operation is done in float64 and rounded to float32, so a table entry is the golden
integer itself; a polynomial in float32 could end on the other side of a rounding boundary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expr import Expr, replaced
from .view import Buffer, contiguous

__all__ = ["TABULATED", "without_detours", "with_tables"]

# operations that cost more than a load; anything above them joins the same table
TABULATED = frozenset(
    {
        "cos", "div", "elu", "exp", "gelu", "gelu_tanh", "hard_swish", "log", "logistic", "pow",
        "rsqrt", "sin", "sqrt", "tanh",
    }
)  # fmt: skip

Array = NDArray[Any]


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    made: Array = 0.5 * x * (1 + np.tanh(inner))
    return made


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
    "round": np.rint,
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


_KNOWN = {*_FUNCTIONS, "number", "dequantize", "quantize", "leaky"}


def _value(e: Expr, args: list[Array]) -> Array:
    """Value of one node for every code."""
    if e.is_number:
        return np.array(e.attrs[0], e.dtype)
    if e.op == "dequantize":
        zero_point, scale = e.attrs
        return (args[0].astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    if e.op == "quantize":
        inverse, zero_point, low, high = e.attrs
        nearest = np.rint(np.nan_to_num(args[0] * np.float32(inverse), nan=-np.inf))
        return np.clip(nearest + float(zero_point), float(low), float(high)).astype(e.dtype)
    wide = [a.astype(np.float64) for a in args]
    if e.op == "leaky":
        made = np.where(wide[0] >= 0, wide[0], wide[0] * float(e.attrs[0]))
    else:
        made = _FUNCTIONS[e.op](*wide)
    return np.asarray(made).astype(np.float32)


@dataclass(frozen=True)
class _Fact:
    """Of one node: its structure, the one code that it is a function of, and is it costly."""

    key: int
    base: Expr | None  # None: of no code at all
    base_key: int
    single: bool
    costly: bool


def with_tables(expr: Expr) -> Expr:
    """Replace the largest subtrees that are functions of one int8 code and costly."""
    keys: dict[tuple[Any, ...], int] = {}
    facts: dict[int, _Fact] = {}

    def survey(e: Expr) -> _Fact:
        if id(e) in facts:
            return facts[id(e)]
        below = [survey(a) for a in e.args]
        view = e.view
        place = None if view is None else (id(view.buffer), view.offset, view.strides)
        key = keys.setdefault((e.op, e.dtype, e.attrs, place, *(f.key for f in below)), len(keys))
        bases = {f.base_key: f.base for f in below if f.base is not None}
        single = len(bases) <= 1 and all(f.single for f in below) and e.op in _KNOWN
        if single and e.op != "leaf":
            base = next(iter(bases.values()), None)
            base_key = next(iter(bases), -1)
            costly = e.op in TABULATED or any(f.costly for f in below)
            facts[id(e)] = _Fact(key, base, base_key, True, costly)
        elif e.dtype == "int8":  # whatever made it, it is one code
            facts[id(e)] = _Fact(key, e, key, True, False)
        else:
            facts[id(e)] = _Fact(key, None, -1, False, False)
        return facts[id(e)]

    survey(expr)
    made: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        if id(e) not in made:
            fact = facts[id(e)]
            wanted = fact.costly and fact.base is not None and e.dtype in ("int8", "float32")
            if wanted and fact.base is not None:
                made[id(e)] = _tabulated(e, visit(fact.base), fact.base_key, facts)
            else:
                made[id(e)] = Expr(e.op, e.dtype, tuple(map(visit, e.args)), e.attrs, e.view)
        return made[id(e)]

    return visit(expr)


def _tabulated(expr: Expr, code: Expr, base_key: int, facts: dict[int, _Fact]) -> Expr:
    """A table over all codes of what ``expr`` is a function of."""
    codes = np.arange(-128, 128).astype(np.int8)
    done: dict[int, Array] = {}

    def evaluate(e: Expr) -> Array:
        if id(e) not in done:
            if facts[id(e)].key == base_key:
                done[id(e)] = codes
            else:
                args = [evaluate(a) for a in e.args]
                with np.errstate(all="ignore"):
                    done[id(e)] = _value(e, args)
        return done[id(e)]

    values = np.broadcast_to(evaluate(expr), (256,)).astype(expr.dtype)
    table = Buffer(expr.dtype, 256, "const", np.ascontiguousarray(values))
    return Expr("table", expr.dtype, (code,), (), contiguous(table, (256,)))


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
