"""Training features from the front end that ships: the integers of the device, as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectral_edge.errors import SpecError
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.logmel_stream import LogMelStream

from .labelled import FeatureSet, LabelledSet, Progress, fitted

__all__ = ["frontend_features"]


def frontend_features(
    examples: LabelledSet,
    frontend: LogMelFrontend | ImageFrontend,
    window: int = 0,
    progress: Progress | None = None,
) -> FeatureSet:
    """Compute the network's input of every example with a front end of a bundle.

    Args:
        examples: audio at the front end's rate, or images.
        frontend: the value that goes into :func:`spectral_edge.export`.
        window: frames per clip: the middle of longer clips, silence behind shorter ones.
        progress: called now and then.

    Returns:
        Inputs float32[examples, 1, window, n_mels] or float32[examples, channels, height, width].

    Raises:
        SpecError: another kind of data, another sample rate, or no window for audio.
    """
    _check(examples, frontend, window)
    rows: list[NDArray[Any]] = []
    stream = LogMelStream(frontend) if isinstance(frontend, LogMelFrontend) else None
    for i in range(len(examples)):
        example = examples.load(i)
        if stream is None:
            assert isinstance(frontend, ImageFrontend)
            rows.append(frontend.features(example))
        else:
            stream.reset()
            clip = fitted(example, window * stream.frontend.hop_length)
            rows.append(stream.features(clip)[None])
        if progress is not None and (i % 64 == 63 or i + 1 == len(examples)):
            progress(i + 1, len(examples), f"features of {examples.name}")
    targets = torch.from_numpy(np.ascontiguousarray(examples.targets))
    return FeatureSet(torch.from_numpy(np.stack(rows)), targets, examples.classes)


def _check(examples: LabelledSet, frontend: LogMelFrontend | ImageFrontend, window: int) -> None:
    wanted = "image" if isinstance(frontend, ImageFrontend) else "audio"
    if examples.kind != wanted:
        raise SpecError(f"{examples.name} holds {examples.kind}, this front end takes {wanted}")
    if isinstance(frontend, ImageFrontend):
        return
    if examples.sample_rate != frontend.sample_rate:
        raise SpecError(
            f"{examples.name} has {examples.sample_rate} Hz, the front end {frontend.sample_rate}"
        )
    if window < 1:
        raise SpecError(f"window is {window} frames, must be at least 1 for audio")
