"""Clips in memory: audio files as int16, and synthetic speech and noise for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from spectral_edge.errors import AudioError, SpecError

from .recipe import expand_folder

__all__ = ["Clip", "load_clips", "load_pairs", "read_clip", "toy_noise", "toy_speech"]

Clip = NDArray[np.int16]
TOY = "toy:"
TOY_SECONDS = 4.0


def read_clip(path: Path, sample_rate: int) -> Clip:
    """Return a mono file as int16[samples].

    Raises:
        AudioError: not audio, empty, not mono, or of another sample rate.
    """
    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is not audio that soundfile reads: {error}") from None
    if rate != sample_rate:
        raise AudioError(f"{path} has {rate} Hz, training needs {sample_rate} Hz: resample it")
    if samples.shape[1] != 1:
        raise AudioError(f"{path} has {samples.shape[1]} channels, training needs mono files")
    if not samples.size:
        raise AudioError(f"{path} is empty: remove it")
    return np.ascontiguousarray(samples[:, 0])


def load_clips(
    folders: Sequence[str], root: str | None, sample_rate: int, kind: str, seed: int = 0
) -> list[Clip]:
    """Return every clip of the folders, in order of their paths.

    Args:
        folders: folder names, or ``toy:COUNT``.
        root: where relative folders start.
        sample_rate: Hz that every file must have.
        kind: ``clean`` or ``noise``; what toy clips are, and what an error calls the folder.
        seed: of toy clips.

    Raises:
        SpecError: no folder, a missing folder, or a folder without audio.
        AudioError: a file that cannot be used.
    """
    if not folders:
        raise SpecError(f"data.{kind} is empty: name at least one folder")
    clips: list[Clip] = []
    for folder in folders:
        if folder.startswith(TOY):
            clips += _toy_clips(folder, kind, sample_rate, seed)
            continue
        path = expand_folder(folder, root)
        found = _audio_files(path)
        if not found:
            raise SpecError(f"{kind} folder {path} holds no .wav or .flac file")
        clips += [read_clip(file, sample_rate) for file in found]
    return clips


def load_pairs(
    folders: Sequence[str], root: str | None, sample_rate: int
) -> list[tuple[Clip, Clip]]:
    """Return (noisy, clean) clips of folders that hold ``noisy/`` and ``clean/``.

    Raises:
        SpecError: a missing folder or a noisy file without its clean file.
        AudioError: a file that cannot be used, or lengths that differ.
    """
    pairs = []
    for folder in folders:
        path = expand_folder(folder, root)
        for noisy in _audio_files(expand_folder("noisy", str(path))):
            clean = path / "clean" / noisy.name
            if not clean.is_file():
                raise SpecError(f"{noisy} has no clean file {clean}: add it")
            pair = read_clip(noisy, sample_rate), read_clip(clean, sample_rate)
            if pair[0].size != pair[1].size:
                raise AudioError(
                    f"{noisy} has {pair[0].size} samples, its clean file {pair[1].size}: "
                    "pairs must be aligned"
                )
            pairs.append(pair)
    return pairs


def toy_speech(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Return vowel-like syllables: harmonics of a gliding pitch under moving formants.

    Returns:
        float64[samples] with peak about 0.3, with pauses between syllables.
    """
    time = np.arange(samples) / sample_rate
    pitch = rng.uniform(90, 250) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formants = [rng.uniform(*band) for band in ((300, 900), (900, 2300), (2300, 3500))]
    wave = np.zeros(samples)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        gain = sum(np.exp(-(((frequency - formant) / 250) ** 2)) for formant in formants)
        audible = frequency < 0.45 * sample_rate
        wave += (0.02 + gain) / harmonic * np.sin(harmonic * phase) * audible
    syllable = np.sin(2 * np.pi * rng.uniform(1.0, 2.5) * time + rng.uniform(0, 6.28))
    wave *= np.clip(1.5 * syllable, 0.0, 1.0)
    return 0.3 * wave / max(float(np.abs(wave).max()), 1e-9)


def toy_noise(rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """Return stationary noise with a random spectral tilt: float64[samples], peak about 0.3."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    tilt = (np.arange(spectrum.size) + 0.01 * samples) ** -rng.uniform(0.0, 1.0)
    wave = np.fft.irfft(spectrum * tilt, n=samples)
    return 0.3 * wave / float(np.abs(wave).max())


def to_int16(wave: NDArray[np.float64]) -> Clip:
    """Round full scale ±1 to int16, saturating."""
    clip: Clip = np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)
    return clip


def _audio_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac"))


def _toy_clips(name: str, kind: str, sample_rate: int, seed: int) -> list[Clip]:
    count = name.removeprefix(TOY)
    if not count.isdigit() or int(count) < 1:
        raise SpecError(f"data.{kind} is {name!r}, must be 'toy:' and a count, such as toy:16")
    samples = int(TOY_SECONDS * sample_rate)
    clips = []
    for index in range(int(count)):
        rng = np.random.default_rng((seed, index, kind == "clean"))
        wave = toy_speech(rng, samples, sample_rate) if kind == "clean" else toy_noise(rng, samples)
        clips.append(to_int16(wave))
    return clips
