"""How close an enhanced clip is to the clean one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from spectral_edge import metrics

__all__ = ["Quality", "rate_clip"]


@dataclass(frozen=True)
class Quality:
    """Figures of one clip against its clean counterpart.

    Attributes:
        si_sdr: scale-invariant signal-to-distortion ratio, dB.
        pesq: wide-band PESQ, 1…4.6; None when the library pesq is not installed.
        stoi: short-time objective intelligibility, 0…1; None when pystoi is not installed.
    """

    si_sdr: float
    pesq: float | None
    stoi: float | None


def rate_clip(clean: NDArray[np.int16], clip: NDArray[np.int16], sample_rate: int) -> Quality:
    """Compare int16[samples] with its clean counterpart int16[samples].

    Args:
        clean: the reference.
        clip: the same speech with noise, or enhanced.
        sample_rate: Hz; 16000 for PESQ.
    """
    reference, degraded = clean / 32768.0, clip / 32768.0
    return Quality(
        si_sdr=metrics.si_sdr(reference, degraded),
        pesq=metrics.pesq(reference, degraded, sample_rate) if find_spec("pesq") else None,
        stoi=metrics.stoi(reference, degraded, sample_rate) if find_spec("pystoi") else None,
    )
