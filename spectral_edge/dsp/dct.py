"""Integer DCT-II and its inverse: golden model of ``se_dct.c`` and ``FixedDCT``.

A plain int16 matrix, one rounding per value: exact to define for any n, and the same GEMM that int8
networks have anyway.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_edge.errors import SpecError, StreamError

from .qformat import Ints, rsh
from .tables import BITS, ONE, circle, round_half_even

__all__ = ["FixedDCT", "dct_matrix"]


@lru_cache(maxsize=32)
def dct_matrix(n: int, coeff_bits: int) -> NDArray[np.int16]:
    """int16[n, n]: orthonormal DCT-II, row k = sqrt(2/n)·cos(pi·k·(2i+1)/(2n)), row 0 sqrt(1/n)."""
    cosine = circle(4 * n)[0]
    norm, first = math.isqrt(2 * ONE * ONE // n), math.isqrt(ONE * ONE // n)
    rows = [
        [
            round_half_even(norm * cosine[k * (2 * i + 1) % (4 * n)] >> BITS, ONE >> coeff_bits)
            if k
            else round_half_even(first, ONE >> coeff_bits)
            for i in range(n)
        ]
        for k in range(n)
    ]
    matrix = np.array(rows, np.int16)
    matrix.setflags(write=False)
    return matrix


def _fit_int32(values: Ints) -> bool:
    return bool(values.min(initial=0) >= -(2**31) and values.max(initial=0) < 2**31)


class FixedDCT:
    """DCT-II / DCT-III of ``n`` points in integers, along the last axis or the last two.

    Args:
        n: points, 2…64.
        coeff_bits: fraction bits of the matrix, 7…14.
        fraction_bits: fraction bits that coefficients keep, 0…coeff_bits - 1.

    Raises:
        SpecError: a value out of range.
    """

    def __init__(self, n: int, coeff_bits: int = 14, fraction_bits: int = 7) -> None:
        if not 2 <= n <= 64 or not 7 <= coeff_bits <= 14 or not 0 <= fraction_bits < coeff_bits:
            raise SpecError(
                f"n, coeff_bits, fraction_bits are {n}, {coeff_bits}, {fraction_bits}; must be "
                "2…64, 7…14, 0…coeff_bits-1"
            )
        self.n, self.coeff_bits, self.fraction_bits = n, coeff_bits, fraction_bits
        self.matrix = dct_matrix(n, coeff_bits)

    def _apply(self, x: ArrayLike, matrix: NDArray[np.int16], shift: int, axis: int) -> Ints:
        values: Ints = np.moveaxis(np.asarray(x), axis, -1).astype(np.int64)
        if values.shape[-1] != self.n or not _fit_int32(values):
            raise StreamError(f"values have shape {np.shape(x)}, need {self.n} within int32")
        y = np.clip(rsh(values @ matrix.T.astype(np.int64), shift), -(2**31), 2**31 - 1)
        return np.moveaxis(y, -1, axis)

    def forward(self, x: ArrayLike) -> NDArray[np.int32]:
        """DCT-II: integers [..., n] -> int32 with ``fraction_bits`` fraction bits."""
        shift = self.coeff_bits - self.fraction_bits
        return self._apply(x, self.matrix, shift, -1).astype(np.int32)

    def inverse(self, y: ArrayLike) -> NDArray[np.int32]:
        """DCT-III: coefficients with ``fraction_bits`` fraction bits -> int32."""
        shift = self.coeff_bits + self.fraction_bits
        return self._apply(y, self.matrix.T, shift, -1).astype(np.int32)

    def forward_2d(self, x: ArrayLike) -> NDArray[np.int32]:
        """Rows, then columns: integers [..., n, n] -> int32 with ``fraction_bits``."""
        shift = self.coeff_bits - self.fraction_bits
        rows = self._apply(x, self.matrix, shift, -1)
        return self._apply(rows, self.matrix, self.coeff_bits, -2).astype(np.int32)

    def inverse_2d(self, y: ArrayLike) -> NDArray[np.int32]:
        """Rows, then columns: coefficients [..., n, n] -> int32."""
        rows = self._apply(y, self.matrix.T, self.coeff_bits, -1)
        shift = self.coeff_bits + self.fraction_bits
        return self._apply(rows, self.matrix.T, shift, -2).astype(np.int32)
