"""Float torch simulation of the STFT front end: the same formulas as the integer front end.

Used for training and for float evaluation. It is differentiable from the network's outputs to the
waveform; the running level is treated as a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.frontend import (
    LEVEL_ATTACK_RATIO,
    LEVEL_FLOOR_DBFS,
    LEVEL_START_DBFS,
    LEVEL_TAU_SECONDS,
    StftFrontend,
    make_window,
)

from .features import CodeRule

__all__ = ["CodeQuantizer", "FrontendContext", "FrontendSimulation", "running_power"]

TINY_POWER = 1e-20  # keeps powers of a zero bin and their gradients finite; far below one int16 LSB


@dataclass(frozen=True)
class FrontendContext:
    """What synthesis needs from analysis.

    Attributes:
        spectrum: complex64[batch, frames, bins], divided by ``reference``.
        reference: float32[batch, frames, 1]: running RMS times root of the window's energy.
        samples: length of the clip.
    """

    spectrum: Tensor
    reference: Tensor
    samples: int


def running_power(hop_power: NDArray[np.float64], frontend: StftFrontend) -> NDArray[np.float64]:
    """Return the running power after each hop: float64[..., hops] -> the same shape.

    Powers are relative to full scale (1.0 is a square wave at ±1). One hop counts for at most
    ``LEVEL_ATTACK_RATIO`` times the running power.
    """
    alpha = 1.0 - math.exp(-frontend.hop_length / (LEVEL_TAU_SECONDS * frontend.sample_rate))
    floor = 10.0 ** (LEVEL_FLOOR_DBFS / 10.0)
    power = np.full(hop_power.shape[:-1], 10.0 ** (LEVEL_START_DBFS / 10.0))
    out = np.empty_like(hop_power)
    for hop in range(hop_power.shape[-1]):
        limited = np.minimum(hop_power[..., hop], LEVEL_ATTACK_RATIO * power)
        power = np.maximum(power + alpha * (limited - power), floor)
        out[..., hop] = power
    return out


class FrontendSimulation(nn.Module):
    """Analysis and synthesis of one front end on whole clips.

    Waveforms are float32[batch, samples] with full scale ±1 (int16 / 32768). The formulas do not
    depend on the unit, so features are those of the integer front end up to its rounding.

    Args:
        frontend: the front end; its head must be one that returns a spectrum.

    Raises:
        SpecError: the head is ``logits``, or window and hop cannot reconstruct.
    """

    window: Tensor
    dual: Tensor

    def __init__(self, frontend: StftFrontend) -> None:
        super().__init__()
        if frontend.head == "logits":
            raise SpecError("front end head is 'logits', synthesis needs a mask head")
        if not frontend.invertible:
            raise SpecError(
                f"window {frontend.window!r} with n_fft {frontend.n_fft} and hop "
                f"{frontend.hop_length} cannot reconstruct: use a hop of at most n_fft/2"
            )
        self.frontend = frontend
        window = make_window(frontend.window, frontend.n_fft)
        self.register_buffer("window", torch.tensor(window, dtype=torch.float32), persistent=False)
        self.register_buffer("dual", _dual_window(window, frontend.hop_length), persistent=False)
        self.energy = float(np.sum(window**2))

    def analyze(self, wave: Tensor) -> tuple[Tensor, FrontendContext]:
        """Turn clips into features.

        The clip is extended by zeros so that synthesis covers it: frames =
        ceil((samples + n_fft - hop) / hop).

        Args:
            wave: float32[batch, samples], full scale ±1.

        Returns:
            features float32[batch, channels, frames, bins], and the context for :meth:`synthesize`.
        """
        padded = self._pad(wave)
        new_samples = padded[..., self.frontend.n_fft - self.frontend.hop_length :]
        reference = self._level(new_samples) * math.sqrt(self.energy)
        spectrum = self._transform(padded) / reference
        return self._features(spectrum), FrontendContext(spectrum, reference, wave.shape[-1])

    def target(self, clean: Tensor, context: FrontendContext) -> Tensor:
        """Return the compressed spectrum of the clean clip at the level of the noisy one.

        Args:
            clean: float32[batch, samples], as long as the clip of ``context``.
            context: of :meth:`analyze` of the noisy clip.

        Returns:
            float32[batch, 2 (re, im), frames, bins], what :meth:`apply_head` should give.
        """
        return self.compress(self._transform(self._pad(clean)) / context.reference)

    def synthesize(self, outputs: dict[str, Tensor] | Tensor, context: FrontendContext) -> Tensor:
        """Apply the head to the spectrum of the context and overlap-add.

        Args:
            outputs: the network's outputs: ``{"mask", "bias"}`` for ``mask_bias``, otherwise the
                mask itself, float32[batch, 1 or 2, frames, bins].
            context: of :meth:`analyze`.

        Returns:
            float32[batch, samples], aligned with the clip.
        """
        compressed = self.apply_head(outputs, context)
        power = compressed.square().sum(dim=1)
        gain = (power + TINY_POWER) ** (0.5 * (1.0 / self.frontend.compression - 1.0))
        real, imag = compressed.unbind(dim=1)
        return self._overlap_add(torch.complex(real * gain, imag * gain), context)

    def apply_head(self, outputs: dict[str, Tensor] | Tensor, context: FrontendContext) -> Tensor:
        """Return the enhanced compressed spectrum: float32[batch, 2 (re, im), frames, bins]."""
        noisy = self.compress(context.spectrum)
        mask = outputs["mask"] if isinstance(outputs, dict) else outputs
        if self.frontend.head == "complex_mask":
            (re, im), (mask_re, mask_im) = noisy.unbind(dim=1), mask.unbind(dim=1)
            return torch.stack((re * mask_re - im * mask_im, re * mask_im + im * mask_re), dim=1)
        enhanced = noisy * mask
        if self.frontend.head == "mask_bias":
            if not isinstance(outputs, dict):
                raise SpecError(
                    "outputs is a tensor, head 'mask_bias' needs {'mask': ..., 'bias': ...}"
                )
            enhanced = enhanced + outputs["bias"]
        return enhanced

    def compress(self, spectrum: Tensor) -> Tensor:
        """Return |X|^(c-1)·(Re X, Im X): complex64[..., frames, bins] -> float32[..., 2, f, b]."""
        exponent = 0.5 * (self.frontend.compression - 1.0)
        power = spectrum.real.square() + spectrum.imag.square()
        gain = (power + TINY_POWER) ** exponent
        return torch.stack((spectrum.real * gain, spectrum.imag * gain), dim=-3)

    def _pad(self, wave: Tensor) -> Tensor:
        n_fft, hop = self.frontend.n_fft, self.frontend.hop_length
        lag = n_fft - hop
        return F.pad(wave, (lag, lag + (-(wave.shape[-1] + lag)) % hop))

    def _transform(self, padded: Tensor) -> Tensor:
        frames = padded.unfold(-1, self.frontend.n_fft, self.frontend.hop_length)
        spectrum: Tensor = torch.fft.rfft(frames * self.window)
        return spectrum

    def _features(self, spectrum: Tensor) -> Tensor:
        compressed = self.compress(spectrum)
        power = spectrum.real.square() + spectrum.imag.square()
        parts = {
            "mag": power * (power + TINY_POWER) ** (0.5 * self.frontend.compression - 1.0),
            "re": compressed[..., 0, :, :],
            "im": compressed[..., 1, :, :],
        }
        return torch.stack([parts[name] for name in self.frontend.features], dim=-3)

    def _level(self, samples: Tensor) -> Tensor:
        hop = self.frontend.hop_length
        hops = samples.detach().unfold(-1, hop, hop)
        if self.frontend.level == "none":
            return torch.ones_like(hops[..., :1])
        power = hops.double().square().mean(dim=-1).cpu().numpy()
        level = torch.from_numpy(np.sqrt(running_power(power, self.frontend)))
        return level.to(device=samples.device, dtype=samples.dtype).unsqueeze(-1)

    def _overlap_add(self, spectrum: Tensor, context: FrontendContext) -> Tensor:
        n_fft, hop = self.frontend.n_fft, self.frontend.hop_length
        frames = torch.fft.irfft(spectrum * context.reference, n=n_fft) * self.dual
        count = frames.shape[-2]
        total = (count - 1) * hop + n_fft
        wave = F.fold(frames.transpose(-1, -2), (1, total), (1, n_fft), stride=(1, hop))
        lag = n_fft - hop
        return wave[:, 0, 0, lag : lag + context.samples]


class _Codes(torch.autograd.Function):
    """Codes of the device forward; the gradient passes where nothing saturates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: CodeQuantizer) -> Tensor:
        codes = owner.codes(x)
        ctx.save_for_backward((codes > owner.least) & (codes < owner.most))
        return (codes - owner.rule.zero_point).to(x.dtype) * owner.scale

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad[0] * inside, None


