"""The float front end: reconstruction, features by their definition, level, heads, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spectral_edge.dsp.simulate import FrontendSimulation, running_power
from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend, make_window
from tests.tolerances import FEATURE_ABSOLUTE, RECONSTRUCTION_RELATIVE

PRESETS = (
    StftFrontend(),
    StftFrontend(n_fft=320, hop_length=160),
    StftFrontend(n_fft=320, hop_length=160, window="hann", compression=0.5),
    StftFrontend(n_fft=512, hop_length=128, level="none", compression=1.0),
)


def _speech_like(samples: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(samples) / 3000.0)) * 0.2
    return torch.from_numpy((rng.standard_normal((2, samples)) * envelope).astype(np.float32))


@pytest.mark.parametrize("frontend", PRESETS, ids=lambda f: f"{f.n_fft}-{f.hop_length}-{f.level}")
@pytest.mark.parametrize("samples", [1, 255, 256, 257, 5000])
def test_identity_mask_reconstructs(frontend: StftFrontend, samples: int) -> None:
    simulation = FrontendSimulation(frontend)
    wave = _speech_like(samples) + 0.01
    features, context = simulation.analyze(wave)
    outputs = {
        "mask": torch.ones_like(features[:, :1]),
        "bias": torch.zeros_like(features[:, :2]),
    }
    again = simulation.synthesize(outputs, context)
    assert again.shape == wave.shape
    peak = float(wave.abs().max())
    torch.testing.assert_close(again, wave, rtol=0, atol=RECONSTRUCTION_RELATIVE * peak)


def test_features_follow_their_definition_frame_by_frame() -> None:
    frontend = StftFrontend(n_fft=64, hop_length=32)
    wave = _speech_like(400)[:1]
    features, _ = FrontendSimulation(frontend).analyze(wave)
    window = make_window("sqrt_hann", 64)
    memory, power = np.zeros(64), 10.0 ** (-26.0 / 10.0)
    alpha = 1.0 - math.exp(-32 / (2.0 * 16_000))
    samples = np.concatenate((wave[0].double().numpy(), np.zeros(64)))
    for frame in range(features.shape[2]):
        hop = samples[32 * frame : 32 * frame + 32]
        memory = np.concatenate((memory[32:], hop))
        power = power + alpha * (min(float(np.mean(hop**2)), 8.0 * power) - power)
        power = max(power, 10.0 ** (-60.0 / 10.0))
        spectrum = np.fft.rfft(memory * window) / math.sqrt(power * np.sum(window**2))
        magnitude = np.abs(spectrum)
        unit = np.divide(spectrum, magnitude, out=np.zeros_like(spectrum), where=magnitude > 0)
        compressed = magnitude**0.3
        expected = np.stack((compressed, compressed * unit.real, compressed * unit.imag))
        np.testing.assert_allclose(
            features[0, :, frame].numpy(), expected, rtol=0, atol=FEATURE_ABSOLUTE
        )


def test_digital_silence_gives_zero_features() -> None:
    features, _ = FrontendSimulation(StftFrontend()).analyze(torch.zeros(1, 2000))
    assert float(features.abs().max()) == 0.0


def test_features_do_not_depend_on_later_samples() -> None:
    simulation = FrontendSimulation(StftFrontend())
    wave = _speech_like(4096)
    changed = wave.clone()
    changed[:, 2048:] = 0.5
    before, after = simulation.analyze(wave)[0], simulation.analyze(changed)[0]
    assert torch.equal(before[:, :, :8], after[:, :, :8])


def test_level_rises_at_most_by_the_attack_limit_and_stops_at_the_floor() -> None:
    frontend = StftFrontend()
    alpha = 1.0 - math.exp(-256 / 32_000)
    loud = running_power(np.array([[1e9, 1e9]]), frontend)[0]
    start = 10.0 ** (-2.6)
    assert loud[0] == pytest.approx(start * (1 + 7 * alpha))
    assert loud[1] == pytest.approx(loud[0] * (1 + 7 * alpha))
    quiet = running_power(np.zeros((1, 5000)), frontend)[0]
    assert quiet[-1] == pytest.approx(1e-6)
    assert np.all(np.diff(quiet) <= 0)


def test_mask_and_bias_act_in_the_compressed_domain() -> None:
    simulation = FrontendSimulation(StftFrontend())
    _, context = simulation.analyze(_speech_like(2048))
    shape = (2, 1, *context.spectrum.shape[1:])
    mask, bias = torch.rand(shape), torch.randn(2, 2, *shape[2:])
    enhanced = simulation.apply_head({"mask": mask, "bias": bias}, context)
    expected = simulation.compress(context.spectrum) * mask + bias
    torch.testing.assert_close(enhanced, expected)


def test_complex_mask_multiplies() -> None:
    simulation = FrontendSimulation(StftFrontend(head="complex_mask"))
    _, context = simulation.analyze(_speech_like(2048))
    noisy = simulation.compress(context.spectrum)
    mask = torch.randn_like(noisy)
    got = torch.view_as_complex(simulation.apply_head(mask, context).movedim(1, -1).contiguous())
    a = torch.view_as_complex(noisy.movedim(1, -1).contiguous())
    b = torch.view_as_complex(mask.movedim(1, -1).contiguous())
    torch.testing.assert_close(got, a * b)


def test_target_of_the_noisy_clip_itself_is_its_spectrum() -> None:
    simulation = FrontendSimulation(StftFrontend())
    wave = _speech_like(3000)
    _, context = simulation.analyze(wave)
    torch.testing.assert_close(
        simulation.target(wave, context), simulation.compress(context.spectrum)
    )


def test_gradients_are_finite_also_in_silence() -> None:
    simulation = FrontendSimulation(StftFrontend())
    wave = torch.cat((torch.zeros(1, 3000), _speech_like(1000)[:1]), dim=1)
    features, context = simulation.analyze(wave)
    mask = torch.full_like(features[:, :1], 0.5).requires_grad_()
    bias = torch.zeros_like(features[:, :2]).requires_grad_()
    simulation.synthesize({"mask": mask, "bias": bias}, context).square().sum().backward()
    assert mask.grad is not None
    assert bias.grad is not None
    assert bool(torch.isfinite(mask.grad).all() and torch.isfinite(bias.grad).all())
    assert float(mask.grad.abs().max()) > 0.0


def test_refusals() -> None:
    with pytest.raises(SpecError, match="needs a mask head"):
        FrontendSimulation(StftFrontend(head="logits"))
    with pytest.raises(SpecError, match="cannot reconstruct"):
        FrontendSimulation(StftFrontend(hop_length=512))
    simulation = FrontendSimulation(StftFrontend())
    features, context = simulation.analyze(torch.zeros(1, 512))
    with pytest.raises(SpecError, match=r"needs \{'mask'"):
        simulation.synthesize(features[:, :1], context)
