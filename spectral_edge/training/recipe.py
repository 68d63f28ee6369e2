"""Training recipes: YAML files that become frozen, checked values."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from spectral_edge.errors import SpecError

__all__ = [
    "DataRecipe",
    "LossRecipe",
    "MixRecipe",
    "Recipe",
    "RunRecipe",
    "expand_folder",
    "load_recipe",
    "recipe_names",
]


@dataclass(frozen=True)
class MixRecipe:
    """How a training example is mixed; probabilities are per example.

    Attributes:
        seconds: length of an example.
        snr_db: range of active speech level over noise level.
        level_dbfs: range of the mixture's level.
        speeds: playing speeds of the clean speech, one drawn per example.
        compact: also use every clean clip with its pauses cut to about 0.1 s (denser speech).
        pause: probability that the speech starts with up to half an example of silence.
        second_noise: probability of a second noise on top of the first.
        babble: probability that the noise is several training voices at once.
        shaped: probability that the noise is stationary with a random spectrum.
        equalize: probability of a random smooth filter, drawn for speech and noise separately.
        reverb: probability of a synthetic room; the target keeps its first 50 ms.
    """

    seconds: float = 3.0
    snr_db: tuple[float, float] = (-5.0, 20.0)
    level_dbfs: tuple[float, float] = (-36.0, -16.0)
    speeds: tuple[float, ...] = (1.0,)
    compact: bool = False
    pause: float = 0.2
    second_noise: float = 0.2
    babble: float = 0.0
    shaped: float = 0.0
    equalize: float = 0.0
    reverb: float = 0.0


@dataclass(frozen=True)
class DataRecipe:
    """Where clips come from.

    Folders are searched for ``*.wav`` and ``*.flac`` with sub-folders; relative ones start at
    ``root``; environment variables are expanded. ``toy:COUNT`` instead of a folder makes that many
    synthetic clips. Without ``clean`` and ``noise`` the training takes finished pairs.

    Attributes:
        clean: folders of clean speech.
        noise: folders of noise.
        root: where relative folders start; None is the working directory.
        val_clean: folders of clean speech for validation.
        val_noise: folders of noise for validation.
        val_pairs: folders with ``noisy/`` and ``clean/`` files of equal names.
        val_mixtures: number of validation mixtures of ``val_clean`` and ``val_noise``.
        pairs: folders with ``noisy/`` and ``clean/`` files to train on, as they are.
        voicebank: ``root`` is an unpacked VoiceBank+DEMAND: train on its pairs, validate on the
            speakers p226 and p287.
        mix: how examples are mixed.
    """

    clean: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    root: str | None = None
    val_clean: tuple[str, ...] = ()
    val_noise: tuple[str, ...] = ()
    val_pairs: tuple[str, ...] = ()
    val_mixtures: int = 32
    pairs: tuple[str, ...] = ()
    voicebank: bool = False
    mix: MixRecipe = field(default_factory=MixRecipe)

    def __post_init__(self) -> None:
        mixed, paired = bool(self.clean or self.noise), bool(self.pairs or self.voicebank)
        if mixed and paired:
            raise SpecError("data has clean or noise and pairs: train on mixtures or on pairs")
        for name in ("clean", "noise"):
            if not paired and not getattr(self, name):
                raise SpecError(f"data lacks {name}: name folders of it, or pairs")


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the loss terms; see :mod:`spectral_edge.training.losses`.

    Attributes:
        magnitude: squared error of compressed magnitudes.
        complex: squared error of compressed real and imaginary parts.
        si_sdr: minus the scale-invariant signal-to-distortion ratio in dB.
        wave: absolute error of the waveform, relative to the clip's RMS.
        irm: squared error of the mask against |S|^c / (|S|^c + |N|^c).
    """

    magnitude: float = 70.0
    complex: float = 30.0
    si_sdr: float = 0.1
    wave: float = 0.0
    irm: float = 0.0


