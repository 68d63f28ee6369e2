"""Audio files: what is read is what was written, in blocks of any size, in any format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectral_edge import audio
from spectral_edge.errors import AudioError

RATE = 22_050


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("samples", [1, 16_384, 16_385, 40_000])
def test_read_returns_what_write_wrote(
    tmp_path: Path, suffix: str, channels: int, samples: int
) -> None:
    rng = np.random.default_rng(samples)
    clip = rng.integers(-32768, 32768, (samples, channels)).astype(np.int16)
    path = tmp_path / f"a.{suffix}"
    audio.write(path, clip, RATE)
    again, rate = audio.read(path)
    assert rate == RATE
    assert np.array_equal(again, clip)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_other_sample_formats_are_scaled(tmp_path: Path, subtype: str) -> None:
    clip = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    soundfile.write(tmp_path / "a.wav", clip, RATE, subtype=subtype)
    seen, _ = audio.read(tmp_path / "a.wav")
    step = 256 if subtype == "PCM_U8" else 1
    assert np.abs(seen[:, 0].astype(int) - np.rint(clip * 32768)).max() <= step


def test_blocks_have_the_size_asked_for(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.arange(1000, dtype=np.int16), RATE)
    with audio.open_reader(tmp_path / "a.wav") as reader:
        blocks = list(reader.blocks(300))
        assert (reader.frames, reader.channels, reader.sample_rate) == (1000, 1, RATE)
    assert [len(b) for b in blocks] == [300, 300, 300, 100]


def test_to_int16_rounds_and_saturates() -> None:
    real = np.array([0, 1, -1, 2, -1e30, 0.5 / 32768, 1.5 / 32768, 0.4 / 32768], np.float32)
    assert audio.to_int16(real).tolist() == [0, 32767, -32768, 32767, -32768, 0, 2, 0]
    with pytest.raises(AudioError, match="NaN"):
        audio.to_int16(np.array([np.nan]))


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with audio.open_writer(tmp_path / "a.wav", RATE, 1) as writer:
            writer.write(np.zeros((100, 1), np.int16))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_and_fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rates", [(16_000, 48_000), (44_100, 16_000)])
def test_resampler_depends_on_the_input_alone(rates: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    clip = rng.standard_normal(9000).astype(np.float32)
    whole = audio.Resampler(*rates).push(clip, last=True)
    pieces = audio.Resampler(*rates)
    parts = [pieces.push(clip[i : i + 777]) for i in range(0, 9000, 777)]
    parts.append(pieces.push(clip[:0], last=True))
    assert np.array_equal(np.concatenate(parts), whole)
