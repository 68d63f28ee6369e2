"""Classifies files: audio of any length with constant memory, pictures; writes JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spectral_edge.audio import open_reader
from spectral_edge.bundle import Bundle
from spectral_edge.classifier import DetectionPolicy
from spectral_edge.errors import SpecError, StreamError

from .classify import ClassifySession
from .decisions import Detection, Result

__all__ = ["ClassifiedFile", "ClassifyRun", "classify_files"]

SCHEMA = "spectral-edge detections"
SUFFIXES = (".json", ".csv")
COLUMNS = ("source", "time", "channel", "label", "score")
BLOCK = 16_000  # samples read at a time


@dataclass(frozen=True)
class ClassifiedFile:
    """What a classifier made of one file.

    Attributes:
        source: the file.
        seconds: of audio; 0 for a picture.
        channels: of audio; 0 for a picture.
        detections: in order of time.
        results: of every step when they were asked for, and of a picture.
    """

    source: str
    seconds: float
    channels: int
    detections: tuple[Detection, ...]
    results: tuple[Result, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "source": self.source,
            "seconds": self.seconds,
            "channels": self.channels,
            "detections": [d.to_dict() for d in self.detections],
            "results": [
                {k: v for k, v in r.to_dict().items() if k != "detections"} for r in self.results
            ],
        }


@dataclass(frozen=True)
class ClassifyRun:
    """Classified files, and what that took.

    Attributes:
        seconds: wall time, reading included; ``rtf`` is that per second of audio, None for
            pictures.
    """

    bundle: str
    bundle_sha256: str
    target: str
    engine: dict[str, Any]
    policy: dict[str, Any]
    files: tuple[ClassifiedFile, ...]
    seconds: float
    rtf: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what the JSON file holds."""
        own = {k: v for k, v in asdict(self).items() if k != "files"}
        files = [file.to_dict() for file in self.files]
        return {"schema": SCHEMA, "version": 1, **own, "files": files}

    def table(self) -> str:
        """Return one line per detection or picture, and a summary."""
        lines = []
        for file in self.files:
            for d in file.detections if file.channels else ():
                where = f" channel {d.channel}" if file.channels > 1 else ""
                lines.append(f"{file.source} {d.time:8.2f} s{where}  {d.label}  {d.score:.2f}")
            for r in file.results if not file.channels else ():
                best = ", ".join(f"{label} {score:.2f}" for label, score in r.top)
                lines.append(f"{file.source}: {best}")
        found = sum(len(file.detections) for file in self.files)
        speed = "" if self.rtf is None else f", real-time factor {self.rtf:.4f}"
        name = f"{self.engine['engine']} {self.engine['version']}"
        lines.append(
            f"{self.target}: {found} detections in {len(self.files)} file(s), {name}{speed}"
        )
        return "\n".join(lines)


