"""Ablations with one command: what is varied, how it is measured, and how a table comes out.

Every experiment of the register is a list of variants; a variant trains (or measures) something
for one seed and returns an :class:`Outcome`. ``toy`` runs on synthetic data in minutes and says how
networks
behave, not how good they are; ``full`` takes the real data of a folder and larger budgets.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.models.counters import measured_macs, parameter_count

from .ablation_runs import Run, RunFile

__all__ = [
    "EXPERIMENTS",
    "AblationTable",
    "Context",
    "Experiment",
    "Outcome",
    "Row",
    "Variant",
    "experiment_ids",
    "run_ablation",
]

PRESETS = ("toy", "full")
AUDIO = ("keywords", "esc10")  # what `full` takes for experiments on sound
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Context:
    """What an experiment is run with: preset, whether int8 is wanted, which data, how long."""

    preset: str
    int8: bool
    data_root: Path | None = None
    effort: float = 1.0
    audio: str = "keywords"

    @property
    def toy(self) -> bool:
        """True for the synthetic preset."""
        return self.preset == "toy"


@dataclass(frozen=True)
class Outcome:
    """What one variant gave for one seed.

    Attributes:
        value: the metric.
        model: network whose size is reported, or None.
        example: its input, for MACs and latency.
        int8: the metric after w8a8 quantisation, or None.
        extras: further columns.
    """

    value: float
    model: nn.Module | None = None
    example: Tensor | None = None
    int8: float | None = None
    extras: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One line of an experiment; ``run`` takes the seed."""

    label: str
    run: Callable[[int], Outcome]


@dataclass(frozen=True)
class Experiment:
    """One entry of the register.

    Attributes:
        id: such as ``S2``.
        question: what it answers.
        metric: name and unit of the value.
        module: where ``variants(id, context)`` is.
        seeded: False for pure measurements, which run once.
        note: what the toy form leaves out of the specification.
        ranked: variants compete, so that a best one means something.
    """

    id: str
    question: str
    metric: str
    module: str
    seeded: bool = True
    note: str = ""
    ranked: bool = True


_SAF, _DSM, _FFTP, _DEVICE = "ablation_saf", "ablation_dsm", "ablation_fftp", "ablation_device"
_SDR, _ACC = "SI-SDR gain (dB)", "accuracy"

