"""The speech samples that ship with the package, and synthetic noise to mix them with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

__all__ = ["NOISES", "SAMPLES", "CalibrationMix", "calibration_mixes", "mix_at_snr", "noise"]

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "demo"

NOISES = ("white", "pink", "rumble", "hum", "street")

# What the embedded model is calibrated on: every noise, from nearly clean to nearly buried, and
# from quiet to loud, so that every range the device will see has been seen.
CALIBRATION_SNR_DB = (20.0, 10.0, 5.0, 0.0, -5.0)
CALIBRATION_LEVEL_DBFS = (-26.0, -36.0, -16.0, -26.0, -20.0)


@dataclass(frozen=True)
class CalibrationMix:
    """One calibration clip: int16[samples] and how it was made."""

    samples: NDArray[np.int16]
    noise: str
    snr_db: float
    level_dbfs: float


def noise(
    kind: str, samples: int, sample_rate: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Make synthetic noise with unit RMS.

    Args:
        kind: one of :data:`NOISES`. ``rumble`` falls by 12 dB per octave above 80 Hz (wind,
            engines), ``hum`` is 50 Hz with harmonics over faint hiss, ``street`` is rumble and pink
            noise that swell as if cars pass, with hum.
        samples: length.
        sample_rate: Hz.
        rng: source of randomness; the same generator state gives the same noise.

    Returns:
        float64[samples].

    Raises:
        SpecError: an unknown kind.
    """
    seconds = np.arange(samples) / sample_rate
    if kind == "white":
        out = rng.standard_normal(samples)
    elif kind == "pink":
        out = _shaped(samples, sample_rate, rng, corner_hz=20.0, power=0.5)
    elif kind == "rumble":
        out = _shaped(samples, sample_rate, rng, corner_hz=80.0, power=2.0)
    elif kind == "hum":
        harmonics = [np.sin(2 * np.pi * 50.0 * k * seconds + k) / k for k in (1, 2, 3, 5, 7, 9)]
        out = _unit(np.sum(harmonics, axis=0)) + 0.2 * rng.standard_normal(samples)
    elif kind == "street":
        swell = 1.0 + 0.8 * np.sin(2 * np.pi * 0.35 * seconds + rng.uniform(0, 2 * np.pi))
        cars = swell * noise("rumble", samples, sample_rate, rng)
        hiss = (0.5 + 0.5 * swell) * noise("pink", samples, sample_rate, rng)
        out = 0.5 * cars + 0.8 * hiss + 0.15 * noise("hum", samples, sample_rate, rng)
    else:
        raise SpecError(f"noise is {kind!r}, must be one of {', '.join(NOISES)}")
    return _unit(out)


def mix_at_snr(
    speech: NDArray[np.int16], added: NDArray[np.float64], snr_db: float
) -> NDArray[np.int16]:
    """Add noise to speech at an SNR measured over the whole clip, and saturate.

    Args:
        speech: int16[samples].
        added: float64[samples], any level.
        snr_db: power ratio of the two, dB.

    Returns:
        int16[samples]; the speech keeps its level.
    """
    signal = speech.astype(np.float64)
    gain = np.sqrt(np.mean(signal**2) / np.mean(added**2)) * 10.0 ** (-snr_db / 20.0)
    mixed: NDArray[np.float64] = np.rint(signal + gain * added)
    return np.clip(mixed, -32768, 32767).astype(np.int16)


def calibration_mixes(
    speech: NDArray[np.int16], sample_rate: int, seed: int = 0
) -> Iterator[CalibrationMix]:
    """Mix clean speech with every noise of :data:`NOISES`, each at its own SNR and level.

    Args:
        speech: int16[samples] of clean speech.
        sample_rate: Hz.
        seed: of the noise.

    Yields:
        As many mixes as there are noises, each as long as ``speech``.
    """
    rng = np.random.default_rng(seed)
    rms = np.sqrt(np.mean(speech.astype(np.float64) ** 2))
    for kind, snr_db, level_dbfs in zip(
        NOISES, CALIBRATION_SNR_DB, CALIBRATION_LEVEL_DBFS, strict=True
    ):
        gain = 32768.0 * 10.0 ** (level_dbfs / 20.0) / rms
        levelled = np.clip(np.rint(speech * gain), -32768, 32767).astype(np.int16)
        mixed = mix_at_snr(levelled, noise(kind, len(speech), sample_rate, rng), snr_db)
        yield CalibrationMix(mixed, kind, snr_db, level_dbfs)


def _shaped(
    samples: int, sample_rate: int, rng: np.random.Generator, corner_hz: float, power: float
) -> NDArray[np.float64]:
    """White noise through the magnitude 1 / max(1, f / corner)^power; flat below the corner."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1.0 / sample_rate)
    spectrum /= np.maximum(1.0, frequency / corner_hz) ** power
    spectrum[0] = 0.0
    return _unit(np.fft.irfft(spectrum, samples))


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = x / np.sqrt(np.mean(x**2))
    return out
