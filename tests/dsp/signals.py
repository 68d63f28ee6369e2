"""Integer test signals, the same as ``runtimes/c/test/se_test.h`` makes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
LONGEST = 3 * 4096 + 6 * 4096


@lru_cache(maxsize=4)
def _generator(seed: int, count: int) -> NDArray[np.int64]:
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
        values = _generator(self.state, count)
        self.state = int(values[-1])
        return np.where(values >> 20 & 1, -128, (values >> 24) - 128).astype(np.int8)


def signal(kind: int, count: int) -> NDArray[np.int16]:
    """int16[count] of SIGNALS[kind]."""
    i = np.arange(count)
    state = _generator(1, max(count, LONGEST))[:count]
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
    """Scale to a peak and round."""
    return np.rint(x / np.abs(x).max() * 32767 * 10 ** (dbfs / 20)).astype(np.int16)


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
