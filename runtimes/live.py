"""Live audio: a sound device in, a sound device out, a bundle in between.

The device's callback copies blocks into and out of rings (:mod:`.scheduler.duplex`); one thread
pushes them through the session; the calling thread waits, and shows what is going on.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, TextIO

from spectral_edge.bundle import Bundle
from spectral_edge.errors import (
    AudioError,
    RuntimeUnavailable,
    RuntimeUnfit,
    SpecError,
    StreamError,
)

from .scheduler.counters import Counters
from .scheduler.deadline import OverrunPolicy
from .scheduler.duplex import Duplex
from .scheduler.realtime import RealtimeSession
from .session import Session
from .stream import check_streamable

__all__ = [
    "DeviceInfo",
    "LiveSettings",
    "LiveState",
    "LiveSummary",
    "list_devices",
    "live",
    "meter",
]

TICK_SECONDS = 0.1
STALL_SECONDS = 3.0  # without a callback: the device is gone
INPUT_SECONDS = 1.0  # of input that may wait before it is lost
INSTALL_LINE = "pip install 'spectral-edge[live]'"
PORTAUDIO_LINE = "sudo apt install libportaudio2 (or: brew install portaudio)"


@dataclass(frozen=True)
class DeviceInfo:
    """A sound device as PortAudio sees it.

    Attributes:
        index: number to select it by.
        host: audio system it belongs to (ALSA, JACK Audio Connection Kit, Core Audio, …).
        inputs, outputs: most channels; 0 when it has none.
        sample_rate: the rate it prefers, Hz.
        is_input, is_output: used when none is selected.
    """

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    sample_rate: float
    is_input: bool
    is_output: bool


@dataclass(frozen=True)
class LiveSettings:
    """How to use the sound device.

    Attributes:
        input, output: device number, or a part of its name; None is the system's own choice.
        sample_rate: Hz; None takes the bundle's rate where the device has it (no resampling, least
            latency), else the device's.
        blocksize: samples per callback; None is one hop, 0 lets the device choose.
        latency: ``low``, ``high`` or seconds: what to ask the device for.
        channels: of the input; one is heard on all of the output.
        policy: what happens to a hop that comes too late.
        seconds: of audio, after which it ends; None goes on until stopped.

    Raises:
        SpecError: a value out of range.
    """

    input: int | str | None = None
    output: int | str | None = None
    sample_rate: int | None = None
    blocksize: int | None = None
    latency: str | float = "low"
    channels: int = 1
    policy: OverrunPolicy = field(default_factory=OverrunPolicy)
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.blocksize is not None and not 0 <= self.blocksize <= 8192:
            raise SpecError(f"blocksize is {self.blocksize} samples, must be 0…8192")
        if self.seconds is not None and self.seconds <= 0:
            raise SpecError(f"seconds is {self.seconds}, must be above 0")
        if isinstance(self.latency, str):
            if self.latency not in ("low", "high"):
                raise SpecError(f"latency is {self.latency!r}, must be low, high or seconds")
        elif not 0 <= self.latency <= 10:
            raise SpecError(f"latency is {self.latency} s, must be 0…10")


@dataclass(frozen=True)
class LiveState:
    """What is shown while it runs: seconds of audio so far, levels in dBFS, and the counters."""

    seconds: float
    level_in_db: float
    level_out_db: float
    counters: Counters

    def line(self) -> str:
        """Return one line of text."""
        c = self.counters
        times = c.to_dict()["hop_us"]["p50"]
        hop = "–" if times is None else f"{times / 1000:.2f} ms"
        return (
            f"{self.seconds:7.1f} s   in {self.level_in_db:6.1f} dB {_bar(self.level_in_db)}   "
            f"out {self.level_out_db:6.1f} dB {_bar(self.level_out_db)}   hop {hop}   "
            f"missed {c.misses}   xruns {c.xruns_in + c.xruns_out}"
        )


@dataclass(frozen=True)
class LiveSummary:
    """What happened, once it is over.

    Attributes:
        ended: ``time``, ``stopped`` (by the user) or ``device`` (it delivered nothing any more).
        seconds: of audio.
        latency_ms: from input to output: ``algorithm`` (window, lookahead and resampler),
            ``buffer`` (from one callback to the next, and the policy's queue), ``device`` (what
            PortAudio says of input and output, None when it does not know), and their ``total``.
        counters: see :class:`~spectral_edge.runtimes.scheduler.counters.Counters`.
    """

    bundle: str
    engine: dict[str, Any]
    frontend_backend: str
    input: str
    output: str
    sample_rate: int
    resampled_to: int | None
    channels: int
    blocksize: int
    policy: str
    ended: str
    seconds: float
    hop_ms: float
    latency_ms: dict[str, float | None]
    counters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Return the summary as text."""
        c, hop = self.counters, self.counters["hop_us"]
        share = 100 * c["misses"] / max(c["hops"], 1)
        late = {k: "unknown" if v is None else f"{v:.1f}" for k, v in self.latency_ms.items()}
        times = "no hop ran"
        if hop["p50"] is not None:
            times = f"p50 {hop['p50']:.1f} µs, p95 {hop['p95']:.1f} µs, max {hop['max']:.1f} µs"
        resampled = f", resampled to {self.resampled_to} Hz" if self.resampled_to else ""
        return (
            f"{self.bundle} on {self.engine['engine']} {self.engine['version']}, front end in "
            f"{self.frontend_backend}\n"
            f"{self.input} → {self.output}: {self.seconds:.1f} s, {self.channels} channel(s), "
            f"{self.sample_rate} Hz{resampled}, blocks of {self.blocksize or 'any'} samples\n"
            f"{c['hops']:,} hops of {self.hop_ms:.1f} ms: {times}\n"
            f"{c['misses']:,} missed ({share:.2f} %, at most {c['longest_miss_run']} in a row; "
            f"policy {self.policy}: {c['dropped']} dropped, {c['bypassed']} bypassed)\n"
            f"xruns: {c['xruns_in']} in, {c['xruns_out']} out; {c['lost_samples']} samples lost, "
            f"{c['bad_samples']} not finite\n"
            f"latency {late['total']} ms: algorithm {late['algorithm']}, "
            f"buffer {late['buffer']}, device {late['device']}"
        )


