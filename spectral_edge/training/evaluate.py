"""Quality of an enhancer over a folder of noisy and clean files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from spectral_edge import metrics
from spectral_edge.dsp.simulate import FrontendSimulation
from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend

from .clips import Clip, read_clip, to_int16
from .mixing import FULL_SCALE
from .recipe import expand_folder

__all__ = ["METRICS", "Enhancer", "Evaluation", "evaluate", "model_enhancer", "noisy_enhancer"]

Enhancer = Callable[[Clip, int], Clip]  # (int16[samples], sample rate in Hz) -> int16[samples]

METRICS: dict[str, Callable[[Clip, Clip, int], float]] = {
    "pesq": metrics.pesq,
    "stoi": metrics.stoi,
    "si_sdr": lambda clean, estimate, rate: metrics.si_sdr(clean, estimate),
    "ssnr": metrics.ssnr,
    "csig": lambda clean, estimate, rate: metrics.composite(clean, estimate, rate)["csig"],
    "cbak": lambda clean, estimate, rate: metrics.composite(clean, estimate, rate)["cbak"],
    "covl": lambda clean, estimate, rate: metrics.composite(clean, estimate, rate)["covl"],
}
COMPOSITE = {"csig", "cbak", "covl"}  # computed together


@dataclass(frozen=True)
class Evaluation:
    """Means over files, and one row per file.

    Attributes:
        means: metric name -> mean over the files for which it is a number.
        rows: ``{"file": name, metric: value, ...}`` in order of names.
    """

    means: dict[str, float]
    rows: list[dict[str, float | str]]


def evaluate(
    enhance: Enhancer,
    folder: str | Path,
    *,
    names: Sequence[str] = ("pesq", "stoi", "si_sdr", "ssnr"),
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Enhance every noisy file and compare with its clean file.

    Args:
        enhance: takes a noisy clip int16[samples] and its rate, returns int16[samples], aligned.
        folder: holds ``noisy/`` and ``clean/`` with equal file names.
        names: metrics, out of :data:`METRICS`.
        progress: called with (files done, files in all) after each file.
        limit: only the first files.

    Raises:
        SpecError: an unknown metric, a missing folder or clean file, or an output of wrong shape.
        RuntimeUnavailable: a metric's package is missing.
        AudioError: a file that cannot be used.
    """
    for name in names:
        if name not in METRICS:
            raise SpecError(f"metric is {name!r}, must be one of {', '.join(METRICS)}")
    root = expand_folder(str(folder), None)
    noisy_folder, clean_folder = (expand_folder(part, str(root)) for part in ("noisy", "clean"))
    files = sorted(p for p in noisy_folder.iterdir() if p.suffix.lower() in (".wav", ".flac"))
    if not files:
        raise SpecError(f"folder {noisy_folder} holds no .wav or .flac file")
    files = files[:limit]
    rows: list[dict[str, float | str]] = []
    for done, file in enumerate(files, start=1):
        rows.append(_row(enhance, file, clean_folder / file.name, names))
        if progress is not None:
            progress(done, len(files))
    means = {name: _mean([float(row[name]) for row in rows]) for name in names}
    return Evaluation(means, rows)


def model_enhancer(model: nn.Module, frontend: StftFrontend) -> Enhancer:
    """Return the float model behind the float simulation of its front end, as an enhancer."""
    simulation = FrontendSimulation(frontend)
    model = model.eval()

    def enhance(clip: Clip, sample_rate: int) -> Clip:
        if sample_rate != frontend.sample_rate:
            raise SpecError(
                f"clip has {sample_rate} Hz, the model's front end {frontend.sample_rate}: "
                "resample it first"
            )
        with torch.no_grad():
            wave = torch.from_numpy(clip.astype(np.float32) / np.float32(FULL_SCALE))[None]
            features, context = simulation.analyze(wave)
            return to_int16(simulation.synthesize(model(features), context)[0].double().numpy())

    return enhance


def noisy_enhancer(clip: Clip, sample_rate: int) -> Clip:
    """Return the clip as it is: the line every enhancer must beat."""
    return clip


def _row(
    enhance: Enhancer, noisy_file: Path, clean_file: Path, names: Sequence[str]
) -> dict[str, float | str]:
    if not clean_file.is_file():
        raise SpecError(f"{noisy_file} has no clean file {clean_file}: add it")
    rate = int(soundfile.info(noisy_file).samplerate)
    noisy, clean = read_clip(noisy_file, rate), read_clip(clean_file, rate)
    estimate = enhance(noisy, rate)
    if estimate.shape != clean.shape:
        raise SpecError(
            f"enhancer returned shape {estimate.shape} for {noisy_file.name}, its clean file has "
            f"{clean.shape}: return one aligned sample per sample"
        )
    row: dict[str, float | str] = {"file": noisy_file.name}
    scores = metrics.composite(clean, estimate, rate) if COMPOSITE & set(names) else {}
    for name in names:
        row[name] = scores[name] if name in scores else METRICS[name](clean, estimate, rate)
    return row


def _mean(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
