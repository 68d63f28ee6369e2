"""From a recipe's data section to examples, features and batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from spectral_edge.errors import SpecError

from . import loaders
from .classify_recipe import ClassifyData, ClassifyRecipe, FeatureRecipe
from .deployed_features import DeployedFeatures, deployed_frontend, frontend_features
from .labelled import (
    FeatureSet,
    LabelledSet,
    Progress,
    audio_features,
    fitted,
    image_features,
)
from .log_mel import LogMel
from .rand_augment import rand_augment
from .synthetic import TOY_SETS, toy_set

__all__ = [
    "KINDS",
    "LazyFeatures",
    "load_examples",
    "load_features",
    "log_mel_of",
    "make_loader",
    "report_missing",
]

SPLITS = ("train", "val", "test")
KINDS = (
    *TOY_SETS, "csv", "folder_audio", "folder_image", "speech_commands", "esc50", "audioset",
    "fashion_mnist", "cifar",
)  # fmt: skip


def load_examples(data: ClassifyData, split: str, seed: int = 0) -> LabelledSet:
    """Return one split of a recipe's data.

    Raises:
        SpecError: an unknown kind, a missing root, or what the loader finds wrong.
    """
    if data.kind not in KINDS:
        raise SpecError(f"data.kind is {data.kind!r}, must be one of {', '.join(KINDS)}")
    if split not in SPLITS:
        raise SpecError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    if len(data.examples) != 3:
        raise SpecError("data.examples must have three numbers: train, val, test")
    limit = data.examples[SPLITS.index(split)]
    if data.kind in TOY_SETS:
        return _toy(data, split, limit)
    examples = _real(data, split)
    if limit and limit < len(examples):
        order = np.random.default_rng(seed).permutation(len(examples))[:limit]
        return examples.subset(np.sort(order), str(limit))
    return examples


def _toy(data: ClassifyData, split: str, count: int) -> LabelledSet:
    if not count:
        raise SpecError("data.examples must give a number for every split of a toy set")
    settings = dict(data.options)
    if data.kind != "toy_img":
        settings["sample_rate"] = data.sample_rate
    if data.kind == "toy_kws" and data.classes:
        settings["classes"] = data.classes
    return toy_set(data.kind, count, split=split, **settings)


def _real(data: ClassifyData, split: str) -> LabelledSet:
    if data.root is None:
        raise SpecError(f"data.kind {data.kind} needs data.root: the folder (csv: the table)")
    root = Path(os.path.expandvars(data.root)).expanduser()
    if "$" in str(root):
        raise SpecError(f"data.root {data.root!r} uses a variable that is not set: export it")
    rate = data.sample_rate
    table: dict[str, Callable[[], LabelledSet]] = {
        "csv": lambda: loaders.csv_set(root, split, sample_rate=rate, **data.options),
        "folder_audio": lambda: loaders.folder_set(
            _part(root, split), kind="audio", sample_rate=rate, **data.options
        ),
        "folder_image": lambda: loaders.folder_set(_part(root, split), **data.options),
        "speech_commands": lambda: loaders.speech_commands(root, split, classes=data.classes or 35),
        "esc50": lambda: loaders.esc50(
            root, split, fold=data.fold, only_esc10=data.only_esc10, rate=rate
        ),
        "audioset": lambda: _audioset(root, split),
        "fashion_mnist": lambda: loaders.fashion_mnist(root, split),
        "cifar": lambda: loaders.cifar(root, split, classes=data.classes or 10),
    }
    return table[data.kind]()


def _part(root: Path, split: str) -> Path:
    """ImageNet's folder has no labelled test: what is reported there is its ``val``."""
    return root / ("val" if split == "test" and not (root / "test").is_dir() else split)


def _audioset(root: Path, split: str) -> LabelledSet:
    """Balanced list, of which every twentieth clip is ``val`` (our choice); ``test`` is eval."""
    name, part = "balanced_train_segments", "balanced_train"
    if split == "test":
        name, part = "eval_segments", "eval"
    whole = loaders.audioset(root / f"{name}.csv", root / "class_labels_indices.csv", root / part)
    if split == "test":
        return whole
    held_out = np.arange(len(whole)) % 20 == 19
    return whole.subset(np.flatnonzero(held_out == (split == "val")), split)


