"""Ablations S1 … S10: the paper-size SAF, made small, on speech in noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge import metrics
from spectral_edge.errors import RuntimeUnavailable
from spectral_edge.frontend import StftFrontend
from spectral_edge.models.counters import parameter_count
from spectral_edge.models.saf_paper import SafPaper, SafPaperOptions, reconstruct
from spectral_edge.models.window import window_program

from .ablations import Context, Outcome, Variant
from .clips import load_clips
from .synthetic import NOISE_FAMILIES, toy_se

__all__ = ["variants"]

SEEN = ("stationary", "modulated", "hum")
EPSILON = 1e-5
CLIPS_AT_ONCE = 8
LOG1P = 0.0  # stands for log(1 + |X|) among the compression exponents


@dataclass(frozen=True)
class Setting:
    """Front end and budget of an enhancement ablation.

    Attributes:
        sample_rate: Hz.
        n_fft: samples of a frame; the hop is half of it.
        seconds: of a clip.
        train: clips for training.
        test: clips for the score.
        steps: optimiser steps.
        batch: clips per step.
        lr: Adam's learning rate.
        channels: width of the small network.
    """

    sample_rate: int = 8000
    n_fft: int = 128
    seconds: float = 0.768
    train: int = 96
    test: int = 24
    steps: int = 120
    batch: int = 4
    lr: float = 7e-3
    channels: int = 8

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.n_fft // 2


TOY = Setting()
FULL = Setting(16_000, 320, 1.0, 600, 48, 2000, 4, 3e-3, 16)


def _setting(context: Context) -> Setting:
    setting = TOY if context.toy else FULL
    return replace(setting, steps=max(2, round(setting.steps * context.effort)))


def variants(experiment: str, context: Context) -> Iterator[Variant]:
    """Yield the variants of one S experiment."""
    if experiment == "S6":
        yield from _generalisation(context)
    elif experiment == "S10":
        yield from _compression(context)
    elif experiment == "S7":
        yield from _cores(context)
    else:
        tables = {
            "S1": _phases, "S2": _windows, "S3": _depths, "S4": _kernels, "S5": _norms,
            "S8": _causality, "S9": _outputs,
        }  # fmt: skip
        for label, changes in tables[experiment]().items():
            if experiment == "S3" and context.toy and changes["layers"] > 5:
                continue
            yield _variant(label, context, columns=experiment, **changes)


def _phases() -> dict[str, dict[str, Any]]:
    kinds = ("none", "atan2", "cossin", "gated", "ifgd")
    table: dict[str, dict[str, Any]] = {f"{k}, with RI": {"phase": k} for k in kinds}
    table |= {f"{k}, without RI": {"phase": k, "real_imag": False} for k in ("none", "gated")}
    return table


def _windows() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {f"{w} bands": {"window": w} for w in (1, 3, 5, 7)}
    return table | {"all bands": {"window": 0}, "depth-wise 1×3": {"window": -1}}


def _depths() -> dict[str, dict[str, Any]]:
    return {f"{n} layers": {"layers": n} for n in (1, 2, 3, 5, 7)}


def _kernels() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {
        f"{k}×{k}": {"kernel": (k, k)} for k in (3, 5, 7, 9, 11, 15, 21)
    }
    return table | {
        "11×11 separable": {"kernel": (11, 11), "separable": True},
        "11×1 (time)": {"kernel": (11, 1)}, "1×11 (bands)": {"kernel": (1, 11)},
    }  # fmt: skip


def _norms() -> dict[str, dict[str, Any]]:
    return {n: {"norm": n, "causal": True} for n in ("ln_c", "ln_f", "bn", "gn", "rms", "none")}


def _causality() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {"non-causal": {}, "causal": {"causal": True}}
    for frames in (1, 2, 5):
        table[f"look-ahead {frames}"] = {
            "causal": True, "lookahead": frames, "kernel": (11, 7), "separable": False
        }  # fmt: skip
    return table


def _outputs() -> dict[str, dict[str, Any]]:
    return {
        "mask": {"reconstruction": "mask"}, "bias": {"reconstruction": "bias"},
        "mask + bias": {}, "mask + magnitude bias": {"bias_domain": "magnitude"},
        "complex mask": {"reconstruction": "complex_mask"},
    }  # fmt: skip


# -- data and training -----------------------------------------------------------------------------


class Spectra:
    """STFT, compression and back, in float; level is one RMS per clip."""

    def __init__(self, setting: Setting, exponent: float) -> None:
        self.setting, self.exponent = setting, exponent
        self.window = torch.hann_window(setting.n_fft).sqrt()
        self.gain = float(self.window.square().sum().sqrt())

    def _stft(self, wave: Tensor) -> Tensor:
        s = self.setting
        spectrum = torch.stft(
            wave, s.n_fft, s.hop, window=self.window, return_complex=True, center=True
        )
        return spectrum.transpose(1, 2) / self.gain

    def features(self, wave: Tensor) -> Tensor:
        """Return mag, re, im, compressed: float32[batch, 3, frames, bins]."""
        spectrum = self._stft(wave)
        size = spectrum.abs()
        mag = torch.log1p(size) if self.exponent == LOG1P else size**self.exponent
        unit = spectrum / (size + 1e-9)
        return torch.stack((mag, mag * unit.real, mag * unit.imag), dim=1)

    def wave(self, compressed: Tensor, samples: int) -> Tensor:
        """Return the signal of a compressed (re, im) spectrum."""
        re, im = compressed[:, 0], compressed[:, 1]
        mag = (re.square() + im.square() + 1e-12).sqrt()
        if self.exponent == LOG1P:
            size = torch.expm1(mag.clamp(max=8.0))
        else:
            size = mag ** (1.0 / self.exponent)
        spectrum = torch.complex(re / mag * size, im / mag * size).transpose(1, 2) * self.gain
        s = self.setting
        return torch.istft(spectrum, s.n_fft, s.hop, window=self.window, length=samples)


Pairs = tuple[Tensor, Tensor]  # noisy, clean: float32[clips, samples] at unit noisy RMS


def _levelled(noisy: np.ndarray[Any, Any], clean: np.ndarray[Any, Any]) -> Pairs:
    x, y = torch.from_numpy(noisy), torch.from_numpy(clean)
    rms = x.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    return x / rms, y / rms


@lru_cache(maxsize=32)
def _toy_pairs(
    setting: Setting, split: str, families: tuple[str, ...], snr: tuple[float, float]
) -> Pairs:
    count = setting.train if split == "train" else setting.test
    noisy, clean = toy_se(
        count, split=split, seconds=setting.seconds, sample_rate=setting.sample_rate,
        families=families, snr_db=snr,
    )  # fmt: skip
    return _levelled(noisy, clean)


@lru_cache(maxsize=4)
def _real_pairs(setting: Setting, split: str, root: Path) -> Pairs:
    part = "train" if split == "train" else "val"
    folder = str(root / "denoise")
    speech = load_clips((f"clean_{part}",), folder, setting.sample_rate, "clean")
    noise = load_clips((f"noise_{part}",), folder, setting.sample_rate, "noise")
    samples = round(setting.seconds * setting.sample_rate)
    count = setting.train if split == "train" else setting.test
    noisy, clean = np.empty((2, count, samples), dtype=np.float32)
    rng = np.random.default_rng([5, split == "train"])
    for i in range(count):
        voice = _cut(speech[i % len(speech)], samples, rng)
        other = _cut(noise[int(rng.integers(len(noise)))], samples, rng)
        level = float(np.sqrt(np.mean(voice**2) / max(1e-9, float(np.mean(other**2)))))
        clean[i] = voice
        noisy[i] = voice + other * level / 10 ** (rng.uniform(-5, 15) / 20)
    return _levelled(noisy, clean)


def _cut(clip: np.ndarray[Any, Any], samples: int, rng: np.random.Generator) -> Any:
    if len(clip) < samples:
        clip = np.pad(clip, (0, samples - len(clip)))
    start = int(rng.integers(0, len(clip) - samples + 1))
    return clip[start : start + samples].astype(np.float64) / 32768.0 + 1e-6


def _pairs(
    context: Context, split: str, families: tuple[str, ...] = NOISE_FAMILIES,
    snr: tuple[float, float] = (-5.0, 5.0),
) -> Pairs:  # fmt: skip
    setting = _setting(context)
    if context.toy or families != NOISE_FAMILIES:
        return _toy_pairs(setting, split, families, snr)
    assert context.data_root is not None
    return _real_pairs(setting, split, context.data_root)


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return scale-invariant signal-to-distortion ratios in dB, float32[clips]."""
    estimate = estimate - estimate.mean(dim=1, keepdim=True)
    target = target - target.mean(dim=1, keepdim=True)
    scale = (estimate * target).sum(dim=1, keepdim=True) / target.square().sum(dim=1, keepdim=True)
    wanted = scale * target
    noise = (estimate - wanted).square().sum(dim=1).clamp_min(1e-9)
    return 10 * torch.log10(wanted.square().sum(dim=1).clamp_min(1e-9) / noise)


