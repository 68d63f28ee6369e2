"""Deterministic synthetic data sets: everything runs with no data at hand.

Example i of a split is drawn from its own generator, so it is the same whatever else is drawn, on
every machine. They stand in for real sets in tests and in ablations; results on them say how a
network behaves, not how good it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

from .labelled import LabelledSet

__all__ = ["NOISE_FAMILIES", "TOY_SETS", "toy_img", "toy_kws", "toy_se", "toy_set", "toy_tag"]

SPLITS = {"train": 0, "val": 1, "test": 2}
NOISE_FAMILIES = ("stationary", "babble", "modulated", "impulse", "hum", "sweep")
KWS_CLASSES = 35
TAG_CLASSES = ("tone", "hum", "chirp", "click", "hiss", "rumble", "warble", "ring", "buzz", "puff")
SHAPES = ("disc", "square", "triangle", "cross")
GRATINGS = ("across", "down", "diagonal")
Wave = NDArray[np.float64]


def _rng(seed: int, split: str, index: int) -> np.random.Generator:
    if split not in SPLITS:
        raise SpecError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS[split], index])


def _pcm(wave: Wave) -> NDArray[np.int16]:
    pcm: NDArray[np.int16] = np.clip(np.round(wave * 32767.0), -32768, 32767).astype(np.int16)
    return pcm


def _memory(clips: list[NDArray[Any]]) -> Callable[[int], NDArray[Any]]:
    return lambda i: clips[i]


# -- speech in noise -----------------------------------------------------------------------------


def _voice(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Syllables of a gliding harmonic complex under three moving formants, with pauses."""
    time = np.arange(samples) / rate
    pitch = rng.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 1.2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = np.zeros(samples)
    centres = [
        c * (1 + 0.25 * np.sin(2 * np.pi * rng.uniform(0.5, 2.0) * time + rng.uniform(0, 6.28)))
        for c in (rng.uniform(300, 800), rng.uniform(900, 2000), rng.uniform(2200, 3200))
    ]
    for h in range(1, 25):
        frequency = h * pitch
        gain = sum(np.exp(-(((frequency - c) / 220.0) ** 2)) for c in centres)
        wave += (0.03 + gain) * (frequency < 0.45 * rate) / h * np.sin(h * phase)
    beat = np.sin(2 * np.pi * rng.uniform(1.5, 3.5) * time + rng.uniform(0, 6.28))
    wave *= np.clip(0.5 + 1.5 * beat, 0.0, 1.0)
    return 0.25 * wave / max(1e-9, float(np.abs(wave).max()))


def _coloured(rng: np.random.Generator, samples: int, slope: float) -> Wave:
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    bins = np.maximum(1.0, np.arange(len(spectrum)))
    return np.asarray(np.fft.irfft(spectrum * bins ** (-slope / 2), samples))


def _noise(family: str, rng: np.random.Generator, samples: int, rate: int) -> Wave:
    time = np.arange(samples) / rate
    if family == "stationary":
        return _coloured(rng, samples, rng.uniform(0, 2))
    if family == "babble":
        return np.asarray(np.sum([_voice(rng, samples, rate) for _ in range(5)], axis=0))
    if family == "modulated":
        beat = 1 + np.sin(2 * np.pi * rng.uniform(0.5, 8) * time + rng.uniform(0, 6.28))
        return np.asarray(_coloured(rng, samples, rng.uniform(0, 1.5)) * beat)
    if family == "impulse":
        hits = (rng.random(samples) < 8.0 / rate) * rng.standard_normal(samples)
        decay = np.exp(-np.arange(int(0.05 * rate)) / (0.01 * rate))
        ring = decay * rng.standard_normal(len(decay))
        return np.asarray(np.convolve(hits, ring)[:samples] + 1e-4 * rng.standard_normal(samples))
    if family == "hum":
        base = rng.choice((50.0, 60.0, 100.0, 120.0))
        tones = [
            np.sin(2 * np.pi * base * h * time + rng.uniform(0, 6.28)) / h for h in range(1, 9)
        ]
        return np.asarray(np.sum(tones, axis=0) + 0.05 * rng.standard_normal(samples))
    low, high = sorted(rng.uniform(200, 0.4 * rate, 2))
    where = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.5, 3) * time)
    phase = 2 * np.pi * np.cumsum(low + (high - low) * where) / rate
    return np.asarray(np.sin(phase) + 0.1 * rng.standard_normal(samples))


