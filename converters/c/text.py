"""C text of numbers, addresses, expressions and loop nests; everything kernels are written with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expr import Expr, Number, leaf, leaves
from .view import Buffer, View, collapse, packed

__all__ = ["C_TYPES", "Constants", "KernelText", "array_text", "float_text"]

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}
TEMPORARY = {"int8": "int32_t", "int16": "int32_t"}  # codes are narrowed where they are stored
STAGED_ELEMENTS = 4096
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


def float_text(value: float) -> str:
    """A float literal that reads back as the same float32."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = _shortest(value)
    return f"({text}f)" if text.startswith("-") else f"{text}f"


def _shortest(value: float) -> str:
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    plain = np.format_float_positional(np.float32(value), unique=True, trim="0")
    return plain if len(plain) <= len(text) else text


def array_text(name: str, values: NDArray[Any]) -> str:
    """A static constant array."""
    ctype = C_TYPES[values.dtype.name]
    flat = values.reshape(-1)
    if values.dtype == np.float32:
        items = [float_text(float(v)) for v in flat]
    elif values.dtype == np.float64:
        items = [repr(float(v)) if np.isfinite(v) else "NAN" for v in flat]
    else:
        items = [str(int(v)) for v in flat]
    rows = [", ".join(items[i : i + 12]) for i in range(0, len(items), 12)]
    body = ",\n    ".join(rows)
    align = " __attribute__((aligned(64)))"
    return f"static const {ctype} {name}[{len(flat)}]{align} = {{\n    {body}}};\n"


@dataclass
class Constants:
    """Constant arrays of the file by content; equal ones are written once."""

    texts: list[str] = field(default_factory=list)
    _names: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def name(self, values: NDArray[Any]) -> str:
        """Name of the array with these values."""
        key = values.dtype.name, np.ascontiguousarray(values).tobytes()
        if key not in self._names:
            self._names[key] = f"c{len(self._names)}"
            self.texts.append(array_text(self._names[key], values))
        return self._names[key]


