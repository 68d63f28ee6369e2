"""C text of addresses, expressions and loop nests; everything kernels are written with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spectral_edge.errors import ConversionError

from .expr import Expr, leaf, leaves
from .forms import form
from .literals import C_TYPES, Constants, number_text
from .view import Buffer, View, collapse, packed

__all__ = ["KernelText", "view_key"]

TEMPORARY = {"int8": "int32_t", "int16": "int32_t"}  # codes are narrowed where they are stored
STAGED_ELEMENTS = 4096
MAX_LOCAL = 1 << 15  # values of one array on the stack


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

    def array(self, ctype: str, name: str, count: int) -> None:
        """Declare an array on the stack.

        Raises:
            ConversionError: it would be larger than a stack may be expected to hold.
        """
        if count > MAX_LOCAL:
            raise ConversionError(
                f"a kernel needs {count} values on the stack, at most {MAX_LOCAL}: the layer is "
                "too wide for C, use another engine"
            )
        self.line(f"{ctype} {name}[{count}] __attribute__((aligned(64)));")

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
                    text = self._text(e, args, leaf_text)
                    name = self.fresh("t")
                    self.line(f"const {TEMPORARY.get(e.dtype, C_TYPES[e.dtype])} {name} = {text};")
                    names[key] = name
            return names[key]

        return visit(expr)

    def _text(self, e: Expr, args: list[str], leaf_text: Mapping[tuple[Any, ...], str]) -> str:
        if e.op == "leaf":
            return leaf_text[view_key(e.view)]
        if e.op == "table":
            assert e.view is not None
            return f"{self.base(e.view.buffer)}[{args[0]} + 128]"
        return form(e, args, self.exact)

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
            self.array("int32_t", name, count)
            self._nest(leaf(view), name, outer, inner, None, {})
        codes = self.fresh("q")
        self.array("int32_t", codes, count)
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
