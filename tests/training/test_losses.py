"""Losses: their minima, their scales, and silence."""

from __future__ import annotations

import pytest
import torch

from spectral_edge import metrics
from spectral_edge.training.losses import (
    compressed_losses,
    enhancement_loss,
    negative_si_sdr,
    ratio_mask,
)
from spectral_edge.training.recipe import LossRecipe


def _clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    clean = torch.randn(3, 4000) * 0.1
    return clean + torch.randn(3, 4000) * 0.03, clean


def test_si_sdr_equals_the_metric() -> None:
    noisy, clean = _clips()
    wanted = sum(metrics.si_sdr(c.numpy(), n.numpy()) for c, n in zip(clean, noisy, strict=True))
    assert float(-negative_si_sdr(noisy, clean)) == pytest.approx(wanted / 3, abs=1e-3)


def test_silent_targets_do_not_count() -> None:
    noisy, clean = _clips()
    silent = clean.clone()
    silent[1] = 0.0
    expected = negative_si_sdr(noisy[[0, 2]], clean[[0, 2]])
    torch.testing.assert_close(negative_si_sdr(noisy, silent), expected)
    assert float(negative_si_sdr(noisy, torch.zeros_like(clean))) == 0.0


def test_spectral_losses_vanish_for_equal_spectra_and_have_gradients_at_zero() -> None:
    target = torch.randn(2, 2, 5, 9)
    assert [float(loss) for loss in compressed_losses(target, target)] == [0.0, 0.0]
    estimate = torch.zeros_like(target).requires_grad_()
    sum(compressed_losses(estimate, target)).backward()
    assert estimate.grad is not None
    assert bool(torch.isfinite(estimate.grad).all())


def test_weights_weigh() -> None:
    noisy, clean = _clips()
    spectrum = torch.randn(3, 2, 4, 9), torch.randn(3, 2, 4, 9)
    weights = LossRecipe(magnitude=2.0, complex=3.0, si_sdr=5.0, wave=7.0)
    loss, terms = enhancement_loss(spectrum, (noisy, clean), weights)
    expected = (
        2 * terms["magnitude"] + 3 * terms["complex"] - 5 * terms["si_sdr"] + 7 * terms["wave"]
    )
    torch.testing.assert_close(loss, expected)


def test_ideal_ratio_mask_is_its_definition_and_a_term_of_its_own() -> None:
    speech, noise = torch.randn(2, 2, 4, 9), torch.randn(2, 2, 4, 9)
    mask = ratio_mask(speech, noise)
    s, n = speech.norm(dim=1, keepdim=True), noise.norm(dim=1, keepdim=True)
    torch.testing.assert_close(mask, s / (s + n), atol=1e-6, rtol=0)
    wave, spectrum = (torch.randn(2, 4000),) * 2, (speech, speech)
    plain, _ = enhancement_loss(spectrum, wave, LossRecipe())
    loss, terms = enhancement_loss(spectrum, wave, LossRecipe(irm=2.0), (mask * 0, mask))
    torch.testing.assert_close(loss - plain, 2.0 * mask.square().mean(), atol=1e-4, rtol=0)
    assert terms["irm"] == mask.square().mean()
