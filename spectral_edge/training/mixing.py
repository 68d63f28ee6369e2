"""Noisy and clean examples, mixed on the fly or cut out of finished pairs.

Example ``i`` depends on the seed and ``i`` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spectral_edge.errors import AudioError, RuntimeUnavailable

from .clips import Clip, read_clip
from .recipe import MixRecipe

__all__ = ["Mixtures", "PairCrops", "active_level", "change_speeds", "rms", "shorten_pauses"]

Wave = NDArray[np.float32]
FULL_SCALE = 32768.0
PEAK = 0.99  # of full scale, after mixing
ACTIVE_RANGE_DB = 30.0  # speech frames quieter than the loudest by more than this are pauses
PAUSE_DEPTH_DB = 45.0  # below the loudest frame: no speech
EARLY_SECONDS = 0.05  # reflections that belong to the target
ROOM_T60 = (0.15, 0.6)  # seconds


def active_level(wave: Wave, frame: int = 320) -> float:
    """Return the RMS over the frames of a clip that are not pauses; float32[samples], ±1."""
    count = wave.size // frame
    if not count:
        return float(np.sqrt(np.mean(wave**2) + 1e-12))
    power = np.mean(wave[: count * frame].reshape(count, frame) ** 2, axis=1)
    active = power >= power.max() * 10.0 ** (-ACTIVE_RANGE_DB / 10.0)
    return float(np.sqrt(power[active].mean() + 1e-12))


def change_speeds(clips: Sequence[Clip], speeds: Sequence[float], sample_rate: int) -> list[Clip]:
    """Return every clip at every speed (1.0 is the clip itself).

    Raises:
        RuntimeUnavailable: soxr is needed and not installed.
    """
    out: list[Clip] = []
    for speed in speeds:
        if speed == 1.0:
            out += clips
            continue
        try:
            import soxr
        except ImportError:
            raise RuntimeUnavailable(
                f"data.mix.speeds holds {speed}, which needs soxr: "
                "pip install 'spectral-edge[train]'"
            ) from None
        out += [soxr.resample(clip, sample_rate * speed, sample_rate) for clip in clips]
    return out


def shorten_pauses(clip: Clip, sample_rate: int) -> Clip:
    """Cut frames of 20 ms that are quiet and more than two frames away from speech."""
    frame = sample_rate // 50
    count = clip.size // frame
    power = np.mean(clip[: count * frame].reshape(count, frame).astype(np.float64) ** 2, axis=1)
    active = power >= power.max(initial=0.0) * 10.0 ** (-PAUSE_DEPTH_DB / 10.0)
    near = np.convolve(active, np.ones(5), mode="same") > 0.5
    kept: Clip = clip[: count * frame].reshape(count, frame)[near].reshape(-1)
    return kept if kept.size else clip


class Mixtures(Dataset[tuple[Tensor, Tensor]]):
    """Examples (noisy, clean), each float32[samples] at full scale ±1.

    Args:
        clean: clean speech, int16[samples] each.
        noise: noise, int16[samples] each.
        mix: lengths, levels and probabilities.
        sample_rate: Hz.
        seed: with the index it fixes an example, in any worker and after any resume.
        first: index of the first example.
        count: number of examples.
    """

    def __init__(
        self,
        clean: Sequence[Clip],
        noise: Sequence[Clip],
        mix: MixRecipe,
        sample_rate: int,
        *,
        seed: int,
        first: int,
        count: int,
    ) -> None:
        self.clean, self.noise, self.mix = clean, noise, mix
        self.sample_rate = sample_rate
        self.seed, self.first, self.count = seed, first, count
        self.samples = round(mix.seconds * sample_rate)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, self.first + index))
        mix = self.mix
        clean = self._speech(rng)
        if rng.random() < mix.equalize:
            clean = _equalize(rng, clean, 6.0)
        received = clean
        if rng.random() < mix.reverb:
            received, clean = _room(rng, clean, self.sample_rate)
        noise = self._noise(rng)
        level = active_level(received)
        snr = rng.uniform(*mix.snr_db)
        noise = noise * np.float32(level / rms(noise) * 10.0 ** (-snr / 20.0))
        noisy = received + noise
        gain = 10.0 ** (rng.uniform(*mix.level_dbfs) / 20.0) / rms(noisy)
        gain = min(gain, PEAK / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9))
        scale = np.float32(gain)
        return torch.from_numpy(noisy * scale), torch.from_numpy(clean * scale)

    def _speech(self, rng: np.random.Generator) -> Wave:
        wave = self._crop(rng, self.clean[rng.integers(len(self.clean))])
        if rng.random() < self.mix.pause:
            silent = int(rng.integers(1, self.samples // 2))
            wave = np.concatenate((np.zeros(silent, np.float32), wave[:-silent]))
        return wave

    def _noise(self, rng: np.random.Generator) -> Wave:
        noise = self._one_noise(rng)
        if rng.random() < self.mix.second_noise:
            other = self._one_noise(rng)
            ratio = 10.0 ** (rng.uniform(-15.0, 0.0) / 20.0)
            noise = noise + other * np.float32(ratio * rms(noise) / rms(other))
        return noise

    def _one_noise(self, rng: np.random.Generator) -> Wave:
        kind = rng.random()
        if kind < self.mix.babble:
            noise = self._babble(rng)
        elif kind < self.mix.babble + self.mix.shaped:
            noise = _equalize(rng, rng.standard_normal(self.samples).astype(np.float32), 12.0)
        else:
            noise = self._loop(rng, self.noise[rng.integers(len(self.noise))])
        if rng.random() < self.mix.equalize:
            noise = _equalize(rng, noise, 6.0)
        return noise

    def _babble(self, rng: np.random.Generator) -> Wave:
        voices = int(rng.integers(3, 9))
        noise = np.zeros(self.samples, np.float32)
        for _ in range(voices):
            voice = self._loop(rng, self.clean[rng.integers(len(self.clean))])
            noise += voice * np.float32(10.0 ** (rng.uniform(-8.0, 0.0) / 20.0) / rms(voice))
        return noise

    def _crop(self, rng: np.random.Generator, clip: Clip) -> Wave:
        """Cut a piece at random; a clip that is too short lies in silence at random."""
        spare = clip.size - self.samples
        if spare >= 0:
            begin = int(rng.integers(spare + 1))
            return (clip[begin : begin + self.samples] / FULL_SCALE).astype(np.float32)
        wave = np.zeros(self.samples, np.float32)
        begin = int(rng.integers(-spare + 1))
        wave[begin : begin + clip.size] = clip / FULL_SCALE
        return wave

    def _loop(self, rng: np.random.Generator, clip: Clip) -> Wave:
        """Cut a piece at random; a clip that is too short repeats."""
        begin = int(rng.integers(clip.size))
        indices = (begin + np.arange(self.samples)) % clip.size
        wave: Wave = (clip[indices] / FULL_SCALE).astype(np.float32)
        return wave


class PairCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random pieces of finished (noisy, clean) pairs, each float32[samples] at full scale ±1.

    Every pair comes up once before any comes up again; a pair that is too short ends in silence.

    Args:
        pairs: (noisy, clean) clips as int16[samples], or files of them, read when they are needed.
        seconds: length of a piece.
        sample_rate: Hz.
        seed: with the index it fixes a piece, in any worker and after any resume.
        first: index of the first piece.
        count: number of pieces.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Clip | Path, Clip | Path]],
        seconds: float,
        sample_rate: int,
        *,
        seed: int,
        first: int,
        count: int,
    ) -> None:
        self.pairs, self.sample_rate = pairs, sample_rate
        self.samples = round(seconds * sample_rate)
        self.seed, self.first, self.count = seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(self.first + index, len(self.pairs))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.pairs))
        noisy, clean = whole_pair(self.pairs[order[place]], self.sample_rate)
        rng = np.random.default_rng((self.seed, 1, self.first + index))
        begin = int(rng.integers(max(0, noisy.size - self.samples) + 1))
        pieces = []
        for clip in (noisy, clean):
            piece = np.zeros(self.samples, np.float32)
            cut = clip[begin : begin + self.samples]
            piece[: cut.size] = cut / FULL_SCALE
            pieces.append(torch.from_numpy(piece))
        return pieces[0], pieces[1]


def whole_pair(pair: tuple[Clip | Path, Clip | Path], sample_rate: int) -> tuple[Clip, Clip]:
    """Return a pair of clips, read from its files where it is given by them.

    Raises:
        AudioError: a file that cannot be used, or lengths that differ.
    """
    noisy, clean = (read_clip(c, sample_rate) if isinstance(c, Path) else c for c in pair)
    if noisy.size != clean.size:
        raise AudioError(
            f"{pair[0]} has {noisy.size} samples, its clean file {clean.size}: "
            "pairs must be aligned"
        )
    return noisy, clean


def rms(wave: Wave) -> float:
    """Return the RMS of a clip, never 0."""
    return float(np.sqrt(np.mean(wave**2) + 1e-12))


def _equalize(rng: np.random.Generator, wave: Wave, spread_db: float) -> Wave:
    """Filter with a random smooth gain: 8 normal values of ``spread_db`` over a mel-like axis."""
    spectrum = np.fft.rfft(wave)
    position = np.log1p(np.linspace(0.0, 11.4, spectrum.size)) / np.log1p(11.4) * 7.0
    gain_db = np.interp(position, np.arange(8), rng.normal(0.0, spread_db, 8).clip(-15.0, 15.0))
    return np.fft.irfft(spectrum * 10.0 ** (gain_db / 20.0), n=wave.size).astype(np.float32)


def _room(rng: np.random.Generator, wave: Wave, sample_rate: int) -> tuple[Wave, Wave]:
    """Return the clip in a synthetic room, and the same with early reflections only."""
    t60 = rng.uniform(*ROOM_T60)
    length = int(t60 * sample_rate)
    time = np.arange(length) / sample_rate
    response = rng.standard_normal(length) * np.exp(-6.9 * time / t60)
    response[: int(0.002 * sample_rate)] = 0.0
    response *= 10.0 ** (rng.uniform(-12.0, 0.0) / 20.0) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    early = response.copy()
    early[int(EARLY_SECONDS * sample_rate) :] = 0.0
    size = wave.size + length
    spectrum = np.fft.rfft(wave, n=size)
    both = [
        np.fft.irfft(spectrum * np.fft.rfft(filter_, n=size), n=size)[: wave.size]
        for filter_ in (response, early)
    ]
    return both[0].astype(np.float32), both[1].astype(np.float32)
