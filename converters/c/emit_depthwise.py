"""Text of depthwise convolutions: tiles of positions away from the padding, then the edges."""

from __future__ import annotations

from .emit_loops import target_of
from .kernels import Depthwise
from .literals import C_TYPES
from .text import KernelText
from .view import View

__all__ = ["emit_depthwise"]

UNROLLED_TAPS = 25
TILE_ELEMENTS = 1024


def emit_depthwise(text: KernelText, kernel: Depthwise) -> None:
    """Write a depthwise convolution: tiles of positions away from the padding, then its edges."""
    batch, out_h, out_w, channels = kernel.shape
    taps_h, taps_w, _ = kernel.weight.shape
    reach = kernel.dilation[1] * (taps_w - 1)
    first = min(-(-kernel.before[1] // kernel.stride[1]), out_w)
    last = (kernel.x.shape[2] - 1 - reach + kernel.before[1]) // kernel.stride[1] + 1
    last = max(min(last, out_w), first)
    reach_h = (out_h - 1) * kernel.stride[0] + kernel.dilation[0] * (taps_h - 1)
    cut_h = kernel.before[0] > 0 or reach_h - kernel.before[0] >= kernel.x.shape[1]
    codes = kernel.acc.dtype == "int32"
    weight = text.constants.name(
        kernel.weight.astype("int32").reshape(-1) if codes else kernel.weight.reshape(-1)
    )
    bias = text.constants.name(kernel.bias.reshape(-1))
    if batch > 1:
        text.loop("n", batch)
    if out_h > 1:
        text.loop("h", out_h)
    names = "n" if batch > 1 else "0", "h" if out_h > 1 else "0"
    if cut_h or taps_h * taps_w > UNROLLED_TAPS:
        spans = [(0, out_w, True)]
    else:
        spans = [(0, first, True), (first, last, False), (last, out_w, True)]
    for begin, end, cut in spans:
        if begin >= end:
            continue
        size = 1 if cut else max(1, min(end - begin, TILE_ELEMENTS // channels))
        while (end - begin) % size:
            size -= 1
        start = str(begin)
        if end - begin > size:
            text.loop("t", (end - begin) // size)
            start = f"({begin} + t * {size})"
        _depthwise_tile(text, kernel, names, start, size, cut, weight, bias)
        if end - begin > size:
            text.close()
    text.close((batch > 1) + (out_h > 1))


def _depthwise_tile(
    text: KernelText,
    kernel: Depthwise,
    names: tuple[str, str],
    start: str,
    size: int,
    cut: bool,
    weight: str,
    bias: str,
) -> None:
    channels, ctype = kernel.shape[3], C_TYPES[kernel.acc.dtype]
    taps_h, taps_w, _ = kernel.weight.shape
    n, h = names
    x, s = kernel.x, kernel.x.strides
    text.open("")
    text.array(ctype, "acc", size * channels)
    if cut:
        text.loop("c", channels)
        text.line(f"acc[c] = {bias}[c];")
        text.close()
        text.loop("kh", taps_h)
        text.line(
            f"const int r = {h} * {kernel.stride[0]} + kh * {kernel.dilation[0]} - "
            f"{kernel.before[0]};"
        )
        text.line(f"if (r < 0 || r >= {x.shape[1]}) continue;")
        text.loop("kw", taps_w)
        text.line(
            f"const int q = {start} * {kernel.stride[1]} + kw * {kernel.dilation[1]} - "
            f"{kernel.before[1]};"
        )
        text.line(f"if (q < 0 || q >= {x.shape[2]}) continue;")
        text.loop("c", channels)
        value = text.address(x, [(n, s[0]), ("r", s[1]), ("q", s[2]), ("c", s[3])])
        tap = f"{weight}[(kh * {taps_w} + kw) * {channels} + c]"
        text.line(f"acc[c] = {_mac(kernel, 'acc[c]', tap, value)};")
        text.close(3)
    else:
        lanes = next((n for n in (16, 8) if channels % n == 0 and s[3] == 1), 0)
        if kernel.acc.dtype == "int32" and lanes:
            _depthwise_codes(text, kernel, names, start, size, weight, lanes)
            expr, out = target_of(kernel)
            text.nest(
                expr, out, [n, h, start, "0"], [(2, size), (3, channels)], ("acc", (channels, 1))
            )
            text.close()
            return
        if size > 1:
            text.loop("p", size)
        text.loop("c", channels)
        position = f"({start} + p)" if size > 1 else start
        total = f"{bias}[c]"
        for kh in range(taps_h):
            for kw in range(taps_w):
                offset = kh * kernel.dilation[0] * s[1]
                offset += (kw * kernel.dilation[1] - kernel.before[1]) * s[2]
                moved = View(x.buffer, x.shape, s, x.offset + offset)
                terms = [(n, s[0]), (h, s[1] * kernel.stride[0])]
                terms += [(position, s[2] * kernel.stride[1]), ("c", s[3])]
                tap = f"{weight}[{(kh * taps_w + kw) * channels} + c]"
                text.line(
                    f"const {ctype} s{kh}_{kw} = "
                    f"{_mac(kernel, total, tap, text.address(moved, terms))};"
                )
                total = f"s{kh}_{kw}"
        text.line(f"acc[{f'p * {channels} + ' if size > 1 else ''}c] = {total};")
        text.close(2 if size > 1 else 1)
    expr, out = target_of(kernel)
    text.nest(expr, out, [n, h, start, "0"], [(2, size), (3, channels)], ("acc", (channels, 1)))
    text.close()


def _depthwise_codes(
    text: KernelText,
    kernel: Depthwise,
    names: tuple[str, str],
    start: str,
    size: int,
    weight: str,
    lanes: int,
) -> None:
    """Sums of codes in vectors of channels; the zero point is part of the bias."""
    channels, s = kernel.shape[3], kernel.x.strides
    taps_h, taps_w, _ = kernel.weight.shape
    total = kernel.weight.astype("int64").sum(axis=(0, 1)) * kernel.zero_point
    bias = text.constants.name((kernel.bias.reshape(-1) - total).astype("int32"))
    vector = f"se_i{lanes}"
    if size > 1:
        text.loop("p", size)
    text.open(f"for (int c = 0; c < {channels}; c += {lanes})")
    text.line(f"{vector} total = *(const {vector} *)({bias} + c);")
    position = f"({start} + p)" if size > 1 else start
    for kh in range(taps_h):
        for kw in range(taps_w):
            offset = kh * kernel.dilation[0] * s[1]
            offset += (kw * kernel.dilation[1] - kernel.before[1]) * s[2]
            moved = View(kernel.x.buffer, kernel.x.shape, s, kernel.x.offset + offset)
            terms = [(names[0], s[0]), (names[1], s[1] * kernel.stride[0])]
            terms += [(position, s[2] * kernel.stride[1]), ("c", 1)]
            tap = f"*(const {vector} *)({weight} + {(kh * taps_w + kw) * channels} + c)"
            text.line(f"total += {tap} * SE_WIDEN{lanes}(&{text.address(moved, terms)});")
    text.line(f"*({vector} *)(acc + {f'p * {channels} + ' if size > 1 else ''}c) = total;")
    text.close(2 if size > 1 else 1)


def _mac(kernel: Depthwise, total: str, tap: str, value: str) -> str:
    """One more tap: exact for codes, fused in float32, in float64 for islands."""
    if kernel.acc.dtype == "int32":
        return f"{total} + {tap} * ({value} - ({kernel.zero_point}))"
    if kernel.acc.dtype == "float64":
        return f"{total} + (double){tap} * (double){value}"
    return f"SE_MAC({total}, {tap}, {value})"
