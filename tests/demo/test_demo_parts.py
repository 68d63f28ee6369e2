"""The demo's speech samples, noise, pictures and page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_edge import audio
from spectral_edge.demo.console import ConsoleProgress
from spectral_edge.demo.samples import NOISES, SAMPLES, calibration_mixes, mix_at_snr, noise
from spectral_edge.errors import SpecError

RATE = 16_000


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_unit_rms_and_follows_its_seed(kind: str) -> None:
    first = noise(kind, RATE, RATE, np.random.default_rng(3))
    again = noise(kind, RATE, RATE, np.random.default_rng(3))
    other = noise(kind, RATE, RATE, np.random.default_rng(4))
    assert np.sqrt(np.mean(first**2)) == pytest.approx(1.0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_noise_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match="noise is 'jungle', must be one of white, pink"):
        noise("jungle", 16, RATE, np.random.default_rng(0))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_mix_has_the_snr_it_was_asked_for(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    speech = np.rint(1000 * rng.standard_normal(RATE)).astype(np.int16)
    added = mix_at_snr(speech, noise("pink", RATE, RATE, rng), snr_db) - speech.astype(np.float64)
    measured = 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2))
    assert measured == pytest.approx(snr_db, abs=0.01)  # int16 rounding


def test_mix_saturates() -> None:
    loud = np.full(1000, 32000, np.int16)
    mixed = mix_at_snr(loud, noise("white", 1000, RATE, np.random.default_rng(0)), 0.0)
    assert mixed.max() == 32767


def test_calibration_mixes_cover_noises_and_levels() -> None:
    speech, rate = audio.read(SAMPLES / "calibration.flac")
    mixes = list(calibration_mixes(speech[:, 0], rate))
    assert [mix.noise for mix in mixes] == list(NOISES)
    assert {len(mix.samples) for mix in mixes} == {len(speech)}
    assert len({mix.level_dbfs for mix in mixes}) > 3


def test_shipped_samples_belong_together() -> None:
    clean, clean_rate = audio.read(SAMPLES / "clean.flac")
    noisy, noisy_rate = audio.read(SAMPLES / "noisy.wav")
    assert clean.shape == noisy.shape
    assert clean_rate == noisy_rate == RATE
    assert (SAMPLES / "noisy.wav").stat().st_size <= 300_000
    added = noisy.astype(np.float64) - clean
    snr_db = 10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2))
    assert snr_db == pytest.approx(5.0, abs=0.05)


def test_spectrogram_shows_a_tone_where_it_is() -> None:
    pytest.importorskip("matplotlib")
    from spectral_edge.demo.picture import spectrogram_db

    tone = np.rint(16384 * np.sin(2 * np.pi * 2000 * np.arange(RATE) / RATE)).astype(np.int16)
    panel = spectrogram_db(tone, RATE)
    bins, frames = panel.shape
    middle = panel[:, frames // 2]
    assert middle.argmax() == (bins - 1) // 4  # 2 kHz of 8 kHz
    assert middle.max() == pytest.approx(-6.02, abs=0.05)  # half of full scale


@pytest.mark.parametrize("samples", [1, 100, 5 * RATE])
def test_picture_is_written_for_any_length(tmp_path: Path, samples: int) -> None:
    pytest.importorskip("matplotlib")
    from spectral_edge.demo.picture import write_spectrograms

    clip = np.arange(samples).astype(np.int16)
    write_spectrograms(tmp_path / "a.png", {"one": clip, "two": clip}, RATE)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_console_prints_finished_steps_only() -> None:
    stream = io.StringIO()
    progress: Any = ConsoleProgress(stream)
    progress("streamify", None, "")
    assert stream.getvalue() == ""
    progress("streamify", 1.25, "12 states")
    assert stream.getvalue().split() == ["streamify", "1.2", "s", "12", "states"]
