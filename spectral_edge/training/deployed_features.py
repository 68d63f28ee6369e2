"""Training features from the front end that ships: the integers of the device, as float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral_edge.errors import SpecError
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.logmel_stream import LogMelStream

from .classify_recipe import FeatureRecipe
from .labelled import FeatureSet, LabelledSet, Progress, fitted, stored_features

__all__ = ["DeployedFeatures", "deployed_frontend", "frontend_features"]


def deployed_frontend(
    features: FeatureRecipe, examples: LabelledSet
) -> LogMelFrontend | ImageFrontend:
    """Return the front end of a recipe: what training computes and a bundle is exported with.

    Audio: windows of 25 ms every 10 ms as in ``published``, without its pre-emphasis. Images:
    pixels in [-1, 1] at ``features.size``, or at the size of the first example.

    Args:
        features: of the recipe; ``std`` counts twice, as everywhere in recipes.
        examples: give the sample rate, or the channels and the size of pictures.
    """
    if examples.kind == "image":
        height, width, channels = examples.load(0).shape
        if features.size:
            height, width = features.size
        return ImageFrontend(height, width, channels)
    frame = examples.sample_rate // 40
    return LogMelFrontend(
        examples.sample_rate,
        n_fft=1 << (frame - 1).bit_length(),
        hop_length=examples.sample_rate // 100,
        win_length=frame,
        n_mels=features.mels,
        mean=features.mean,
        std=2.0 * features.std,
    )


class DeployedFeatures:
    """The front end at work on one example after the other.

    Args:
        frontend: the value that goes into :func:`spectral_edge.export`.
        window: frames per clip: the middle of longer clips, silence behind shorter ones.
    """

    def __init__(self, frontend: LogMelFrontend | ImageFrontend, window: int = 0) -> None:
        self.frontend, self.window = frontend, window
        self._stream: LogMelStream | None = None  # made where it is used: in a loader worker, too

    def __call__(self, example: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32[1, window, n_mels] of a clip, float32[channels, height, width]."""
        if isinstance(self.frontend, ImageFrontend):
            return self.frontend.features(example)
        if self._stream is None:
            self._stream = LogMelStream(self.frontend)
        self._stream.reset()
        clip = fitted(example, self.window * self.frontend.hop_length)
        return self._stream.features(clip)[None]


def frontend_features(
    examples: LabelledSet,
    frontend: LogMelFrontend | ImageFrontend,
    window: int = 0,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> FeatureSet:
    """Compute the network's input of every example with a front end of a bundle.

    Args:
        examples: audio at the front end's rate, or images.
        frontend: the value that goes into :func:`spectral_edge.export`.
        window: frames per clip: the middle of longer clips, silence behind shorter ones.
        progress: called now and then.
        cache: folder where the features are kept; None computes them again.

    Returns:
        Inputs float32[examples, 1, window, n_mels] or float32[examples, channels, height, width].

    Raises:
        SpecError: another kind of data, another sample rate, or no window for audio.
    """
    _check(examples, frontend, window)

    def compute() -> Tensor:
        work = DeployedFeatures(frontend, window)
        rows = []
        for i in range(len(examples)):
            rows.append(work(examples.load(i)))
            if progress is not None and (i % 64 == 63 or i + 1 == len(examples)):
                progress(i + 1, len(examples), f"features of {examples.name}")
        return torch.from_numpy(np.stack(rows))

    return stored_features(examples, f"{frontend!r} {window}", cache, compute)


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
