"""Text of element-wise work, products, reductions and pools: plain loops that vectorise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .expr import Expr, leaves
from .kernels import Kernel, Loop, Matmul, Pool, Reduce, Softmax
from .literals import C_TYPES
from .text import KernelText, view_key
from .view import View

__all__ = ["emit_loop", "emit_matmul", "emit_pool", "emit_reduce", "emit_softmax"]

LANES = 8  # partial sums of a reduction along neighbours


def target_of(kernel: Kernel) -> tuple[Expr, View]:
    """Epilogue and place of a kernel that has both."""
    assert kernel.expr is not None
    assert kernel.out is not None
    return kernel.expr, kernel.out


def emit_loop(text: KernelText, kernel: Loop) -> None:
    """Write element-wise work."""
    expr, out = target_of(kernel)
    text.nest(expr, out, ["0"] * len(kernel.shape), list(enumerate(kernel.shape)))


# --- products of activations ----------------------------------------------------------------


def emit_matmul(text: KernelText, kernel: Matmul) -> None:
    """Write products of matrices, a row at a time."""
    rank = len(kernel.shape)
    depth, columns = kernel.b.shape[-2:]
    ctype = C_TYPES[kernel.acc.dtype]
    names = [f"b{i}" if n > 1 else "0" for i, n in enumerate(kernel.shape[:-1])]
    for name, n in zip(names, kernel.shape[:-1], strict=True):
        if n > 1:
            text.loop(name, n)
    text.array(ctype, "acc", columns)
    batch = list(zip(names[:-1], kernel.a.strides, strict=False))
    left = [*batch, (names[-1], kernel.a.strides[-2]), ("k", kernel.a.strides[-1])]
    right = list(zip(names[:-1], kernel.b.strides, strict=False))
    right += [("k", kernel.b.strides[-2]), ("o", kernel.b.strides[-1])]
    product = f"({ctype}){text.address(kernel.a, left)} * ({ctype}){text.address(kernel.b, right)}"
    if kernel.b.strides[-1] == 1 or depth < LANES or columns >= 4 * depth:
        text.line("memset(acc, 0, sizeof acc);")
        text.loop("k", depth)
        text.loop("o", columns)
        text.line(f"acc[o] += {product};")
        text.close(2)
    else:
        text.loop("o", columns)
        _lanes(text, ctype, depth, "k", lambda: product)
        text.line("acc[o] = total;")
        text.close()
    expr, out = target_of(kernel)
    text.nest(expr, out, [*names, "0"], [(rank - 1, columns)], ("acc", (1,)))
    text.close(sum(n > 1 for n in kernel.shape[:-1]))


def _lanes(text: KernelText, ctype: str, count: int, name: str, value: object) -> None:
    """Declare ``total``, the sum of ``value`` over ``name``, in partial sums that vectorise."""
    assert callable(value)
    whole = count // LANES * LANES
    text.line(f"{ctype} total, part[{LANES}] = {{0}};")
    text.open(f"for (int j = 0; j < {whole}; j += {LANES})")
    text.open(f"for (int l = 0; l < {LANES}; l++)")
    text.line(f"const int {name} = j + l;")
    text.line(f"part[l] += {value()};")
    text.close(2)
    halves = [f"part[{i}]" for i in range(LANES)]
    while len(halves) > 1:
        middle = len(halves) // 2
        halves = [f"({a} + {b})" for a, b in zip(halves[:middle], halves[middle:], strict=True)]
    text.line(f"total = {halves[0]};")
    if whole < count:
        text.open(f"for (int {name} = {whole}; {name} < {count}; {name}++)")
        text.line(f"total += {value()};")
        text.close()


# --- reductions -----------------------------------------------------------------------------

_START = {"sum": "0", "max": "-INFINITY", "min": "INFINITY"}


def _body_value(text: KernelText, body: Expr, names: Sequence[str]) -> str:
    """Write ``body`` at the element that ``names`` say; returns its text."""
    texts = {
        view_key(v): text.address(v, list(zip(names, v.strides, strict=True))) for v in leaves(body)
    }
    return text.element(body, texts)


def emit_reduce(text: KernelText, kernel: Reduce) -> None:
    """Write a reduction; the innermost kept axes become an array of sums."""
    full, axes = kernel.full, kernel.axes
    ctype = C_TYPES[kernel.acc.dtype]
    kept = [i for i in range(len(full)) if i not in axes and full[i] > 1]
    gone = [i for i in axes if full[i] > 1]
    # kept axes behind the last reduced one are walked innermost: their sums lie in an array
    tail = [i for i in kept if not gone or i > gone[-1]]
    head = [i for i in kept if i not in tail]
    names = ["0"] * len(full)
    for i in (*head, *gone, *tail):
        names[i] = f"r{i}"
    size = math.prod(full[i] for i in tail)
    for i in head:
        text.loop(names[i], full[i])
    text.array(ctype, "acc", size)
    strides = {i: math.prod(full[j] for j in tail if j > i) for i in tail}
    at = " + ".join(f"{names[i]} * {strides[i]}" for i in tail) or "0"
    if not tail and len(gone) == 1 and kernel.how == "sum" and full[gone[0]] >= 2 * LANES:
        _reduce_along(text, kernel, ctype, names, gone[0])
    else:
        text.line(f"for (int i = 0; i < {size}; i++) acc[i] = {_START[kernel.how]};")
        for i in (*gone, *tail):
            text.loop(names[i], full[i])
        value = _body_value(text, kernel.body, names)
        if kernel.how == "sum":
            text.line(f"acc[{at}] += {value};")
        else:
            sign = ">" if kernel.how == "max" else "<"
            text.line(f"acc[{at}] = {value} {sign} acc[{at}] ? {value} : acc[{at}];")
        text.close(len(gone) + len(tail))
    expr, out = target_of(kernel)
    outer = [names[i] if i in head else "0" for i in range(len(full))]
    inner = [(i, full[i]) for i in tail]
    text.nest(expr, out, outer, inner, ("acc", tuple(strides[i] for i in tail)))
    text.close(len(head))


def _reduce_along(
    text: KernelText, kernel: Reduce, ctype: str, names: list[str], axis: int
) -> None:
    count = kernel.full[axis]
    whole = count // LANES * LANES
    text.line(f"{ctype} part[{LANES}] = {{0}};")
    text.open(f"for (int j = 0; j < {whole}; j += {LANES})")
    text.open(f"for (int l = 0; l < {LANES}; l++)")
    text.line(f"const int {names[axis]} = j + l;")
    text.line(f"part[l] += {_body_value(text, kernel.body, names)};")
    text.close(2)
    text.line(
        "acc[0] = ((part[0] + part[4]) + (part[2] + part[6])) + "
        "((part[1] + part[5]) + (part[3] + part[7]));"
    )
    if whole < count:
        text.open(f"for (int {names[axis]} = {whole}; {names[axis]} < {count}; {names[axis]}++)")
        text.line(f"acc[0] += {_body_value(text, kernel.body, names)};")
        text.close()


def emit_softmax(text: KernelText, kernel: Softmax) -> None:
    """Write softmax: largest value, exponentials and their sum, quotients."""
    rank, count = len(kernel.shape), kernel.shape[-1]
    ctype = C_TYPES[kernel.acc.dtype]
    names = [f"r{i}" if n > 1 else "0" for i, n in enumerate(kernel.shape[:-1])]
    for name, n in zip(names, kernel.shape[:-1], strict=True):
        if n > 1:
            text.loop(name, n)
    text.array(ctype, "acc", count)
    text.line(f"{ctype} top = -INFINITY, total = 0;")
    text.loop("k", count)
    value = _body_value(text, kernel.body, [*names, "k"])
    factor = "" if kernel.beta == 1.0 else f" * ({ctype}){kernel.beta!r}"
    text.line(f"acc[k] = {value}{factor};")
    text.close()
    text.line(f"for (int k = 0; k < {count}; k++) top = acc[k] > top ? acc[k] : top;")
    exponential = "exp" if text.exact else "se_exp"
    text.line(f"for (int k = 0; k < {count}; k++) acc[k] = {exponential}(acc[k] - top);")
    text.line(f"for (int k = 0; k < {count}; k++) total += acc[k];")
    text.line(f"for (int k = 0; k < {count}; k++) acc[k] /= total;")
    expr, out = target_of(kernel)
    text.nest(expr, out, [*names, "0"], [(rank - 1, count)], ("acc", (1,)))
    text.close(sum(n > 1 for n in kernel.shape[:-1]))


def emit_pool(text: KernelText, kernel: Pool) -> None:
    """Write a pool; windows that padding cuts count only what is inside."""
    batch, out_h, out_w, channels = kernel.shape
    ctype, x, s = C_TYPES[kernel.acc.dtype], kernel.x, kernel.x.strides
    for name, count in (("n", batch), ("h", out_h), ("w", out_w)):
        text.loop(name, count)
    text.array(ctype, "acc", channels)
    start = "0"
    if kernel.how == "max":
        start = "-128" if kernel.acc.dtype == "int8" else "-INFINITY"
    text.line(f"for (int c = 0; c < {channels}; c++) acc[c] = {start};")
    if kernel.how == "mean":
        text.line("int inside = 0;")
    for i, (name, place, at) in enumerate((("kh", "r", "h"), ("kw", "q", "w"))):
        text.loop(name, kernel.size[i])
        text.line(f"const int {place} = {at} * {kernel.stride[i]} + {name} - {kernel.before[i]};")
        text.line(f"if ({place} < 0 || {place} >= {x.shape[1 + i]}) continue;")
    if kernel.how == "mean":
        text.line("inside++;")
    value = text.address(x, [("n", s[0]), ("r", s[1]), ("q", s[2]), ("c", s[3])])
    text.loop("c", channels)
    if kernel.how == "max":
        text.line(f"acc[c] = {value} > acc[c] ? {value} : acc[c];")
    else:
        text.line(f"acc[c] += {value};")
    text.close(3)
    if kernel.how == "mean":
        text.line(f"for (int c = 0; c < {channels}; c++) acc[c] /= inside;")
    expr, out = target_of(kernel)
    text.nest(expr, out, ["n", "h", "w", "0"], [(3, channels)], ("acc", (1,)))
    text.close(3)
