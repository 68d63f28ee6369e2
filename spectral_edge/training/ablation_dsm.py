"""Ablations D1 … D8: weights, spectrum length, transforms, rivals, speed, integers, streaming."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spectral_edge.layers.dct import dct_matrix
from spectral_edge.layers.rival_mixers import RIVALS, AttentionMixer
from spectral_edge.layers.spectrum import SpectrumMixing
from spectral_edge.models import dsm_stream
from spectral_edge.models.dsm import SIZES, Dsm

from .ablation_common import CALIBRATION, classify_once, int8_program, splits_for
from .ablations import Context, Outcome, Variant, latency_ms
from .classify import evaluate_classifier
from .labelled import FeatureSet

__all__ = ["variants"]

SIDE = 32
LR = 6e-3


def variants(experiment: str, context: Context) -> Iterator[Variant]:
    """Yield the variants of one D experiment."""
    makers = {
        "D1": _weights, "D2": _lengths, "D3": _transforms, "D4": _rivals, "D5": _speed,
        "D6": _frequencies, "D7": _integers, "D8": _streams,
    }  # fmt: skip
    yield from makers[experiment](context)


def _network(context: Context, kind: str = "image", **changes: Any) -> Callable[[], Dsm]:
    size = SIZES["dsm_kws_s"]
    if context.toy:
        size = replace(size, widths=(16, 32), depths=(1, 2), spec_pool=(4, 4))
    size = replace(size, **changes)
    data = splits_for(context, kind)[0]
    channels, height, width = data.inputs.shape[1:]
    return lambda: Dsm(size, len(data.classes), (channels, height, width))


def _trained(
    label: str, context: Context, make: Callable[[], nn.Module], kind: str = "image"
) -> Variant:
    data = splits_for(context, kind)
    return Variant(label, lambda seed: classify_once(context, make, data, seed, run__lr=LR))


def _weights(context: Context) -> Iterator[Variant]:
    knobs: dict[str, dict[str, Any]] = {
        "all-pass": {"weights": "allpass"}, "static, learned": {"weights": "learned"},
        "dynamic, sigmoid": {}, "dynamic, softmax": {"gate": "softmax"},
        "dynamic, 1 + tanh": {"gate": "tanh1p"}, "dynamic, band MLP": {"generator": "band_mlp"},
    }  # fmt: skip
    for label, chosen in knobs.items():
        yield _trained(label, context, _network(context, knobs=chosen))
    for label in ("all-pass", "static, learned", "dynamic, sigmoid"):
        make = _network(context, "audio", knobs=knobs[label])
        yield _trained(f"sounds: {label}", context, make, "audio")


def _lengths(context: Context) -> Iterator[Variant]:
    stages = 2 if context.toy else 3
    for pool in (1, 2, 4, 8):
        yield _trained(f"spec_pool {pool}", context, _network(context, spec_pool=(pool,) * stages))
    for pool in (1, 4, 16):  # sounds have more tokens than the images
        make = _network(context, "audio", spec_pool=(pool,) * stages)
        yield _trained(f"sounds: spec_pool {pool}", context, make, "audio")
    yield _trained(
        "spec_pool 4, dyadic", context,
        _network(context, spec_pool=(4,) * stages, knobs={"bands": "dyadic"}),
    )  # fmt: skip
    for keep in (0.25, 0.5, 0.75):
        yield _trained(
            f"spec_keep {keep:.0%}", context, _network(context, knobs={"spec_keep": keep})
        )


def _transforms(context: Context) -> Iterator[Variant]:
    for name in ("dct", "fourier", "haar", "random", "identity", "learned"):
        yield _trained(name, context, _network(context, knobs={"transform": name}))
    yield _trained("fft (complex, static)", context, _network(context, mixer="gfnet"))


def _rivals(context: Context) -> Iterator[Variant]:
    yield _trained("dsm", context, _network(context))
    for name in RIVALS:
        yield _trained(name, context, _network(context, mixer=name))


# -- speed -----------------------------------------------------------------------------------------


class _FftMixer(nn.Module):
    """Real 2-D FFT, a weight per coefficient, inverse: what a fast transform would cost."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, side, side // 2 + 1))
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho") * self.weight
        result: Tensor = torch.fft.irfft2(spectrum, s=(self.side, self.side), norm="ortho")
        return result