EXPERIMENTS: dict[str, Experiment] = {
    e.id: e
    for e in (
        Experiment("S1", "does phase input help?", _SDR, _SAF),
        Experiment("S2", "local attention width", _SDR, _SAF),
        Experiment("S3", "depth", _SDR, _SAF, note="toy stops at 5 layers"),
        Experiment("S4", "kernel of the convolutional attention", _SDR, _SAF),
        Experiment("S5", "normalisation", _SDR, _SAF),
        Experiment(
            "S6", "generalisation to unseen noise", _SDR, _SAF,
            note="noise families are synthetic in both presets", ranked=False,
        ),
        Experiment("S7", "convolutional attention or softmax attention", _SDR, _SAF),
        Experiment("S8", "cost of causality", _SDR, _SAF),
        Experiment("S9", "form of the output", _SDR, _SAF),
        Experiment(
            "S10", "compression and quantisation", _SDR, _SAF,
            note="QAT distils the float network for a short time",
        ),
        Experiment("D1", "is dynamic weighting needed?", _ACC, _DSM),
        Experiment("D2", "spectrum length", _ACC, _DSM),
        Experiment("D3", "transform", _ACC, _DSM),
        Experiment("D4", "rivals of spectrum mixing", _ACC, _DSM),
        Experiment("D5", "real complexity", "milliseconds", _DSM, seeded=False, ranked=False),
        Experiment("D6", "does DSM keep high frequencies?", _ACC, _DSM),
        Experiment("D7", "integer spectrum", "SQNR (dB)", _DSM),
        Experiment("D8", "streaming DSM", _ACC, _DSM),
        Experiment("F1", "patch shape", _ACC, _FFTP, note="tags: mean average precision"),
        Experiment("F2", "shape or token count?", _ACC, _FFTP),
        Experiment("F3", "parts of SpecMask", _ACC, _FFTP),
        Experiment("F4", "masking budget", _ACC, _FFTP),
        Experiment("F5", "alignment of masks", _ACC, _FFTP),
        Experiment("F6", "backbone x patch x mask", _ACC, _FFTP),
        Experiment("F7", "overlap of patches", _ACC, _FFTP),
        Experiment(
            "F8", "initialisation", _ACC, _FFTP,
            note="the square-patch start is trained here on other synthetic words, not ImageNet",
        ),
        Experiment("F9", "streaming forms", _ACC, _FFTP),
        Experiment("F10", "which float islands matter in int8", _ACC, _FFTP),
        Experiment(
            "X1", "time of one step on this machine", "p50 (ms)", _DEVICE, seeded=False,
            note="the step program in PyTorch on the host; `spectral-edge bench` measures engines",
            ranked=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One variant over all seeds.

    Attributes:
        label: of the variant.
        values: metric per seed.
        mean: of the metric.
        sd: standard deviation over seeds (0 for one seed).
        parameters: of the network, or None.
        macs: of one example, or None.
        latency_ms: median processor time of one example in PyTorch on one thread, or None.
        int8_delta: mean change of the metric by w8a8 quantisation, or None.
        extras: means of further columns.
    """

    label: str
    values: list[float]
    mean: float
    sd: float
    parameters: int | None
    macs: int | None
    latency_ms: float | None
    int8_delta: float | None
    extras: dict[str, float]


@dataclass(frozen=True)
class AblationTable:
    """Result of one experiment; everything in it is plain data.

    Attributes:
        id: of the experiment.
        question: what it answers.
        metric: name and unit.
        preset: ``toy`` or ``full``.
        seeds: number of seeds.
        rows: one per variant.
        seconds: it took.
        note: what it leaves out.
        effort: share of the preset's training.
        int8: the int8 column was asked for.
        audio: sounds of the preset ``full``; empty in ``toy``.
    """

    id: str
    question: str
    metric: str
    preset: str
    seeds: int
    rows: list[Row]
    seconds: float
    note: str = ""
    effort: float = 1.0
    int8: bool = False
    audio: str = ""

    @property
    def stem(self) -> str:
        """Name of its files without ending: the id, in ``full`` also the preset and the sounds."""
        parts = [self.id] if self.preset == "toy" else [self.id, self.preset, self.audio]
        return "-".join(part for part in parts if part)

    @property
    def command(self) -> str:
        """The command line that makes this table."""
        words = ["spectral-edge ablate", self.id, "--preset", self.preset, "--seeds", self.seeds]
        words += ["--effort", f"{self.effort:g}"] if self.effort != 1 else []
        asked = self.int8 or any(row.int8_delta is not None for row in self.rows)
        words += ["--int8"] if asked else []
        words += ["--data", "DATA"] if self.preset == "full" else []
        words += ["--audio", self.audio] if self.audio not in ("", AUDIO[0]) else []
        return " ".join(map(str, words))

    def reading(self) -> str:
        """Return one sentence: the best variant, and which the seeds cannot tell from it."""
        experiment = EXPERIMENTS.get(self.id)
        if experiment is None or not experiment.ranked or len(self.rows) < 2:
            return ""
        groups: dict[str, list[Row]] = {}  # of different data, such as "sounds: …"
        for row in self.rows:
            groups.setdefault(row.label.split(": ")[0] if ": " in row.label else "", []).append(row)
        return " ".join(self._best(rows) for rows in groups.values())

    def _best(self, rows: list[Row]) -> str:
        best = max(rows, key=lambda row: row.mean)
        others = [row for row in rows if row is not best]
        if self.seeds < 2:
            return f"Highest: {best.label}. One seed says nothing about the spread."
        noise = math.sqrt(statistics.fmean([row.sd**2 for row in rows]) * 2 / self.seeds)
        close = [row.label for row in others if best.mean - row.mean <= 2 * noise]
        text = f"Highest: {best.label}. "
        if not close:
            return text + "Every other variant is lower by more than two standard errors."
        which = "any other variant" if len(close) == len(others) else "; ".join(close)
        return text + f"Within two standard errors ({2 * noise:.2g}) of it: {which}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def columns(self) -> tuple[list[str], list[list[str]]]:
        """Return (header, lines) as text, without columns that no row has."""
        extras = list(dict.fromkeys(name for row in self.rows for name in row.extras))
        header = ["variant", self.metric, "params", "MMAC", "ms", "int8 delta", *extras]
        lines = [
            [
                row.label,
                f"{row.mean:.3f} ± {row.sd:.3f}" if len(row.values) > 1 else f"{row.mean:.3f}",
                "" if row.parameters is None else f"{row.parameters:,}",
                "" if row.macs is None else f"{row.macs / 1e6:.2f}",
                "" if row.latency_ms is None else f"{row.latency_ms:.2f}",
                "" if row.int8_delta is None else f"{row.int8_delta:+.3f}",
                *(f"{row.extras[n]:.3g}" if n in row.extras else "" for n in extras),
            ]
            for row in self.rows
        ]
        used = [i for i in range(len(header)) if i < 2 or any(line[i] for line in lines)]
        return [header[i] for i in used], [[line[i] for i in used] for line in lines]

    def to_markdown(self) -> str:
        """Return the table with its heading as Markdown."""
        header, lines = self.columns()
        text = [
            f"### {self.id}: {self.question}", "",
            f"`{self.command}`: {self.seconds:.0f} s."
            + (f" Note: {self.note}." if self.note else ""), "",
            "| " + " | ".join(header) + " |", "|" + " --- |" * len(header),
        ]  # fmt: skip
        text += ["| " + " | ".join(line) + " |" for line in lines]
        text += ["", self.reading()] if self.reading() else []
        return "\n".join(text) + "\n"

    def to_text(self) -> str:
        """Return the table for a terminal."""
        header, lines = self.columns()
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        rows = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in (header, *lines)
        ]
        title = f"{self.id}: {self.question} ({self.preset}, {self.seeds} seed(s))"
        return "\n".join((title, rows[0], "-" * len(rows[0]), *rows[1:]))

    def write(self, folder: str | Path) -> list[Path]:
        """Write :attr:`stem` as JSON, CSV, Markdown and, with Matplotlib, a plot; return paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.stem}.{ending}" for ending in ("json", "csv", "md")]
        paths[0].write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        extras = list(dict.fromkeys(name for row in self.rows for name in row.extras))
        with paths[1].open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            names = ["label", "mean", "sd", "parameters", "macs", "latency_ms", "int8_delta"]
            writer.writerow([*names, *extras])
            for row in self.rows:
                cells = [getattr(row, name) for name in names]
                writer.writerow([*cells, *(row.extras.get(name, "") for name in extras)])
        paths[2].write_text(self.to_markdown(), encoding="utf-8")
        plot = folder / f"{self.stem}.png"
        if self._plot(plot):
            paths.append(plot)
        return paths

    def _plot(self, path: Path) -> bool:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return False
        figure = Figure(figsize=(7, 0.9 + 0.32 * len(self.rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        places = range(len(self.rows))
        axes.errorbar(
            [row.mean for row in self.rows], places, xerr=[row.sd for row in self.rows],
            fmt="o", capsize=3,
        )  # fmt: skip
        axes.set_yticks(list(places), [row.label for row in self.rows])
        axes.invert_yaxis()
        axes.set_xlabel(self.metric)
        axes.set_title(f"{self.id}: {self.question} ({self.preset})", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        figure.savefig(path, dpi=120)
        return True


def experiment_ids() -> list[str]:
    """Return the ids of the register in its order."""
    return list(EXPERIMENTS)


def run_ablation(
    id: str,  # the word of the command line
    preset: str = "toy",
    seeds: int = 3,
    *,
    int8: bool = False,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    audio: str = "keywords",
    only: Iterable[str] | None = None,
    effort: float = 1.0,
    resume: bool = False,
    progress: Progress | None = None,
) -> AblationTable:
    """Run one experiment and return its table.

    Args:
        id: of :data:`EXPERIMENTS`, any case.
        preset: ``toy`` (synthetic data, minutes) or ``full`` (real data).
        seeds: repetitions with other weights and order; the spread is reported.
        int8: quantise every trained network (w8a8, PTQ) and report the change.
        out: folder for JSON, CSV, Markdown and a plot, and for every run as soon as it is finished;
            None writes nothing.
        data_root: real data for ``full``.
        audio: sounds of ``full``: ``keywords`` (12 classes, 1 s) or ``esc10`` (10 classes, 5 s).
        only: labels of the variants to run; None runs all.
        effort: share of the preset's epochs and steps; below 1 for a quick look.
        resume: take the finished runs of the same experiment in ``out`` and run only what lacks:
            after an interruption, or for more seeds.
        progress: called as (done, total, what) after every run.

    Raises:
        SpecError: an unknown id (the message lists all), preset or label, no seeds, or runs with
            other settings to resume from.
        KeyboardInterrupt: Ctrl-C; finished runs are in ``out``.
    """
    experiment = EXPERIMENTS.get(id.upper())
    if experiment is None:
        raise SpecError(f"experiment is {id!r}, must be one of {', '.join(EXPERIMENTS)}")
    if preset not in PRESETS:
        raise SpecError(f"preset is {preset!r}, must be one of {', '.join(PRESETS)}")
    if seeds < 1:
        raise SpecError(f"seeds is {seeds}, must be at least 1")
    if preset == "full" and data_root is None:
        raise SpecError(
            "preset 'full' needs data_root: the folder with keywords/, images/, denoise/"
        )
    if audio not in AUDIO:
        raise SpecError(f"audio is {audio!r}, must be one of {', '.join(AUDIO)}")
    if effort <= 0:
        raise SpecError(f"effort is {effort}, must be above 0")
    root = None if data_root is None else Path(data_root)
    context = Context(preset, int8, root, effort, audio)
    module = import_module(f"spectral_edge.training.{experiment.module}")
    variants: list[Variant] = list(module.variants(experiment.id, context))
    if only is not None:
        labels = [v.label for v in variants]
        unknown = sorted(set(only) - set(labels))
        if unknown:
            raise SpecError(f"{id} has no variant {unknown[0]!r}; it has {', '.join(labels)}")
        variants = [v for v in variants if v.label in set(only)]
    if resume and out is None:
        raise SpecError("resume needs out: the folder with the runs to go on from")
    repeats = seeds if experiment.seeded else 1
    sounds = audio if preset == "full" and experiment.module != _SAF else ""
    table = AblationTable(
        experiment.id, experiment.question, experiment.metric, preset, repeats, [], 0.0,
        experiment.note, effort, int8, sounds,
    )  # fmt: skip
    kept = None
    if out is not None:
        kept = RunFile(Path(out) / f"{table.stem}.runs.jsonl", _settings(table))
    done: dict[tuple[str, int], Run] = {}
    if kept is not None and resume and experiment.seeded:
        done = {(run.label, run.seed): run for run in kept.resume()}
    elif kept is not None:  # pure measurements are compared with one another: all in one go
        kept.start()
    total = repeats * len(variants)
    try:
        for number, (seed, variant) in enumerate(product(range(repeats), variants), start=1):
            key = (variant.label, seed)
            if key not in done:
                done[key] = _run(variant, seed)
                if kept is not None:
                    kept.add(done[key])
            if progress is not None:
                progress(number, total, f"{experiment.id} {variant.label}, seed {seed}")
    except KeyboardInterrupt:
        how = "" if kept is None else f": {kept.path} has the finished runs, go on with resume"
        raise KeyboardInterrupt(f"interrupted{how}") from None
    lines = [[done[variant.label, seed] for seed in range(repeats)] for variant in variants]
    seconds = sum(run.seconds for runs in lines for run in runs)
    table = replace(table, rows=[_row(runs) for runs in lines], seconds=round(seconds, 1))
    if out is not None:
        table.write(out)
    return table


def _settings(table: AblationTable) -> dict[str, Any]:
    names = ("id", "preset", "effort", "int8", "audio")
    return {"version": se.__version__, **{name: getattr(table, name) for name in names}}


def _run(variant: Variant, seed: int) -> Run:
    started = time.perf_counter()
    outcome = variant.run(seed)
    parameters = macs = latency = None
    if outcome.model is not None and seed == 0:
        parameters = parameter_count(outcome.model)
        if outcome.example is not None:
            macs = measured_macs(outcome.model, tuple(outcome.example.shape))
            latency = latency_ms(outcome.model, outcome.example)
    return Run(
        variant.label, seed, outcome.value, outcome.int8, outcome.extras, parameters, macs, latency,
        round(time.perf_counter() - started, 2),
    )  # fmt: skip


def _row(runs: Sequence[Run]) -> Row:
    values = [run.value for run in runs]
    first = runs[0]
    quantised = [run.int8 - run.value for run in runs if run.int8 is not None]
    names = list(dict.fromkeys(name for run in runs for name in run.extras))
    return Row(
        first.label, [round(v, 6) for v in values], round(statistics.fmean(values), 6),
        round(statistics.stdev(values), 6) if len(values) > 1 else 0.0,
        first.parameters, first.macs, first.latency_ms,
        round(statistics.fmean(quantised), 6) if quantised else None,
        {n: statistics.fmean([r.extras[n] for r in runs if n in r.extras]) for n in names},
    )  # fmt: skip


def latency_ms(model: Callable[..., Any], example: Tensor, runs: int = 15) -> float:
    """Return the median processor time of one call on one thread in milliseconds, warmed up.

    Not wall time: trainings share their machine, and waiting for it is no property of a network.
    """
    if isinstance(model, nn.Module):
        model.eval()
    times = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(3):
                model(example)
            for _ in range(runs):
                started = time.process_time()
                model(example)
                times.append(1000 * (time.process_time() - started))
    finally:
        torch.set_num_threads(threads)
    return round(statistics.median(times), 4)
