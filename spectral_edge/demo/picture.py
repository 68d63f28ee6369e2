"""Spectrograms before and after, as one PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectral_edge.frontend import make_window

__all__ = ["spectrogram_db", "write_spectrograms"]

FRAME_SECONDS = 0.032
RANGE_DB = 70.0  # shown below the loudest point of all panels
MAX_COLUMNS = 1600  # frames drawn; longer clips are thinned


def spectrogram_db(samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Magnitude of the STFT in dB re full scale: int16[samples] -> float64[bins, frames].

    Plain float arithmetic: a picture needs no golden model.
    """
    n = 2 ** round(math.log2(FRAME_SECONDS * sample_rate))
    hop = n // 2
    padded = np.concatenate([np.zeros(n - hop), samples / 32768.0, np.zeros(n)])
    step = hop * max(1, len(samples) // hop // MAX_COLUMNS)
    window = make_window("hann", n)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n)[: len(samples) : step]
    magnitude = np.abs(np.fft.rfft(frames * window)) / (np.sum(window) / 2)
    out: NDArray[np.float64] = 20.0 * np.log10(np.maximum(magnitude, 1e-6)).T
    return out


def write_spectrograms(
    path: Path, clips: Mapping[str, NDArray[np.int16]], sample_rate: int
) -> None:
    """Draw one panel per clip, all on one colour scale.

    Args:
        path: PNG file to write.
        clips: title -> int16[samples], drawn from top to bottom.
        sample_rate: Hz.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {title: spectrogram_db(samples, sample_rate) for title, samples in clips.items()}
    top = max(float(panel.max()) for panel in panels.values())
    figure = Figure(figsize=(10.0, 2.4 * len(panels) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        seconds = len(clips[title]) / sample_rate
        image = axis.imshow(
            panel,
            origin="lower",
            aspect="auto",
            extent=(0.0, seconds, 0.0, sample_rate / 2000.0),
            cmap="magma",
            vmin=top - RANGE_DB,
            vmax=top,
            interpolation="nearest",
        )
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="dBFS", fraction=0.03, pad=0.01)
    figure.savefig(path, dpi=110, metadata={"Software": None})
