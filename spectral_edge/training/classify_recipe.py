"""Recipes of classifier training: YAML files that become frozen, checked values."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from spectral_edge.errors import SpecError

from .recipe import _build, _override, _plain, _read_yaml

__all__ = [
    "AugmentRecipe",
    "ClassifyData",
    "ClassifyRecipe",
    "ClassifyRun",
    "DistillRecipe",
    "FeatureRecipe",
    "PretrainRecipe",
    "classify_recipe_names",
    "load_classify_recipe",
]


@dataclass(frozen=True)
class ClassifyData:
    """Where examples come from.

    Attributes:
        kind: ``toy_kws``, ``toy_tag``, ``toy_img``, ``csv``, ``folder_audio``, ``folder_image``,
            ``speech_commands``, ``esc50``, ``audioset``, ``fashion_mnist`` or ``cifar``.
        root: folder (for ``csv`` the table); environment variables are expanded.
        classes: number of classes where the set comes in several (toy_kws, speech_commands, cifar).
        sample_rate: Hz of audio.
        examples: most examples of train, val and test; 0 is all. Toy sets need them.
        fold: test fold of ESC-50.
        only_esc10: take ESC-50's ten-class subset.
        options: further keyword arguments of the loader or generator.
    """

    kind: str
    root: str | None = None
    classes: int = 0
    sample_rate: int = 16_000
    examples: tuple[int, ...] = (0, 0, 0)
    fold: int = 5
    only_esc10: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureRecipe:
    """What the network sees.

    Attributes:
        front: ``deployed`` takes what a session on the device computes, bit for bit: the integers
            of :class:`spectral_edge.LogMelFrontend` or :class:`spectral_edge.ImageFrontend`.
            ``published`` takes the float features of the papers: Kaldi's log-mel
            (:class:`spectral_edge.training.log_mel.LogMel`), images resized by PyTorch.
        mels: bands of audio.
        frames: frames of a window.
        mean: subtracted from log-mel.
        std: features are divided by twice this.
        centring: of ``published`` audio: ``utterance`` or ``blocker``.
        fill: of ``published`` audio: ``mean`` or ``raw_zero``, what short clips are padded with
            (``deployed`` pads with silence).
        size: (height, width) of images; empty keeps theirs.
        cache: folder for computed features; None computes them again.
        lazy: compute features when they are needed, in loader workers (data larger than memory).
    """

    front: str = "deployed"
    mels: int = 64
    frames: int = 100
    mean: float = -6.845978
    std: float = 5.5654526
    centring: str = "utterance"
    fill: str = "mean"
    size: tuple[int, ...] = ()
    cache: str | None = None
    lazy: bool = False


@dataclass(frozen=True)
class AugmentRecipe:
    """Changes of training examples.

    Attributes:
        mask: ``none``, ``spec_augment`` or ``spec_mask``.
        mask_options: fields of the mask.
        mixup: probability that an example is mixed with another.
        mixup_beta: both parameters of the Beta distribution of the mixing share.
        mixup_power: mix log-mel in the power domain, as mixing waveforms would; plain mixing else.
        cutmix: probability that a batch of images gets rectangles of other images instead.
        noise: largest level of uniform noise added to features.
        roll: most frames that a window is rolled by.
        gain: largest shift of log-mel, as a change of level, in units of the features.
        flip: mirror images left-right at random.
        shift: most pixels that an image is shifted by.
        rand: change images by RandAugment (m 9, std 0.5); needs Pillow.
        erase: probability that a rectangle of an image (2…33 % of it) becomes noise.
    """

    mask: str = "none"
    mask_options: dict[str, Any] = field(default_factory=dict)
    mixup: float = 0.0
    mixup_beta: float = 10.0
    mixup_power: bool = True
    cutmix: float = 0.0
    noise: float = 0.0
    roll: int = 0
    gain: float = 0.0
    flip: bool = False
    shift: int = 0
    rand: bool = False
    erase: float = 0.0


@dataclass(frozen=True)
class PretrainRecipe:
    """Self-supervised epochs before training.

    Attributes:
        task: ``none``, ``patches`` (masked patches of a token model are restored) or ``frequency``
            (MFM: low or high frequencies are removed and restored).
        epochs: number of epochs.
        lr: learning rate.
        share: share of patches hidden.
        radius: share of the frequency plane's radius kept (low-pass) or removed (high-pass).
    """

    task: str = "none"
    epochs: int = 0
    lr: float = 1e-3
    share: float = 0.6
    radius: float = 0.15


@dataclass(frozen=True)
class DistillRecipe:
    """Learning from a trained classifier besides the labels.

    Attributes:
        teacher: its checkpoint; None is off. Classes and inputs must be the same.
        share: weight of the teacher's answer in the targets.
        temperature: the teacher's logits are divided by it.
    """

    teacher: str | None = None
    share: float = 0.5
    temperature: float = 2.0


@dataclass(frozen=True)
class ClassifyRun:
    """Optimiser, schedule and machine.

    Attributes:
        epochs: number of epochs.
        batch: examples per step and device.
        optimizer: ``adam`` or ``adamw``.
        lr: peak learning rate.
        betas: of the optimiser.
        weight_decay: of the optimiser.
        schedule: ``cosine`` to ``lr_end``, ``steps`` (times ``factor`` every ``every`` epochs from
            epoch ``start`` on) or ``constant``.
        lr_end: last rate of the cosine.
        factor: of ``steps``.
        every: of ``steps``.
        start: of ``steps``.
        warmup_steps: linear warm-up.
        loss: ``ce`` (softmax) or ``bce`` (sigmoid per class; needed for several labels).
        label_smoothing: of the softmax loss.
        clip_norm: gradient norm limit; 0 is off.
        ema: decay of the weight average that is validated and kept; 0 is off.
        patience: epochs without gain before stopping; 0 is off.
        precision: Lightning's name, such as ``32-true`` or ``bf16-mixed``.
        accelerator: Lightning's name.
        devices: Lightning's ``devices``; several train with DDP.
        nodes: machines.
        workers: loader processes.
        threads: torch threads; 0 leaves torch's default.
    """

    epochs: int = 30
    batch: int = 64
    optimizer: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    schedule: str = "cosine"
    lr_end: float = 1e-5
    factor: float = 0.5
    every: int = 5
    start: int = 10
    warmup_steps: int = 0
    loss: str = "ce"
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.0
    patience: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    workers: int = 0
    threads: int = 0


@dataclass(frozen=True)
class ClassifyRecipe:
    """Everything a classifier training depends on.

    Attributes:
        name: used for folders and in the checkpoint.
        model: one of :data:`spectral_edge.models.classifiers.CLASSIFIERS`.
        data: where examples come from.
        options: fields of the model's size to replace.
        features: what the network sees.
        augment: changes of training examples.
        pretrain: self-supervised start.
        distill: a teacher.
        run: optimiser, schedule, machine.
        seed: of weights, order and augmentation.
        start: checkpoint to start from; tensors that do not fit are left at random.
        note: where the settings come from.
    """

    name: str
    model: str
    data: ClassifyData
    options: dict[str, Any] = field(default_factory=dict)
    features: FeatureRecipe = field(default_factory=FeatureRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    pretrain: PretrainRecipe = field(default_factory=PretrainRecipe)
    distill: DistillRecipe = field(default_factory=DistillRecipe)
    run: ClassifyRun = field(default_factory=ClassifyRun)
    seed: int = 0
    start: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        choices = (
            ("features.front", self.features.front, ("deployed", "published")),
            ("features.centring", self.features.centring, ("utterance", "blocker")),
            ("features.fill", self.features.fill, ("mean", "raw_zero")),
            ("augment.mask", self.augment.mask, ("none", "spec_augment", "spec_mask")),
            ("pretrain.task", self.pretrain.task, ("none", "patches", "frequency")),
            ("run.optimizer", self.run.optimizer, ("adam", "adamw")),
            ("run.schedule", self.run.schedule, ("cosine", "steps", "constant")),
            ("run.loss", self.run.loss, ("ce", "bce")),
        )
        for key, value, allowed in choices:
            if value not in allowed:
                raise SpecError(f"{key} is {value!r}, must be one of {', '.join(allowed)}")
        self._check_features()
        if self.run.epochs < 1 or self.run.batch < 1:
            raise SpecError("run.epochs and run.batch must be at least 1")

    def _check_features(self) -> None:
        features, usual = self.features, FeatureRecipe()
        for name in ("centring", "fill"):
            value = getattr(features, name)
            if features.front == "deployed" and value != getattr(usual, name):
                raise SpecError(
                    f"features.{name} is {value!r}, which the deployed front end does not have: "
                    "leave it out, or set features.front to published"
                )
        if features.mels < 1 or features.frames < 1 or features.std <= 0:
            raise SpecError("features.mels, frames and std must be positive")
        if len(features.size) not in (0, 2):
            raise SpecError(f"features.size is {features.size}, must be height and width")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :func:`load_classify_recipe` takes."""
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))


