"""The training loop: Lightning around one network, one front end and mixtures without end."""

from __future__ import annotations

import copy
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spectral_edge.dsp.simulate import FrontendSimulation
from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from spectral_edge.models import build, load_checkpoint, save_checkpoint

from .clips import load_clips, load_pairs
from .interrupts import interruptible
from .loaders import voicebank
from .losses import enhancement_loss, ratio_mask
from .mixing import (
    FULL_SCALE,
    Mixtures,
    PairCrops,
    change_speeds,
    shorten_pauses,
    whole_pair,
)
from .recipe import Recipe, expand_folder, load_recipe

__all__ = ["EnhancementData", "EnhancementModule", "train"]

MONITORED = "val/total"  # sum of the losses of all validation sets
VALIDATION_SEED = 977  # the same validation mixtures for every training seed
RESUME_FILE = "last.ckpt"


class WholePairs(Dataset[tuple[Tensor, Tensor]]):
    """Whole (noisy, clean) pairs as float32[samples] at full scale ±1, of clips or files."""

    def __init__(self, pairs: list[tuple[Any, Any]], sample_rate: int) -> None:
        self.pairs, self.sample_rate = pairs, sample_rate

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noisy, clean = whole_pair(self.pairs[index], self.sample_rate)
        return (
            torch.from_numpy(noisy).float() / FULL_SCALE,
            torch.from_numpy(clean).float() / FULL_SCALE,
        )


