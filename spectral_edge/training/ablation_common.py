"""What classification ablations share: small data, a small training, the int8 column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.errors import ConversionError, SpecError
from spectral_edge.models.ast import Ast
from spectral_edge.models.aum import Aum
from spectral_edge.models.dsm import Dsm, prepare_integer_spectrum
from spectral_edge.models.dsm_stream import DsmStream
from spectral_edge.models.window import window_program
from spectral_edge.program import StepProgram

from .ablations import Context, Outcome
from .classify import evaluate_classifier, fit_classifier
from .classify_recipe import ClassifyRecipe, load_classify_recipe
from .examples import load_features
from .labelled import FeatureSet

__all__ = [
    "Splits",
    "classify_once",
    "int8_program",
    "int8_scores",
    "splits_for",
    "training",
    "window_frames",
]

Splits = tuple[FeatureSet, FeatureSet, FeatureSet]  # train, val, test
CALIBRATION = 48  # examples


@lru_cache(maxsize=6)
def _splits(kind: str, mels: int, frames: int, root: Path | None) -> Splits:
    recipe = _data_recipe(kind, mels, frames, root)
    train, val, test = (load_features(recipe, split) for split in ("train", "val", "test"))
    return train, val, test


def _data_recipe(kind: str, mels: int, frames: int, root: Path | None) -> ClassifyRecipe:
    data: dict[str, Any]
    features: dict[str, Any] = {"front": "published", "mels": mels, "frames": frames}
    if kind == "toy_kws":
        data = {"kind": kind, "classes": 10, "examples": [320, 80, 160]}
    elif kind == "toy_tag":
        data = {"kind": kind, "examples": [320, 80, 160], "options": {"seconds": 1.0}}
    elif kind == "toy_words":  # other words, for a start to transfer from
        data = {"kind": "toy_kws", "classes": 20, "examples": [320, 40, 40], "options": {"seed": 7}}
    elif kind == "toy_img":
        data = {"kind": kind, "examples": [960, 120, 360]}
        features = {"front": "published"}
    elif kind == "keywords":
        data = {"kind": "csv", "root": f"{root}/keywords/gsc12.csv"}
    elif kind == "esc10":
        data = {"kind": "csv", "root": f"{root}/esc/esc10.csv"}
    elif kind == "images":
        data = {"kind": "fashion_mnist", "root": f"{root}/images", "examples": [12000, 2000, 0]}
        features = {"front": "published", "size": [32, 32]}
    else:
        raise SpecError(f"no data called {kind!r}")
    return load_classify_recipe(
        {"name": kind, "model": "dsm_kws_s", "data": data, "features": features}
    )


def window_frames(context: Context) -> int:
    """Return the frames of a window: 0.96 s, of five-second clips 4.96 s."""
    return 496 if not context.toy and context.audio == "esc10" else 96


def splits_for(context: Context, kind: str, mels: int = 64, frames: int | None = None) -> Splits:
    """Return (train, val, test) of a kind of data for a preset, from memory.

    Args:
        context: its preset decides between synthetic and real data.
        kind: ``audio``, ``image``, ``tags`` (several labels) or ``other_words``.
        mels: bands.
        frames: of a window; None takes :func:`window_frames`.
    """
    frames = frames or window_frames(context)
    synthetic = {"tags": "toy_tag", "other_words": "toy_words"}
    name = {"audio": "toy_kws", "image": "toy_img", **synthetic}[kind]
    if not context.toy:
        name = {"audio": context.audio, "image": "images", **synthetic}[kind]
    return _splits(name, mels, frames, None if context.toy else context.data_root)


def training(context: Context, seed: int, **changes: Any) -> ClassifyRecipe:
    """Return the settings of an ablation training; ``changes`` are dotted keys with ``__``."""
    epochs = max(1, round((10 if context.toy else 30) * context.effort))
    batch = 32 if context.toy else 16 if context.audio == "esc10" else 64
    settings: dict[str, Any] = {
        "run.epochs": epochs, "run.batch": batch, "run.lr": 3e-3,
        "run.warmup_steps": 10, "run.accelerator": "cpu", "seed": seed,
    }  # fmt: skip
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    base = {"name": "ablation", "model": "dsm_kws_s", "data": {"kind": "toy_kws"}}
    return load_classify_recipe(base, settings)


def classify_once(
    context: Context,
    make: Callable[[], nn.Module],
    data: Splits,
    seed: int,
    *,
    force_int8: bool = False,
    extras: Callable[[nn.Module], dict[str, float]] | None = None,
    **changes: Any,
) -> Outcome:
    """Train one small classifier and score it.

    Args:
        context: preset and whether int8 is wanted.
        make: builds the network.
        data: train, val, test.
        seed: of weights, order and augmentation.
        force_int8: quantise although the context does not ask.
        extras: further columns from the trained network.
        changes: dotted recipe keys with ``__`` for the dot.
    """
    torch.manual_seed(seed)
    model = make()
    train, val, test = data
    fit_classifier(model, train, val, training(context, seed, **changes))
    value = _score(evaluate_classifier(model, test))
    int8 = None
    if context.int8 or force_int8:
        with suppress(ConversionError):  # such as an FFT: no integer form, the column stays empty
            int8 = _score(int8_scores(model, train.inputs[:CALIBRATION], test))
    more = extras(model) if extras is not None else {}
    return Outcome(value, model, test.inputs[:1], int8, more)


def _score(scores: dict[str, float]) -> float:
    return scores.get("accuracy", scores.get("map", 0.0))


def int8_program(model: nn.Module, calibration: Tensor, **spectrum: bool) -> StepProgram:
    """Return the w8a8 program of a trained classifier, calibrated on ``calibration``.

    Causal models become streams, others windows; a DSM gets its integer spectrum first.
    """
    if isinstance(model, Dsm):
        model = prepare_integer_spectrum(model, calibration.split(16), **spectrum)  # type: ignore[no-untyped-call]
    streams = isinstance(model, DsmStream) or (
        isinstance(model, Ast | Aum) and model.deployable()(calibration[:1]).ndim == 3
    )
    if streams:
        assert isinstance(model, Ast | Aum | DsmStream)
        program = se.streamify(model.deployable(), calibration[:1], time_dim=2, check_lengths=())
    else:
        program = window_program(model, calibration[:1])
    sequences: Sequence[tuple[Tensor]] = [(calibration,)]
    return se.quantize(program, sequences)


def int8_scores(model: nn.Module, calibration: Tensor, test: FeatureSet) -> dict[str, float]:
    """Return the scores of the w8a8 program of a trained classifier."""
    program = int8_program(model, calibration)

    def logits(x: Tensor) -> Tensor:
        result: Tensor = program.run(x) if program.states else program.step((x,), ())[0][0]
        return result

    return evaluate_classifier(logits, test)
