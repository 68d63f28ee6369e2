"""Losses of enhancement networks, on the compressed spectrum and on the waveform."""

from __future__ import annotations

import torch
from torch import Tensor

from .recipe import LossRecipe

__all__ = ["compressed_losses", "enhancement_loss", "negative_si_sdr", "ratio_mask"]

TINY = 1e-8
SILENCE_POWER = 1e-9  # mean square of a clean clip (-90 dBFS) below which SI-SDR means nothing


def compressed_losses(estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared errors of magnitude and of real plus imaginary part.

    Args:
        estimate: float32[batch, 2 (re, im), frames, bins], compressed.
        target: the same shape.
    """
    magnitude = (estimate.square().sum(dim=1) + TINY).sqrt()
    wanted = (target.square().sum(dim=1) + TINY).sqrt()
    return (magnitude - wanted).square().mean(), (estimate - target).square().sum(dim=1).mean()


def negative_si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return minus the scale-invariant signal-to-distortion ratio in dB, mean over the batch.

    Clips whose target is silent do not count.

    Args:
        estimate: float32[batch, samples].
        target: the same shape.
    """
    estimate = estimate - estimate.mean(dim=-1, keepdim=True)
    target = target - target.mean(dim=-1, keepdim=True)
    energy = target.square().sum(dim=-1, keepdim=True)
    wanted = (estimate * target).sum(dim=-1, keepdim=True) / (energy + TINY) * target
    noise = (estimate - wanted).square().sum(dim=-1)
    ratio = (wanted.square().sum(dim=-1) + TINY) / (noise + TINY)
    audible = (target.square().mean(dim=-1) > SILENCE_POWER).to(ratio.dtype)
    return -(10.0 * torch.log10(ratio) * audible).sum() / audible.sum().clamp_min(1.0)


def ratio_mask(speech: Tensor, noise: Tensor) -> Tensor:
    """Return the ideal ratio mask |S|^c / (|S|^c + |N|^c): float32[batch, 1, frames, bins].

    Args:
        speech: compressed real and imaginary part, float32[batch, 2, frames, bins].
        noise: the same of the noise.
    """
    s, n = ((x.square().sum(dim=1, keepdim=True) + TINY).sqrt() for x in (speech, noise))
    return s / (s + n)


def enhancement_loss(
    spectrum: tuple[Tensor, Tensor],
    wave: tuple[Tensor, Tensor],
    weights: LossRecipe,
    masks: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted loss and its terms.

    Args:
        spectrum: (estimate, target), compressed float32[batch, 2, frames, bins].
        wave: (estimate, target), float32[batch, samples].
        weights: weight of each term.
        masks: (estimate, target), for the term ``irm``.

    Returns:
        The sum, and the unweighted terms by name (detached).
    """
    magnitude, complex_error = compressed_losses(*spectrum)
    si_sdr = negative_si_sdr(*wave)
    estimate, target = wave
    scale = target.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-3)
    wave_error = ((estimate - target).abs() / scale).mean()
    loss = (
        weights.magnitude * magnitude
        + weights.complex * complex_error
        + weights.si_sdr * si_sdr
        + weights.wave * wave_error
    )
    terms = {
        "magnitude": magnitude.detach(),
        "complex": complex_error.detach(),
        "si_sdr": -si_sdr.detach(),
        "wave": wave_error.detach(),
    }
    if masks is not None:
        mask_error = (masks[0] - masks[1]).square().mean()
        loss = loss + weights.irm * mask_error
        terms["irm"] = mask_error.detach()
    return loss, terms