def list_devices(audio: Any = None) -> tuple[DeviceInfo, ...]:
    """Return the sound devices of this machine.

    Args:
        audio: the sounddevice module, or what stands for it in a test.

    Raises:
        RuntimeUnavailable: sounddevice or PortAudio is not installed.
    """
    audio = audio or _sounddevice()
    hosts = audio.query_hostapis()
    chosen = audio.default.device
    return tuple(
        DeviceInfo(
            index,
            str(device["name"]),
            str(hosts[device["hostapi"]]["name"]),
            int(device["max_input_channels"]),
            int(device["max_output_channels"]),
            float(device["default_samplerate"]),
            index == chosen[0],
            index == chosen[1],
        )
        for index, device in enumerate(audio.query_devices())
    )


def live(
    path: str | os.PathLike[str] | Bundle,
    settings: LiveSettings | None = None,
    engine: str | None = None,
    threads: int = 1,
    backend: str = "auto",
    tell: Callable[[LiveState], object] | None = None,
    audio: Any = None,
) -> LiveSummary:
    """Enhance live audio until the time is over, the user interrupts, or the device is gone.

    Args:
        path: a ``.seb`` file, bundle directory or loaded bundle.
        settings: device, block size, what to do with late hops.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        threads: threads of the engine.
        backend: front end arithmetic, see :func:`spectral_edge.open`.
        tell: called about ten times a second.
        audio: the sounddevice module, or what stands for it in a test.

    Returns:
        The summary; KeyboardInterrupt ends the stream and is not raised.

    Raises:
        RuntimeUnavailable: sounddevice, PortAudio, an engine or soxr is not installed, or there is
            no sound device.
        RuntimeUnfit: the device does not open like this, or the bundle does not make audio.
        AudioError: no device of that name.
        BundleError, SpecError: see :func:`spectral_edge.open`.
    """
    settings, audio = settings or LiveSettings(), audio or _sounddevice()
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    native = check_streamable(bundle).sample_rate
    devices = _devices(audio, settings)
    rate = settings.sample_rate or _pick_rate(audio, settings, devices, native)
    columns = settings.channels
    if columns == 1:
        columns = max(1, min(2, int(devices[1]["max_output_channels"])))
    with Session(bundle, engine, threads, rate, backend) as session:
        duplex, blocksize = _duplex(session, settings)
        try:
            stream = audio.Stream(
                samplerate=rate,
                blocksize=blocksize,
                device=(settings.input, settings.output),
                channels=(settings.channels, columns),
                dtype="float32",
                latency=settings.latency,
                callback=duplex.callback,
            )
            stream.start()
        except (audio.PortAudioError, ValueError) as error:
            raise RuntimeUnfit(
                f"the device does not open with {rate} Hz, {settings.channels} in and {columns} "
                f"out ({_first_line(error)}); see `spectral-edge live --list-devices`"
            ) from error
        worker = threading.Thread(target=duplex.run, name="spectral-edge", daemon=True)
        worker.start()
        try:
            device_ms = _device_ms(stream.latency)
            ended = _wait(duplex, stream, rate, settings.seconds, tell)
        finally:
            _close(audio, stream)
            duplex.stop()
            worker.join(timeout=STALL_SECONDS)
        if duplex.error is not None:
            raise duplex.error
        return _summary(session, settings, duplex, devices, blocksize, ended, device_ms)