class EnhancementData(lightning.LightningDataModule):
    """Clips in memory, or pairs on disk; a fresh stretch of the endless sequence every epoch."""

    def __init__(self, recipe: Recipe, frontend: StftFrontend) -> None:
        super().__init__()
        data, rate = recipe.data, frontend.sample_rate
        self.recipe, self.rate = recipe, rate
        self.clean, self.noise, self.pairs = [], [], self._pairs("train")
        if not self.pairs:
            clean = load_clips(data.clean, data.root, rate, "clean", recipe.seed)
            if data.mix.compact:
                clean = clean + [shorten_pauses(clip, rate) for clip in clean]
            self.clean = change_speeds(clean, data.mix.speeds, rate)
            self.noise = load_clips(data.noise, data.root, rate, "noise", recipe.seed)
        self.val_clean, self.val_noise = [], []
        if data.val_clean or data.val_noise:
            seed = recipe.seed + 1
            self.val_clean = load_clips(data.val_clean, data.root, rate, "clean", seed)
            self.val_noise = load_clips(data.val_noise, data.root, rate, "noise", seed)
        self.val_pairs = [*load_pairs(data.val_pairs, data.root, rate), *self._pairs("val")]
        if not self.val_clean and not self.val_pairs:
            raise SpecError("recipe has no validation data: set data.val_clean or data.val_pairs")

    def _pairs(self, split: str) -> list[tuple[Any, Any]]:
        data = self.recipe.data
        if data.voicebank:
            if data.root is None:
                raise SpecError("data.voicebank needs data.root: the unpacked data set")
            return list(voicebank(expand_folder(".", data.root), split))
        return list(load_pairs(data.pairs, data.root, self.rate)) if split == "train" else []

    def steps(self, world_size: int) -> int:
        """Return the optimiser steps of one epoch."""
        run = self.recipe.run
        if run.steps_per_epoch:
            return run.steps_per_epoch
        if not self.pairs:
            raise SpecError("run.steps_per_epoch is 0: mixtures have no end, give a number")
        return max(1, len(self.pairs) // (run.batch * world_size))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        run = self.recipe.run
        trainer = self.trainer
        if trainer is None:
            raise SpecError("training data has no trainer: use spectral_edge.training.loop.train")
        count = self.steps(trainer.world_size) * run.batch * trainer.world_size
        first, seed, mix = trainer.current_epoch * count, self.recipe.seed, self.recipe.data.mix
        examples: Any
        if self.pairs:
            examples = PairCrops(
                self.pairs, mix.seconds, self.rate, seed=seed, first=first, count=count
            )
        else:
            examples = Mixtures(
                self.clean, self.noise, mix, self.rate, seed=seed, first=first, count=count
            )
        return DataLoader(examples, batch_size=run.batch, num_workers=run.workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        loaders: list[DataLoader[Any]] = []
        if self.val_clean:
            mixtures = Mixtures(
                self.val_clean,
                self.val_noise,
                self.recipe.data.mix,
                self.rate,
                seed=VALIDATION_SEED,
                first=0,
                count=self.recipe.data.val_mixtures,
            )
            loaders.append(DataLoader(mixtures, batch_size=self.recipe.run.batch))
        if self.val_pairs:
            pairs: Any = WholePairs(self.val_pairs, self.rate)
            loaders.append(DataLoader(pairs, batch_size=1))
        return loaders


class EnhancementModule(lightning.LightningModule):
    """Network, front end and loss; validates and saves the weight average when there is one."""

    def __init__(self, recipe: Recipe, frontend: StftFrontend, steps: Callable[[int], int]) -> None:
        super().__init__()
        self.recipe = recipe
        self.frontend = frontend
        self.steps = steps  # devices in all -> optimiser steps of an epoch
        self.total = 0
        self._losses: dict[int, list[Tensor]] = {}
        self.simulation = FrontendSimulation(frontend)
        self.network = _initial_network(recipe, frontend)
        if recipe.run.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: torch.nn.Module | None = None
        if recipe.run.ema:
            self.average = copy.deepcopy(self.network).requires_grad_(False).eval()

    @property
    def shipped(self) -> torch.nn.Module:
        """The network whose weights are validated and saved."""
        return self.network if self.average is None else self.average

    def loss(
        self, network: torch.nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of ``network`` on (noisy, clean) waveforms, and its terms."""
        noisy, clean = batch
        features, context = self.simulation.analyze(noisy)
        if self.recipe.run.channels_last:
            features = features.contiguous(memory_format=torch.channels_last)
        outputs = {name: value.float() for name, value in network(features).items()}
        spectrum = self.simulation.apply_head(outputs, context)
        estimate = self.simulation.synthesize(outputs, context)
        target = self.simulation.target(clean, context)
        masks = None
        if self.recipe.loss.irm:
            noise = self.simulation.target(noisy - clean, context)
            masks = outputs["mask"], ratio_mask(target, noise)
        return enhancement_loss((spectrum, target), (estimate, clean), self.recipe.loss, masks)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss, terms = self.loss(self.network, batch)
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        if self.average is None:
            return
        step = self.global_step
        weight = 1.0 - min(self.recipe.run.ema, (1 + step) / (10 + step))
        averaged = self.average.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                averaged[name].lerp_(value, weight)
            else:
                averaged[name].copy_(value)

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_index: int, dataloader_idx: int = 0
    ) -> None:
        loss, terms = self.loss(self.shipped, batch)
        size = batch[0].shape[0]
        self._losses.setdefault(dataloader_idx, []).append(loss.detach().float())
        self.log("val/loss", loss, batch_size=size, sync_dist=True)
        self.log("val/si_sdr", terms["si_sdr"], prog_bar=True, batch_size=size, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        means = [torch.stack(losses).mean() for losses in self._losses.values()]
        self._losses.clear()
        self.log(MONITORED, torch.stack(means).sum(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        run = self.recipe.run
        self.total = run.epochs * self.steps(self.trainer.world_size)
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=run.lr, betas=run.betas, weight_decay=run.weight_decay
        )
        if run.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=run.factor, patience=run.plateau_epochs - 1
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": MONITORED},
            }
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._relative_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _relative_lr(self, step: int) -> float:
        run = self.recipe.run
        if step < run.warmup_steps:
            return (step + 1) / run.warmup_steps
        progress = min(1.0, (step - run.warmup_steps) / max(1, self.total - run.warmup_steps))
        end = run.lr_end / run.lr
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


class _WeightFiles(Callback):
    """Write ``last.pt`` after every epoch and ``best.pt`` when the validation loss is lowest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = math.inf

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, EnhancementModule)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        info = {
            "recipe": pl_module.recipe.to_dict(),
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "validation": {k: v for k, v in metrics.items() if k.startswith("val/")},
        }
        loss = metrics[MONITORED]
        names = ["last.pt"]
        if loss < self.best:
            self.best = loss
            names.append("best.pt")
        for name in names:
            save_checkpoint(
                self.folder / name,
                pl_module.recipe.model,
                pl_module.frontend,
                pl_module.shipped.state_dict(),
                info,
                pl_module.recipe.options,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def train(
    recipe: str | Path | dict[str, Any],
    *,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    stop_after_epochs: int | None = None,
    **overrides: Any,
) -> Path:
    """Train a network and return the checkpoint with the lowest validation loss.

    The run's folder ``out/<recipe name>`` holds ``best.pt`` and ``last.pt`` (weights and plain
    data, see :func:`spectral_edge.models.load_checkpoint`), ``last.ckpt`` (to resume) and
    TensorBoard logs. Under one seed, one machine type and one thread count a run gives the same
    bits, also when it was interrupted after an epoch and resumed.

    Args:
        recipe: a shipped recipe's name, a YAML file, or the same content as a dict.
        out: parent of the run's folder.
        data_root: replaces ``data.root``.
        resume: go on from ``last.ckpt`` of the run's folder.
        progress: show a progress bar; None shows it on a terminal.
        stop_after_epochs: stop there although the schedule is longer.
        **overrides: recipe keys with ``__`` for the dot, such as ``run__epochs=2``.

    Returns:
        Path of ``best.pt``.

    Raises:
        SpecError: an unknown key, a missing folder, or nothing to resume.
        AudioError: a clip that cannot be used.
        KeyboardInterrupt: Ctrl-C; finished epochs are in the run's folder.
    """
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    if data_root is not None:
        changes["data.root"] = str(data_root)
    parsed = load_recipe(recipe, changes)
    frontend = _frontend(parsed)
    folder = Path(out) / parsed.name
    checkpoint = folder / RESUME_FILE
    if resume and not checkpoint.is_file():
        raise SpecError(f"nothing to resume: {checkpoint} does not exist, run without resume first")
    if parsed.run.threads:
        torch.set_num_threads(parsed.run.threads)
    lightning.seed_everything(parsed.seed, verbose=False)
    data = EnhancementData(parsed, frontend)
    module = EnhancementModule(parsed, frontend, data.steps)
    weights = _WeightFiles(folder)
    show = sys.stderr.isatty() if progress is None else progress
    with _quiet_lightning():
        trainer = _trainer(parsed, folder, weights, show, stop_after_epochs)
        with interruptible(checkpoint):
            trainer.fit(module, data, ckpt_path=str(checkpoint) if resume else None)
    return folder / "best.pt"


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's notes on devices and its advice on workers: both are the recipe's choice."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        logger.setLevel(level)


def _trainer(
    recipe: Recipe, folder: Path, weights: Callback, progress: bool, stop: int | None
) -> lightning.Trainer:
    run = recipe.run
    resume_file = ModelCheckpoint(
        dirpath=folder, filename="last", save_top_k=1, enable_version_counter=False
    )
    callbacks: list[Callback] = [weights, resume_file]
    if run.patience:
        callbacks.append(EarlyStopping(MONITORED, patience=run.patience))
    return lightning.Trainer(
        max_epochs=run.epochs if stop is None else min(stop, run.epochs),
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        precision=run.precision,  # type: ignore[arg-type]
        gradient_clip_val=run.clip_norm,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder.parent, name=folder.name, version="logs"),
        callbacks=callbacks,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _frontend(recipe: Recipe) -> StftFrontend:
    known = set(StftFrontend.__dataclass_fields__)
    unknown = sorted(set(map(str, recipe.frontend)) - known)
    if unknown:
        raise SpecError(
            f"recipe.frontend has unknown key {unknown[0]!r}; "
            f"known keys: {', '.join(sorted(known))}"
        )
    return StftFrontend(**recipe.frontend)


def _initial_network(recipe: Recipe, frontend: StftFrontend) -> torch.nn.Module:
    network = build(recipe.model, frontend, **recipe.options)
    if recipe.start is not None:
        start, start_frontend, _ = load_checkpoint(recipe.start)
        if start_frontend != frontend:
            raise SpecError(
                f"start checkpoint {recipe.start} has another front end: set recipe.frontend to "
                f"{start_frontend.to_dict()}"
            )
        network.load_state_dict(start.state_dict())
    return network
