"""Expressions over strided values: what one element of a fused loop computes.

Leaves read a :class:`~.view.View` or are numbers; inner nodes are operations of one element. An
expression has an index space, the shape that all its leaves' views share; slices, transposes and
reshapes of a lazy value only change the views of its leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .view import View

__all__ = [
    "Expr",
    "Lazy",
    "Number",
    "dequantized",
    "leaf",
    "leaves",
    "node",
    "number",
    "quantized",
    "remapped",
    "replaced",
]

Number = int | float
CODES = {"int8": (-128, 127), "int16": (-32768, 32767)}


@dataclass(frozen=True, eq=False)
class Expr:
    """A node: ``view`` is what a leaf reads or a table holds, ``attrs`` are constants."""

    op: str
    dtype: str
    args: tuple[Expr, ...] = ()
    attrs: tuple[Number | str, ...] = ()
    view: View | None = None
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        depth = 1 + max((a.depth for a in self.args), default=0)
        object.__setattr__(self, "depth", depth)

    @property
    def is_number(self) -> bool:
        """True for a constant."""
        return self.op == "number"


@dataclass(frozen=True, eq=False)
class Lazy:
    """A value that is not (or not necessarily) in memory: an expression over ``shape``."""

    shape: tuple[int, ...]
    expr: Expr

    @property
    def view(self) -> View | None:
        """Where it lies, when it only reads memory."""
        return self.expr.view if self.expr.op == "leaf" else None


def leaf(view: View) -> Expr:
    """An expression that reads memory."""
    return Expr("leaf", view.buffer.dtype, view=view)


def number(value: Number, dtype: str = "float32") -> Expr:
    """An expression of one constant; float32 values are rounded here."""
    plain: Number = float(np.float32(value)) if dtype == "float32" else int(value)
    return Expr("number", dtype, attrs=(plain,))


def node(op: str, dtype: str, *args: Expr, attrs: tuple[Number | str, ...] = ()) -> Expr:
    """An operation of one element."""
    return Expr(op, dtype, args, attrs)


def dequantized(x: Expr, scale: float, zero_point: int) -> Expr:
    """``(x - zero_point) · scale`` in float32."""
    return node("dequantize", "float32", x, attrs=(int(zero_point), float(np.float32(scale))))


def quantized(
    x: Expr,
    scale: float,
    zero_point: int,
    dtype: str,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Expr:
    """Nearest code of a float32 value, halves to even; exact forms for a sum or product of codes.

    The golden rollout computes sums and products of two dequantised values from their codes, also
    where the file has them as a float island; see ``converters/exact.py``.
    """
    low, high = code_bounds(scale, zero_point, dtype, bounds)
    if x.op in ("relu", "relu6", "relu1"):  # a clamp in between is a clamp of codes
        limits = {"relu": (0.0, None), "relu6": (0.0, 6.0), "relu1": (-1.0, 1.0)}[x.op]
        inner = x.args[0]
        if inner.op in ("add", "mul") and bounds == (None, None):
            return quantized(inner, scale, zero_point, dtype, limits)
    if x.op in ("add", "mul") and all(_is_codes(a) for a in x.args):
        a, b = x.args
        made = code_sum if x.op == "add" else code_product
        exact = made(a, b, scale, zero_point, dtype, (low, high))
        if exact is not None:
            return exact
    inverse = float(np.float32(1.0 / scale))
    return node("quantize", dtype, x, attrs=(inverse, int(zero_point), low, high))


def code_bounds(
    scale: float, zero_point: int, dtype: str, bounds: tuple[float | None, float | None]
) -> tuple[int, int]:
    """Least and greatest code of a result that is clamped to real ``bounds``."""
    least, most = CODES[dtype]
    low, high = (
        limit if b is None else int(np.rint(b / np.float32(scale))) + zero_point
        for b, limit in zip(bounds, (least, most), strict=True)
    )
    low = min(max(low, least), most)
    return low, max(min(high, most), low)


def _is_codes(x: Expr) -> bool:
    return x.op == "dequantize" and x.args[0].dtype == "int8"


def code_product(
    a: Expr, b: Expr, scale: float, zero_point: int, dtype: str, limits: tuple[int, int]
) -> Expr:
    """``float32(a·b)·factor``, rounded half to even, from the codes of two dequantised values."""
    (za, sa), (zb, sb) = (e.attrs for e in (a, b))
    factor = np.float32(sa) * np.float32(sb) / np.float32(scale)
    attrs = (za, zb, float(factor), int(zero_point), *limits)
    return node("code_mul", dtype, a.args[0], b.args[0], attrs=attrs)


def code_sum(
    a: Expr, b: Expr, scale: float, zero_point: int, dtype: str, limits: tuple[int, int]
) -> Expr | None:
    """Sum with multipliers of 21 bits and round half up; None when the ratios do not fit them."""
    (za, sa), (zb, sb) = (e.attrs for e in (a, b))
    ratios = [np.float32(s) / np.float32(scale) for s in (sa, sb)]
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    if not 1 <= shift <= 30:
        return None
    factors = [int(np.rint(np.ldexp(r, shift))) for r in ratios]
    attrs = (za, zb, *factors, shift, int(zero_point), *limits)
    return node("code_add", dtype, a.args[0], b.args[0], attrs=attrs)


def leaves(expr: Expr) -> Iterator[View]:
    """Every view the expression reads, each as often as it occurs in the (shared) tree."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if e.op == "leaf" and e.view is not None:
            yield e.view
        stack.extend(e.args)


def replaced(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild bottom-up; ``change`` returns a node's replacement or None to keep it."""
    done: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        if id(e) not in done:
            args = tuple(visit(a) for a in e.args)
            kept = e if all(x is y for x, y in zip(args, e.args, strict=True)) else None
            rebuilt = kept or Expr(e.op, e.dtype, args, e.attrs, e.view)
            done[id(e)] = change(rebuilt) or rebuilt
        return done[id(e)]

    return visit(expr)


def remapped(expr: Expr, change: Callable[[View], View | None]) -> Expr | None:
    """The expression over another index space; None when a view cannot be changed."""
    failed = False

    def per_leaf(e: Expr) -> Expr | None:
        nonlocal failed
        if e.op != "leaf" or e.view is None:
            return None
        view = change(e.view)
        if view is None:
            failed = True
            return None
        return Expr(e.op, e.dtype, view=view)

    made = replaced(expr, per_leaf)
    return None if failed else made