def _speed(context: Context) -> Iterator[Variant]:
    channels = 32
    sides = (16, 32, 64) if context.toy else (16, 32, 64, 128, 256)
    makers: dict[str, Callable[[int], nn.Module]] = {
        "matmul DCT": lambda side: SpectrumMixing(channels, (side, side), weights="learned"),
        "FFT": lambda side: _FftMixer(channels, side),
        "self-attention": lambda side: AttentionMixer(channels, (side, side)),
    }
    measured: dict[str, list[tuple[int, float]]] = {}
    for name, make in makers.items():
        limit = 64 if name == "self-attention" else max(sides)
        for side in (s for s in sides if s <= limit):

            def run(
                seed: int, name: str = name, side: int = side,
                make: Callable[[int], nn.Module] = make,
            ) -> Outcome:  # fmt: skip
                model, x = make(side), torch.randn(1, channels, side, side)
                took = latency_ms(model, x)
                row = measured.setdefault(name, [])
                row.append((side, took))
                extras = {"exponent": _exponent(row)} if len(row) > 1 else {}
                return Outcome(took, None, None, None, extras)

            yield Variant(f"{name}, {side}×{side}", run)


def _exponent(points: list[tuple[int, float]]) -> float:
    """Return b of time = a·side^b by least squares of the logarithms."""
    x = [math.log(side) for side, _ in points]
    y = [math.log(ms) for _, ms in points]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / sum((a - mx) ** 2 for a in x)


# -- frequencies -----------------------------------------------------------------------------------


def _filtered(data: FeatureSet, cut: float, *, low: bool) -> FeatureSet:
    height, width = data.inputs.shape[2:]
    fy = torch.fft.fftfreq(height)[:, None] * 2
    fx = torch.fft.rfftfreq(width)[None, :] * 2
    below = (fy.square() + fx.square()).sqrt() <= cut
    spectrum = torch.fft.rfft2(data.inputs) * (below if low else ~below)
    return replace(data, inputs=torch.fft.irfft2(spectrum, s=(height, width)))


def _frequencies(context: Context) -> Iterator[Variant]:
    data = splits_for(context, "image")

    def columns(model: nn.Module) -> dict[str, float]:
        found = {}
        for low, name in ((True, "low-pass"), (False, "high-pass")):
            for cut in (0.25, 0.5, 0.75):
                score = evaluate_classifier(model, _filtered(data[2], cut, low=low))
                found[f"{name} {cut:g}"] = score["accuracy"]
        return {**found, **_band_weights(model, data[2].inputs[:64])}

    makers = {
        "dsm dynamic": _network(context),
        "dsm static": _network(context, knobs={"weights": "learned"}),
        "dwconv": _network(context, mixer="dwconv"),
        "attention": _network(context, mixer="attention"),
    }
    for label, make in makers.items():

        def run(seed: int, make: Callable[[], nn.Module] = make) -> Outcome:
            return classify_once(context, make, data, seed, extras=columns, run__lr=LR)

        yield Variant(label, run)


