"""Compressed features and their int8 codes: golden model, and whole clips by the fastest core.

mag = m^c, re and im = m^(c-1)·Re, ·Im, where m = |X| / (level · sqrt(sum of squared window)); Q16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import AudioError, SpecError, StreamError
from spectral_edge.frontend import StftFrontend

from .polar import scale_by, to_polar
from .qformat import LOG_ONE, Ints, exp2_q30, rdm, rsh
from .tables import exp2_table

if TYPE_CHECKING:
    import torch

__all__ = ["CodeRule", "compress", "exponent_q31", "feature_sequences", "features_q16"]

LIMIT_LOG2 = 15 * LOG_ONE - 4096  # features saturate just below 2^15


def exponent_q31(compression: float) -> tuple[int, int, int]:
    """Return c in Q31 and 1/c as (whole, fraction in Q31)."""
    c = Fraction(str(compression))
    inverse = 1 / c
    whole = int(inverse)
    return min(round(c * 2**31), 2**31 - 1), whole, round((inverse - whole) * 2**31)


def compress(
    re: Ints, im: Ints, e: Ints, shift_log2: Ints, exponent: int
) -> tuple[Ints, Ints, Ints]:
    """Return mag, re, im features in Q16 of a spectrum [hops, bins] with exponents [hops].

    Args:
        re: real mantissas of :func:`spectral_edge.dsp.stft.analyse`.
        im: imaginary mantissas.
        e: their exponents.
        shift_log2: [hops], log2 of what magnitudes are divided by, Q24.
        exponent: c in Q31.
    """
    z = to_polar(re, im)
    lm = z.length - ((z.shift + e[:, None]) << 24) - shift_log2[:, None]
    lc = np.minimum(rdm(lm, exponent), LIMIT_LOG2)
    lg = lc - z.length
    mag = rsh(exp2_q30(lc, exp2_table()), np.minimum(14 - (lc >> 24), 31))
    return np.where(z.zero, 0, mag), scale_by(z.re, lg, 16), scale_by(z.im, lg, 16)


@dataclass(frozen=True)
class CodeRule:
    """How Q16 values become codes: clamp(round_half_away(value / scale) + zero_point).

    1/(scale·2^16) is multiplier·2^-shift with a 31-bit multiplier; magnitudes above ``limit`` are
    far beyond saturation. Codes have ``bits`` bits, 8 or 16.
    """

    multiplier: int
    shift: int
    limit: int
    zero_point: int
    bits: int = 8

    @classmethod
    def of(cls, scale: float, zero_point: int, bits: int = 8) -> CodeRule:
        """Derive the integers from qparams.

        Raises:
            SpecError: a scale that int32 arithmetic cannot carry, or bits that are not 8 or 16.
        """
        if bits not in (8, 16):
            raise SpecError(f"codes have {bits} bits, must be 8 or 16")
        factor = 1 / (Fraction(scale) * 2**16)
        shift = 30
        while factor * 2**shift >= 2**31:
            shift -= 1
        while factor * 2**shift < 2**30:
            shift += 1
        multiplier = round(factor * 2**shift)
        if multiplier == 2**31:
            multiplier, shift = 2**30, shift - 1
        if not 1 <= shift <= 62:
            raise SpecError(f"scale of the features is {scale}, must be between 2^-45 and 2^16")
        most = 2**10 if bits == 8 else 2**17
        limit = min(2**31 - 1, (most << shift) // multiplier + 1)
        return cls(multiplier, shift, limit, zero_point, bits)

    def codes(self, value: Ints) -> NDArray[Any]:
        """Quantise Q16 values to int8 or int16."""
        size = np.minimum(np.abs(value), self.limit)
        rounded = (size * self.multiplier + (1 << (self.shift - 1))) >> self.shift
        signed = np.where(value < 0, -rounded, rounded) + self.zero_point
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return np.clip(signed, low, high).astype(np.int8 if self.bits == 8 else np.int16)


def features_q16(
    frontend: StftFrontend, pcm: NDArray[np.int16], backend: str = "auto"
) -> NDArray[np.int32]:
    """Features of a whole clip, as the device computes them hop by hop from silence.

    Args:
        frontend: the front end.
        pcm: int16[samples]; a last incomplete hop is left out.
        backend: ``auto``, ``c`` or ``numpy``; same bits.

    Returns:
        int32[channels, frames, bins] in Q16.

    Raises:
        StreamError: not one-dimensional int16, or shorter than one hop.
    """
    from .fixed import FrontendStream

    pcm = np.asarray(pcm)
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise StreamError(
            f"clip is {pcm.dtype}[{pcm.ndim} axes], must be int16[samples]; see audio.read"
        )
    hop = frontend.hop_length
    if len(pcm) < hop:
        raise StreamError(f"clip has {len(pcm)} samples, one hop needs {hop}; pad it with zeros")
    return FrontendStream(frontend, backend=backend).clip(pcm[: len(pcm) // hop * hop])


def feature_sequences(
    frontend: StftFrontend, files: Iterable[str | Path], max_seconds: float | None = None
) -> Iterator[tuple[torch.Tensor]]:
    """Yield ``(float32[1, channels, frames, bins],)`` for each channel of each audio file.

    Args:
        frontend: the front end.
        files: audio that soundfile reads, at any rate (resampled to the front end's).
        max_seconds: cut every file to this length.

    Raises:
        AudioError: a file is not audio or is empty.
    """
    import torch

    for path in files:
        for pcm in _channels(Path(path), frontend.sample_rate, max_seconds):
            padding = -len(pcm) % frontend.hop_length
            values = features_q16(frontend, np.pad(pcm, (0, padding)))
            yield (torch.from_numpy(values.astype(np.float32) / np.float32(65536))[None],)


def _channels(path: Path, rate: int, max_seconds: float | None) -> list[NDArray[np.int16]]:
    """Read one file as int16 channels at ``rate``."""
    import soundfile

    frames = -1
    try:
        info = soundfile.info(str(path))
        if max_seconds is not None:
            frames = int(max_seconds * info.samplerate)
        samples: NDArray[Any]
        samples, _ = soundfile.read(str(path), frames, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise AudioError(f"{path} is not audio that soundfile reads ({error})") from error
    if not len(samples):
        raise AudioError(f"{path} holds no samples")
    if info.samplerate != rate:
        import soxr

        samples = soxr.resample(samples, info.samplerate, rate)
    pcm = np.clip(np.rint(samples.T * 32768.0), -32768, 32767).astype(np.int16)
    return list(np.ascontiguousarray(pcm))