def classify_recipe_names() -> list[str]:
    """Return the names of the shipped classifier recipes."""
    folder = files("spectral_edge.training") / "recipes" / "classify"
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )


def load_classify_recipe(
    source: str | Path | dict[str, Any], overrides: dict[str, Any] | None = None
) -> ClassifyRecipe:
    """Read a classifier recipe and apply overrides.

    Args:
        source: a shipped recipe's name, a YAML file, or the same content as a dict.
        overrides: dotted keys, such as ``{"run.epochs": 2, "data.root": "/data"}``.

    Raises:
        SpecError: no such recipe, an unknown or missing key, or a value of the wrong type.
    """
    if isinstance(source, dict):
        data = dict(source)
    elif Path(source).suffix in (".yaml", ".yml"):
        data = _read_yaml(source)
    else:
        names = classify_recipe_names()
        if str(source) not in names:
            raise SpecError(
                f"recipe is {str(source)!r}, must be a .yaml file or one of {', '.join(names)}"
            )
        shipped = files("spectral_edge.training") / "recipes" / "classify" / f"{source}.yaml"
        data = _read_yaml(Path(str(shipped)))
    for key, value in (overrides or {}).items():
        data = _override(data, key.split("."), value)
    return typing.cast("ClassifyRecipe", _build(ClassifyRecipe, data, "recipe"))
