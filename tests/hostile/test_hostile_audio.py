"""Audio files that must be refused, and outputs that must not be half written."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectral_edge import audio
from spectral_edge.errors import AudioError, RuntimeUnavailable, StreamError
from spectral_edge.runtimes.files import enhance_file
from tests.runtimes.tiny import tiny_bundle

RATE = 16_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("b") / "tiny.seb").path


def write_wav(path: Path, samples: int = 3000, rate: int = RATE, channels: int = 1) -> Path:
    rng = np.random.default_rng(1)
    audio.write(path, rng.integers(-5000, 5000, (samples, channels)).astype(np.int16), rate)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no audio file at"),
        (b"", r"is empty \(0 bytes\)"),
        (b"#!/bin/sh\necho hello\n" * 50, "is not audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is not audio"),
        (bytes(5000), "is not audio"),
    ],
)
def test_what_is_not_audio(bundle: Path, tmp_path: Path, content: bytes | None, words: str) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(AudioError, match=words):
        enhance_file(bundle, source, target)
    assert not target.exists()


def test_a_header_without_samples(bundle: Path, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
    with pytest.raises(AudioError, match="has no samples"):
        enhance_file(bundle, tmp_path / "in.wav", tmp_path / "out.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_late_in_a_file_leaves_the_old_output(bundle: Path, tmp_path: Path, bad: float) -> None:
    samples = np.zeros(60_000, np.float32)
    samples[50_000] = bad
    soundfile.write(tmp_path / "in.wav", samples, RATE, subtype="FLOAT")
    target = tmp_path / "out.wav"
    target.write_bytes(b"earlier")
    with pytest.raises(AudioError, match="NaN or infinity"):
        enhance_file(bundle, tmp_path / "in.wav", target)
    assert target.read_bytes() == b"earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_the_input_is_never_the_output(bundle: Path, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav")
    before = source.read_bytes()
    (tmp_path / "link.wav").symlink_to(source)
    for target in (source, tmp_path / "." / "in.wav", tmp_path / "link.wav"):
        with pytest.raises(AudioError, match="is the input; choose another name"):
            enhance_file(bundle, source, target)
    assert source.read_bytes() == before


def test_outputs_that_cannot_be_written(bundle: Path, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav")
    with pytest.raises(AudioError, match=r"the name must end in .wav or .flac"):
        enhance_file(bundle, source, tmp_path / "out.mp3")
    with pytest.raises(AudioError, match="choose another folder"):
        enhance_file(bundle, source, tmp_path / "missing" / "out.wav")
    with pytest.raises(AudioError, match=r"cannot write 9 channels at 16000 Hz as FLAC"):
        enhance_file(bundle, write_wav(tmp_path / "9.wav", channels=9), tmp_path / "out.flac")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["9.wav", "in.wav"]


def test_another_rate_without_resampling(bundle: Path, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav", rate=44_100)
    with pytest.raises(StreamError, match=r"has 44100 Hz, tiny\.seb needs 16000 Hz"):
        enhance_file(bundle, source, tmp_path / "out.wav", resample=False)
    assert not (tmp_path / "out.wav").exists()


def test_samples_that_are_not_int16(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="samples are float64, must be int16"):
        audio.write(tmp_path / "a.wav", np.zeros(3), RATE)  # type: ignore[arg-type]


@pytest.fixture
def no_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device with NumPy and one engine only."""
    monkeypatch.setattr(audio, "_has_soundfile", lambda: False)


@pytest.mark.usefixtures("no_soundfile")
def test_without_soundfile_16_bit_wav_works(bundle: Path, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav", channels=2)
    done = enhance_file(bundle, source, tmp_path / "plain.wav")
    assert (done.samples, done.channels) == (3000, 2)
    with_it, rate = soundfile.read(tmp_path / "plain.wav", dtype="int16")
    without, same_rate = audio.read(tmp_path / "plain.wav")
    assert rate == same_rate == RATE
    assert np.array_equal(with_it, without)


@pytest.mark.usefixtures("no_soundfile")
def test_without_soundfile_the_rest_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    line = r"pip install 'spectral-edge\[audio\]'"
    for subtype, name in (("PCM_24", "a.wav"), ("FLOAT", "b.wav"), ("PCM_16", "c.flac")):
        soundfile.write(tmp_path / name, np.zeros(100), RATE, subtype=subtype)
        with pytest.raises(RuntimeUnavailable, match=line):
            enhance_file(bundle, tmp_path / name, tmp_path / "out.wav")
    with pytest.raises(RuntimeUnavailable, match=line):
        enhance_file(bundle, write_wav(tmp_path / "d.wav"), tmp_path / "out.flac")
    (tmp_path / "e.wav").write_bytes(b"hello, this is text")
    with pytest.raises(AudioError, match="is not audio"):
        enhance_file(bundle, tmp_path / "e.wav", tmp_path / "out.wav")