@dataclass(frozen=True)
class RunRecipe:
    """Optimiser, schedule and machine.

    Attributes:
        epochs: number of epochs; validation and checkpoints come after each.
        steps_per_epoch: optimiser steps per epoch (examples are mixed on the fly, without end); 0
            with pairs: every pair once.
        batch: examples per step and device.
        lr: peak learning rate (AdamW).
        schedule: ``cosine``: linear warm-up, then cosine to ``lr_end``; ``plateau``: times
            ``factor`` after ``plateau_epochs`` epochs without a lower validation loss.
        lr_end: last learning rate.
        warmup_steps: steps of the warm-up.
        factor: of ``plateau``.
        plateau_epochs: of ``plateau``.
        patience: epochs without a lower validation loss before stopping; 0 is off.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip_norm: gradient norm limit.
        ema: decay of the weight average that is validated and saved; 0 is off.
        precision: Lightning's name, such as ``32-true``, ``bf16-mixed``, ``16-mixed``.
        accelerator: Lightning's name.
        devices: Lightning's ``devices``: a number of devices or ``auto``; several train with DDP.
        nodes: machines.
        workers: processes that mix; 0 mixes in the training process.
        threads: torch threads; 0 leaves torch's default.
        channels_last: keep activations in channels-last memory order.
    """

    epochs: int = 20
    steps_per_epoch: int = 200
    batch: int = 8
    lr: float = 1e-3
    schedule: str = "cosine"
    lr_end: float = 1e-6
    warmup_steps: int = 200
    factor: float = 0.5
    plateau_epochs: int = 3
    patience: int = 0
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 5.0
    ema: float = 0.999
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    workers: int = 0
    threads: int = 0
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "plateau"):
            raise SpecError(f"run.schedule is {self.schedule!r}, must be one of cosine, plateau")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on.

    Attributes:
        name: used for folders and in the checkpoint.
        model: a key of :data:`spectral_edge.models.MODELS`.
        data: where clips come from and how they are mixed.
        frontend: fields of :class:`spectral_edge.StftFrontend`.
        loss: weights of the loss terms.
        run: optimiser, schedule, machine.
        seed: of initial weights and mixtures.
        start: checkpoint whose weights the run starts from; None is random weights.
        options: of the model, such as ``{lookahead: 2}``; see :func:`spectral_edge.models.build`.
        note: where the settings come from.
    """

    name: str
    model: str
    data: DataRecipe
    frontend: dict[str, Any] = field(default_factory=dict)
    loss: LossRecipe = field(default_factory=LossRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)
    seed: int = 0
    start: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (tuples become lists) that :func:`load_recipe` takes."""
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    folder = files("spectral_edge.training") / "recipes"
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )


def load_recipe(source: str | Path | dict[str, Any], overrides: dict[str, Any]) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        source: a shipped recipe's name, a YAML file, or the same content as a dict.
        overrides: dotted keys, such as ``{"run.epochs": 2, "data.root": "/data"}``.

    Raises:
        SpecError: no such recipe, an unknown key, a missing key, or a value of the wrong type.
    """
    data = dict(source) if isinstance(source, dict) else _read_yaml(source)
    for key, value in overrides.items():
        data = _override(data, key.split("."), value)
    return typing.cast("Recipe", _build(Recipe, data, "recipe"))


def _read_yaml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpecError(f"recipe {path} does not exist: pass a YAML file or a shipped name")
        text, where = path.read_text(encoding="utf-8"), str(path)
    else:
        names = recipe_names()
        if str(source) not in names:
            raise SpecError(
                f"recipe is {str(source)!r}, must be a .yaml file or one of {', '.join(names)}"
            )
        shipped = files("spectral_edge.training") / "recipes" / f"{source}.yaml"
        text, where = shipped.read_text(encoding="utf-8"), str(source)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"recipe {where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise SpecError(f"recipe {where} holds {type(data).__name__}, must be a mapping of keys")
    return data


def _override(data: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    copy = dict(data)
    inner = copy.get(keys[0])
    if len(keys) > 1:
        value = _override(inner if isinstance(inner, dict) else {}, keys[1:], value)
    copy[keys[0]] = value
    return copy


def _build(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise SpecError(f"{where} is {data!r}, must be a mapping of keys")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(map(str, data)) - set(fields))
    if unknown:
        raise SpecError(
            f"{where} has unknown key {unknown[0]!r}; known keys: {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, item in fields.items()
        if name not in data
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpecError(f"{where} lacks {', '.join(missing)}: add it")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise SpecError(f"{where} is {value!r}, must be a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise SpecError(f"{where} is {value!r}, must have {len(arguments)} entries")
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is dict:
        return _checked(dict, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _checked(hint, value, where)


def _union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = tuple(option for option in options if option is not type(None))
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    names = " or ".join(kind.__name__ for kind in kinds)
    raise SpecError(f"{where} is {value!r}, must be {names}")


def _checked(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SpecError(f"{where} is {value!r}, must be {kind.__name__}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def expand_folder(folder: str, root: str | None) -> Path:
    """Return ``folder`` below ``root`` with environment variables expanded.

    Raises:
        SpecError: a variable is not set, or the folder does not exist.
    """
    text = str(Path(root, folder)) if root else folder
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise SpecError(f"folder {text!r} uses a variable that is not set: export it first")
    path = Path(expanded).expanduser()
    if not path.is_dir():
        raise SpecError(
            f"folder {path} does not exist: check data.root and the folder names of the recipe"
        )
    return path
