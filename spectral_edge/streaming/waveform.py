"""Models from waveform to waveform: the transform goes to the front end, the rest streams.

A model that calls ``torch.stft`` and ``torch.istft`` (or convolutions with a Fourier basis) is run
twice. Once for real, to see which transforms it uses and what goes through them; then with a
:class:`Spectrum` in place of the transform's result, which leaves a network from features to a mask
(or to a spectrum) that is traced like any other. The front end with the same parameters does the
transforms on the device. That both together give what the model gives is measured, not assumed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from spectral_edge.dsp.simulate import FrontendContext, FrontendSimulation
from spectral_edge.errors import NotStreamable, ParityError, SpecError
from spectral_edge.frontend import WINDOWS, StftFrontend, make_window
from spectral_edge.program import StepProgram
from spectral_edge.streaming.spectrum import Phase, Spectrum
from spectral_edge.streaming.verify import RELATIVE_TOLERANCE

__all__ = ["SpectralNetwork", "Transform", "find_transforms", "prove"]

ALIKE = 1e-4  # of the peak, for windows and bases
_MULTIPLY = (torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


@dataclass(frozen=True)
class Transform:
    """One short-time Fourier transform of a model.

    Attributes:
        n_fft: samples of a frame.
        hop: samples between frames.
        window: name of the taper.
        scale: the model's spectrum over the plain one.
        sign: of the imaginary part.
        packed: real and imaginary parts are channels of a real tensor (convolutions).
    """

    n_fft: int
    hop: int
    window: str
    scale: float
    sign: float = 1.0
    packed: bool = False


@dataclass(frozen=True)
class _Call:
    """A transform that was called, its argument and its result (parts as the model has them)."""

    transform: Transform
    given: Tensor
    made: Tensor


class _Recorder(TorchFunctionMode):
    """Lets transforms run and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.analyses: list[_Call] = []
        self.syntheses: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        analysis, synthesis = _analysis(func, args, kwargs), _synthesis(func, args, kwargs)
        made = func(*args, **kwargs)
        if analysis:
            self.analyses.append(_Call(analysis, args[0], made))
        if synthesis:
            self.syntheses.append(_Call(synthesis, args[0], made))
        return made


