"""Enhances an audio file of any length with constant memory, timing every hop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.audio import AudioReader, AudioWriter, open_reader, open_writer
from spectral_edge.bundle import Bundle
from spectral_edge.errors import AudioError, StreamError

from .scheduler.counters import TimeHistogram
from .session import Session
from .stream import check_streamable

__all__ = ["FileRun", "enhance_file"]

BLOCK_HOPS = 64  # hops read and written at a time


@dataclass(frozen=True)
class FileRun:
    """What enhancing a file took.

    Attributes:
        samples: per channel, at the file's ``sample_rate``.
        resampled_to: the bundle's rate when it differs, else None.
        seconds: wall time, reading and writing included; ``rtf`` is that per second of audio.
        hop_us: p50, p95, p99 (None below 1,000 hops) and max of one hop of all channels, in µs.
    """

    source: str
    target: str
    sample_rate: int
    channels: int
    samples: int
    resampled_to: int | None
    engine: dict[str, Any]
    frontend_backend: str
    latency_samples: int
    seconds: float
    rtf: float
    hops: int
    hop_us: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def enhance_file(
    path: str | os.PathLike[str] | Bundle,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    engine: str | None = None,
    threads: int = 1,
    resample: bool = True,
    backend: str = "auto",
    progress: Callable[[float], object] | None = None,
) -> FileRun:
    """Stream ``source`` through a bundle into ``target``: same length, rate and channels, aligned.

    Args:
        path: a ``.seb`` file, bundle directory or loaded bundle.
        source: audio file; see :func:`spectral_edge.audio.open_reader`.
        target: ``.wav`` or ``.flac``; it appears when complete, or not at all.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        threads: threads of the engine.
        resample: convert a file of another sample rate on the way in and out; False refuses it.
        backend: front end arithmetic, see :func:`spectral_edge.open`.
        progress: called with the share done, 0…1.

    Raises:
        AudioError: the source is not usable audio, the target cannot be written or is the source.
        StreamError: another sample rate and ``resample`` is False.
        BundleError, RuntimeUnavailable, RuntimeUnfit: see :func:`spectral_edge.open`.
    """
    source, target = Path(source), Path(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise AudioError(f"output {target} is the input; choose another name, it is kept as it is")
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    native = check_streamable(bundle).sample_rate
    with open_reader(source) as reader:
        rate = reader.sample_rate
        if rate != native and not resample:
            raise StreamError(
                f"{source} has {rate} Hz, {bundle.path.name} needs {native} Hz; convert the file "
                "or allow resampling"
            )
        with (
            Session(bundle, engine, threads, rate, backend) as session,
            open_writer(target, rate, reader.channels) as writer,
        ):
            times = TimeHistogram()
            started = time.perf_counter()
            samples = _stream(session, reader, writer, times, progress or (lambda share: None))
            seconds = time.perf_counter() - started
            said = session.describe()
    return FileRun(
        source=str(source),
        target=str(target),
        sample_rate=rate,
        channels=reader.channels,
        samples=samples,
        resampled_to=said["resampled_to"],
        engine=said["engine"],
        frontend_backend=said["frontend_backend"],
        latency_samples=session.latency_samples,
        seconds=seconds,
        rtf=seconds * rate / samples,
        hops=times.n,
        hop_us={
            "p50": times.percentile_us(50),
            "p95": times.percentile_us(95),
            "p99": times.percentile_us(99) if times.n >= 1000 else None,
            "max": times.max_ns / 1000,
        },
    )


def _stream(
    session: Session,
    reader: AudioReader,
    writer: AudioWriter,
    times: TimeHistogram,
    tell: Callable[[float], object],
) -> int:
    """Push the whole file and the tail, drop the latency, return the samples per channel."""
    hop = round(session.hop_length * session.sample_rate / session.bundle_rate)
    late, samples = session.latency_samples, 0
    for block in reader.blocks(BLOCK_HOPS * hop):
        samples += len(block)
        parts = []
        for piece in _pieces(block, hop):
            begun = time.perf_counter_ns()
            parts.append(session.push(piece))
            times.add(time.perf_counter_ns() - begun)
        ready: NDArray[np.int16] = np.concatenate(parts)
        writer.write(ready[late:])
        late = max(0, late - len(ready))
        tell(min(1.0, samples / reader.frames))
    writer.write(session.flush()[late:])
    return samples


def _pieces(block: NDArray[np.int16], size: int) -> Iterator[NDArray[np.int16]]:
    for start in range(0, len(block), size):
        yield block[start : start + size]
