"""Live labels: a microphone in, detections out, a classifier's bundle in between."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.classifier import DetectionPolicy
from spectral_edge.errors import AudioError, RuntimeUnavailable, RuntimeUnfit, StreamError

from .classify import ClassifySession, detections
from .decisions import Detection
from .live import INPUT_SECONDS, STALL_SECONDS, LiveSettings, _close, _first_line, _sounddevice

__all__ = ["ListenSummary", "listen"]

LIST = "see `spectral-edge live --list-devices`"


@dataclass(frozen=True)
class ListenSummary:
    """What happened, once it is over.

    Attributes:
        ended: ``time``, ``stopped`` (by the user) or ``device`` (it delivered nothing any more).
        seconds: of audio.
        detections: how many there were.
        lost_samples: of audio that came faster than it was worked on.
    """

    bundle: str
    engine: dict[str, Any]
    input: str
    sample_rate: int
    channels: int
    ended: str
    seconds: float
    detections: int
    lost_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Return the summary as text."""
        lost = f", {self.lost_samples} samples lost" if self.lost_samples else ""
        return (
            f"{self.input}: {self.seconds:.1f} s at {self.sample_rate} Hz, "
            f"{self.detections} detections by {self.bundle} on {self.engine['engine']}{lost}"
        )


class _Microphone:
    """Blocks of a sound device, from its callback to whoever iterates."""

    def __init__(self, rate: int, seconds: float | None) -> None:
        self._waiting: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        self._limit = round(INPUT_SECONDS * rate)
        self._frames = None if seconds is None else round(seconds * rate)
        self.taken = self.given = self.lost = 0  # samples in, out, and thrown away
        self.ended = "stopped"

    def callback(self, data: NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        """Copy a block; throw it away when too much waits."""
        if self.taken - self.given > self._limit:
            self.lost += frames
            return
        self.taken += frames
        self._waiting.put(np.array(data, np.float32))

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield blocks until the time is over or nothing comes any more."""
        while self._frames is None or self.given < self._frames:
            try:
                block = self._waiting.get(timeout=STALL_SECONDS)
            except queue.Empty:
                self.ended = "device"
                return
            self.given += len(block)
            yield np.nan_to_num(block)
        self.ended = "time"


def listen(
    path: str | os.PathLike[str] | Bundle,
    settings: LiveSettings | None = None,
    engine: str | None = None,
    threads: int = 1,
    backend: str = "auto",
    tell: Callable[[Detection], object] | None = None,
    policy: DetectionPolicy | None = None,
    audio: Any = None,
) -> ListenSummary:
    """Report what a microphone hears until the time is over, the user interrupts, or it is gone.

    Args:
        path: a ``.seb`` file, bundle directory or loaded bundle, of a classifier of audio.
        settings: device and block size; what is said there on output and late hops does not count.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        threads: threads of the engine.
        backend: front end arithmetic, see :func:`spectral_edge.open`.
        tell: called with every detection as soon as it is made.
        policy: what counts as a detection, instead of what the bundle says.
        audio: the sounddevice module, or what stands for it in a test.

    Returns:
        The summary; KeyboardInterrupt ends the stream and is not raised.

    Raises:
        RuntimeUnavailable: sounddevice, PortAudio, an engine or soxr is not installed, or there is
            no microphone.
        RuntimeUnfit: the device does not open like this, or the bundle gives no labels of audio.
        AudioError: no device of that name.
        BundleError, SpecError: see :func:`spectral_edge.open`.
    """
    settings, audio = settings or LiveSettings(), audio or _sounddevice()
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    device = _device(audio, settings)
    rate = settings.sample_rate or _rate(audio, settings, device, bundle)
    with ClassifySession(bundle, engine, threads, rate, backend, policy) as session:
        if session.takes_pictures:
            raise RuntimeUnfit(f"{bundle.path.name} classifies pictures; use `spectral-edge run`")
        microphone = _Microphone(rate, settings.seconds)
        try:
            stream = audio.InputStream(
                samplerate=rate,
                blocksize=settings.blocksize or 0,
                device=settings.input,
                channels=settings.channels,
                dtype="float32",
                latency=settings.latency,
                callback=microphone.callback,
            )
            stream.start()
        except (audio.PortAudioError, ValueError) as error:
            raise RuntimeUnfit(
                f"the device does not open with {rate} Hz and {settings.channels} channel(s) "
                f"({_first_line(error)}); {LIST}"
            ) from error
        count = 0
        try:
            for found in detections(session, microphone.blocks()):
                count += 1
                if tell is not None:
                    tell(found)
        except KeyboardInterrupt:
            microphone.ended = "stopped"
        finally:
            _close(audio, stream)
        return ListenSummary(
            bundle=bundle.name,
            engine=session.describe()["engine"],
            input=str(device["name"]),
            sample_rate=rate,
            channels=settings.channels,
            ended=microphone.ended,
            seconds=microphone.given / rate,
            detections=count,
            lost_samples=microphone.lost,
        )


def _device(audio: Any, settings: LiveSettings) -> Any:
    try:
        device = audio.query_devices(settings.input, "input")
    except (audio.PortAudioError, ValueError) as error:
        if settings.input is None:
            raise RuntimeUnavailable(f"this machine has no sound input; {LIST}") from error
        raise AudioError(
            f"no input device {settings.input!r} ({_first_line(error)}); {LIST}"
        ) from error
    most = int(device["max_input_channels"])
    if not 1 <= settings.channels <= most:
        raise StreamError(
            f"channels is {settings.channels}, {device['name']!r} has {most} input channels"
        )
    return device


def _rate(audio: Any, settings: LiveSettings, device: Any, bundle: Bundle) -> int:
    """Return the bundle's rate if the device takes it, else the rate that it prefers."""
    native = getattr(bundle.frontend, "sample_rate", 0) or 16_000
    try:
        audio.check_input_settings(
            settings.input, channels=settings.channels, samplerate=native, dtype="float32"
        )
    except (audio.PortAudioError, ValueError):
        return int(device["default_samplerate"])
    return int(native)
