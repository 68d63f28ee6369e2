"""Every table of the integer front end, made from integers alone.

No call of libm: cosines come from a Taylor series and square roots from ``math.isqrt`` on integers
of 160 fraction bits, rounded once (half to even), so the same numbers come out on every machine.
``se_tables.c`` makes the same ones for users of the C core alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

from .qformat import Q31_ONE

__all__ = [
    "StftTables",
    "circle",
    "exact_exp2",
    "exact_log2",
    "exp2_table",
    "log2_q24_of_ratio",
    "log2_table",
    "round_half_even",
    "stft_tables",
    "tables_of_samples",
]

BITS = 160
ONE = 1 << BITS
Exact = int  # a real number times 2^160


def round_half_even(numerator: int, denominator: int) -> int:
    """Return numerator/denominator rounded to the nearest integer, ties to even."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1))


def _pi() -> Exact:
    """Machin: pi = 16 atan(1/5) - 4 atan(1/239)."""

    def atan_inverse(k: int) -> int:
        term = total = (ONE << 16) // k
        n = 1
        while term:
            term = -term // (k * k)
            n += 2
            total += term // n
        return total

    return (16 * atan_inverse(5) - 4 * atan_inverse(239)) >> 16


def _cos_sin_octant(x: Exact) -> tuple[Exact, Exact]:
    """Taylor series for 0 <= x <= pi/4."""
    square = x * x >> BITS
    cos_total = cos_term = ONE
    sin_total = sin_term = x
    n = 0
    while cos_term or sin_term:
        n += 2
        cos_term = -(cos_term * square >> BITS) // ((n - 1) * n)
        sin_term = -(sin_term * square >> BITS) // (n * (n + 1))
        if cos_term in (0, -1) and sin_term in (0, -1):
            break
        cos_total += cos_term
        sin_total += sin_term
    return cos_total, sin_total


@lru_cache(maxsize=64)
def circle(n: int) -> tuple[tuple[Exact, ...], tuple[Exact, ...]]:
    """Cosine and sine of 2·pi·k/n for k < n, by symmetry from the first octant."""
    pi = _pi()
    octant: dict[int, tuple[int, int]] = {}

    def turn(k: int) -> tuple[int, int]:  # k in units of 1/(8n) turns of angle 2*pi
        k %= 8 * n
        quadrant, k = divmod(k, 2 * n)
        mirrored = k > n
        j = 2 * n - k if mirrored else k
        if j not in octant:
            octant[j] = _cos_sin_octant(2 * pi * j // (8 * n))
        c, s = octant[j]
        if mirrored:
            c, s = s, c
        for _ in range(quadrant):
            c, s = -s, c
        return c, s

    pairs = [turn(8 * k) for k in range(n)]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)


def q31(value: Exact) -> int:
    """Round to Q31; +1.0 becomes 2^31 - 1."""
    return min(round_half_even(value, ONE >> 31), Q31_ONE)


