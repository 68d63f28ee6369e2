"""Mel filter banks as integers, made without libm.

Band edges are equidistant on the mel scale. The HTK scale, 2595·log10(1 + f/700), and Kaldi's are
logarithms of 1 + f/700, so edges are a geometric sequence; Slaney's scale is linear up to 1 kHz
(200/3 Hz per mel) and geometric above (a factor of 6.4 per 27 mel).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

from .tables import ONE, exact_exp2, exact_log2, log2_q24_of_ratio

__all__ = ["MelBank", "mel_bank"]

LOG_BITS = 60
WEIGHT_BITS = 15
BREAK_HZ = 1000  # of Slaney's scale
SCALES = ("htk", "kaldi", "slaney")


@dataclass(frozen=True)
class MelBank:
    """Triangular filters.

    Attributes:
        first: int32[bands], first bin of each band.
        count: int32[bands], bins of each band.
        weight: int32[sum of count], Q15.
        offset: int32[bands], log2 of the normalisation, Q24.
        total_bits: bits of the largest sum of weights of one band.
    """

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    weight: NDArray[np.int32]
    offset: NDArray[np.int32]
    total_bits: int


def _log2(f: Fraction) -> Fraction:
    """log2 of a positive rational, exact to 2^-60."""
    return Fraction(exact_log2(f.numerator, f.denominator, LOG_BITS), 1 << LOG_BITS)


def _exp2(x: Fraction) -> Fraction:
    """2^x, exact to 2^-60."""
    return Fraction(exact_exp2(int(x * (1 << LOG_BITS)), LOG_BITS), ONE)


def _to_mel(f: Fraction, scale: str) -> Fraction:
    """Mel in a unit of the scale's own (only ratios of differences matter)."""
    if scale != "slaney":
        return _log2(1 + f / 700)
    if f <= BREAK_HZ:
        return f * 3 / 200
    return 15 + 27 * _log2(f / BREAK_HZ) / _log2(Fraction(64, 10))


def _to_hz(mel: Fraction, scale: str) -> Fraction:
    if scale != "slaney":
        return 700 * (_exp2(mel) - 1)
    if mel <= 15:
        return mel * 200 / 3
    return BREAK_HZ * _exp2((mel - 15) * _log2(Fraction(64, 10)) / 27)


def _triangle(x: Fraction, left: Fraction, centre: Fraction, right: Fraction) -> Fraction:
    if x <= centre:
        return (x - left) / (centre - left)
    return (right - x) / (right - centre)


@lru_cache(maxsize=32)
def mel_bank(
    sample_rate: int, n_fft: int, bands: int, fmin: float, fmax: float, scale: str, norm: str | None
) -> MelBank:
    """Make a bank of triangular filters.

    Args:
        sample_rate: Hz.
        n_fft: FFT length.
        bands: number of filters.
        fmin: lower edge of the first filter in Hz.
        fmax: upper edge of the last one.
        scale: ``htk`` and ``slaney`` have triangles in Hz, ``kaldi`` in mel.
        norm: ``slaney`` divides each filter by half its width in Hz, None leaves a peak of 1.

    Raises:
        SpecError: a value out of range, or a filter narrower than one bin.
    """
    if scale not in SCALES or norm not in (None, "slaney"):
        raise SpecError(f"mel is {scale!r}, norm {norm!r}; must be one of {SCALES}, slaney or None")
    if not 1 <= bands <= 512 or not 0 <= fmin < fmax <= sample_rate / 2:
        raise SpecError(f"{bands} bands in {fmin}…{fmax} Hz: must be 1…512 within 0…rate/2")
    low, high = (_to_mel(Fraction(f), scale) for f in (fmin, fmax))
    points = [low + (high - low) * i / (bands + 1) for i in range(bands + 2)]
    edges = [_to_hz(p, scale) for p in points]
    bins = [Fraction(k * sample_rate, n_fft) for k in range(n_fft // 2 + 1)]
    axis, corners = bins, edges
    if scale == "kaldi":
        axis, corners = [_to_mel(f, scale) for f in bins], points
    first, count, weight, offset, total = [], [], [], [], 0
    for band in range(bands):
        corner = corners[band : band + 3]
        inside = [k for k, x in enumerate(axis) if corner[0] < x < corner[2]]
        values = [round(_triangle(axis[k], *corner) * (1 << WEIGHT_BITS)) for k in inside]
        if not any(values):
            raise SpecError(
                f"mel band {band} of {bands} holds no bin of {n_fft}; "
                "use fewer bands or a longer FFT"
            )
        first.append(inside[0])
        count.append(len(inside))
        weight += values
        total = max(total, sum(values))
        half_width = (edges[band + 2] - edges[band]) / 2
        norm_log2 = -log2_q24_of_ratio(half_width.numerator, half_width.denominator)
        offset.append(norm_log2 if norm else 0)
    return MelBank(
        first=np.array(first, np.int32),
        count=np.array(count, np.int32),
        weight=np.array(weight, np.int32),
        offset=np.array(offset, np.int32),
        total_bits=total.bit_length(),
    )
