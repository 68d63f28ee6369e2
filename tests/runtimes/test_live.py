"""Live audio on a device that a test plays: settings, ends, summaries and errors of the verb."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import spectral_edge as se
from spectral_edge.cli import main
from spectral_edge.errors import AudioError, RuntimeUnavailable, RuntimeUnfit, SpecError
from spectral_edge.runtimes import live as runtime
from spectral_edge.runtimes.live import LiveSettings, LiveState, live
from spectral_edge.runtimes.scheduler.counters import Counters
from spectral_edge.runtimes.scheduler.deadline import OverrunPolicy

PATIENT = OverrunPolicy("queue", 64)  # a busy test machine misses no deadline


class PortAudioError(Exception):
    """As in sounddevice."""


class Audio:
    """Stands for the sounddevice module: one microphone, one pair of loudspeakers.

    Args:
        rates: that the devices take; the first is the one they prefer.
        calls: callbacks before the device falls silent; None never does.
    """

    PortAudioError = PortAudioError

    def __init__(self, rates: tuple[int, ...] = (16_000,), calls: int | None = None) -> None:
        self.rates, self.calls = rates, calls
        self.default = SimpleNamespace(device=(0, 1))
        self.opened: dict[str, Any] = {}
        self.heard: list[np.ndarray[Any, Any]] = []
        self.fails: Callable[[], None] = lambda: None

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "Fake"}]

    def query_devices(self, name: object = None, kind: str | None = None) -> Any:
        devices = [
            {"name": "mic", "max_input_channels": 2, "max_output_channels": 0},
            {"name": "speakers", "max_input_channels": 0, "max_output_channels": 2},
        ]
        devices = [d | {"hostapi": 0, "default_samplerate": self.rates[0]} for d in devices]
        if kind is None:
            return devices
        device = devices[kind == "output"]
        if name not in (None, device["name"]):
            raise ValueError(f"No {kind} device matching {name!r}")
        return device

    def _check(self, device: object, channels: int, dtype: str, samplerate: int) -> None:
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate")

    check_input_settings = check_output_settings = _check

    def Stream(self, **options: Any) -> Any:  # noqa: N802 (as sounddevice spells it)
        self._check(None, 1, "float32", options["samplerate"])
        self.opened = options
        return Stream(self, options)


class Stream:
    """Calls back from a thread of its own, as soon as what it gave before has been worked on."""

    def __init__(self, audio: Audio, options: dict[str, Any]) -> None:
        self.audio, self.options, self.active = audio, options, True
        self.latency = (0.01, 0.02)
        self.closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.audio.fails()
        self._thread.start()

    def stop(self) -> None:
        self.active = False
        self._thread.join()

    def close(self) -> None:
        self.closed = True

    def _run(self) -> None:
        callback, size = self.options["callback"], self.options["blocksize"] or 300
        duplex = callback.__self__
        ins, outs = self.options["channels"]
        rng, made = np.random.default_rng(0), 0
        while self.active and (self.audio.calls is None or made < self.audio.calls):
            block = (rng.standard_normal((size, ins)) * 0.1).astype(np.float32)
            out = np.empty((size, outs), np.float32)
            callback(block, out, size, None, None)
            self.audio.heard.append(out)
            made += 1
            while self.active and duplex.incoming.available:
                time.sleep(0.0005)


def settings(**more: Any) -> LiveSettings:
    return LiveSettings(**{"seconds": 1.0, "policy": PATIENT} | more)


def test_it_ends_when_the_time_is_over(tiny: Path) -> None:
    audio, seen = Audio(), []
    summary = live(tiny, settings(), tell=seen.append, audio=audio)
    assert summary.ended == "time"
    assert summary.seconds >= 1
    assert (summary.sample_rate, summary.resampled_to, summary.blocksize) == (16_000, None, 256)
    assert (summary.input, summary.output) == ("mic", "speakers")
    assert audio.opened["latency"] == "low"
    assert audio.opened["channels"] == (1, 2)
    buffer = (1 + 64) * 16.0
    assert summary.latency_ms == {
        "algorithm": 32.0, "buffer": buffer, "device": pytest.approx(30), "total": buffer + 62.0
    }  # fmt: skip
    assert summary.counters["hops"] >= 60
    assert summary.counters["hop_us"]["p95"] >= summary.counters["hop_us"]["p50"] > 0
    json.dumps(summary.to_dict())
    for words in ("tiny on", "mic → speakers", "hops of 16.0 ms", "policy queue:64", "latency"):
        assert words in summary.table()
    assert all(isinstance(state, LiveState) for state in seen)


def test_another_rate_is_resampled_and_another_block_size_taken(tiny: Path) -> None:
    audio = Audio(rates=(48_000, 44_100))
    summary = live(tiny, settings(blocksize=1000, channels=2, latency=0.2), audio=audio)
    assert (summary.sample_rate, summary.resampled_to, summary.channels) == (48_000, 16_000, 2)
    assert (audio.opened["blocksize"], audio.opened["latency"]) == (1000, 0.2)
    summary = live(tiny, settings(sample_rate=44_100, blocksize=0), audio=audio)
    assert (summary.sample_rate, audio.opened["blocksize"]) == (44_100, 0)


def test_an_interrupt_ends_it_cleanly(tiny: Path) -> None:
    def interrupt(_: LiveState) -> None:
        raise KeyboardInterrupt

    summary = live(tiny, settings(seconds=None), tell=interrupt, audio=Audio())
    assert summary.ended == "stopped"


def test_a_device_that_falls_silent_ends_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "STALL_SECONDS", 0.3)
    summary = live(tiny, settings(seconds=None), audio=Audio(calls=5))
    assert (summary.ended, summary.seconds) == ("device", 5 * 256 / 16_000)


def test_an_error_in_the_worker_is_raised(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, block: object) -> None:
        raise se.errors.StreamError("broken")

    monkeypatch.setattr(se.Session, "push", broken)
    with pytest.raises(se.errors.StreamError, match="broken"):
        live(tiny, settings(), audio=Audio())


def test_devices_that_do_not_fit(tiny: Path) -> None:
    with pytest.raises(AudioError, match=r"no input device 'USB' .*--list-devices"):
        live(tiny, settings(input="USB"), audio=Audio())
    with pytest.raises(AudioError, match="no output device 7"):
        live(tiny, settings(output=7), audio=Audio())
    with pytest.raises(se.errors.StreamError, match="channels is 3, 'mic' has 2"):
        live(tiny, settings(channels=3), audio=Audio())
    with pytest.raises(RuntimeUnfit, match="does not open with 8000 Hz, 1 in and 2 out"):
        live(tiny, settings(sample_rate=8000), audio=Audio())
    audio = Audio()

    def busy() -> None:
        raise PortAudioError("Device unavailable")

    audio.fails = busy
    with pytest.raises(RuntimeUnfit, match="Device unavailable"):
        live(tiny, settings(), audio=audio)
    deaf = Audio()
    deaf.query_devices = lambda *_: busy()  # type: ignore[method-assign]
    with pytest.raises(RuntimeUnavailable, match="no sound input"):
        live(tiny, settings(), audio=deaf)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocksize": 8193}, "0…8192"),
        ({"seconds": 0}, "above 0"),
        ({"latency": "none"}, "low, high or seconds"),
        ({"latency": -1.0}, "0…10"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        LiveSettings(**changes)


def test_devices_are_listed() -> None:
    mic, speakers = runtime.list_devices(Audio())
    assert (mic.name, mic.host, mic.inputs, mic.is_input, mic.is_output) == (
        "mic", "Fake", 2, True, False
    )  # fmt: skip
    assert (speakers.index, speakers.outputs, speakers.is_output) == (1, 2, True)


def test_the_meter_is_for_terminals() -> None:
    with runtime.meter(io.StringIO()) as tell:
        assert tell is None
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    counters = Counters(hops=10, misses=2, xruns_in=1)
    counters.times.add(250_000)
    state = LiveState(12.5, -20.0, -120.0, counters)
    with runtime.meter(terminal) as tell:
        assert tell is not None
        tell(state)
    line = state.line()
    assert "12.5 s" in line
    assert "in  -20.0 dB ▮▮▮▮▮▮▮▮▯▯▯▯" in line
    assert "missed 2   xruns 1" in line
    assert "12.5 s" in terminal.getvalue()


# ---- the verb ---------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Audio:
    audio = Audio()
    monkeypatch.setattr(runtime, "_sounddevice", lambda: audio)
    return audio


def test_verb(tiny: Path, device: Audio, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seconds", "0.5", "--policy", "queue:20", "--input", "mic", "--latency", "0.1"]
    assert main(["live", str(tiny), "--json", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ended"], said["policy"], said["input"]) == ("time", "queue:20", "mic")
    assert (device.opened["latency"], device.opened["device"]) == (0.1, ("mic", None))
    assert main(["live", "--list-devices"]) == 0
    assert "speakers" in capsys.readouterr().out
    assert main(["live", "--list-devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"][0]["name"] == "mic"


def test_verb_says_what_is_wrong(
    tiny: Path, device: Audio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(code: int, *arguments: str) -> str:
        assert main(["live", *arguments]) == code
        return capsys.readouterr().err

    assert "give a bundle" in failed(2)
    assert "must be one of drop" in failed(2, str(tiny), "--policy", "wait")
    assert "low, high or seconds" in failed(2, str(tiny), "--latency", "soon")
    assert "no input device 9" in failed(2, str(tiny), "--input", "9")
    monkeypatch.setattr(runtime, "STALL_SECONDS", 0.3)
    device.calls = 3
    assert "mic or speakers stopped delivering audio" in failed(4, str(tiny))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImportError("no sounddevice"), r"pip install 'spectral-edge\[live\]'"),
        (OSError("PortAudio library not found"), "sudo apt install libportaudio2"),
    ],
)
def test_what_is_missing_is_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def missing(name: str) -> None:
        raise error

    monkeypatch.setattr(runtime, "import_module", missing)
    with pytest.raises(RuntimeUnavailable, match=line):
        live(tiny)