def _exact_window(name: str, n: int) -> list[Exact]:
    """Return the periodic window with 160 fraction bits."""
    if name == "rect":
        return [ONE] * n
    cosine = circle(n)[0]
    if name == "hamming":
        return [(54 * ONE - 46 * c) // 100 for c in cosine]
    hann = [max(0, (ONE - c) >> 1) for c in cosine]
    if name == "hann":
        return hann
    if name == "sqrt_hann":
        return [math.isqrt(h << BITS) for h in hann]
    raise SpecError(f"window is {name!r}, must be sqrt_hann, hann, hamming or rect")


def exact_log2(numerator: int, denominator: int, fraction: int) -> int:
    """floor(2^fraction · log2(numerator/denominator)) by repeated squaring."""
    whole = numerator.bit_length() - denominator.bit_length()
    mantissa = (numerator << BITS) // denominator
    mantissa = mantissa >> whole if whole >= 0 else mantissa << -whole
    if mantissa < ONE:
        mantissa <<= 1
        whole -= 1
    bits = 0
    for _ in range(fraction):
        mantissa = mantissa * mantissa >> BITS
        bits <<= 1
        if mantissa >= 2 * ONE:
            mantissa >>= 1
            bits += 1
    return (whole << fraction) + bits


def exact_exp2(exponent: int, fraction: int) -> Exact:
    """2^(exponent·2^-fraction) with 160 fraction bits."""
    value, root = ONE, 2 * ONE
    for bit in range(fraction - 1, -1, -1):
        root = math.isqrt(root << BITS)
        if exponent >> bit & 1:
            value = value * root >> BITS
    whole = exponent >> fraction
    return value << whole if whole >= 0 else value >> -whole


def log2_q24_of_ratio(numerator: int, denominator: int) -> int:
    """Return log2(numerator/denominator) in Q24, rounded half up."""
    return (exact_log2(numerator, denominator, 25) + 1) >> 1


def _read_only(values: list[int]) -> NDArray[np.int32]:
    table = np.array(values, np.int64).astype(np.int32)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def log2_table() -> NDArray[np.int32]:
    """int32[257]: log2(1 + i/256) in Q24."""
    return _read_only([log2_q24_of_ratio(256 + i, 256) for i in range(257)])


@lru_cache(maxsize=1)
def exp2_table() -> NDArray[np.int32]:
    """int32[257]: 2^(i/256) in Q29, by eight square roots of 2."""
    root = [2 * ONE]
    for _ in range(8):
        root.append(math.isqrt(root[-1] << BITS))
    values = []
    for i in range(256):
        value = ONE
        for bit in range(8):
            if i >> (7 - bit) & 1:
                value = value * root[bit + 1] >> BITS
        values.append(round_half_even(value, ONE >> 29))
    return _read_only([*values, 1 << 30])


@dataclass(frozen=True)
class StftTables:
    """Tables of one STFT.

    Attributes:
        n_fft: length of the transform.
        hop_length: new samples per frame.
        cosine, sine: int32[n_fft], Q31 of 2·pi·k/n_fft.
        window: int32[m], Q31 in [0, 1]; m <= n_fft, zeros follow the windowed samples.
        dual: int32[m], canonical dual window / n_fft · 2^dual_exponent, Q31.
        dual_exponent: see ``dual``.
        reference_log2: log2 sqrt(sum of squared window), Q24.
        condition: smallest over largest sum of squared windows at one sample; 1 is best, 0 cannot
            be inverted (``dual`` is then the window itself and only analysis makes sense).
    """

    n_fft: int
    hop_length: int
    cosine: NDArray[np.int32]
    sine: NDArray[np.int32]
    window: NDArray[np.int32]
    dual: NDArray[np.int32]
    dual_exponent: int
    reference_log2: int
    condition: float


def _dual(window: list[Exact], hop: int, n_fft: int) -> tuple[list[int], int, float]:
    """Canonical dual w/(n_fft·sum of shifted w²) as Q31 mantissas with one exponent."""
    m = len(window)
    overlap = [sum(window[i] ** 2 for i in range(r, m, hop)) >> BITS for r in range(min(hop, m))]
    low, high = min(overlap), max(overlap)
    if low << 40 < high:  # not invertible
        overlap, low = [high] * len(overlap), 0
    exact = [(w << BITS) // (n_fft * overlap[i % hop]) for i, w in enumerate(window)]
    return *_with_exponent(exact), low / high


def _with_exponent(values: list[Exact]) -> tuple[list[int], int]:
    """Q31 mantissas and the exponent k for which the largest value times 2^k lies in [0.5, 1)."""
    exponent = BITS - max(map(abs, values)).bit_length()
    scaled = [v << exponent if exponent >= 0 else v >> -exponent for v in values]
    return [q31(v) for v in scaled], exponent


@lru_cache(maxsize=64)
def stft_tables(
    n_fft: int, hop_length: int, window: str, window_length: int | None = None
) -> StftTables:
    """Make the tables of one STFT; cached.

    Args:
        n_fft: even, 2^a·3^b·5^c, 64…4096.
        hop_length: 1…window_length.
        window: ``sqrt_hann``, ``hann``, ``hamming`` or ``rect`` (all periodic).
        window_length: 1…n_fft, n_fft by default.

    Raises:
        SpecError: an unknown window.
    """
    exact = _exact_window(window, window_length or n_fft)
    return tables_of_window(n_fft, hop_length, exact)


def tables_of_samples(
    window: NDArray[np.float64],
    hop_length: int,
    dual: NDArray[np.float64] | None = None,
    n_fft: int | None = None,
) -> StftTables:
    """Make the tables for any window of float64 samples in [0, 1], exactly as they are given.

    Args:
        window: float64[m].
        hop_length: 1…m.
        dual: synthesis window to use instead of the canonical dual, float64[m].
        n_fft: length of the transform, m by default.
    """
    n = n_fft or len(window)
    tables = tables_of_window(n, hop_length, [_exact(w) for w in window.tolist()])
    if dual is None:
        return tables
    mantissas, exponent = _with_exponent([_exact(d) // n for d in dual.tolist()])
    return replace(tables, dual=_read_only(mantissas), dual_exponent=exponent)


def _exact(value: float) -> Exact:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << BITS) // denominator


def tables_of_window(n_fft: int, hop_length: int, exact: list[Exact]) -> StftTables:
    """Make the tables for a window given with 160 fraction bits, 0 <= w <= 1."""
    cosine, sine = circle(n_fft)
    dual, exponent, condition = _dual(exact, hop_length, n_fft)
    power = sum(w * w for w in exact)
    return StftTables(
        n_fft=n_fft,
        hop_length=hop_length,
        cosine=_read_only([q31(c) for c in cosine]),
        sine=_read_only([q31(s) for s in sine]),
        window=_read_only([q31(w) for w in exact]),
        dual=_read_only(dual),
        dual_exponent=exponent,
        reference_log2=(exact_log2(power, ONE * ONE, 25) + 2) >> 2,
        condition=condition,
    )
