"""The whole way once: checkpoint to bundle, proof, enhanced audio, latency, report."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge import audio
from spectral_edge.table import text_table

from .page import render_page
from .picture import write_spectrograms
from .quality import Quality, rate_clip
from .samples import SAMPLES, calibration_mixes

__all__ = ["DemoResult", "DemoStep", "Progress", "run_demo"]

CHECKPOINT = Path(__file__).resolve().parent.parent / "zoo" / "saf_edge_s.pt"
BUNDLE, FLOAT_BUNDLE = "denoiser.seb", "denoiser-float32.seb"
MANIFEST_KEYS = (
    "name", "precision", "recipe", "frontend", "delay", "node_count", "macs", "state_bytes",
)  # fmt: skip
BENCH_SECONDS = 4.0  # of audio per engine and precision
REAL_CALIBRATION_FILES = 6  # of val_vbdmd/noisy, when SPECTRAL_EDGE_DATA is set
VERSIONS = (
    "spectral-edge", "numpy", "torch", "torchao", "onnx", "onnxscript", "onnxruntime",
    "ai-edge-litert", "tflite-runtime", "tensorflow-cpu", "soundfile", "soxr", "pesq", "pystoi",
)  # fmt: skip

Progress = Callable[[str, "float | None", str], None]
"""Called as (step, None, "") when a step begins and as (step, seconds, note) when it is done."""


@dataclass(frozen=True)
class DemoStep:
    """One step of the demo: its name, how long it took, and one line about what came out."""

    name: str
    seconds: float
    note: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and found.

    Attributes:
        folder: where everything lies.
        report: plain data, the content of ``report.json``.
        steps: in order, with times.
        parity: every engine against the golden hops.
        latency: one report per bundle and engine, int8 and float32.
        quality: title -> figures against the clean sample; empty for your own file, which has none.
    """

    folder: Path
    report: dict[str, Any]
    steps: tuple[DemoStep, ...]
    parity: se.ParityReport
    latency: tuple[se.LatencyReport, ...]
    quality: dict[str, Quality]

    @property
    def bundle(self) -> Path:
        """The int8 bundle."""
        return self.folder / BUNDLE

    @property
    def enhanced(self) -> Path:
        """The enhanced audio."""
        return self.folder / "enhanced.wav"

    @property
    def page(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def passed(self) -> bool:
        """True when every engine agrees with the golden hops as the contract demands."""
        return self.parity.passed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return self.report

    def table(self) -> str:
        """Return parity, quality and latency as readable text."""
        parts = [self.parity.table()]
        if self.quality:
            parts.append(_quality_table(self.quality))
        parts.append(_latency_table(self.latency))
        return "\n\n".join([*parts, f"open {self.page}"])


class _Journal:
    """Times the steps and tells whoever listens."""

    def __init__(self, progress: Progress | None) -> None:
        self.steps: list[DemoStep] = []
        self._progress = progress

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Run a step; the block appends what it found to the list that it is given."""
        if self._progress:
            self._progress(name, None, "")
        notes: list[str] = []
        started = time.perf_counter()
        yield notes
        done = DemoStep(name, time.perf_counter() - started, ", ".join(notes))
        self.steps.append(done)
        if self._progress:
            self._progress(name, done.seconds, done.note)


def run_demo(
    wav: str | Path | None = None,
    out: str | Path = "demo-out",
    progress: Progress | None = None,
) -> DemoResult:
    """Take the shipped model all the way to enhanced audio, and write down what happened.

    Args:
        wav: audio to enhance, any rate and number of channels; None takes the embedded sample,
            which has a clean counterpart, so that quality can be measured.
        out: folder for the results; files of an earlier demo are replaced, others are left alone.
        progress: called when a step begins and when it is done.

    Returns:
        Everything found; the same as ``report.json`` and ``report.html`` in ``out``.

    Raises:
        AudioError: ``wav`` is not audio.
        RuntimeUnavailable: a library of the extra ``demo`` is missing.
        SpectralEdgeError: whatever a step refuses.
    """
    _require_libraries()
    noisy_path = Path(wav) if wav is not None else SAMPLES / "noisy.wav"
    noisy, rate = audio.read(noisy_path)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=target) as name:
        work = Path(name)
        journal = _Journal(progress)
        frontend, parity = _make_bundles(work, journal)
        with journal.step("enhance") as notes:
            clips = _enhance(work, noisy, rate)
            notes.append(f"{len(noisy) / rate:.1f} s of audio")
        with journal.step("quality") as notes:
            quality = {} if wav is not None else _rate(clips, frontend)
            notes += [f"SI-SDR {title} {q.si_sdr:.1f} dB" for title, q in quality.items()]
            if not quality:
                notes.append("no clean counterpart, listen instead")
        with journal.step("bench") as notes:
            latency = _bench(work, parity)
            notes += [
                f"{r.runtime['engine']} {r.declared['precision']} {r.wall['hop'].p50:.0f} µs"
                for r in latency
            ]
        with journal.step("report") as notes:
            audio.write(work / "noisy.wav", noisy, rate)
            audio.write(work / "enhanced.wav", clips["w8a8"], rate)
            titles = {"noisy": noisy[:, 0], "enhanced (w8a8)": clips["w8a8"][:, 0]}
            write_spectrograms(work / "spectrogram.png", titles, rate)
            notes.append(str(target / "report.html"))
        report = _report(work, noisy_path, journal.steps, parity, latency, quality)
        text = json.dumps(report, indent=1, ensure_ascii=False)
        (work / "report.json").write_text(text + "\n", encoding="utf-8")
        (work / "report.html").write_text(render_page(report), encoding="utf-8")
        for path in sorted(work.iterdir()):
            os.replace(path, target / path.name)
    return DemoResult(target, report, tuple(journal.steps), parity, latency, quality)


def _require_libraries() -> None:
    from importlib.util import find_spec

    needed = ("torch", "torchao", "soundfile", "matplotlib", "jinja2")
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise se.errors.RuntimeUnavailable(
            f"the demo needs {', '.join(missing)}; pip install 'spectral-edge[demo]'"
        )


def _make_bundles(work: Path, journal: _Journal) -> tuple[se.StftFrontend, se.ParityReport]:
    """Write the int8 and the float32 bundle into ``work`` and check the int8 one."""
    with journal.step("model") as notes:
        model, frontend, info = se.models.load_checkpoint(CHECKPOINT)
        parameters = sum(p.numel() for p in model.parameters())
        notes.append(f"{info.get('name', 'saf_edge_s')}, {parameters:,} parameters")
    with journal.step("calibration data") as notes:
        files = _calibration_files(work, frontend.sample_rate)
        sequences = list(frontend.sequences(files))
        notes.append(f"{len(files)} clips, {sum(s[0].shape[2] for s in sequences):,} hops")
    with journal.step("streamify") as notes:
        program = se.streamify(model, sequences[0][0][:, :, :64], time_dim=2)
        notes += [f"{len(program.states)} states", f"delay {program.delay}"]
    with journal.step("quantize") as notes:
        int8 = se.quantize(program, sequences, recipe="w8a8")
        notes += [int8.precision, f"{len(int8.qparams)} boundary tensors"]
    with journal.step("export") as notes:
        se.export(int8, work / BUNDLE, frontend=frontend, reference=program)
        floats = program.with_(golden_inputs=int8.golden_inputs)
        se.export(floats, work / FLOAT_BUNDLE, frontend=frontend, formats=("tflite",))
        notes.append(f"{(work / BUNDLE).stat().st_size:,} bytes")
    with journal.step("check") as notes:
        parity = se.check(work / BUNDLE)
        notes += [f"{e.engine} {e.status}" for e in parity.engines]
    for path in files:
        if path.parent == work:
            path.unlink()
    return frontend, parity


def _calibration_files(work: Path, sample_rate: int) -> list[Path]:
    """Mix the embedded speech with synthetic noise; add real recordings where there are some."""
    speech, rate = audio.read(SAMPLES / "calibration.flac")
    assert rate == sample_rate, (rate, sample_rate)
    files = []
    for number, mix in enumerate(calibration_mixes(speech[:, 0], rate)):
        files.append(work / f"calibration-{number}-{mix.noise}.wav")
        audio.write(files[-1], mix.samples, rate)
    real = Path(os.environ.get("SPECTRAL_EDGE_DATA", "")) / "denoise" / "val_vbdmd" / "noisy"
    if os.environ.get("SPECTRAL_EDGE_DATA") and real.is_dir():
        files += sorted(real.glob("*.flac"))[:REAL_CALIBRATION_FILES]
    return files


def _enhance(work: Path, noisy: NDArray[np.int16], rate: int) -> dict[str, NDArray[np.int16]]:
    """Return the noisy clip and what each precision makes of it: int16[samples, channels]."""
    clips = {"noisy": noisy}
    for title, name in (("float32", FLOAT_BUNDLE), ("w8a8", BUNDLE)):
        with se.open(work / name, sample_rate=rate) as session:
            clips[title] = session.process(noisy)
    return clips


def _rate(clips: dict[str, NDArray[np.int16]], frontend: se.StftFrontend) -> dict[str, Quality]:
    clean, _ = audio.read(SAMPLES / "clean.flac")
    return {
        title: rate_clip(clean[:, 0], clip[:, 0], frontend.sample_rate)
        for title, clip in clips.items()
    }


def _bench(work: Path, parity: se.ParityReport) -> tuple[se.LatencyReport, ...]:
    """Measure every engine that the check ran; on the first one float32 too, in the same run."""
    engines = [e.engine for e in parity.engines if e.tensors and e.engine != "reference"]
    runs: list[tuple[str, str | None]] = [(BUNDLE, engine) for engine in engines]
    runs.insert(1, (FLOAT_BUNDLE, None))
    return tuple(
        se.bench(work / name, engine=engine, seconds=BENCH_SECONDS, repetitions=3)
        for name, engine in runs
    )


def _report(
    work: Path,
    source: Path,
    steps: list[DemoStep],
    parity: se.ParityReport,
    latency: tuple[se.LatencyReport, ...],
    quality: dict[str, Quality],
) -> dict[str, Any]:
    """Gather everything as plain data: what the page shows and what report.json holds."""
    manifest = se.Bundle.load(work / BUNDLE).manifest
    return {
        "schema": "spectral-edge demo report",
        "version": 1,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "source": source.name,
        "steps": [asdict(step) for step in steps],
        "bundle": {
            "file": BUNDLE,
            "bytes": (work / BUNDLE).stat().st_size,
            "float32_bytes": (work / FLOAT_BUNDLE).stat().st_size,
            **{key: manifest[key] for key in MANIFEST_KEYS},
        },
        "parity": parity.to_dict(),
        "quality": {title: asdict(figures) for title, figures in quality.items()},
        "latency": [entry.to_dict() for entry in latency],
        "versions": _versions(),
        "machine": {
            "processor": latency[0].device["model"] if latency else platform.processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _quality_table(quality: dict[str, Quality]) -> str:
    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows = [
        [title, f"{q.si_sdr:.2f}", cell(q.pesq, ".2f"), cell(q.stoi, ".3f")]
        for title, q in quality.items()
    ]
    return text_table(["clip", "SI-SDR dB", "PESQ-WB", "STOI"], rows)


def _latency_table(latency: tuple[se.LatencyReport, ...]) -> str:
    rows = [
        [
            f"{r.runtime['engine']} {r.declared['precision']}",
            *(f"{r.wall[part].p50:.1f}" for part in ("hop", "model", "frontend", "copies")),
            f"{r.wall['hop'].p95:.1f}",
            f"{r.stream['deadline_misses']} of {r.stream['hops']}",
        ]
        for r in latency
    ]
    head = ["µs per hop, p50", "hop", "model", "front end", "rest", "hop p95", "missed"]
    return text_table(head, rows)
