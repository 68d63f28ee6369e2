"""Masks and bias on the way back: the golden model of the synthesis half of ``se_frontend.c``.

``mask_bias``: U = M·F + B in the compressed domain, then Y = U·|U|^(1/c - 1)·level·norm.
``mask``: Y = X·M^(1/c), which is the same with B = 0 and spares X the detour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .polar import scale_by, to_polar
from .qformat import LOG_ONE, OLA_MAX, Q31_ONE, Ints, clamp, exp2_q30, log2_q24, rdm, rsh
from .tables import exp2_table, log2_table

__all__ = ["bias_table", "complex_mask", "expand", "mask_bias", "mask_power", "mask_table"]

_NOTHING = -(2**31)  # log2 of zero, below every other level


def mask_table(scale: float, zero_point: int) -> NDArray[np.int32]:
    """int32[256], by code + 128: scale·(code - zero_point) in Q31, held within ±1."""
    return _code_table(scale, zero_point, 31, Q31_ONE)


def bias_table(scale: float, zero_point: int) -> NDArray[np.int32]:
    """int32[256], by code + 128: scale·(code - zero_point) in Q16, held within 30 bits."""
    return _code_table(scale, zero_point, 16, OLA_MAX)


def _code_table(scale: float, zero_point: int, fraction: int, limit: int) -> NDArray[np.int32]:
    numerator, denominator = scale.as_integer_ratio()
    numerator <<= fraction
    values = []
    for code in range(-128, 128):
        value = (2 * numerator * (code - zero_point) + denominator) // (2 * denominator)
        values.append(max(-limit, min(limit, value)))
    table = np.array(values, np.int32)
    table.setflags(write=False)
    return table


def to_fixed(values: NDArray[Any], fraction: int, limit: int) -> Ints:
    """float32 to fixed point: truncated towards zero, saturated; NaN becomes 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(values, np.float32) * np.float32(2.0**fraction)
    bound = np.float32(limit)
    inside = np.where(np.abs(x) < bound, x, np.float32(0)).astype(np.int64)
    return np.where(x >= bound, limit, np.where(x <= -bound, -limit, inside))


def mask_power(mask: Ints, whole: int, fraction: int) -> Ints:
    """mask^(1/c) in Q31, 1/c = whole + fraction·2^-31; 0 and 1 are exact."""
    lm = np.minimum(log2_q24(np.maximum(mask, 1), log2_table()) - 31 * LOG_ONE, -1)
    lg = lm * whole + rdm(lm, fraction)
    power = rsh(exp2_q30(lg, exp2_table()), np.minimum(-((lg >> 24) + 1), 31))
    return np.where(mask <= 0, 0, np.where(mask == Q31_ONE, Q31_ONE, power))


def mask_bias(f: Ints, mask: Ints, bias: Ints) -> Ints:
    """M·F + B, each part and the sum held within 30 bits (Q16)."""
    return clamp(clamp(rdm(f, mask), OLA_MAX) + bias, OLA_MAX)


def complex_mask(fr: Ints, fi: Ints, mr: Ints, mi: Ints) -> tuple[Ints, Ints]:
    """Return (mr + i·mi)·(fr + i·fi), each product and sum held within 30 bits (Q16)."""
    ac, bd = clamp(rdm(fr, mr), OLA_MAX), clamp(rdm(fi, mi), OLA_MAX)
    ad, bc = clamp(rdm(fr, mi), OLA_MAX), clamp(rdm(fi, mr), OLA_MAX)
    return clamp(ac - bd, OLA_MAX), clamp(ad + bc, OLA_MAX)


def expand(
    ur: Ints, ui: Ints, scale_log2: Ints, whole: int, fraction: int
) -> tuple[Ints, Ints, Ints]:
    """Return the spectrum U·|U|^(1/c - 1)·2^scale_log2 of Q16 frames [hops, bins].

    Args:
        ur: real part of the compressed spectrum, Q16 within 30 bits.
        ui: imaginary part.
        scale_log2: [hops], log2 of what the magnitudes are multiplied by, Q24.
        whole: integer part of 1/c.
        fraction: the rest of 1/c, Q31.

    Returns:
        re, im [hops, bins] and exponent [hops], the largest magnitude just below 2^29.
    """
    z = to_polar(ur, ui)
    lu = z.length - ((z.shift + 16) << 24)
    ly = lu * whole + rdm(lu, fraction) + scale_log2[:, None]
    ly = np.where(z.zero, _NOTHING, ly)
    peak = ly.max(axis=-1)
    silent = peak == _NOTHING
    e = np.where(silent, 0, 28 - (peak >> 24))
    lg = np.where(z.zero, 0, ly + (e << 24)[:, None] - z.length)
    return scale_by(z.re, lg, 0), scale_by(z.im, lg, 0), e
