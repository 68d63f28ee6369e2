"""Training of classifiers on Lightning: windows and streams, one label or several."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.frontend import any_frontend_from_dict
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.models.classifiers import build_classifier

from .augment import Augment
from .classify_recipe import ClassifyRecipe, load_classify_recipe
from .deployed_features import deployed_frontend
from .examples import (
    LazyFeatures,
    load_examples,
    load_features,
    make_loader,
    report_missing,
)
from .interrupts import interruptible
from .labelled import FeatureSet, Progress
from .pretrain import pretraining_task, run_pretraining

__all__ = [
    "ClassifierModule",
    "ClassifyResult",
    "classifier_frontend",
    "clip_logits",
    "evaluate_classifier",
    "fit_classifier",
    "load_classifier",
    "mean_average_precision",
    "save_classifier",
    "train_classifier",
]

FORMAT = "spectral-edge classifier"
KEYS = {"format", "version", "recipe", "classes", "input_shape", "weights", "info"}
RESUME_FILE = "last.ckpt"
SCALE_EXAMPLES = 256  # that the check of the features' scale looks at


def clip_logits(outputs: Tensor) -> Tensor:
    """Return float32[batch, classes]: of a stream's rows per token the last half counts."""
    if outputs.ndim == 3:
        return outputs[:, outputs.shape[1] // 2 :].mean(dim=1)
    return outputs


def mean_average_precision(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the mean over classes of average precision; classes without a positive are left out.

    Args:
        scores: float[examples, classes].
        targets: 0/1 [examples, classes].
    """
    values = []
    for score, truth in zip(scores.T, targets.T, strict=True):
        positives = int(truth.sum())
        if not positives:
            continue
        hits = truth[np.argsort(-score, kind="stable")] > 0
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        values.append(float(precision[hits].sum()) / positives)
    return float(np.mean(values)) if values else 0.0


def evaluate_classifier(
    model: Any, data: FeatureSet | LazyFeatures, batch: int = 128
) -> dict[str, float]:
    """Return ``accuracy`` (one label) or ``map`` (several), and ``loss``, of any callable model.

    Args:
        model: maps inputs to logits; put in evaluation mode first when it is a module.
        data: inputs and targets.
        batch: examples at once.
    """
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        logits = torch.cat([clip_logits(model(x)) for x, _ in data.batches(batch)])
    return _scores(logits, data.targets)


def _scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    if targets.ndim == 2:
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        return {
            "map": mean_average_precision(logits.numpy(), targets.numpy()),
            "loss": float(loss),
        }
    hits = (logits.argmax(dim=1) == targets).float().mean()
    return {"accuracy": float(hits), "loss": float(F.cross_entropy(logits, targets))}


class ClassifierModule(lightning.LightningModule):
    """A classifier with its loss, optimiser, schedule and weight average."""

    def __init__(
        self,
        network: nn.Module,
        recipe: ClassifyRecipe,
        classes: int,
        steps: int,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.classes = network, recipe, classes
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        self.steps = max(1, steps)  # per epoch
        self.augment = Augment(recipe.augment, recipe.features, classes, recipe.seed)
        self.average: nn.Module | None = None
        if recipe.run.ema:
            self.average = copy.deepcopy(network).requires_grad_(False)
        self.history: list[dict[str, float]] = []
        self.resumed = 0  # epochs of the history that an earlier run did
        self.order: torch.Generator | None = None  # of the training loader
        self._outputs: list[tuple[Tensor, Tensor]] = []

    @property
    def shipped(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.network if self.average is None else self.average

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        inputs, targets = self.augment(*batch)
        logits = clip_logits(self.network(inputs))
        run = self.recipe.run
        if self.teacher is not None:
            targets = self._with_teacher(inputs, targets)
        if run.loss == "bce":
            loss = F.binary_cross_entropy_with_logits(logits, targets)
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=run.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _with_teacher(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return targets with the teacher's share; it sees the same augmented inputs."""
        assert self.teacher is not None
        settings = self.recipe.distill
        with torch.no_grad():
            logits = clip_logits(self.teacher.eval()(inputs)) / settings.temperature
        several = self.recipe.run.loss == "bce"
        answers = torch.sigmoid(logits) if several else torch.softmax(logits, dim=1)
        return (1.0 - settings.share) * targets + settings.share * answers

    def on_train_batch_end(self, *args: Any) -> None:
        if self.average is None:
            return
        decay = min(self.recipe.run.ema, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            pairs = zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            )
            for kept, new in pairs:
                if kept.dtype.is_floating_point:
                    kept.lerp_(new, 1.0 - decay)
                else:
                    kept.copy_(new)

    def on_validation_epoch_start(self) -> None:
        self.shipped.eval()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        logits = clip_logits(self.shipped(batch[0]))
        self._outputs.append((logits.float().cpu(), batch[1].cpu()))

    def on_validation_epoch_end(self) -> None:
        logits, targets = (torch.cat(parts) for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        if self.trainer.world_size > 1:  # every process then knows, and keeps, the same best epoch
            logits, targets = (self.all_gather(t).flatten(0, 1).cpu() for t in (logits, targets))  # type: ignore[union-attr]
        scores = _scores(logits, targets)
        self.history.append(scores)
        for name, value in scores.items():
            self.log(f"val/{name}", value, prog_bar=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run needs to go on with the same bits: history and generators."""
        checkpoint["history"] = self.history
        checkpoint["augment"] = json.dumps(self.augment.rng.bit_generator.state)
        checkpoint["torch"] = torch.get_rng_state()
        checkpoint["order"] = None if self.order is None else self.order.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])
        self.resumed = len(self.history)
        self.augment.rng.bit_generator.state = json.loads(checkpoint["augment"])
        torch.set_rng_state(checkpoint["torch"].cpu())
        if self.order is not None and checkpoint["order"] is not None:
            self.order.set_state(checkpoint["order"].cpu())

    def configure_optimizers(self) -> Any:
        run = self.recipe.run
        if run.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(
                self.network.parameters(), run.lr, run.betas, weight_decay=run.weight_decay
            )
        else:
            decayed = [p for p in self.network.parameters() if p.ndim > 1]
            others = [p for p in self.network.parameters() if p.ndim <= 1]
            groups = [
                {"params": decayed, "weight_decay": run.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, run.lr, run.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.relative_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def relative_lr(self, step: int) -> float:
        """Return the learning rate of a step as a share of the peak."""
        run = self.recipe.run
        warm = min(1.0, (step + 1) / run.warmup_steps) if run.warmup_steps else 1.0
        epoch = step // self.steps
        if run.schedule == "steps":
            drops = 0 if epoch < run.start else 1 + (epoch - run.start) // run.every
            return warm * float(run.factor**drops)
        if run.schedule == "constant":
            return warm
        total = max(1, run.epochs * self.steps - run.warmup_steps)
        share = min(1.0, max(0, step - run.warmup_steps) / total)
        end = run.lr_end / run.lr
        return warm * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * share)))


class _Reporter(Callback):
    """Calls the caller's progress function after every epoch."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        scores = {
            k.removeprefix("val/"): float(v)
            for k, v in trainer.callback_metrics.items()
            if k.startswith("val/")
        }
        text = " ".join(f"{k} {v:.4g}" for k, v in scores.items())
        self.progress(trainer.current_epoch + 1, trainer.max_epochs or 0, f"{self.name}: {text}")


class _Best(Callback):
    """Keeps the weights of the epoch with the best validation score."""

    def __init__(self) -> None:
        self.score, self.weights = -math.inf, {}  # type: ignore[var-annotated]

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, ClassifierModule)
        scores = pl_module.history[-1]
        score = scores.get("accuracy", scores.get("map", -scores["loss"]))
        if score >= self.score:
            self.score = score
            self.weights = {k: v.clone() for k, v in pl_module.shipped.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.weights = state_dict["score"], state_dict["weights"]


@dataclass(frozen=True)
class ClassifyResult:
    """What a training gave.

    Attributes:
        model: trained network in evaluation mode, weights of the best validation epoch.
        scores: on the test split (validation where there is none): accuracy or map, and loss.
        history: validation scores after every epoch, those before a resumed run included.
        pretraining: mean loss of every self-supervised epoch.
        seconds: of training.
        examples_per_second: training speed, augmentation included.
        checkpoint: file with weights and recipe, or None.
    """

    model: nn.Module
    scores: dict[str, float]
    history: list[dict[str, float]]
    pretraining: list[float]
    seconds: float
    examples_per_second: float
    checkpoint: Path | None = None


def fit_classifier(
    network: nn.Module,
    train: FeatureSet | LazyFeatures,
    validation: FeatureSet | LazyFeatures,
    recipe: ClassifyRecipe,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> ClassifyResult:
    """Train a network on features and keep its best validation weights.

    Under one seed, one machine type and one thread count a run gives the same bits, also when it
    was interrupted and resumed (with ``run.workers`` 0).

    Args:
        network: trained in place.
        train: training inputs.
        validation: scored after every epoch.
        recipe: augmentation, optimiser, schedule; its model and data are not looked at.
        folder: TensorBoard logs and the file to resume from; None writes nothing.
        resume: go on from ``folder/last.ckpt``.
        progress: called after every epoch.

    Raises:
        SpecError: nothing to resume, or a teacher of other classes.
        KeyboardInterrupt: Ctrl-C; finished epochs are in ``folder``.
    """
    run = recipe.run
    checkpoint = None if folder is None else folder / RESUME_FILE
    if resume and (checkpoint is None or not checkpoint.is_file()):
        raise SpecError(f"nothing to resume: {checkpoint} does not exist, run without resume")
    classes = len(validation.classes)
    batches = make_loader(train, run.batch, shuffle=True, workers=run.workers, seed=recipe.seed)
    pretraining: list[float] = []
    if recipe.pretrain.task != "none" and not resume:
        task = pretraining_task(network, recipe.pretrain)
        settings = recipe.pretrain
        pretraining = run_pretraining(
            task, lambda: batches, settings.epochs, settings.lr, recipe.seed
        )
    teacher = None
    if recipe.distill.teacher is not None:
        teacher, _, names = load_classifier(recipe.distill.teacher)
        if names != validation.classes:
            raise SpecError(f"teacher {recipe.distill.teacher} knows other classes")
    module = ClassifierModule(network, recipe, classes, len(batches), teacher)
    module.order = batches.generator
    best = _Best()
    with quiet_lightning():
        trainer = _trainer(recipe, folder, best, progress)
        started = time.perf_counter()
        with interruptible(checkpoint):
            trainer.fit(
                module, batches, make_loader(validation, 256, shuffle=False),
                ckpt_path=str(checkpoint) if resume else None,
            )  # fmt: skip
    seconds = time.perf_counter() - started
    epochs = len(module.history) - module.resumed
    network.load_state_dict(best.weights)
    network.eval()
    return ClassifyResult(
        network, module.history[-1], module.history, pretraining, seconds,
        len(train) * epochs / max(1e-9, seconds),
    )  # fmt: skip


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's notes on devices and its advice on workers: both are the recipe's choice."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        logger.setLevel(level)


def _trainer(
    recipe: ClassifyRecipe, folder: Path | None, best: Callback, progress: Progress | None
) -> lightning.Trainer:
    run = recipe.run
    callbacks: list[Callback] = [best]
    if progress is not None:
        callbacks.append(_Reporter(progress, recipe.name))
    if run.patience:
        callbacks.append(EarlyStopping("val/loss", patience=run.patience))
    logger: Any = False
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
        )
        logger = TensorBoardLogger(folder.parent, name=folder.name, version="logs")
    return lightning.Trainer(
        max_epochs=run.epochs,
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        precision=run.precision,  # type: ignore[arg-type]
        gradient_clip_val=run.clip_norm or None,
        num_sanity_val_steps=0,
        logger=logger,
        callbacks=callbacks,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        barebones=False,
    )


def train_classifier(
    recipe: str | Path | dict[str, Any] | ClassifyRecipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    overrides: dict[str, Any] | None = None,
) -> ClassifyResult:
    """Train a classifier by recipe and score it on the test split.

    Args:
        recipe: a shipped name (see :func:`classify_recipe_names`), a YAML file, a dict or a value.
        out: parent of the run's folder ``out/<name>`` with ``best.pt``, ``last.ckpt`` and logs;
            None
            writes nothing.
        resume: go on from ``last.ckpt`` of the run's folder.
        progress: called as (done, total, what) while features are made and after every epoch.
        overrides: dotted keys, such as ``{"run.epochs": 2}``.

    Raises:
        SpecError: what is wrong with the recipe, the data or the model.
        AudioError: a clip that cannot be used.
    """
    if not isinstance(recipe, ClassifyRecipe):
        recipe = load_classify_recipe(recipe, overrides)
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    lightning.seed_everything(recipe.seed, verbose=False)

    def inputs(split: str) -> FeatureSet | LazyFeatures:
        if recipe.features.lazy:
            examples = load_examples(recipe.data, split, recipe.seed)
            report_missing(examples, progress)
            rand = recipe.augment.rand and split == "train"
            return LazyFeatures(examples, recipe.features, rand=rand)
        return load_features(recipe, split, progress)

    train, validation = inputs("train"), inputs("val")
    _check_scale(train, recipe)
    shape = train[0][0].shape if isinstance(train, LazyFeatures) else train.inputs.shape[1:]
    input_shape = (shape[0], shape[1], shape[2])
    network = build_classifier(
        recipe.model, len(validation.classes), input_shape, **dict(recipe.options)
    )
    if recipe.start is not None:
        _start_from(network, recipe.start)
    folder = None if out is None else Path(out) / recipe.name
    result = fit_classifier(
        network, train, validation, recipe, folder=folder, resume=resume, progress=progress
    )
    scores = evaluate_classifier(network, inputs("test"))
    checkpoint = None if folder is None else folder / "best.pt"
    if checkpoint is not None and getattr(rank_zero_only, "rank", 0) == 0:
        save_classifier(
            checkpoint, network, recipe, validation.classes, input_shape,
            {
                "test": scores, "validation": result.history[-1], "seconds": result.seconds,
                "frontend": _frontend_of(recipe),
            },
        )  # fmt: skip
    return ClassifyResult(
        network, scores, result.history, result.pretraining, result.seconds,
        result.examples_per_second, checkpoint,
    )  # fmt: skip


def _check_scale(train: FeatureSet | LazyFeatures, recipe: ClassifyRecipe) -> None:
    """Warn when log-mel is so far from zero that training would mostly learn the offset."""
    if isinstance(train, LazyFeatures) or train.kind != "audio":
        return
    sample = train.inputs[:: max(1, len(train) // SCALE_EXAMPLES)]
    mean, deviation = float(sample.mean()), float(sample.std())
    if abs(mean) <= 2.5 * deviation and 0.05 <= deviation <= 5.0:
        return
    features = recipe.features
    offset = features.mean + 2.0 * features.std * mean
    scale = max(1e-3, 2.0 * features.std * deviation)
    warnings.warn(
        f"training features have mean {mean:.2f} and deviation {deviation:.2f}: set features.mean "
        f"to {offset:.2f} and features.std to {scale:.2f}",
        RuntimeWarning,
        stacklevel=3,
    )


def _frontend_of(recipe: ClassifyRecipe) -> dict[str, Any] | None:
    if recipe.features.front != "deployed":
        return None
    examples = load_examples(recipe.data, "val", recipe.seed)
    return deployed_frontend(recipe.features, examples).to_dict()


def _start_from(network: nn.Module, path: str) -> None:
    """Copy the tensors of a checkpoint that exist here in the same shape."""
    weights = _read(Path(path))["weights"]
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise SpecError(f"start checkpoint {path} shares no tensor with this model")
    network.load_state_dict({**own, **fitting})


def save_classifier(
    path: str | Path,
    network: nn.Module,
    recipe: ClassifyRecipe,
    classes: Iterable[str],
    input_shape: tuple[int, int, int],
    info: dict[str, Any],
) -> Path:
    """Write weights and plain data that ``torch.load(weights_only=True)`` reads; atomic."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "format": FORMAT, "version": 1, "recipe": recipe.to_dict(), "classes": list(classes),
        "input_shape": list(input_shape), "info": info,
        "weights": {k: v.detach().cpu().clone() for k, v in network.state_dict().items()},
    }  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    torch.save(data, partial)
    os.replace(partial, path)
    return path


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SpecError(f"checkpoint {path} does not exist: pass a best.pt written by training")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"checkpoint {path} cannot be read: {first}") from None
    if not isinstance(data, dict) or set(data) != KEYS or data["format"] != FORMAT:
        raise SpecError(f"{path} is no classifier checkpoint of this release")
    return data


def load_classifier(path: str | Path) -> tuple[nn.Module, ClassifyRecipe, tuple[str, ...]]:
    """Read a checkpoint: (network in evaluation mode, recipe, class names).

    Raises:
        SpecError: the file is missing or is no classifier checkpoint of this release.
    """
    data = _read(Path(path))
    recipe = load_classify_recipe(data["recipe"])
    channels, height, width = data["input_shape"]
    network = build_classifier(
        recipe.model, len(data["classes"]), (channels, height, width), **dict(recipe.options)
    )
    network.load_state_dict(data["weights"])
    return network.eval(), recipe, tuple(data["classes"])


def classifier_frontend(path: str | Path) -> LogMelFrontend | ImageFrontend:
    """Return the front end that a checkpoint's network was trained with, for ``se.export``.

    Raises:
        SpecError: the file is no checkpoint, or its features were published ones.
    """
    stored = _read(Path(path))["info"].get("frontend")
    if stored is None:
        raise SpecError(
            f"{path} does not say what front end its features are from: train it with "
            "features.front deployed"
        )
    frontend = any_frontend_from_dict(stored)
    assert isinstance(frontend, LogMelFrontend | ImageFrontend)
    return frontend
