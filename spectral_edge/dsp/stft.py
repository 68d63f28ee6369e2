"""STFT and overlap-add on integers: the golden model of ``se_stft.c``, over whole clips.

``analyse`` takes all frames at once; ``overlap_add`` walks through them with the one accumulator
the device has, so saturation happens where it would there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import fft
from .qformat import OLA_FRACTION, OLA_MAX, Ints, bit_length, rdm, rsh
from .tables import StftTables

__all__ = ["analyse", "frames_of", "overlap_add"]


def frames_of(
    pcm: NDArray[np.int16], history: NDArray[np.int16], hop_length: int
) -> NDArray[np.int16]:
    """View int16[hops·hop] behind int16[m] of history as int16[hops, m] frames."""
    if len(pcm) < hop_length:
        return np.empty((0, len(history)), np.int16)
    joined = np.concatenate([history, pcm])[hop_length:]
    windows = np.lib.stride_tricks.sliding_window_view(joined, len(history))
    return windows[::hop_length][: len(pcm) // hop_length]


def _frame_exponent(x: Ints, window: NDArray[np.int32]) -> Ints:
    """Exponent that bounds the L1 norms of the even and of the odd windowed samples by 2^29."""
    weight = (window.astype(np.int64) + (1 << 24) - 1) >> 24  # ceil(w·2^7)
    size = np.abs(x)
    peak = np.maximum(size[:, 0::2] @ weight[0::2], size[:, 1::2] @ weight[1::2])
    return np.where(peak > 0, np.minimum(30, 36 - bit_length(peak + (peak >> 10))), 0)


def analyse(frames: NDArray[np.int16], tables: StftTables) -> tuple[Ints, Ints, Ints]:
    """Return re, im [hops, bins] and exponent [hops] of int16[hops, m] frames.

    X = (re + i·im) · 2^-e in units of int16 samples; silent frames are zero with exponent 0.
    A window shorter than the transform is followed by zeros.
    """
    x = frames.astype(np.int64)
    e = _frame_exponent(x, tables.window)
    shift = 31 - e[:, None]
    v = (x * tables.window + (np.int64(1) << (shift - 1))) >> shift
    v[e == 0] = 0
    v = np.pad(v, ((0, 0), (0, tables.n_fft - v.shape[1])))
    re, im = fft.forward(v, tables.cosine, tables.sine)
    return re, im, e


def contributions(re: Ints, im: Ints, e: Ints, tables: StftTables) -> Ints:
    """Windowed inverse of each frame, int [hops, m] with 12 fraction bits, |c| <= OLA_MAX."""
    y, s = fft.inverse(re, im, tables.cosine, tables.sine)
    v = rdm(y[:, : len(tables.dual)], tables.dual)
    shift = (e - s - OLA_FRACTION + tables.dual_exponent)[:, None]
    left = np.minimum(np.maximum(-shift, 0), 29)
    limit = OLA_MAX >> left
    up = np.clip(v, -limit, limit) << left
    return np.where(shift > 0, rsh(v, np.clip(shift, 0, 31)), up)


def overlap_add(re: Ints, im: Ints, e: Ints, tables: StftTables, memory: Ints) -> NDArray[np.int16]:
    """Synthesise frames into int16[hops·hop]; ``memory`` int64[m] is updated in place."""
    hop = tables.hop_length
    parts = contributions(re, im, e, tables)
    pcm = np.empty((len(parts), hop), np.int16)
    for t, part in enumerate(parts):
        memory[:] = np.clip(memory + part, -OLA_MAX - 1, OLA_MAX)
        pcm[t] = np.clip(rsh(memory[:hop], OLA_FRACTION), -32768, 32767)
        memory[:-hop] = memory[hop:]
        memory[-hop:] = 0
    return pcm.reshape(-1)
