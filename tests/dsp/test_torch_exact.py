"""The exact torch front end: forward bits of the device, gradient of the float STFT."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectral_edge.dsp.exact import ExactFeatures, ExactSTFT
from spectral_edge.dsp.features import CodeRule, features_q16
from spectral_edge.dsp.simulate import CodeQuantizer
from spectral_edge.dsp.stft import analyse, frames_of
from spectral_edge.dsp.tables import stft_tables
from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from tests.dsp.signals import SIGNALS, signal
from tests.golden.regenerate import HERE, STFT_CASES, stft_hash
from tests.tolerances import EXACT_GRADIENT_COSINE


@pytest.mark.parametrize("case", STFT_CASES[::3], ids=lambda c: "-".join(map(str, c)))
def test_forward_has_the_bits_of_the_golden_model(case):
    n, hop, window = case
    exact = ExactSTFT(n, hop, window, torch.complex128)
    pcm = np.stack([signal(kind, hop * 8) for kind in range(len(SIGNALS))])
    seen = exact(torch.from_numpy(pcm / 32768.0))
    for clip, spectrum in zip(pcm, seen, strict=True):
        re, im, e = analyse(
            frames_of(clip, np.zeros(n, np.int16), hop), stft_tables(n, hop, window)
        )
        golden = (re + 1j * im) * 2.0 ** (-e[:, None] - 15)
        np.testing.assert_array_equal(spectrum.numpy(), golden.T)


def test_forward_has_the_hashes_of_the_golden_files():
    """Mantissas and exponents out of complex128, then the lines that C and NumPy have."""

    def transform(pcm, tables):
        exact = ExactSTFT(len(tables.window), tables.hop_length, window, torch.complex128)
        x = torch.from_numpy(pcm / 32768.0)
        seen = exact(x).numpy().T
        e = exact.integers(x)[2].numpy().astype(np.int64)
        scale = 2.0 ** (e[:, None] + 15)
        return (seen.real * scale).astype(np.int64), (seen.imag * scale).astype(np.int64), e

    lines = (HERE / "hashes.txt").read_text().splitlines()
    for n, hop, window in STFT_CASES:
        assert f"stft {n} {hop} {window} {stft_hash(n, hop, window, None, transform)}" in lines


def test_forward_of_a_short_window():
    exact = ExactSTFT(512, 160, "hann", torch.complex128, window_length=400)
    pcm = signal(0, 160 * 20)
    x = torch.from_numpy(pcm / 32768.0).requires_grad_(True)
    re, im, e = analyse(
        frames_of(pcm, np.zeros(400, np.int16), 160), stft_tables(512, 160, "hann", 400)
    )
    seen = exact(x)
    np.testing.assert_array_equal(
        seen.detach().numpy(), ((re + 1j * im) * 2.0 ** (-e[:, None] - 15)).T
    )
    (gradient,) = torch.autograd.grad(seen.abs().sum(), x)
    (ideal,) = torch.autograd.grad(exact.float_stft(x).abs().sum(), x)
    torch.testing.assert_close(gradient, ideal, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_the_float_stft(dtype):
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    exact = ExactSTFT(512, 128, "hann", complex_dtype)
    torch.manual_seed(0)
    x = torch.round(torch.randn(2, 128 * 40, dtype=dtype) * 3000) / 32768  # what int16 can hold
    x.requires_grad_(True)
    (seen,) = torch.autograd.grad(exact(x).abs().pow(0.6).sum(), x)
    (ideal,) = torch.autograd.grad(exact.float_stft(x).abs().pow(0.6).sum(), x)
    seen, ideal = seen.double().flatten(), ideal.double().flatten()
    cosine = torch.nn.functional.cosine_similarity(seen, ideal, dim=0)
    assert cosine.item() >= EXACT_GRADIENT_COSINE


def test_features_are_the_device_s_and_gradients_the_simulation_s():
    frontend = StftFrontend()
    torch.manual_seed(0)
    x = (torch.randn(2, 256 * 12) * 0.1).requires_grad_(True)

    class Simulation(torch.nn.Module):
        def forward(self, x):
            spectrum = ExactSTFT().float_stft(x).transpose(-1, -2)
            return torch.stack([spectrum.abs(), spectrum.real, spectrum.imag], dim=1)

    seen = ExactFeatures(frontend, Simulation())(x)
    pcm = np.clip(np.rint(x.detach().numpy().astype(float) * 32768), -32768, 32767).astype(np.int16)
    golden = np.stack([features_q16(frontend, clip) for clip in pcm]) / 65536
    np.testing.assert_allclose(seen.detach().numpy(), golden, atol=1e-6)
    assert torch.equal(ExactFeatures(frontend)(x), torch.from_numpy(golden).float())
    (gradient,) = torch.autograd.grad(seen.sum(), x)
    (ideal,) = torch.autograd.grad(Simulation()(x).sum(), x)
    torch.testing.assert_close(gradient, ideal)


@pytest.mark.parametrize(("scale", "bits"), [(0.0125, 8), (0.5, 8), (1 / 3, 8), (2.0**-9, 16)])
def test_quantiser_rounds_as_the_device_does(scale, bits):
    """Also at ties (half a code is a whole number of Q16 steps for 0.5 and 2^-9) and beyond."""
    quantizer = CodeQuantizer(scale, -7, bits)
    rng = np.random.default_rng(0)
    q16 = np.concatenate([np.arange(-70_000, 70_000, 7), rng.integers(-(2**31), 2**31, 3000)])
    x = torch.from_numpy(q16 / 65536.0).requires_grad_(True)
    codes = CodeRule.of(scale, -7, bits).codes(q16)
    np.testing.assert_array_equal(quantizer.codes(x).numpy(), codes)
    y = quantizer(x)
    np.testing.assert_array_equal(y.detach().numpy(), (codes.astype(float) + 7) * scale)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    inside = (codes > -(1 << (bits - 1))) & (codes < (1 << (bits - 1)) - 1)
    np.testing.assert_array_equal(gradient.numpy(), inside.astype(float))


def test_refuses_other_dtypes():
    with pytest.raises(SpecError, match="complex64"):
        ExactSTFT(dtype=torch.float32)