class KernelText:
    """Writes the body of one kernel function.

    ``acc`` is the accumulator buffer and how to spell its element: a name and the strides of the
    inner axes of the epilogue. ``own`` are buffers that the kernel both writes and reads;
    ``shifts`` say where the pointers to others point (see :meth:`shift`).
    """

    def __init__(
        self,
        constants: Constants,
        exact: bool,
        acc: Buffer,
        own: frozenset[int] = frozenset(),
        shifts: Mapping[tuple[int, bool], int] | None = None,
    ) -> None:
        self.constants, self.exact, self.acc = constants, exact, acc
        self.own = own
        self.shifts = shifts or {}
        self.lines: list[str] = []
        self.depth = 1
        self.parameters: dict[tuple[int, bool], tuple[str, Buffer]] = {}
        self._count = 0

    # --- lines -------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Add a line at the present depth."""
        self.lines.append("    " * self.depth + text)

    def open(self, text: str) -> None:
        """Add a line that opens a block."""
        self.line(f"{text} {{")
        self.depth += 1

    def close(self, count: int = 1) -> None:
        """Close blocks."""
        for _ in range(count):
            self.depth -= 1
            self.line("}")

    def loop(self, name: str, count: int | str, start: int | str = 0) -> None:
        """Open a loop."""
        self.open(f"for (int {name} = {start}; {name} < {count}; {name}++)")

    def fresh(self, prefix: str) -> str:
        """A name that this kernel does not use yet."""
        self._count += 1
        return f"{prefix}{self._count}"

    # --- memory ------------------------------------------------------------------------------

    def base(self, buffer: Buffer, write: bool = False) -> str:
        """Name of the pointer to the start of a buffer's root."""
        root = buffer.root
        if root.kind == "const":
            assert root.data is not None
            return self.constants.name(root.data)
        key = id(root), write or id(root) in self.own  # one pointer, or restrict would not hold
        if key not in self.parameters:
            name = f"{'y' if key[1] else 'x'}{len(self.parameters)}"
            self.parameters[key] = name, root
        return self.parameters[key][0]

    def shift(self, root: Buffer, write: bool) -> int:
        """Where the pointer points: the first element that the kernel reads, or writes.

        A kernel may write one part of a buffer and read others; two pointers to the whole of it
        would break the promise of ``restrict``.
        """
        return 0 if id(root) in self.own else self.shifts.get((id(root), write), 0)

    def address(self, view: View, terms: Sequence[tuple[str, int]], write: bool = False) -> str:
        """Text of the element at ``sum(variable · step)`` of a view."""
        parts = [
            name if step == 1 else f"{name} * {step}"
            for name, step in terms
            if step != 0 and name != "0"
        ]
        root = view.buffer.root
        offset = view.offset + view.buffer.start - self.shift(root, write)
        if offset or not parts:
            parts.append(str(offset))
        return f"{self.base(view.buffer, write)}[{' + '.join(parts)}]"

    # --- expressions -------------------------------------------------------------------------

    def element(self, expr: Expr, leaf_text: Mapping[tuple[Any, ...], str]) -> str:
        """Write the statements for one element; returns the text of its value."""
        names: dict[tuple[Any, ...], str] = {}
        keys: dict[int, tuple[Any, ...]] = {}
        numbers: dict[tuple[Any, ...], int] = {}

        def visit(e: Expr) -> str:
            args = [visit(a) if id(a) not in keys else names[keys[id(a)]] for a in e.args]
            key: tuple[Any, ...] = (
                e.op,
                e.dtype,
                e.attrs,
                None if e.view is None else view_key(e.view),
                tuple(numbers[keys[id(a)]] for a in e.args),
            )
            keys[id(e)] = key
            numbers.setdefault(key, len(numbers))
            if key not in names:
                if e.is_number:
                    names[key] = number_text(e.attrs[0], e.dtype)
                else:
                    text = leaf_text[view_key(e.view)] if _is_leaf(e) else self.form(e, args)
                    name = self.fresh("t")
                    self.line(f"const {TEMPORARY.get(e.dtype, C_TYPES[e.dtype])} {name} = {text};")
                    names[key] = name
            return names[key]

        return visit(expr)

    def form(self, e: Expr, args: list[str]) -> str:
        """C expression of one operation."""
        a = e.attrs
        if e.op in INFIX:
            return f"{args[0]} {INFIX[e.op]} {args[1]}"
        if e.op in ("max", "min") and e.dtype != "float32":
            return f"({args[0]} {'>' if e.op == 'max' else '<'} {args[1]} ? {args[0]} : {args[1]})"
        if e.op in FUNCTIONS:
            return FUNCTIONS[e.op][self.exact].format(*args)
        if e.op in COMPARE:
            return f"(uint8_t)({args[0]} {COMPARE[e.op]} {args[1]})"
        return getattr(self, f"_{e.op}")(e, args, a)  # type: ignore[no-any-return]

    def _leaky(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"({args[0]} >= 0.0f ? {args[0]} : {args[0]} * {float_text(a[0])})"

    def _dequantize(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"(float)({args[0]} - ({a[0]})) * {float_text(a[1])}"

    def _quantize(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"({_nearest(args[0], float_text(a[0]), *a[1:])} + ({a[1]}))"

    def _requantize(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"({_nearest(f'(float){args[0]}', args[1], *a)} + ({a[0]}))"

    def _code_mul(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"({_nearest(_code_product(args, a), float_text(a[2]), *a[3:])} + ({a[3]}))"

    def _real_quantize(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        nearest = _nearest(args[0], float_text(a[1]), *a[2:], as_real=True)
        return f"{nearest} * {float_text(a[0])}"

    def _real_requantize(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        nearest = _nearest(f"(float){args[0]}", args[1], *a[1:], as_real=True)
        return f"{nearest} * {float_text(a[0])}"

    def _real_code_mul(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        nearest = _nearest(_code_product(args, a[1:]), float_text(a[3]), *a[4:], as_real=True)
        return f"{nearest} * {float_text(a[0])}"

    def _code_add(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        za, zb, fa, fb, shift, zero_point, low, high = a
        total = f"({args[0]} - ({za})) * {fa} + ({args[1]} - ({zb})) * {fb}"
        nearest = f"(({total} + {1 << (shift - 1)}) >> {shift}) + ({zero_point})"
        return f"se_clamp({nearest}, {low}, {high})"

    def _sub16(self, _e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        return f"{args[0]} - {args[1]}"

    def _mean(self, _e: Expr, args: list[str], a: Sequence[Any]) -> str:
        return f"(float)({args[0]} / {a[0]})"

    def _cast(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        source = e.args[0].dtype
        if e.dtype == "bool":
            return f"(uint8_t)({args[0]} != 0)"
        if source.startswith("float") and not e.dtype.startswith("float"):
            return f"({C_TYPES[e.dtype]})se_whole({args[0]})"
        return f"({C_TYPES[e.dtype]}){args[0]}"

    def _table(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        assert e.view is not None
        return f"{self.base(e.view.buffer)}[{args[0]} + 128]"

    def _wrap(self, e: Expr, args: list[str], sign: str) -> str:
        unsigned = "u" + C_TYPES[e.dtype]
        return f"({C_TYPES[e.dtype]})(({unsigned}){args[0]} {sign} ({unsigned}){args[1]})"

    def _wrap_add(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        return self._wrap(e, args, "+")

    def _wrap_sub(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        return self._wrap(e, args, "-")

    def _wrap_mul(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        return self._wrap(e, args, "*")

    def _floor_div(self, e: Expr, args: list[str], _a: Sequence[Any]) -> str:
        return f"({C_TYPES[e.dtype]})se_floor_div({args[0]}, {args[1]})"

    # --- loop nests --------------------------------------------------------------------------

    def nest(
        self,
        expr: Expr,
        out: View | str,
        outer: Sequence[str],
        inner: Sequence[tuple[int, int]],
        acc: tuple[str, Sequence[int]] | None = None,
    ) -> None:
        """Store ``expr`` for all elements of the inner axes.

        Args:
            expr: what to store.
            out: where; or the name of a local array that the inner axes fill one after another.
            outer: per axis of the index space, the variable that stands for it ("0" when inner).
            inner: (axis, elements) of every loop to write.
            acc: name of the accumulator array, and its strides along the inner axes.
        """
        if isinstance(out, View) and self._has_short_rows(expr, out, inner, acc):
            self._staged(expr, out, outer, inner, acc)
        else:
            self._nest(expr, out, outer, inner, acc, {})

    def _collapsed(
        self,
        expr: Expr,
        out: View | str,
        inner: Sequence[tuple[int, int]],
        acc: tuple[str, Sequence[int]] | None,
        staged: Mapping[tuple[Any, ...], str],
    ) -> tuple[list[View], tuple[int, ...], list[tuple[int, ...]]]:
        """Leaves, and the fewest loops with the strides of leaves, accumulator and target."""
        flat = packed([n for _, n in inner])
        views = [v for v in leaves(expr) if v.buffer is not self.acc]
        strides = [
            flat if view_key(v) in staged else tuple(v.strides[axis] for axis, _ in inner)
            for v in views
        ]
        target = flat if isinstance(out, str) else tuple(out.strides[axis] for axis, _ in inner)
        own = tuple(acc[1]) if acc else (0,) * len(inner)
        sizes, kept = collapse(tuple(n for _, n in inner), [*strides, own, target])
        return views, sizes, kept

    def _has_short_rows(
        self,
        expr: Expr,
        out: View,
        inner: Sequence[tuple[int, int]],
        acc: tuple[str, Sequence[int]] | None,
    ) -> bool:
        """True for codes in rows shorter than a vector of them: compilers halve vectors then."""
        count = math.prod(n for _, n in inner)
        if expr.dtype != "int8" or not 32 <= count <= STAGED_ELEMENTS:
            return False
        _, sizes, _ = self._collapsed(expr, out, inner, acc, {})
        return len(sizes) > 1 and 8 <= sizes[-1] < 64

    def _staged(
        self,
        expr: Expr,
        out: View,
        outer: Sequence[str],
        inner: Sequence[tuple[int, int]],
        acc: tuple[str, Sequence[int]] | None,
    ) -> None:
        """Widen codes, compute, narrow: loops of one element size each, which vectorise whole."""
        count = math.prod(n for _, n in inner)
        staged: dict[tuple[Any, ...], str] = {}
        self.open("")
        for view in leaves(expr):
            varies = all(view.strides[axis] for axis, n in inner if n > 1)
            if view.buffer is self.acc or view.buffer.dtype != "int8" or not varies:
                continue
            name = staged.setdefault(view_key(view), self.fresh("s"))
            self.line(f"int32_t {name}[{count}] __attribute__((aligned(64)));")
            self._nest(leaf(view), name, outer, inner, None, {})
        codes = self.fresh("q")
        self.line(f"int32_t {codes}[{count}] __attribute__((aligned(64)));")
        self._nest(expr, codes, outer, inner, acc, staged)
        self._nest(leaf(out), out, outer, inner, None, {view_key(out): codes})
        self.close()

    def _nest(
        self,
        expr: Expr,
        out: View | str,
        outer: Sequence[str],
        inner: Sequence[tuple[int, int]],
        acc: tuple[str, Sequence[int]] | None,
        staged: Mapping[tuple[Any, ...], str],
    ) -> None:
        views, sizes, kept = self._collapsed(expr, out, inner, acc, staged)
        order = sorted(range(len(sizes)), key=lambda d: (-abs(kept[-1][d]), d))
        names = [self.fresh("i") for _ in sizes]
        for d in order:
            self.loop(names[d], sizes[d])
        texts: dict[tuple[Any, ...], str] = {}
        for view, steps in zip(views, kept[:-2], strict=True):
            key = view_key(view)
            if key in staged:
                texts[key] = local_text(staged[key], names, steps)
            else:
                terms = [*zip(outer, view.strides, strict=True), *zip(names, steps, strict=True)]
                texts[key] = self.address(view, terms)
        for view in leaves(expr):
            if acc and view.buffer is self.acc:
                texts[view_key(view)] = local_text(acc[0], names, kept[-2])
        value = self.element(expr, texts)
        if isinstance(out, View):
            steps_out = zip(names, kept[-1], strict=True)
            where = self.address(out, [*zip(outer, out.strides, strict=True), *steps_out], True)
        else:
            where = local_text(out, names, kept[-1])
        self.line(f"{where} = {value};")
        self.close(len(sizes))


def local_text(name: str, names: Sequence[str], steps: Sequence[int]) -> str:
    """An element of an array of the kernel's own."""
    terms = [n if s == 1 else f"{n} * {s}" for n, s in zip(names, steps, strict=True) if s]
    return f"{name}[{' + '.join(terms) or '0'}]"


def view_key(view: View | None) -> tuple[Any, ...]:
    """What tells two views of memory apart."""
    assert view is not None
    return id(view.buffer.root), view.buffer.start + view.offset, view.strides


def number_text(value: Any, dtype: str) -> str:
    """A literal."""
    if dtype == "float32":
        return float_text(float(value))
    if dtype == "int32" and int(value) == -(1 << 31):
        return "INT32_MIN"
    if dtype == "int64":
        return "INT64_MIN" if int(value) == -(1 << 63) else f"INT64_C({int(value)})"
    return f"({int(value)})"


def _is_leaf(e: Expr) -> bool:
    return e.op == "leaf"


def _code_product(args: list[str], a: Sequence[Any]) -> str:
    return f"(float)(({args[0]} - ({a[0]})) * ({args[1]} - ({a[1]})))"


def _nearest(
    real: str, factor: str, zero_point: Number, low: Number, high: Number, *, as_real: bool = False
) -> str:
    least, most = float_text(float(low) - zero_point), float_text(float(high) - zero_point)
    cast = "" if as_real else "(int32_t)"
    return f"{cast}se_round({real} * {factor}, {least}, {most})"