def toy_se(
    count: int,
    *,
    split: str = "train",
    seconds: float = 1.0,
    sample_rate: int = 16_000,
    snr_db: tuple[float, float] = (-5.0, 15.0),
    families: tuple[str, ...] = NOISE_FAMILIES,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return harmonic "speech" with moving formants in six families of noise.

    Args:
        count: pairs.
        split: ``train``, ``val`` or ``test``: different examples.
        seconds: length of a clip.
        sample_rate: Hz.
        snr_db: range of the signal-to-noise ratio.
        families: noises to draw from, out of :data:`NOISE_FAMILIES`.
        seed: another seed is another data set.

    Returns:
        (noisy, clean), float32[count, samples] in [-1, 1].

    Raises:
        SpecError: an unknown split or family.
    """
    unknown = [f for f in families if f not in NOISE_FAMILIES]
    if unknown or not families:
        raise SpecError(f"families {unknown} unknown: choose from {', '.join(NOISE_FAMILIES)}")
    samples = round(seconds * sample_rate)
    noisy, clean = np.empty((2, count, samples), dtype=np.float32)
    for i in range(count):
        rng = _rng(seed, split, i)
        voice = _voice(rng, samples, sample_rate)
        noise = _noise(families[int(rng.integers(len(families)))], rng, samples, sample_rate)
        ratio = 10 ** (rng.uniform(*snr_db) / 20)
        noise *= np.sqrt(np.mean(voice**2) / max(1e-12, float(np.mean(noise**2)))) / ratio
        peak = max(1.0, float(np.abs(voice + noise).max()) / 0.95)
        clean[i], noisy[i] = voice / peak, (voice + noise) / peak
    return noisy, clean


# -- keywords ------------------------------------------------------------------------------------


def _keyword(word: int, rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Template ``word``: two gliding tones with beats; time, pitch and speed are jittered."""
    template = np.random.default_rng(1000 + word)
    wave = np.zeros(samples)
    pitch, speed = rng.uniform(0.93, 1.07), rng.uniform(0.85, 1.15)
    length = int(0.5 * samples * speed)
    start = int(rng.integers(0, samples - length))
    t = np.linspace(0.0, 1.0, length)
    for _ in range(2):
        first, last = np.exp(template.uniform(np.log(250), np.log(0.35 * rate), 2))
        bend, beat = template.uniform(0.4, 2.5), template.uniform(0.5, 6.0)
        curve = (first + (last - first) * t**bend) * pitch
        envelope = np.sin(np.pi * t) * (0.6 + 0.4 * np.cos(2 * np.pi * beat * t))
        tone = np.sin(2 * np.pi * np.cumsum(curve) / rate + rng.uniform(0, 6.28))
        wave[start : start + length] += envelope * tone
    noise = _coloured(rng, samples, rng.uniform(0, 1))
    level = 10 ** (-rng.uniform(0, 15) / 20)
    wave += level * float(np.std(wave)) / max(1e-9, float(np.std(noise))) * noise
    return wave / float(np.abs(wave).max()) * rng.uniform(0.1, 0.7)


def toy_kws(
    count: int,
    *,
    split: str = "train",
    classes: int = KWS_CLASSES,
    seconds: float = 1.0,
    sample_rate: int = 16_000,
    seed: int = 0,
) -> LabelledSet:
    """Return up to 35 "words": chirp templates with time, pitch and speed jitter in noise."""
    if not 2 <= classes <= KWS_CLASSES:
        raise SpecError(f"classes is {classes}, must be 2…{KWS_CLASSES}")
    samples = round(seconds * sample_rate)
    targets = np.arange(count, dtype=np.int64) % classes
    clips: list[NDArray[Any]] = [
        _pcm(_keyword(int(word), _rng(seed, split, i), samples, sample_rate))
        for i, word in enumerate(targets)
    ]
    names = tuple(f"word{i:02d}" for i in range(classes))
    name = f"toy_kws{classes}-{split}-{seed}-{seconds}"
    return LabelledSet(name, "audio", names, targets, _memory(clips), sample_rate)


# -- tags ----------------------------------------------------------------------------------------


def _event(kind: str, rng: np.random.Generator, length: int, rate: int) -> Wave:
    t = np.arange(length) / rate
    fade = np.sin(np.pi * np.linspace(0, 1, length)) ** 0.5
    f = rng.uniform(400, 1500)
    if kind == "tone":
        wave = np.sin(2 * np.pi * f * t)
    elif kind == "hum":
        wave = np.sum([np.sin(2 * np.pi * 100 * h * t) / h for h in (1, 2, 3, 4)], axis=0)
    elif kind == "chirp":
        wave = np.sin(2 * np.pi * (f * t + f * t * t / max(t[-1], 1e-3)))
    elif kind == "click":
        wave = np.zeros(length)
        wave[:: int(rate / rng.uniform(8, 20))] = 4.0
    elif kind == "hiss":
        wave = np.diff(rng.standard_normal(length + 1))
    elif kind == "rumble":
        wave = 4 * _coloured(rng, length, 3.0) / 0.01
        wave = wave / max(1e-9, float(np.std(wave)))
    elif kind == "warble":
        wave = np.sin(2 * np.pi * f * t + 40 * np.sin(2 * np.pi * 6 * t))
    elif kind == "ring":
        wave = np.exp(-8 * (t % 0.25)) * np.sin(2 * np.pi * 1.9 * f * t)
    elif kind == "buzz":
        wave = np.sign(np.sin(2 * np.pi * 0.25 * f * t))
    else:
        wave = rng.standard_normal(length) * (np.sin(2 * np.pi * 5 * t) > 0.6)
    return np.asarray(fade * wave / max(1e-9, float(np.std(wave))))


def toy_tag(
    count: int,
    *,
    split: str = "train",
    seconds: float = 2.0,
    sample_rate: int = 16_000,
    seed: int = 0,
) -> LabelledSet:
    """Return clips with one to three overlapping events of ten kinds; several labels per clip."""
    samples = round(seconds * sample_rate)
    targets = np.zeros((count, len(TAG_CLASSES)), dtype=np.float32)
    clips: list[NDArray[Any]] = []
    for i in range(count):
        rng = _rng(seed, split, i)
        wave = 0.02 * rng.standard_normal(samples)
        kinds = rng.choice(len(TAG_CLASSES), size=int(rng.integers(1, 4)), replace=False)
        for kind in kinds:
            length = int(samples * rng.uniform(0.25, 0.6))
            start = int(rng.integers(0, samples - length))
            wave[start : start + length] += rng.uniform(0.3, 1.0) * _event(
                TAG_CLASSES[kind], rng, length, sample_rate
            )
            targets[i, kind] = 1.0
        clips.append(_pcm(0.5 * wave / float(np.abs(wave).max())))
    name = f"toy_tag-{split}-{seed}-{seconds}"
    return LabelledSet(name, "audio", TAG_CLASSES, targets, _memory(clips), sample_rate)


# -- images --------------------------------------------------------------------------------------


def toy_img(count: int, *, split: str = "train", side: int = 32, seed: int = 0) -> LabelledSet:
    """Return shapes filled with fine gratings: the class needs low *and* high spatial frequencies.

    Class = shape (4, coarse) × grating direction (3, fine); brightness, size, place, phase and
    period vary. uint8[side, side, 1].
    """
    classes = tuple(f"{shape}-{grating}" for shape in SHAPES for grating in GRATINGS)
    targets = np.arange(count, dtype=np.int64) % len(classes)
    y, x = np.mgrid[0:side, 0:side] / side
    images: list[NDArray[Any]] = []
    for i, label in enumerate(targets):
        rng = _rng(seed, split, i)
        shape, grating = divmod(int(label), len(GRATINGS))
        cx, cy = rng.uniform(0.35, 0.65, 2)
        mask = _shape(SHAPES[shape], x - cx, y - cy, rng.uniform(0.2, 0.3))
        period = rng.uniform(2.2, 3.2) / side
        along = (x, y, (x + y) / np.sqrt(2))[grating]
        fine = np.sin(2 * np.pi * along / period + rng.uniform(0, 6.28))
        image = rng.uniform(-0.2, 0.2) + mask * (rng.uniform(0.2, 0.4) + 0.35 * fine)
        image = image + 0.08 * rng.standard_normal((side, side))
        images.append(np.clip(127.5 + 127.5 * image, 0, 255).astype(np.uint8)[:, :, None])
    return LabelledSet(f"toy_img{side}-{split}-{seed}", "image", classes, targets, _memory(images))


def _shape(kind: str, x: Wave, y: Wave, r: float) -> NDArray[np.bool_]:
    if kind == "disc":
        return np.asarray(x * x + y * y < r * r)
    if kind == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) < 0.85 * r)
    if kind == "triangle":
        return np.asarray((y > -0.8 * r) & (y < 0.9 * r) & (np.abs(x) < 0.6 * (0.9 * r - y)))
    return np.asarray(
        (np.minimum(np.abs(x), np.abs(y)) < 0.3 * r) & (np.abs(x) + np.abs(y) < 1.5 * r)
    )


TOY_SETS: dict[str, Callable[..., LabelledSet]] = {
    "toy_kws": toy_kws, "toy_tag": toy_tag, "toy_img": toy_img,
}  # fmt: skip


def toy_set(name: str, count: int, **settings: Any) -> LabelledSet:
    """Return the classification set ``name`` of :data:`TOY_SETS`.

    Raises:
        SpecError: an unknown name.
    """
    if name not in TOY_SETS:
        raise SpecError(f"toy set is {name!r}, must be one of {', '.join(TOY_SETS)}")
    return TOY_SETS[name](count, **settings)