class CodeQuantizer(nn.Module):
    """The front end's quantiser, exactly as the device rounds, with a straight-through gradient.

    float features -> Q16 -> codes -> scale·(code - zero_point) as float. Behind
    :class:`FrontendSimulation` or any float front end this is all that training needs to see the
    deployed one: the rounding of the transforms is far below one code.

    Args:
        scale: of one code.
        zero_point: code that means 0.
        bits: 8 or 16.

    Raises:
        SpecError: a scale or number of bits that the device does not have.
    """

    def __init__(self, scale: float, zero_point: int, bits: int = 8) -> None:
        super().__init__()
        self.scale, self.rule = scale, CodeRule.of(scale, zero_point, bits)
        self.least, self.most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def codes(self, x: Tensor) -> Tensor:
        """int64 codes of float features, any shape; NaN counts as 0."""
        rule, q16 = self.rule, torch.nan_to_num(x.detach().double() * 65536)
        value = torch.round(q16.clamp(-(2**31), 2**31 - 1)).to(torch.int64)
        size = value.abs().clamp(max=rule.limit)
        rounded = (size * rule.multiplier + (1 << (rule.shift - 1))) >> rule.shift
        signed = torch.where(value < 0, -rounded, rounded) + rule.zero_point
        return signed.clamp(self.least, self.most)

    def forward(self, x: Tensor) -> Tensor:
        """float[...] -> the same shape, on the grid of codes."""
        return _Codes.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]


def _dual_window(window: NDArray[np.float64], hop: int) -> Tensor:
    """Return w(n) / sum_m w(n - m·hop)^2, which makes overlap-add exact."""
    padded = np.zeros(-(-window.size // hop) * hop)
    padded[: window.size] = window**2
    overlap = np.tile(padded.reshape(-1, hop).sum(axis=0), padded.size // hop)[: window.size]
    return torch.tensor(window / overlap, dtype=torch.float32)