def classify_files(
    path: str | os.PathLike[str] | Bundle,
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    engine: str | None = None,
    threads: int = 1,
    resample: bool = True,
    backend: str = "auto",
    policy: DetectionPolicy | None = None,
    every_result: bool = False,
    progress: Callable[[float], object] | None = None,
) -> ClassifyRun:
    """Classify files and write what was detected.

    Args:
        path: a ``.seb`` file, bundle directory or loaded bundle, of a classifier.
        sources: audio files, or pictures for a classifier of pictures.
        target: ``.json`` or ``.csv``; it appears when complete, or not at all.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        threads: threads of the engine.
        resample: convert audio of another sample rate; False refuses it.
        backend: front end arithmetic, see :func:`spectral_edge.open`.
        policy: what counts as a detection, instead of what the bundle says.
        every_result: also write the labels and scores of every step.
        progress: called with the share done, 0…1.

    Raises:
        AudioError, ImageError: a source is not usable.
        SpecError: another suffix, no sources, or the target is one of them.
        StreamError: another sample rate and ``resample`` is False.
        BundleError, RuntimeUnavailable, RuntimeUnfit: see :func:`spectral_edge.open`.
    """
    target = Path(target)
    _check_target(target, sources)
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    tell = progress or (lambda share: None)
    files: list[ClassifiedFile] = []
    started = time.perf_counter()
    sessions: dict[int, ClassifySession] = {}  # by sample rate

    def session_for(rate: int) -> ClassifySession:
        if rate not in sessions:
            made = ClassifySession(bundle, engine, threads, rate or None, backend, policy)
            sessions[rate] = made
        return sessions[rate]

    try:
        pictures = getattr(bundle.frontend, "kind", "") == "image"
        for i, source in enumerate(sources):
            if pictures:
                files.append(_picture(session_for(0), Path(source)))
            else:
                part = lambda share, i=i: tell((i + share) / len(sources))  # noqa: E731
                files.append(
                    _audio(session_for, Path(source), bundle, resample, every_result, part)
                )
            tell((i + 1) / len(sources))
        first = next(iter(sessions.values()))
        described, used = first.describe()["engine"], first.policy
    finally:
        for session in sessions.values():
            session.close()
    seconds = time.perf_counter() - started
    heard = sum(file.seconds for file in files)
    run = ClassifyRun(
        bundle=bundle.name,
        bundle_sha256=bundle.sha256,
        target=str(target),
        engine=described,
        policy=used.to_dict(),
        files=tuple(files),
        seconds=seconds,
        rtf=seconds / heard if heard else None,
    )
    _write(target, run)
    return run


def _check_target(target: Path, sources: Sequence[str | os.PathLike[str]]) -> None:
    if target.suffix.lower() not in SUFFIXES:
        raise SpecError(f"cannot write {target.name!r}: labels go into .json or .csv")
    if not sources:
        raise SpecError("there is nothing to classify: give at least one file")
    for source in sources:
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise SpecError(f"output {target} is an input; choose another name")


def _picture(session: ClassifySession, source: Path) -> ClassifiedFile:
    from spectral_edge.image import read

    result = session.classify(read(source))
    return ClassifiedFile(str(source), 0.0, 0, result.detections, (result,))


def _audio(
    session_for: Callable[[int], ClassifySession],
    source: Path,
    bundle: Bundle,
    resample: bool,
    every_result: bool,
    tell: Callable[[float], object],
) -> ClassifiedFile:
    with open_reader(source) as reader:
        native = getattr(bundle.frontend, "sample_rate", 0)
        if reader.sample_rate != native and not resample:
            raise StreamError(
                f"{source} has {reader.sample_rate} Hz, {bundle.path.name} needs {native} Hz; "
                "convert the file or allow resampling"
            )
        session = session_for(reader.sample_rate)
        session.reset()
        found: list[Detection] = []
        kept: list[Result] = []
        samples = 0

        def steps() -> Iterator[list[Result]]:
            nonlocal samples
            for block in reader.blocks(BLOCK):
                samples += len(block)
                yield session.push(block)
                tell(min(1.0, samples / max(1, reader.frames)))
            yield session.flush()

        for results in steps():
            found += [d for r in results for d in r.detections]
            if every_result:
                kept += results
        seconds = samples / reader.sample_rate
        return ClassifiedFile(str(source), seconds, reader.channels, tuple(found), tuple(kept))


def _write(target: Path, run: ClassifyRun) -> None:
    if target.suffix.lower() == ".json":
        text = json.dumps(run.to_dict(), indent=2, ensure_ascii=False) + "\n"
    else:
        text = _csv(run)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise SpecError(
            f"cannot write {target} ({error.strerror}); choose another folder"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _csv(run: ClassifyRun) -> str:
    """One row per detection; of pictures and with every result, one row per result."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file in run.files:
        for row in file.results or file.detections:
            writer.writerow(
                (file.source, f"{row.time:.4f}", row.channel, row.label, f"{row.score:.4f}")
            )
    return stream.getvalue()
