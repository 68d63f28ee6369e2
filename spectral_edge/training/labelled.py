"""Labelled examples: what loaders and generators return and trainers take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral_edge.errors import SpecError

from .log_mel import LogMel

__all__ = ["FeatureSet", "LabelledSet", "Progress", "audio_features", "image_features"]

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class LabelledSet:
    """Examples of one split.

    Attributes:
        name: of the data set and split, for messages and caches.
        kind: ``audio`` (int16[samples]) or ``image`` (uint8[height, width, channels]).
        classes: label names; a target is an index into them or a 0/1 vector over them.
        targets: int64[examples], or float32[examples, classes] for several labels per example.
        load: index -> example.
        sample_rate: Hz of audio.
        missing: listed examples that were not found.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    targets: NDArray[Any]
    load: Callable[[int], NDArray[Any]]
    sample_rate: int = 16_000
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multi_label(self) -> bool:
        """True when an example may have several labels."""
        return self.targets.ndim == 2

    def subset(self, indices: Sequence[int] | NDArray[np.int64], name: str) -> LabelledSet:
        """Return the examples of ``indices`` in that order."""
        order, load = np.asarray(indices, dtype=np.int64), self.load
        return LabelledSet(
            f"{self.name}-{name}", self.kind, self.classes, self.targets[order],
            lambda i: load(int(order[i])), self.sample_rate, self.missing,
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureSet:
    """Network inputs in memory.

    Attributes:
        inputs: float32[examples, channels, height, width].
        targets: int64[examples] or float32[examples, classes].
        classes: label names.
        kind: ``audio`` or ``image``; empty where it is not known.
    """

    inputs: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    kind: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Return the examples in order, in batches."""
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))  # type: ignore[no-untyped-call]


def audio_features(
    examples: LabelledSet,
    front: LogMel,
    *,
    samples: int,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    batch: int = 64,
) -> FeatureSet:
    """Compute log-mel windows of all clips, once.

    Args:
        examples: audio clips.
        front: what features; its sample rate must be the clips'.
        samples: clips are cut to this length around their middle, or padded with zeros at the end.
        cache: folder where the features are kept under a name that depends on data and settings.
        progress: called after every batch.
        batch: clips at once.

    Raises:
        SpecError: images, or another sample rate.
    """
    if examples.kind != "audio":
        raise SpecError(f"{examples.name} holds {examples.kind} examples, log-mel takes audio")
    if examples.sample_rate != front.sample_rate:
        raise SpecError(
            f"{examples.name} has {examples.sample_rate} Hz, the front end {front.sample_rate} Hz"
        )

    def compute() -> Tensor:
        rows = []
        for start in range(0, len(examples), batch):
            stop = min(start + batch, len(examples))
            clips = np.stack([fitted(examples.load(i), samples) for i in range(start, stop)])
            rows.append(front(torch.from_numpy(clips)))
            if progress is not None:
                progress(stop, len(examples), f"features of {examples.name}")
        return torch.cat(rows)

    return stored_features(examples, f"{front!r} {samples}", cache, compute)


def stored_features(
    examples: LabelledSet, settings: str, cache: str | Path | None, compute: Callable[[], Tensor]
) -> FeatureSet:
    """Return features from a cache, or compute and keep them.

    Args:
        examples: what they are of. Their number, targets and four of the examples are part of the
            file's name, so that another set of the same name is not mistaken for it.
        settings: what else they depend on.
        cache: folder; None keeps nothing.
        compute: gives the inputs.
    """
    stored = None
    if cache is not None:
        stored = Path(cache) / f"{_key(examples, settings)}.npy"
        if stored.is_file():
            inputs = torch.from_numpy(np.load(stored))
            return FeatureSet(inputs, _targets(examples), examples.classes, examples.kind)
    inputs = compute()
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(".partial.npy")
        np.save(partial, inputs.numpy())
        partial.replace(stored)
    return FeatureSet(inputs, _targets(examples), examples.classes, examples.kind)


def _key(examples: LabelledSet, settings: str) -> str:
    text = json.dumps([examples.name, examples.classes, len(examples), settings])
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(examples.targets).tobytes())
    for i in sorted({n * (len(examples) - 1) // 3 for n in range(4)} if len(examples) else ()):
        digest.update(np.ascontiguousarray(examples.load(i)).tobytes())
    return digest.hexdigest()[:16]


def image_features(
    examples: LabelledSet, size: tuple[int, int] | None = None, batch: int = 256
) -> FeatureSet:
    """Return images as float32 in [-1, 1], resized bilinearly to ``size`` (height, width).

    Raises:
        SpecError: audio.
    """
    if examples.kind != "image":
        raise SpecError(f"{examples.name} holds {examples.kind} examples, expected images")
    rows = []
    for start in range(0, len(examples), batch):
        stop = min(start + batch, len(examples))
        stack = np.stack([examples.load(i) for i in range(start, stop)])
        images = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        if size is not None and images.shape[2:] != size:
            images = torch.nn.functional.interpolate(
                images, size, mode="bilinear", align_corners=False, antialias=True
            )
        rows.append(images)
    return FeatureSet(torch.cat(rows), _targets(examples), examples.classes, examples.kind)


def fitted(clip: NDArray[Any], samples: int) -> NDArray[Any]:
    """Return the middle ``samples`` of a clip, or the clip with zeros behind it."""
    if len(clip) >= samples:
        start = (len(clip) - samples) // 2
        return clip[start : start + samples]
    return np.pad(clip, (0, samples - len(clip)))


def _targets(examples: LabelledSet) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(examples.targets))
