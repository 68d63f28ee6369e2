"""The numeric rules of the integer front end, on int64 arrays (mirror of ``se_fixed.h``).

Everything is computed in int64, where no intermediate of these rules can overflow; that int32 is
wide enough on the device is what ``docs/numerics.md`` proves. ``>>`` is arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOG_ONE",
    "OLA_FRACTION",
    "OLA_MAX",
    "Q31_ONE",
    "Ints",
    "bit_length",
    "clamp",
    "exp2_q30",
    "log2_q24",
    "rdm",
    "rsh",
]

Ints = NDArray[np.int64]

Q31_ONE = 2**31 - 1  # +1.0; rdm(a, Q31_ONE) == a for |a| <= 2^30
OLA_FRACTION = 12  # fraction bits of the overlap-add accumulator
OLA_MAX = 2**30 - 1  # it saturates here, 18 dB above int16 full scale
LOG_ONE = 1 << 24  # log2 values are Q24


def rdm(a: Any, w: Any) -> Ints:
    """Multiply by a Q31 factor: (a·w + 2^30) >> 31, rounded half up."""
    product: Ints = np.asarray(a, np.int64) * w
    return (product + (1 << 30)) >> 31


def rsh(v: Any, s: Any) -> Ints:
    """Shift right by ``s`` >= 0 with rounding half up; ``s`` 0 changes nothing."""
    v, s = np.asarray(v, np.int64), np.asarray(s, np.int64)
    return np.where(s == 0, v, ((v >> np.maximum(s - 1, 0)) + 1) >> 1)


def clamp(v: Any, limit: int) -> Ints:
    """Hold within ±``limit``."""
    held: Ints = np.clip(v, -limit, limit)
    return held


def bit_length(v: Any) -> Ints:
    """Bits needed for each ``v`` >= 0, below 2^62: 0 for 0, else floor(log2 v) + 1."""
    v = np.asarray(v, np.int64)
    high = v >> 31
    # doubles hold 31 bits exactly, so frexp's exponent is exact
    low_bits = np.frexp(v.astype(np.float64) * (high == 0))[1]
    high_bits = np.frexp(high.astype(np.float64))[1] + 31
    return np.where(high > 0, high_bits, low_bits).astype(np.int64)


def log2_q24(v: Any, table: NDArray[np.int32]) -> Ints:
    """Return log2 of each ``v`` >= 1 in Q24.

    256 segments, linear in between; error below 2^-18.
    """
    v = np.asarray(v, np.int64)
    n = bit_length(v) - 1
    f = np.where(n > 31, v >> np.maximum(n - 31, 0), v << np.maximum(31 - n, 0)) & (2**31 - 1)
    i, t = f >> 23, (f >> 9) & 0x3FFF
    low = table[i].astype(np.int64)
    result: Ints = n * LOG_ONE + low + rsh((table[i + 1] - low) * t, 14)
    return result


def exp2_q30(x: Any, table: NDArray[np.int32]) -> Ints:
    """Return 2^f in Q30 for the fraction f of each Q24 value ``x``.

    256 segments, linear in between; relative error below 2^-19.
    """
    f = np.asarray(x, np.int64) & (LOG_ONE - 1)
    i, t = f >> 16, (f >> 6) & 0x3FF
    low = table[i].astype(np.int64)
    result: Ints = (low + rsh((table[i + 1] - low) * t, 10)) * 2
    return result
