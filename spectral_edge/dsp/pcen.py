"""Per-channel energy normalisation in integers: golden model of ``se_pcen.c`` and ``FixedPCEN``.

out = (E/(eps + M)^alpha + delta)^r - delta^r, M <- M + s·(E - M) (Wang et al., 2017).
"""

from __future__ import annotations

import ctypes
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from spectral_edge import _native
from spectral_edge.errors import SpecError, StreamError

from .qformat import LOG_ONE, Ints, exp2_q30, log2_q24, rdm, rsh
from .tables import exp2_table, log2_table

__all__ = ["FixedPCEN"]

ENERGY_MAX = 1 << 46


def _exp2_q16(x: Ints) -> Ints:
    """2^x in Q16 of x in Q24, saturating just below 2^15."""
    x = np.minimum(x, 15 * LOG_ONE - 4096)
    return rsh(exp2_q30(x, exp2_table()), np.minimum(14 - (x >> 24), 31))


def _energy_of(log_q16: Ints) -> Ints:
    """2^log in Q16, saturating at 2^30."""
    k = log_q16 >> 16
    mantissa = exp2_q30((log_q16 & 0xFFFF) << 8, exp2_table())
    value = np.where(
        k >= 14, mantissa << np.clip(k - 14, 0, 16), rsh(mantissa, np.clip(14 - k, 0, 31))
    )
    return np.where(k >= 30, ENERGY_MAX, np.where(k < -17, 0, value))


class FixedPCEN:
    """Per-channel energy normalisation of a log-mel stream.

    Input is ``FixedLogMel(..., log="log2", full_scale=1, floor=-30)``: log2 of energies of int16
    samples.

    Args:
        n_mels: number of bands.
        s: smoothing coefficient per frame, 2^-15…1.
        alpha: gain exponent in (0, 1].
        delta: bias, 2^-16 < delta < 2^14.
        r: root in (0, 1].
        eps: floor of the smoothed energy in squared int16 units, at least 2^-16.
        backend: ``auto``, ``c`` or ``numpy``; same bits.

    Raises:
        SpecError: a value out of range.
    """

    def __init__(
        self,
        n_mels: int = 40,
        s: float = 0.025,
        alpha: float = 0.98,
        delta: float = 2.0,
        r: float = 0.5,
        eps: float = 2.0**11,
        backend: str = "auto",
    ) -> None:
        if not 2**-15 <= s <= 1 or not 0 < alpha <= 1 or not 0 < r <= 1:
            raise SpecError(
                f"s, alpha, r are {s}, {alpha}, {r}; must be in (0, 1], s at least 2^-15"
            )
        if not 2**-16 < delta < 2**14 or not 2**-16 <= eps < 2**30:
            raise SpecError(
                f"delta is {delta}, eps {eps}: must be within 2^-16…2^14 and 2^-16…2^30"
            )
        self.n_mels = n_mels
        self._shift = 16
        while Fraction(s) * 2**self._shift < 2**15:
            self._shift += 1
        self._mantissa = round(Fraction(s) * 2**self._shift)
        self._gain = min(round(Fraction(alpha) * 2**31), 2**31 - 1)
        self._power = min(round(Fraction(r) * 2**31), 2**31 - 1)
        self._epsilon = round(Fraction(eps) * 65536)
        self._bias = round(Fraction(delta) * 65536)
        self._bias_power = int(self._root(np.array(self._bias, np.int64)))
        if backend == "c":
            _native.require_core()
        self._core = None if backend == "numpy" else _native.core()
        self._config = _native.PcenConfig(
            n_mels,
            self._mantissa,
            self._shift,
            self._gain,
            self._power,
            self._epsilon,
            self._bias,
            self._bias_power,
            log2_table().ctypes.data,
            exp2_table().ctypes.data,
        )
        self._smoothed = np.zeros(n_mels, np.int64)

    def reset(self) -> None:
        """Forget the smoothed energies."""
        self._smoothed[:] = 0

    def push(self, log_energy: NDArray[np.int32]) -> NDArray[np.int32]:
        """Normalise frames in order: int32[bands, frames] in Q16 -> the same shape in Q16."""
        if log_energy.ndim != 2 or log_energy.shape[0] != self.n_mels:
            raise StreamError(
                f"log energies have shape {log_energy.shape}, must be [{self.n_mels}, frames]"
            )
        frames = np.ascontiguousarray(log_energy.T, np.int32)
        out = np.empty_like(frames)
        for t, frame in enumerate(frames):
            if self._core is None:
                out[t] = self._frame(frame.astype(np.int64))
                continue
            self._core.se_pcen_frame(
                ctypes.byref(self._config),
                frame.ctypes.data,
                self._smoothed.ctypes.data,
                out[t].ctypes.data,
            )
        return out.T

    def _root(self, value: Ints) -> Ints:
        logs = log2_q24(value, log2_table()) - 16 * LOG_ONE
        return _exp2_q16(rdm(logs, self._power))

    def _frame(self, log_energy: Ints) -> Ints:
        energy = _energy_of(log_energy)
        change = (energy - self._smoothed) * self._mantissa
        self._smoothed += (change + (1 << (self._shift - 1))) >> self._shift
        level = log2_q24(self._smoothed + self._epsilon, log2_table()) - 16 * LOG_ONE
        logs = np.clip(log_energy, -30 * 65536, 30 * 65536) * 256
        ratio = np.where(energy > 0, _exp2_q16(logs - rdm(level, self._gain)), 0)
        return self._root(ratio + self._bias) - self._bias_power