class _Substitute(TorchFunctionMode):
    """Puts a spectrum where the model transforms, and takes what it would synthesise."""

    def __init__(self, transform: Transform, spectrum: _Watched) -> None:
        super().__init__()
        self.transform, self.spectrum = transform, spectrum
        self.result: Spectrum | None = None
        self._scaled: dict[int, tuple[Tensor, Any]] = {}  # magnitude times mask: product, mask

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        size = self.transform.n_fft
        if func in _STFTS:
            return self.spectrum
        if func in _CONVOLUTIONS and _looks_spectral(args, kwargs, size):
            return self._packed()
        if func in _ISTFTS:
            self.result = args[0]
            return _silence(args[0].like, self.transform, args[0].shape[:-2])
        if func in _TRANSPOSED and _looks_spectral(args, kwargs, size):
            self.result = self._unpacked(args[0])
            return _silence(args[0], self.transform, (args[0].shape[0], 1))
        if func is torch.complex:
            return Spectrum.of(*args)
        if func is torch.view_as_complex:
            return Spectrum.of(args[0][..., 0], args[0][..., 1])
        if func is torch.polar:
            return self._polar(*args)
        made = func(*args, **kwargs)
        if func in _MULTIPLY and isinstance(made, Tensor):
            magnitude = self.spectrum.magnitude_seen
            for one, other in (args[:2], args[1::-1]):
                if magnitude is not None and one is magnitude:
                    self._scaled[id(made)] = (made, other)
        return made

    def _polar(self, magnitude: Tensor, phase: Any) -> Spectrum:
        if not isinstance(phase, Phase):
            return Spectrum.of(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        if phase.spectrum is self.spectrum and id(magnitude) in self._scaled:
            masked: Spectrum = self.spectrum * self._scaled[id(magnitude)][1]
            return masked
        return Spectrum.of(magnitude * phase.cos(), magnitude * phase.sin())

    def _packed(self) -> Tensor:
        return torch.cat((self.spectrum.real, self.transform.sign * self.spectrum.imag), dim=1)

    def _unpacked(self, packed: Tensor) -> Spectrum:
        re, im = packed.chunk(2, dim=1)
        return Spectrum.of(re, self.transform.sign * im)


class _Watched(Spectrum):
    """The spectrum of the transform; remembers which of its parts the model reads."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.read: set[str] = set()
        self.magnitude_seen: Tensor | None = None

        def part(name: str) -> Tensor:
            self.read.add(name)
            return parts[name]

        def magnitude() -> Tensor:
            self.magnitude_seen = part("mag")
            return self.magnitude_seen

        like = next(iter(parts.values()))
        super().__init__(lambda: part("re"), lambda: part("im"), like, magnitude, raw=True)


class SpectralNetwork(nn.Module):
    """What is left of a model between its transforms.

    Takes features float32[batch, channels, frames, bins] of :attr:`frontend`, and returns what its
    head wants: a ``mask``, a ``complex_mask``, or mask (zero) and bias for any other spectrum.
    """

    def __init__(self, model: nn.Module, transform: Transform, wave: Tensor, rate: int) -> None:
        super().__init__()
        self.model, self.transform = model, transform
        self._ranks = wave.ndim
        self.frontend = StftFrontend(
            sample_rate=rate,
            n_fft=transform.n_fft,
            hop_length=transform.hop,
            window=transform.window,
            compression=1.0,
            level="none",
        )
        with torch.no_grad():
            read, head = self._look(torch.ones(1, 3, 8, self.frontend.bins))
        features = tuple(f for f in self.frontend.features if f in read)
        self.frontend = StftFrontend(
            **{**vars(self.frontend), "features": features or ("mag",), "head": head}
        )

    @property
    def unit(self) -> float:
        """The model's spectrum over the features."""
        energy = float(np.sum(make_window(self.transform.window, self.transform.n_fft) ** 2))
        return self.transform.scale * math.sqrt(energy)

    def forward(self, features: Tensor) -> Any:
        """Return the head's outputs, float32[batch, 1 or 2, frames, bins]."""
        result, _ = self._run(features)
        if _head(result) == "mask_bias":
            bias = self._as_feature(result.real, result.imag) / self.unit
            return {"mask": features[:, :1] * 0.0, "bias": bias}
        mask = result.mask or (torch.ones_like(result.real),)
        return self._as_feature(*mask)

    def _look(self, features: Tensor) -> tuple[set[str], str]:
        result, watched = self._run(features)
        head = _head(result)
        if head == "mask_bias":
            _ = result.real, result.imag
        return watched.read, head

    def _run(self, features: Tensor) -> tuple[Spectrum, _Watched]:
        parts = {
            name: features[:, i].transpose(1, 2) * self.unit
            for i, name in enumerate(self.frontend.features)
        }
        watched = _Watched(parts)
        samples = features.shape[2] * self.transform.hop + self.transform.n_fft
        wave = features.new_zeros(features.shape[0], *[1] * (self._ranks - 2), samples)
        with _Substitute(self.transform, watched) as substitute:
            self.model(wave)
        if not isinstance(substitute.result, Spectrum):
            raise NotStreamable(
                "the model's inverse transform gets a tensor that does not come from its spectrum"
            )
        return substitute.result, watched

    @staticmethod
    def _as_feature(*parts: Tensor) -> Tensor:
        return torch.stack([p.transpose(1, 2) for p in parts], dim=1)


def _head(result: Spectrum) -> str:
    if not result.raw:
        return "mask_bias"
    return "complex_mask" if len(result.mask) == 2 else "mask"


def find_transforms(model: nn.Module, example: Sequence[Tensor]) -> Transform | None:
    """Return the transform of a model that starts and ends at the waveform, None without one.

    Raises:
        NotStreamable: transforms that cannot be split off: several, without an inverse, or with
            parameters that the front end does not have; centred frames.
    """
    if len(example) != 1 or not example[0].is_floating_point():
        return None
    with torch.no_grad(), _Recorder() as seen:
        try:
            model(example[0])
        except NotStreamable:
            raise
        except Exception:  # the trace says what is wrong with the model
            return None
    if not seen.analyses:
        return None
    first: Transform = seen.analyses[0].transform
    if len(seen.analyses) != 1 or len(seen.syntheses) != 1:
        raise NotStreamable(
            f"the model calls stft {len(seen.analyses)} and istft {len(seen.syntheses)} times; the "
            "front end does one of each. Let the model start at the spectrum (StftFrontend makes "
            "it) and end at a mask"
        )
    last = seen.syntheses[0].transform
    if (last.n_fft, last.hop) != (first.n_fft, first.hop):
        raise NotStreamable(
            f"stft has n_fft {first.n_fft} and hop {first.hop}, istft {last.n_fft} and {last.hop}; "
            "give both the same"
        )
    return first


def prove(
    program: StepProgram, network: SpectralNetwork, model: nn.Module, wave: Tensor, steps: int = 12
) -> float:
    """Compare front end and program with the model on a random clip.

    Returns:
        The largest difference of spectra, relative to the peak.

    Raises:
        NotStreamable: the model does more to the waveform than transforming it there and back.
        ParityError: the program gives another spectrum than the model.
    """
    transform, frontend = network.transform, network.frontend
    samples = (steps + 2 * transform.n_fft // transform.hop) * transform.hop + transform.n_fft
    clip = torch.randn(
        2, *[1] * (wave.ndim - 2), samples, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad(), _Recorder() as seen:
        out = model(clip)
    analysis, synthesis = seen.analyses[0], seen.syntheses[0]
    lead = _lead(analysis.given.reshape(2, -1), clip.reshape(2, -1))
    spectrum, wanted = (
        _complex(value, transform.sign, packed)
        for value, packed in (
            (analysis.made, transform.packed),
            (synthesis.given, synthesis.transform.packed),
        )
    )
    simulation = FrontendSimulation(frontend)
    context = FrontendContext(spectrum / network.unit, torch.ones(2, spectrum.shape[1], 1), samples)
    parts = {"mag": spectrum.abs(), "re": spectrum.real, "im": spectrum.imag}
    features = torch.stack([parts[f] for f in frontend.features], dim=1) / network.unit
    with torch.no_grad():
        head = simulation.apply_head(program.run(features), context) * network.unit
    got = torch.complex(head[:, 0], head[:, 1])
    error = float((got - wanted).abs().max() / (wanted.abs().max() + 1e-30))
    if not error <= 2 * RELATIVE_TOLERANCE:
        raise ParityError(
            f"front end and program give another spectrum than the model: largest difference "
            f"{error:.2e} of the peak, allowed {2 * RELATIVE_TOLERANCE:.0e}; it was not returned"
        )
    _check_synthesis(out, wanted / transform.scale, frontend, lead, clip.shape)
    return error


def _check_synthesis(
    out: Any, spectrum: Tensor, frontend: StftFrontend, lead: int, shape: torch.Size
) -> None:
    """Compare the model's output with overlap-add by the canonical dual window, edges left out."""
    n_fft, hop = frontend.n_fft, frontend.hop_length
    dual = FrontendSimulation(frontend).dual
    frames = torch.fft.irfft(spectrum, n=n_fft) * dual
    total = (frames.shape[1] - 1) * hop + n_fft
    wave = F.fold(frames.transpose(1, 2), (1, total), (1, n_fft), stride=(1, hop))[:, 0, 0, lead:]
    good = isinstance(out, Tensor) and out.shape[:-1].numel() == shape[:-1].numel()
    if good:
        rows = out.reshape(shape[0], -1)
        end = min(rows.shape[1], wave.shape[1], shape[-1]) - n_fft
        inner = slice(n_fft, end)
        difference = (rows[:, inner] - wave[:, inner]).abs().max()
        good = end > n_fft and bool(difference <= ALIKE * wave[:, inner].abs().max())
    if not good:
        raise NotStreamable(
            "the model's output is not the overlap-add of its spectrum, aligned with its input, by "
            "the dual of the analysis window: the front end would give another signal. Return "
            "istft(spectrum, same parameters) and nothing else"
        )


def _lead(given: Tensor, clip: Tensor) -> int:
    """Return how many zeros stand before the clip in what the transform got."""
    lead = int((given[0] != 0).nonzero()[0]) if bool(given.any()) else 0
    size = min(clip.shape[1], given.shape[1] - lead)
    if size <= 0 or not torch.allclose(given[:, lead : lead + size], clip[:, :size]):
        raise NotStreamable(
            "the model changes the waveform before its stft: do that outside, or on the spectrum"
        )
    return lead


def _complex(value: Any, sign: float, packed: bool) -> Tensor:
    """Return complex[batch, frames, bins] of a spectrum as the model has it."""
    if packed:
        re, im = value.chunk(2, dim=1)
        value = torch.complex(re, sign * im)
    return value.reshape(value.shape[0], *value.shape[-2:]).transpose(1, 2)  # type: ignore[no-any-return]


def _silence(like: Tensor, transform: Transform, shape: Sequence[Any]) -> Tensor:
    """Return zeros as long as the synthesis of a spectrum, which nobody reads."""
    return like.new_zeros(*shape, (like.shape[-1] - 1) * transform.hop + transform.n_fft)


# --- recognising transforms -------------------------------------------------------------------

_STFTS = (torch.stft, Tensor.stft)
_ISTFTS = (torch.istft, Tensor.istft)
_CONVOLUTIONS = (torch.conv1d, F.conv1d)
_TRANSPOSED = (torch.conv_transpose1d, F.conv_transpose1d)
_STFT = inspect.signature(torch.stft)
_ISTFT = inspect.signature(
    lambda input, n_fft, hop_length=None, win_length=None, window=None, center=True,
    normalized=False, onesided=None, length=None, return_complex=False: None
)  # fmt: skip


def _analysis(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Transform | None:
    if func in _STFTS:
        return _described(_STFT, args, kwargs, "stft")
    if func in _CONVOLUTIONS:
        return _convolution(args, kwargs, across=False)
    return None


def _synthesis(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Transform | None:
    if func in _ISTFTS:
        return _described(_ISTFT, args, kwargs, "istft")
    if func in _TRANSPOSED:
        return _convolution(args, kwargs, across=True)
    return None


def _looks_spectral(args: tuple[Any, ...], kwargs: dict[str, Any], n_fft: int) -> bool:
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    return tuple(weight.shape) == (2 * (n_fft // 2 + 1), 1, n_fft)


def _described(
    signature: inspect.Signature, args: Any, kwargs: dict[str, Any], name: str
) -> Transform:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if name == "stft" and given["center"]:
        raise NotStreamable(
            "op aten::stft: center=True looks n_fft/2 samples ahead and mirrors the start of the "
            "clip, which no front end can do; write center=False (StftFrontend then does the "
            "transform), or let the model start at the spectrum"
        )
    n_fft = given["n_fft"]
    hop, length = given["hop_length"] or n_fft // 4, given["win_length"] or n_fft
    window = given["window"]
    taper = np.ones(length) if window is None else window.detach().double().cpu().numpy()
    if length != n_fft or given["onesided"] is False:
        raise NotStreamable(
            f"{name} inside the model has win_length {length}, n_fft {n_fft}, onesided "
            f"{given['onesided']}: the front end needs win_length = n_fft and one side"
        )
    if name == "stft" and not given["return_complex"]:
        raise NotStreamable("stft inside the model: write return_complex=True")
    scale = 1 / math.sqrt(n_fft) if given["normalized"] else 1.0
    named, height = _named_window(taper)
    try:
        StftFrontend(n_fft=n_fft, hop_length=hop, window=named)
    except SpecError as error:
        raise NotStreamable(f"{name} inside the model: {error}") from None
    return Transform(n_fft, hop, named, scale * height)


def _named_window(taper: NDArray[np.float64]) -> tuple[str, float]:
    """Return the name of a window and its height over the named one."""
    for name in WINDOWS:
        window = make_window(name, taper.size)
        height = float(taper @ window / (window @ window))
        if height > 0 and np.abs(taper - height * window).max() <= ALIKE * height:
            return name, height
    raise NotStreamable(
        f"the window of the stft inside the model is none of {', '.join(WINDOWS)} (periodic): the "
        "front end has no other"
    )


def _convolution(args: Any, kwargs: dict[str, Any], across: bool) -> Transform | None:
    """Recognise a strided convolution with a windowed Fourier basis; ``across``: the inverse."""
    names = ("input", "weight", "bias", "stride")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weight, stride = given["weight"], given.get("stride", 1)
    hop = int(stride[0] if isinstance(stride, tuple | list) else stride)
    if weight.ndim != 3 or weight.shape[1] != 1 or hop < 2 or given.get("bias") is not None:
        return None
    n_fft, bins = int(weight.shape[2]), int(weight.shape[2]) // 2 + 1
    if tuple(weight.shape[:1]) != (2 * bins,) or n_fft < 64:
        return None
    if across:
        return Transform(n_fft, hop, "", 1.0, packed=True)  # what it gives is compared, not read
    rows = weight.detach().double().cpu().numpy()[:, 0]
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(n_fft)) / n_fft
    taper = rows[0]
    peak = np.abs(taper).max() or 1.0
    if np.abs(rows[:bins] - taper * np.cos(angle)).max() > ALIKE * peak:
        return None
    for sign in (1.0, -1.0):
        if np.abs(rows[bins:] + sign * taper * np.sin(angle)).max() <= ALIKE * peak:
            named, height = _named_window(taper)
            return Transform(n_fft, hop, named, height, sign, packed=True)
    return None