def _options(setting: Setting, **changes: Any) -> SafPaperOptions:
    small: dict[str, Any] = {
        "channels": setting.channels, "layers": 1, "heads": 2, "kernel": (7, 7),
        "dilations": (1, 2), "dense_edges": 1, "phase": "gated",
    }  # fmt: skip
    return SafPaperOptions(**{**small, **changes})


def _frontend(setting: Setting, exponent: float) -> StftFrontend:
    compression = exponent if exponent in (0.3, 0.5, 1.0) else 1.0
    return se.StftFrontend(setting.sample_rate, setting.n_fft, setting.hop, compression=compression)


def _fit(
    options: SafPaperOptions, setting: Setting, spectra: Spectra, train: Pairs, seed: int
) -> SafPaper:
    torch.manual_seed(seed)
    model = SafPaper(_frontend(setting, spectra.exponent), options)
    optimizer = torch.optim.Adam(model.parameters(), setting.lr, (0.95, 0.999))
    warm = max(1, setting.steps // 10)

    def relative_lr(step: int) -> float:
        share = max(0, step - warm) / max(1, setting.steps - warm)
        return min(1.0, (step + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, relative_lr)
    noisy, clean = spectra.features(train[0]), spectra.features(train[1])
    generator = torch.Generator().manual_seed(seed)
    samples = train[0].shape[1]
    model.train()
    for _ in range(setting.steps):
        pick = torch.randint(0, len(noisy), (setting.batch,), generator=generator)
        x, y = noisy[pick], clean[pick]
        estimate = reconstruct(x, model(x))
        size = (estimate.square().sum(dim=1) + EPSILON).sqrt()
        loss = 0.7 * (size - y[:, 0]).square().mean() + 0.3 * (estimate - y[:, 1:]).square().mean()
        loss = loss - 0.02 * si_sdr(spectra.wave(estimate, samples), train[1][pick]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _enhanced(model: Any, spectra: Spectra, noisy: Tensor) -> Tensor:
    """Return the clips after the network, a few at a time: real ones are large spectra."""
    waves = []
    with torch.no_grad():
        for part in noisy.split(CLIPS_AT_ONCE):  # type: ignore[no-untyped-call]
            x = spectra.features(part)
            waves.append(spectra.wave(reconstruct(x, model(x)), part.shape[1]))
    return torch.cat(waves)


def _gain(model: Any, spectra: Spectra, test: Pairs) -> float:
    """Return the mean SI-SDR gain over the noisy input in dB."""
    noisy, clean = test
    enhanced = _enhanced(model, spectra, noisy)
    return float((si_sdr(enhanced, clean) - si_sdr(noisy, clean)).mean())


def _int8(
    model: SafPaper, spectra: Spectra, train: Pairs, qat: se.QatConfig | None = None
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the w8a8 form of a trained network, calibrated on clips it was trained with."""
    features = spectra.features(train[0][: 8 if qat is None else 32])
    program = window_program(model, features[:1])
    quantised = se.quantize(program, [(features,)], qat=qat)
    names = [t.name for t in quantised.outputs]

    def run(x: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, quantised.step((x,), ())[0], strict=True))

    return run


def _quality(model: SafPaper, spectra: Spectra, test: Pairs, setting: Setting) -> dict[str, float]:
    """Return what the enhanced clips gain in PESQ and segmental SNR over the noisy ones."""
    noisy, clean = test
    enhanced = _enhanced(model, spectra, noisy)
    scores: dict[str, Any] = {"PESQ gain": metrics.pesq, "SSNR gain (dB)": metrics.ssnr}
    peak = float(max(t.abs().max() for t in (noisy, clean, enhanced)))
    found = {}
    clips = [(t / peak).numpy() for t in (clean, noisy, enhanced)]
    for name, score in scores.items():
        with suppress(RuntimeUnavailable):  # pesq is an extra
            gains = [
                score(y, after, setting.sample_rate) - score(y, before, setting.sample_rate)
                for y, before, after in zip(*clips, strict=True)
            ]
            found[name] = float(np.nanmean(gains))
    return found


def _variant(
    label: str, context: Context, *, columns: str = "", exponent: float = 0.5,
    **changes: Any,
) -> Variant:  # fmt: skip
    setting = _setting(context)
    options = _options(setting, **changes)
    spectra = Spectra(setting, exponent)

    def run(seed: int) -> Outcome:
        train, test = _pairs(context, "train"), _pairs(context, "test")
        model = _fit(options, setting, spectra, train, seed)
        value = _gain(model, spectra, test)
        int8 = None
        if context.int8 or columns == "S10":
            int8 = _gain(_int8(model, spectra, train), spectra, test)
        example = spectra.features(test[0][:1])
        extras = _extras(columns, model, example, setting)
        if columns == "S10":
            qat = se.QatConfig(
                steps=max(2, round(60 * context.effort)), batch=4, bptt_hops=1, lr=1e-3,
                evaluate_every=20, seed=seed,
            )  # fmt: skip
            tuned = _int8(model, spectra, train, qat)
            extras["QAT delta"] = _gain(tuned, spectra, test) - value
        if not context.toy:
            extras |= _quality(model, spectra, test, setting)
        return Outcome(value, model, example, int8, extras)

    return Variant(label, run)


def _extras(columns: str, model: SafPaper, x: Tensor, setting: Setting) -> dict[str, float]:
    bands = (setting.n_fft // 2 + 2) // 2
    options = model.options
    if columns == "S4":
        wide = options.channels
        return {"kernel state": float((options.kernel[0] - 1) * wide * bands * options.layers)}
    if columns == "S5":
        with torch.no_grad():
            whole, part = model(x)["mask"], model(x[:, :, :30])["mask"]
        return {"stream error": float((whole[:, :, :30] - part).abs().max())}
    if columns == "S8":
        ms = 1000.0 * setting.hop / setting.sample_rate
        future = options.lookahead if options.causal else float("nan")
        return {"look-ahead (ms)": future * ms} if options.causal else {}
    return {}


# -- experiments with a shape of their own ---------------------------------------------------------


def _generalisation(context: Context) -> Iterator[Variant]:
    """Train on three families of noise; score all, and reverberant speech, at several SNRs."""
    setting = _setting(context)
    spectra = Spectra(setting, 0.5)

    @lru_cache(maxsize=1)
    def models_of(seed: int) -> tuple[Any, Any]:
        """The float network and, where it is asked for, its w8a8 form."""
        train = _pairs(context, "train", SEEN)
        model = _fit(_options(setting), setting, spectra, train, seed)
        return model, _int8(model, spectra, train) if context.int8 else None

    def outcome(seed: int, test: Pairs, unseen: bool) -> Outcome:
        model, coded = models_of(seed)
        int8 = None if coded is None else _gain(coded, spectra, test)
        return Outcome(_gain(model, spectra, test), None, None, int8, {"unseen": float(unseen)})

    cells = [(f, snr) for f in NOISE_FAMILIES for snr in (-5.0, 5.0, 15.0)]
    for family, snr in cells:

        def run(seed: int, family: str = family, snr: float = snr) -> Outcome:
            test = _pairs(context, "test", (family,), (snr, snr))
            return outcome(seed, test, family not in SEEN)

        mark = "" if family in SEEN else " (unseen)"
        yield Variant(f"{family}{mark}, {snr:g} dB", run)

    def reverberant(seed: int) -> Outcome:
        noisy, clean = _pairs(context, "test", ("stationary",), (5.0, 5.0))
        rng = np.random.default_rng(3)
        length = int(0.25 * setting.sample_rate)
        tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * 0.05
        tail[0] = 1.0
        room = torch.from_numpy(tail).float().flip(0)[None, None]
        wet = nn.functional.conv1d(noisy[:, None], room, padding=length - 1)[:, 0]
        return outcome(seed, (wet[:, : noisy.shape[1]], clean), True)

    yield Variant("stationary + room (unseen), 5 dB", reverberant)


def _cores(context: Context) -> Iterator[Variant]:
    """Attention variants at the width that matches the parameters of the convolutional one."""
    setting = _setting(context)
    frontend = _frontend(setting, 0.5)

    def size(core: str, channels: int) -> int:
        with torch.device("meta"):
            options = _options(setting, core=core, channels=channels, kernel=(11, 11))
            return parameter_count(SafPaper(frontend, options))

    target = size("conv", setting.channels)
    for core in ("conv", "attention_bins", "attention_frames", "attention_both"):
        widths = range(8, 3 * setting.channels, 2)
        best = min(widths, key=lambda c: abs(size(core, c) - target))
        channels = setting.channels if core == "conv" else best
        yield _variant(core, context, core=core, channels=channels, kernel=(11, 11))


def _compression(context: Context) -> Iterator[Variant]:
    for exponent in (1.0, 0.5, 0.3, LOG1P):
        label = "log1p" if exponent == LOG1P else f"c = {exponent:g}"
        yield _variant(
            label, context, columns="S10", exponent=exponent, norm="bn", causal=True,
            separable=True, phase="none",
        )  # fmt: skip