@contextmanager
def meter(stream: TextIO | None = None) -> Iterator[Callable[[LiveState], object] | None]:
    """Show a line that is written again and again on a terminal; nothing elsewhere.

    Args:
        stream: where to; standard error when not given.

    Yields:
        What :func:`live` calls as ``tell``, None where there is no terminal.
    """
    out = stream or sys.stderr
    if not out.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        yield lambda state: out.write(f"\r{state.line()}\033[K") and out.flush()
        out.write("\r\033[K")
        return
    with Live(console=Console(file=out), transient=True, auto_refresh=False) as line:
        yield lambda state: line.update(
            Text(state.line(), no_wrap=True, overflow="crop"), refresh=True
        )


def _duplex(session: Session, settings: LiveSettings) -> tuple[Duplex, int]:
    """Return what the callback and the worker share, and the block size to ask for."""
    rate, hop = session.sample_rate, session.hop_length
    device_hop = round(hop * rate / session.bundle_rate)
    blocksize = device_hop if settings.blocksize is None else settings.blocksize
    between = blocksize or device_hop  # two callbacks: what a hop may take
    budget_ns = round(1e9 * between / rate)
    stream = RealtimeSession(session, settings.channels, settings.policy, budget_ns)
    return (
        Duplex(
            stream,
            settings.channels,
            cushion=between + settings.policy.patience_hops * device_hop,
            piece=device_hop,
            capacity=max(round(INPUT_SECONDS * rate), 8 * between),
        ),
        blocksize,
    )


def _wait(
    duplex: Duplex,
    stream: Any,
    rate: int,
    seconds: float | None,
    tell: Callable[[LiveState], object] | None,
) -> str:
    """Wait for the end and say what it was."""
    calls, heard_at = 0, time.monotonic()
    try:
        while duplex.error is None:
            played = duplex.frames / rate
            if seconds is not None and played >= seconds:
                return "time"
            if duplex.callbacks != calls:
                calls, heard_at = duplex.callbacks, time.monotonic()
            elif time.monotonic() - heard_at > STALL_SECONDS or not stream.active:
                return "device"
            if tell is not None:
                tell(LiveState(played, *duplex.levels_db(), duplex.live.counters))
            time.sleep(TICK_SECONDS)
    except KeyboardInterrupt:
        return "stopped"
    return "error"


