"""Live labels on a microphone that is a thread: what is detected, how it ends, what is wrong."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spectral_edge as se
from spectral_edge.cli import main
from spectral_edge.errors import AudioError, RuntimeUnfit, StreamError
from spectral_edge.runtimes.listen import _Microphone, listen
from spectral_edge.runtimes.live import LiveSettings
from tests.runtimes.spotters import RATE, spotter, tones
from tests.runtimes.test_live import Audio, PortAudioError

SPEECH = tones((0, 0.5), (400, 0.6), (0, 0.5), (3000, 0.6), (0, 0.5))


class Microphone(Audio):
    """Plays SPEECH, then falls silent."""

    def InputStream(self, **options: Any) -> Any:  # noqa: N802 (as sounddevice spells it)
        self._check(None, 1, "float32", options["samplerate"])
        self.opened = options
        return Playing(self, options)


class Playing:
    def __init__(self, audio: Microphone, options: dict[str, Any]) -> None:
        self.audio, self.options, self.active = audio, options, True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.audio.fails()
        self._thread.start()

    def stop(self) -> None:
        self.active = False
        self._thread.join()

    def close(self) -> None:
        pass

    def _run(self) -> None:
        microphone = self.options["callback"].__self__
        real = SPEECH.astype(np.float32) / np.float32(32768)
        block = np.repeat(real[:, None], self.options["channels"], axis=1)
        for at in range(0, len(block), 441):
            while self.active and microphone.taken > microphone.given:
                time.sleep(0.0002)
            if not self.active:
                return
            self.options["callback"](block[at : at + 441], 441, None, None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spotter("window", tmp_path_factory.mktemp("listen") / "tones.seb")


def test_detections_come_at_once(bundle: Path) -> None:
    audio, found = Microphone(), []
    summary = listen(bundle, LiveSettings(seconds=2.5), tell=found.append, audio=audio)
    assert (summary.ended, summary.detections, summary.lost_samples) == ("time", 2, 0)
    assert summary.seconds >= 2.5
    with se.open(bundle) as session:
        expected = [d for r in session.process(SPEECH) for d in r.detections]
    assert found == expected
    assert (audio.opened["samplerate"], audio.opened["channels"]) == (RATE, 1)
    assert "2 detections by tones" in summary.table()
    json.dumps(summary.to_dict())


def test_another_rate_is_resampled(bundle: Path) -> None:
    summary = listen(bundle, LiveSettings(seconds=1), audio=Microphone(rates=(48_000,)))
    assert summary.sample_rate == 48_000


def test_an_interrupt_ends_it(bundle: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    summary = listen(bundle, tell=interrupt, audio=Microphone())
    assert (summary.ended, summary.detections) == ("stopped", 1)


def test_a_device_that_falls_silent(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_edge.runtimes.listen.STALL_SECONDS", 0.1)
    assert listen(bundle, audio=Microphone()).ended == "device"


def test_what_nobody_takes_is_lost_and_counted() -> None:
    microphone = _Microphone(1000, None)
    for _ in range(30):
        microphone.callback(np.zeros((100, 1), np.float32), 100, None, None)
    assert (microphone.taken, microphone.lost) == (1100, 1900)


def test_what_does_not_fit(bundle: Path, tmp_path: Path) -> None:
    def broken() -> None:
        raise PortAudioError("busy")

    audio = Microphone()
    with pytest.raises(AudioError, match="no input device 'usb'"):
        listen(bundle, LiveSettings(input="usb"), audio=audio)
    with pytest.raises(StreamError, match="channels is 3"):
        listen(bundle, LiveSettings(channels=3), audio=audio)
    audio.fails = broken
    with pytest.raises(RuntimeUnfit, match=r"does not open with 16000 Hz .* \(busy\)"):
        listen(bundle, audio=audio)
    colours = spotter("colour", tmp_path / "c.seb")
    with pytest.raises(RuntimeUnfit, match="classifies pictures"):
        listen(colours, LiveSettings(sample_rate=16_000), audio=Microphone())


def test_verb(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spectral_edge.runtimes.listen._sounddevice", Microphone)
    assert main(["live", str(bundle), "--seconds", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["low", "high"]
    assert "2 detections" in lines[2]
    assert main(["live", str(bundle), "--seconds", "2.5", "--json"]) == 0
    data = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [d["label"] for d in data[:2]] == ["low", "high"]
    assert data[2]["detections"] == 2