def log_mel_of(features: FeatureRecipe, sample_rate: int) -> LogMel:
    """Return the log-mel front of a recipe."""
    return LogMel(
        mels=features.mels, sample_rate=sample_rate, frame=sample_rate // 40,
        shift=sample_rate // 100, frames=features.frames, mean=features.mean, std=features.std,
        centring=features.centring, fill=features.fill,
    )  # fmt: skip


def load_features(
    recipe: ClassifyRecipe, split: str, progress: Progress | None = None
) -> FeatureSet:
    """Return inputs and targets of one split, computed once (or read from the cache).

    Raises:
        SpecError: what :func:`load_examples` or the front end finds wrong.
    """
    examples = load_examples(recipe.data, split, recipe.seed)
    features = recipe.features
    report_missing(examples, progress)
    if features.front == "deployed":
        frontend = deployed_frontend(features, examples)
        return frontend_features(examples, frontend, features.frames, progress, features.cache)
    if examples.kind == "image":
        size = (features.size[0], features.size[1]) if features.size else None
        return image_features(examples, size)
    front = log_mel_of(features, examples.sample_rate)
    return audio_features(
        examples, front, samples=front.samples_for(features.frames), cache=features.cache,
        progress=progress,
    )  # fmt: skip


def report_missing(examples: LabelledSet, progress: Progress | None) -> None:
    """Say how many listed clips a set lacks."""
    if examples.missing and progress is not None:
        found, absent = len(examples), len(examples.missing)
        progress(found, found + absent, f"{examples.name}: {absent} listed clips are not there")


def _changed(load: Callable[[int], Any]) -> Callable[[int], Any]:
    def changed(index: int) -> Any:
        seed = int(torch.randint(2**62, ()))
        return rand_augment(load(index), np.random.default_rng(seed))

    return changed


class LazyFeatures(Dataset[tuple[Tensor, Tensor]]):
    """Features computed when they are asked for; for data larger than memory.

    Args:
        examples: clips or images.
        features: what the network sees.
        rand: change images by RandAugment, as torch's generator of the worker says.

    Attributes:
        classes: label names.
        targets: int64[examples] or float32[examples, classes].
    """

    def __init__(
        self, examples: LabelledSet, features: FeatureRecipe, *, rand: bool = False
    ) -> None:
        if rand:
            examples = replace(examples, load=_changed(examples.load))
        self.examples, self.features = examples, features
        self.front = log_mel_of(features, examples.sample_rate)
        self.deployed = None
        if features.front == "deployed":
            frontend = deployed_frontend(features, examples)
            self.deployed = DeployedFeatures(frontend, features.frames)
        self.classes = examples.classes
        self.targets = torch.from_numpy(np.ascontiguousarray(examples.targets))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        target = self.targets[index]
        if self.deployed is not None:
            return torch.from_numpy(self.deployed(self.examples.load(index))), target
        if self.examples.kind == "image":
            size = (self.features.size[0], self.features.size[1]) if self.features.size else None
            one = self.examples.subset([index], "one")
            return image_features(one, size).inputs[0], target
        samples = self.front.samples_for(self.features.frames)
        clip = fitted(self.examples.load(index), samples)
        return self.front(torch.from_numpy(clip)[None])[0], target

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the examples in order, in batches."""
        for start in range(0, len(self), size):
            rows = [self[i] for i in range(start, min(start + size, len(self)))]
            yield torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def make_loader(
    data: FeatureSet | Dataset[Any], batch: int, *, shuffle: bool, workers: int = 0, seed: int = 0
) -> DataLoader[Any]:
    """Return batches of a set, in an order that depends on the seed alone."""
    if isinstance(data, FeatureSet):
        data = TensorDataset(data.inputs, data.targets)
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        data, batch, shuffle=shuffle, num_workers=workers, generator=generator,
        persistent_workers=workers > 0,
    )  # fmt: skip
