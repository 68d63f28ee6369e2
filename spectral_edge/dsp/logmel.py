"""Log-mel energies in integers: golden model of ``se_logmel.c`` and ``FixedLogMel`` on top."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_edge import _native
from spectral_edge.errors import SpecError, StreamError

from .api import BlockSpectrum, FixedSTFT
from .features import CodeRule
from .melbank import WEIGHT_BITS, MelBank, mel_bank
from .qformat import LOG_ONE, Ints, bit_length, log2_q24, rdm, rsh
from .tables import ONE, exact_log2, log2_table

if TYPE_CHECKING:
    from spectral_edge.program import QParams

__all__ = ["FixedLogMel", "LogRule", "integer_sqrt", "log_mel"]


@dataclass(frozen=True)
class LogRule:
    """How a log2 in Q24 becomes the output in Q16: max(v·whole + rdm(v, fraction), floor)."""

    whole: int
    fraction: int
    reference: int  # added to log2, Q24
    floor: int

    @classmethod
    def of(cls, log: str, power: int, full_scale: float, floor: float) -> LogRule:
        """Derive the integers; ``floor`` in the unit of the output.

        Raises:
            SpecError: an unknown logarithm.
        """
        # units per log2: ln 2 = 1/log2(e), 10·log10(2) = 10/log2(10), twice that for magnitudes
        e = Fraction(sum(ONE // _factorial(k) for k in range(40)), ONE)
        bases = {"log2": Fraction(1), "ln": 1 / _log2(e), "dB": 10 / _log2(Fraction(10))}
        if log not in bases:
            raise SpecError(f"log is {log!r}, must be one of {', '.join(bases)}")
        unit = bases[log] * (2 if log == "dB" and power == 1 else 1)
        whole = int(unit)
        reference = -_log2(Fraction(full_scale)) * power
        return cls(
            whole=whole,
            fraction=round((unit - whole) * 2**31),
            reference=round(reference * LOG_ONE),
            floor=max(-(2**31), min(2**31 - 1, round(floor * 65536))),
        )


def _factorial(k: int) -> int:
    return 1 if k < 2 else k * _factorial(k - 1)


def _log2(f: Fraction) -> Fraction:
    return Fraction(exact_log2(f.numerator, f.denominator, 60), 1 << 60)


def integer_sqrt(v: Ints) -> Ints:
    """floor(sqrt(v)) of 0 <= v < 2^62."""
    root = np.sqrt(v.astype(np.float64)).astype(np.int64)
    root -= root * root > v
    root += (root + 1) * (root + 1) <= v
    return root


def log_mel(re: Ints, im: Ints, e: Ints, bank: MelBank, power: int, rule: LogRule) -> Ints:
    """Log-mel of frames: re, im [frames, bins], e [frames] -> Q16 [frames, bands]."""
    weights = np.zeros((re.shape[1], len(bank.first)), np.int64)
    at = 0
    for band, (first, count) in enumerate(zip(bank.first, bank.count, strict=True)):
        weights[first : first + count, band] = bank.weight[at : at + count]
        at += count
    p = re * re + im * im
    bits = bit_length(p.max(axis=1))
    if power == 2:
        down = np.maximum(bits + bank.total_bits - 63, 0)
        energy = (p >> down[:, None]) @ weights
        scale = down - WEIGHT_BITS - 2 * e
    else:
        up = np.maximum(62 - bits, 0) & ~1
        energy = integer_sqrt(p << up[:, None]) @ weights
        scale = -(up >> 1) - WEIGHT_BITS - e
    logs = log2_q24(np.maximum(energy, 1), log2_table()) + scale[:, None] * LOG_ONE
    logs = rsh(logs + bank.offset + rule.reference, 8)
    values = np.maximum(logs * rule.whole + rdm(logs, rule.fraction), rule.floor)
    return np.where(energy > 0, values, rule.floor)


class FixedLogMel:
    """Log-mel spectrogram in integers.

    Args:
        stft: the transform whose spectra come in.
        n_mels: number of bands.
        fmin: lower edge in Hz.
        fmax: upper edge in Hz, half the sample rate by default.
        mel: ``htk``, ``slaney`` or ``kaldi`` scale.
        norm: ``slaney`` (unit area per Hz) or None (peak 1).
        power: 2 sums |X|², 1 sums |X|.
        log: ``ln``, ``dB`` or ``log2``.
        floor: least output, in the unit of the output; silence gives exactly this.
        full_scale: amplitude that counts as 1: 32768 for samples in [-1, 1) (librosa, torchaudio),
            1 for int16 samples (Kaldi); within 2^-16…2^16.
        backend: ``auto``, ``c`` or ``numpy``; same bits.

    Raises:
        SpecError: a value out of range, or a band that holds no bin.
    """

    def __init__(
        self,
        stft: FixedSTFT,
        n_mels: int = 40,
        fmin: float = 20.0,
        fmax: float | None = None,
        *,
        mel: str = "htk",
        norm: str | None = None,
        power: int = 2,
        log: str = "ln",
        floor: float = -23.0,
        full_scale: float = 32768.0,
        backend: str = "auto",
    ) -> None:
        if power not in (1, 2):
            raise SpecError(f"power is {power}, must be 1 or 2")
        if not 2.0**-16 <= full_scale <= 2.0**16:
            raise SpecError(f"full_scale is {full_scale}, must be within 2^-16…2^16")
        if stft.fs != int(stft.fs):
            raise SpecError(f"fs is {stft.fs} Hz, must be whole for a mel bank")
        self.stft, self.power = stft, power
        top = stft.fs / 2 if fmax is None else fmax
        self.bank = mel_bank(int(stft.fs), stft.mfft, n_mels, fmin, top, mel, norm)
        self.rule = LogRule.of(log, power, full_scale, floor)
        if backend == "c":
            _native.require_core()
        self._core = None if backend == "numpy" else _native.core()
        if self._core is not None:
            self._object = self._make_core()

    def _make_core(self) -> Any:
        config = _native.LogMelConfig(
            self.stft.f_pts,
            len(self.bank.first),
            self.power,
            self.bank.total_bits,
            self.rule.whole,
            self.rule.fraction,
            self.rule.reference,
            self.rule.floor,
            self.bank.first.ctypes.data,
            self.bank.count.ctypes.data,
            self.bank.weight.ctypes.data,
            self.bank.offset.ctypes.data,
            log2_table().ctypes.data,
        )
        assert self._core is not None
        size = self._core.se_logmel_size(ctypes.byref(config))
        self._memory, pointer = _native.allocate(
            size, self._core.se_logmel_init, ctypes.byref(config)
        )
        return pointer

    @property
    def backend(self) -> str:
        """``c`` or ``numpy``."""
        return "numpy" if self._core is None else "c"

    @property
    def n_mels(self) -> int:
        """Number of bands."""
        return len(self.bank.first)

    def transform(self, s: BlockSpectrum) -> NDArray[np.int32]:
        """Return int32[..., bands, frames] in Q16 of a spectrum [..., bins, frames]."""
        if s.re.shape[-2] != self.stft.f_pts:
            raise StreamError(f"spectrum has {s.re.shape[-2]} bins, needs {self.stft.f_pts}")
        shape = s.re.shape[:-2]
        out = [
            self._frames(re.T, im.T, e).T
            for re, im, e in zip(
                s.re.reshape(-1, *s.re.shape[-2:]),
                s.im.reshape(-1, *s.im.shape[-2:]),
                s.exp.reshape(-1, s.frames),
                strict=True,
            )
        ]
        return np.stack(out).reshape(*shape, self.n_mels, s.frames)

    def __call__(self, x: ArrayLike) -> NDArray[np.int32]:
        """Transform samples: int16 or float [..., samples] -> int32[..., bands, frames] in Q16."""
        return self.transform(self.stft.stft(x))

    def _frames(self, re: NDArray[Any], im: NDArray[Any], e: NDArray[Any]) -> NDArray[np.int32]:
        if self._core is None:
            wide = re.astype(np.int64), im.astype(np.int64), e.astype(np.int64)
            return log_mel(*wide, self.bank, self.power, self.rule).astype(np.int32)
        re, im = np.ascontiguousarray(re), np.ascontiguousarray(im)
        out = np.empty((len(e), self.n_mels), np.int32)
        for t, exponent in enumerate(e.tolist()):
            self._core.se_logmel_frame(
                self._object, re[t].ctypes.data, im[t].ctypes.data, exponent, out[t].ctypes.data
            )
        return out

    def codes(self, values: NDArray[np.int32], qparams: QParams, bits: int = 8) -> NDArray[Any]:
        """Quantise outputs to int8 or, with ``bits=16``, int16; half away from zero."""
        return CodeRule.of(qparams.scale, qparams.zero_point, bits).codes(values.astype(np.int64))