def _band_weights(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Mean learned weight of the low and of the high half of the bands, over all mixers."""
    low: list[float] = []
    high: list[float] = []

    def watch(mixer: SpectrumMixing, args: tuple[Tensor], _: Tensor) -> None:
        spectrum = mixer.spectrum(args[0])
        if mixer.weights == "dynamic":
            weights = mixer.generator.spread(mixer.generator(spectrum)).abs().mean(dim=(0, 1))
        else:
            weights = mixer.fixed.abs().mean(dim=0)
        half = [n // 2 for n in weights.shape]
        low.append(float(weights[: half[0], : half[1]].mean()))
        high.append(float(weights[half[0] :, half[1] :].mean()))

    mixers = [
        m for m in model.modules() if isinstance(m, SpectrumMixing) and m.weights != "allpass"
    ]
    hooks = [m.register_forward_hook(watch) for m in mixers]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    if not low:
        return {}
    return {"w low": sum(low) / len(low), "w high": sum(high) / len(high)}


# -- integers --------------------------------------------------------------------------------------


def _noise_fields(count: int, side: int, seed: int) -> Tensor:
    """1/f fields with a mean, float32[count, side, side]: what natural images look like."""
    generator = torch.Generator().manual_seed(seed)
    f = (torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None, :] ** 2).sqrt()
    shape = 1.0 / f.clamp_min(1.0 / side)
    spectrum = torch.fft.rfft2(torch.randn(count, side, side, generator=generator)) * shape
    field = torch.fft.irfft2(spectrum, s=(side, side))
    result: Tensor = field / field.std() + 1.0
    return result


def _rounded(x: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    scale = x.abs().max() / top
    result: Tensor = (x / scale).round().clamp(-top, top) * scale
    return result


def _sqnr(clean: Tensor, coded: Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (clean - coded).square().sum()))


def _spectrum_sqnr(seed: int, *, split: bool, scaled: bool, bits: int) -> tuple[float, float]:
    """Return SQNR of a 14×14 spectrum coded with one scale: (overall, upper half of the bands)."""
    side = 14
    fields = _noise_fields(64, side, seed)
    matrix = dct_matrix(side).float()
    exact = matrix @ fields @ matrix.T
    coded_input = fields - fields.mean(dim=(1, 2), keepdim=True) if split else fields
    spectrum = matrix @ coded_input @ matrix.T
    gain = torch.ones(side)
    if scaled:
        rms = (spectrum.square().mean(dim=(0, 2)) + spectrum.square().mean(dim=(0, 1))).sqrt()
        gain = (rms.max() / rms).sqrt().clamp(max=64.0)
    grid = gain[:, None] * gain[None, :]
    coded = _rounded(spectrum * grid, bits) / grid
    if split:
        mean = _rounded(fields.mean(dim=(1, 2)), bits)
        coded[:, 0, 0] = mean * side
    high = (slice(None), slice(side // 2, None), slice(side // 2, None))
    return _sqnr(exact, coded), _sqnr(exact[high], coded[high])


def _integers(context: Context) -> Iterator[Variant]:
    data = splits_for(context, "image")
    forms = {
        "naive": (False, False, 8), "DC split": (True, False, 8), "band scale": (False, True, 8),
        "both": (True, True, 8), "int16": (False, False, 16),
    }  # fmt: skip
    trained: dict[int, tuple[nn.Module, float]] = {}

    def model_of(seed: int) -> tuple[nn.Module, float]:
        if seed not in trained:
            quick = classify_once(
                replace(context, int8=False), _network(context), data, seed, run__lr=LR
            )
            assert quick.model is not None
            trained[seed] = (quick.model, quick.value)
        return trained[seed]

    for label, (split, scaled, bits) in forms.items():

        def run(seed: int, split: bool = split, scaled: bool = scaled, bits: int = bits) -> Outcome:
            overall, high = _spectrum_sqnr(seed, split=split, scaled=scaled, bits=bits)
            extras = {"SQNR high bands": high}
            if bits == 8:
                model, accuracy = model_of(seed)
                program = int8_program(
                    model, data[0].inputs[:CALIBRATION], dc_split=split, band_scale=scaled
                )
                scores = evaluate_classifier(lambda x: program.step((x,), ())[0][0], data[2])
                extras |= {"float accuracy": accuracy, "w8a8 accuracy": scores["accuracy"]}
            return Outcome(overall, None, None, None, extras)

        yield Variant(label, run)


# -- streaming -------------------------------------------------------------------------------------


def _streams(context: Context) -> Iterator[Variant]:
    yield _trained("window", context, _network(context, "audio"), "audio")
    data = splits_for(context, "audio")
    small: dict[str, Any] = {"width": 16, "blocks": 2} if context.toy else {}
    for columns in (8, 16, 32):
        size = replace(
            dsm_stream.SIZES["dsm_stream"], columns=columns, classes=len(data[0].classes), **small
        )

        def make(size: dsm_stream.DsmStreamSize = size) -> nn.Module:
            return dsm_stream.DsmStream(size)

        yield _trained(f"stream, K {columns}", context, make, "audio")
