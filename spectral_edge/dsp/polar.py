"""Complex integers as a direction of 30 bits and the log2 of a length (``se_frame_kernels.h``)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .qformat import LOG_ONE, Ints, bit_length, exp2_q30, log2_q24, rdm, rsh
from .tables import exp2_table, log2_table

__all__ = ["Polar", "scale_by", "to_polar"]


class Polar(NamedTuple):
    """Components shifted left by ``shift`` so that the larger one lies in [2^29, 2^30)."""

    re: Ints
    im: Ints
    shift: Ints
    length: Ints  # log2 |re + i·im| after the shift, Q24
    zero: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def to_polar(re: Ints, im: Ints) -> Polar:
    """Normalise; components must be within 30 bits."""
    size = np.abs(re) | np.abs(im)
    shift = 30 - bit_length(size)
    zero = size == 0
    a, b = re << shift, im << shift
    power = rdm(a, a) + rdm(b, b) + zero
    length = (log2_q24(power, log2_table()) + 31 * LOG_ONE) >> 1
    return Polar(a, b, shift, length, zero)


def scale_by(v: Ints, lg: Ints, extra: int) -> Ints:
    """v·2^(lg + extra) of a 30-bit ``v``, lg in Q24, rounded half up."""
    k = (lg >> 24) + extra + 1
    product = rdm(v, exp2_q30(lg, exp2_table()))
    return rsh(product << np.maximum(k, 0), np.clip(-k, 0, 31))
