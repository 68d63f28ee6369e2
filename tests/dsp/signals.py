"""Integer test signals, the same as ``runtimes/c/test/se_test.h`` makes, and speech."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectral_edge import audio

SIGNALS = (
    "white noise at full scale",
    "random signs at full scale",
    "square wave at full scale",
    "impulses",
    "noise of one step",
    "triangular chirp",
    "constant",
    "Nyquist at full scale",
    "noise that fades to silence",
    "one step once in silence",
)
LEVELS_DBFS = (0, -20, -40, -60)
CLIPPED_DBFS = 24  # speech recorded far too loud
ROOM_DBFS = -76  # noise floor under the made speech
DEMO = Path(__file__).resolve().parents[2] / "spectral_edge" / "data" / "demo"
LONGEST = 3 * 4096 + 6 * 4096


@lru_cache(maxsize=4)
def generator(seed: int, count: int) -> NDArray[np.int64]:
    """``count`` states behind ``seed`` of the generator that the C tests use."""
    state, values = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state)
    return np.array(values, np.int64)


class Codes:
    """Masks and biases, half of them at code -128, from the generator of the C test."""

    def __init__(self) -> None:
        self.state = 7

    def take(self, count: int) -> NDArray[np.int8]:
        values = generator(self.state, count)
        self.state = int(values[-1])
        return np.where(values >> 20 & 1, -128, (values >> 24) - 128).astype(np.int8)


def signal(kind: int, count: int) -> NDArray[np.int16]:
    """int16[count] of SIGNALS[kind]."""
    i = np.arange(count)
    state = generator(1, max(count, LONGEST))[:count]
    centred = (state >> 16) - 32768
    phase = (i * i * 3) & 0xFFFF
    values = (
        centred,
        np.where(state >> 31, 32767, -32768),
        np.where(i // 37 % 2, 32767, -32768),
        np.where(i % 97 == 0, 32767, 0),
        (state >> 16) % 3 - 1,
        np.where(phase < 32768, 2 * phase - 32768, 98303 - 2 * phase),
        np.full(count, -32768),
        np.where(i % 2, -32768, 32767),
        np.fix(centred / 2.0 ** (i // 512 % 17)),
        (i == 200).astype(np.int64),
    )[kind]
    return values.astype(np.int16)


def hops_of(n_fft: int, hop_length: int) -> int:
    """Hops of a hashed signal."""
    return 3 * n_fft // hop_length + 6


def at_level(x: NDArray[np.float64], dbfs: float) -> NDArray[np.int16]:
    """Scale to a peak, round and saturate."""
    scaled = np.rint(x / np.abs(x).max() * 32767 * 10 ** (dbfs / 20))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


@lru_cache(maxsize=1)
def _recordings() -> NDArray[np.float64]:
    """The four voices of espeak-ng that ship with the package, with a room around them."""
    clips = [audio.read(DEMO / name)[0][:, 0] for name in ("calibration.flac", "clean.flac")]
    x = np.concatenate(clips).astype(np.float64)
    room = np.random.default_rng(6).standard_normal(len(x))
    return x + room * np.abs(x).max() * 10 ** (ROOM_DBFS / 20)


def speech(count: int | None = None) -> NDArray[np.float64]:
    """float64[count] of espeak-ng at 16 kHz, repeated where it ends; all of it by default."""
    x = _recordings()
    return np.resize(x[2000:], count) if count is not None else x


def speech_clips(count: int | None = None) -> dict[str, NDArray[np.int16]]:
    """Speech at every level, and clipped: +24 dB against full scale."""
    levels = (*LEVELS_DBFS, CLIPPED_DBFS)
    return {f"{dbfs} dBFS": at_level(speech(count), dbfs) for dbfs in levels}


def voice(count: int) -> NDArray[np.float64]:
    """Something like speech: a gliding pulse train through formants, pauses, a noise floor."""
    rng = np.random.default_rng(5)
    t = np.arange(count) / 16_000
    phase = np.cumsum(110 + 40 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    x = np.zeros(count)
    for harmonic in range(1, 40):
        f = 110 * harmonic
        gain = sum(1 / (1 + ((f - c) / w) ** 2) for c, w in ((600, 90), (1400, 120), (2600, 200)))
        x += gain * np.cos(2 * np.pi * harmonic * phase)
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * t) + 0.4, 0, None) ** 2
    return x * envelope + rng.standard_normal(count) * np.abs(x).max() * 1.6e-4