def _device_ms(latency: tuple[float, float]) -> float | None:
    """Return what PortAudio says of input and output together; some systems leave it unset."""
    known = all(0 <= seconds <= 10 for seconds in latency)
    return 1e3 * sum(latency) if known else None


def _close(audio: Any, stream: Any) -> None:
    """Stop and close the stream; one whose device is gone may never answer and is left behind."""

    def close() -> None:
        with suppress(audio.PortAudioError):
            stream.stop()
        with suppress(audio.PortAudioError):
            stream.close()

    closer = threading.Thread(target=close, daemon=True)
    closer.start()
    closer.join(STALL_SECONDS)
    if closer.is_alive() and hasattr(audio, "_exit_handler"):
        atexit.unregister(audio._exit_handler)  # it would wait for the same device


def _summary(
    session: Session,
    settings: LiveSettings,
    duplex: Duplex,
    devices: tuple[Any, Any],
    blocksize: int,
    ended: str,
    device_ms: float | None,
) -> LiveSummary:
    said, rate = session.describe(), session.sample_rate
    algorithm = 1e3 * session.latency_samples / rate
    buffer = 1e3 * duplex.cushion / rate
    latency = {
        "algorithm": algorithm,
        "buffer": buffer,
        "device": device_ms,
        "total": algorithm + buffer + (device_ms or 0.0),
    }
    return LiveSummary(
        bundle=session.bundle.name,
        engine=said["engine"],
        frontend_backend=said["frontend_backend"],
        input=str(devices[0]["name"]),
        output=str(devices[1]["name"]),
        sample_rate=rate,
        resampled_to=said["resampled_to"],
        channels=settings.channels,
        blocksize=blocksize,
        policy=str(settings.policy),
        ended=ended,
        seconds=duplex.frames / rate,
        hop_ms=1e3 * session.hop_length / session.bundle_rate,
        latency_ms=latency,
        counters=duplex.live.counters.to_dict(),
    )


def _sounddevice() -> Any:
    try:
        return import_module("sounddevice")
    except ImportError as error:
        raise RuntimeUnavailable(f"live audio needs sounddevice; {INSTALL_LINE}") from error
    except OSError as error:  # it is there, but its library is not
        raise RuntimeUnavailable(
            f"live audio needs the PortAudio library; {PORTAUDIO_LINE}"
        ) from error


def _devices(audio: Any, settings: LiveSettings) -> tuple[Any, Any]:
    """Return what PortAudio says of the input and the output device."""
    found = []
    for kind, name in (("input", settings.input), ("output", settings.output)):
        try:
            device = audio.query_devices(name, kind)
        except (audio.PortAudioError, ValueError) as error:
            hint = "see `spectral-edge live --list-devices`"
            if name is None:
                raise RuntimeUnavailable(f"this machine has no sound {kind}; {hint}") from error
            raise AudioError(f"no {kind} device {name!r} ({_first_line(error)}); {hint}") from error
        found.append(device)
    most = int(found[0]["max_input_channels"])
    if not 1 <= settings.channels <= most:
        raise StreamError(
            f"channels is {settings.channels}, {found[0]['name']!r} has {most} input channels"
        )
    return found[0], found[1]


def _pick_rate(audio: Any, settings: LiveSettings, devices: tuple[Any, Any], native: int) -> int:
    """Return the bundle's rate if both devices take it, else the rate that the input prefers."""
    form = {"samplerate": native, "dtype": "float32"}
    try:
        audio.check_input_settings(settings.input, channels=settings.channels, **form)
        audio.check_output_settings(settings.output, channels=1, **form)
    except (audio.PortAudioError, ValueError):
        return int(devices[0]["default_samplerate"])
    return native


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _bar(level_db: float, cells: int = 12, floor_db: float = -60.0) -> str:
    """Return a bar of fixed width, full at 0 dBFS."""
    share = min(max(1 - level_db / floor_db, 0.0), 1.0)
    filled = round(share * cells)
    return "▮" * filled + "▯" * (cells - filled)
