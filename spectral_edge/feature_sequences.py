"""Calibration sequences of classifiers: audio and pictures through the front end of the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge import audio
from spectral_edge.errors import SpecError
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.logmel_stream import LogMelStream

if TYPE_CHECKING:
    import torch

__all__ = ["image_sequences", "log_mel_sequences", "windows_of"]

MAX_WINDOW = 100_000


def log_mel_sequences(
    frontend: LogMelFrontend,
    files: Iterable[str | Path],
    max_seconds: float | None,
    window: int,
    window_hop: int,
) -> Iterator[tuple[torch.Tensor]]:
    """Check the arguments and yield; see :meth:`spectral_edge.LogMelFrontend.sequences`."""
    if not 0 <= window <= MAX_WINDOW or not 0 <= window_hop <= MAX_WINDOW:
        raise SpecError(f"window is {window}, window_hop {window_hop}: must be 0…{MAX_WINDOW}")
    return _log_mel_sequences(frontend, files, max_seconds, window, window_hop or window)


def _log_mel_sequences(
    frontend: LogMelFrontend,
    files: Iterable[str | Path],
    max_seconds: float | None,
    window: int,
    window_hop: int,
) -> Iterator[tuple[torch.Tensor]]:
    import torch

    stream = LogMelStream(frontend)
    for path in files:
        samples, rate = audio.read(path)
        if max_seconds is not None:
            samples = samples[: max(1, int(max_seconds * rate))]
        for channel in samples.T:
            pcm = np.ascontiguousarray(channel)
            if rate != frontend.sample_rate:
                real = pcm.astype(np.float32) / np.float32(audio.PCM_SCALE)
                resampler = audio.Resampler(rate, frontend.sample_rate)
                pcm = audio.to_int16(resampler.push(real, last=True))
            stream.reset()
            pcm = np.pad(pcm, (0, -len(pcm) % frontend.hop_length))
            frames = stream.features(pcm)
            if not len(frames):
                continue
            if window:
                silence = stream.silence.astype(np.float32)
                yield (torch.from_numpy(windows_of(frames, window, window_hop, silence)),)
            else:
                yield (torch.from_numpy(frames)[None, None],)


def windows_of(
    frames: NDArray[np.float32], window: int, hop: int, silence: NDArray[Any]
) -> NDArray[np.float32]:
    """Cut float32[frames, mels] into float32[windows, 1, window, mels], the last one included.

    Args:
        frames: of one stream.
        window: frames of a window.
        hop: frames from one window to the next, counted back from the end.
        silence: a frame, put in front when there are too few.
    """
    if len(frames) < window:
        frames = np.concatenate([np.tile(silence, (window - len(frames), 1)), frames])
    starts = range((len(frames) - window) % hop, len(frames) - window + 1, hop)
    cut: NDArray[np.float32] = np.stack([frames[s : s + window] for s in starts])[:, None]
    return cut


def image_sequences(
    frontend: ImageFrontend, files: Iterable[str | Path]
) -> Iterator[tuple[torch.Tensor]]:
    """Yield one sequence per picture; see :meth:`spectral_edge.ImageFrontend.sequences`."""
    import torch

    from spectral_edge.image import read

    for path in files:
        yield (torch.from_numpy(frontend.features(read(path)))[None],)
