"""DCT as linear weights, spectrum mixing and its exact re-parametrisations."""

from __future__ import annotations

import pytest
import torch

from spectral_edge.errors import SpecError
from spectral_edge.layers.dct import TRANSFORMS, AxisTransform, dct_matrix, transform_matrix
from spectral_edge.layers.rival_mixers import RIVALS, rival_mixer
from spectral_edge.layers.spectrum import GATES, SpectrumMixing, band_edges
from spectral_edge.models import build_classifier, prepare_integer_spectrum

LENGTHS = (1, 2, 3, 6, 7, 14, 16, 24, 56)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("n", LENGTHS)
def test_every_transform_is_orthonormal(name: str, n: int) -> None:
    matrix = transform_matrix(name, n)
    assert (matrix @ matrix.T - torch.eye(n, dtype=torch.float64)).abs().max() < 1e-13


@pytest.mark.parametrize("n", [7, 16])
def test_dct_is_the_textbook_formula(n: int) -> None:
    x = torch.randn(n, dtype=torch.float64)
    i = torch.arange(n, dtype=torch.float64)
    for k in range(n):
        gain = (1 / n if k == 0 else 2 / n) ** 0.5
        direct = gain * (x * torch.cos(torch.pi * (i + 0.5) * k / n)).sum()
        assert torch.isclose(dct_matrix(n)[k] @ x, direct)


def test_unknown_transform_lists_the_known() -> None:
    with pytest.raises(SpecError, match="'dft', must be one of dct, fourier"):
        transform_matrix("dft", 8)


def test_band_scales_leave_the_inverse_exact_and_survive_saving() -> None:
    transform = AxisTransform("dct", 12)
    transform.set_scale(torch.linspace(1, 8, 12))
    x = torch.randn(3, 12)
    torch.testing.assert_close(transform.inverse(transform(x)), x)
    copy = AxisTransform("dct", 12)
    copy.load_state_dict(transform.state_dict())
    assert torch.equal(copy.analysis, transform.analysis)
    assert torch.equal(copy.synthesis, transform.synthesis)


def test_loaded_networks_give_the_bits_of_the_saved_ones() -> None:
    """Constants are made anew, not derived from what is there; gains reach the pooling, too."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, 96, 64)
    model, copy = (build_classifier("dsm_kws_s", 4, (1, 96, 64)).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        copy.load_state_dict(model.state_dict())
        assert torch.equal(copy(x), model(x))
        scaled = prepare_integer_spectrum(model, [x])
        other = prepare_integer_spectrum(copy, [3 * x[:, :, :, torch.randperm(64)]])
        assert not torch.equal(other(x), scaled(x))
        other.load_state_dict(scaled.state_dict())
        assert torch.equal(other(x), scaled(x))


@pytest.mark.parametrize(
    ("kind", "count", "bands", "expected"),
    [
        ("linear", 14, 7, [0, 2, 4, 6, 8, 10, 12, 14]),
        ("linear", 3, 8, [0, 1, 2, 3]),
        ("dyadic", 16, 8, [0, 1, 2, 4, 8, 16]),
        ("dyadic", 16, 3, [0, 1, 2, 16]),
        ("dyadic", 1, 4, [0, 1]),
    ],
)
def test_band_edges(kind: str, count: int, bands: int, expected: list[int]) -> None:
    assert band_edges(kind, count, bands) == expected


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bands", ["linear", "dyadic"])
@pytest.mark.parametrize("generator", ["channel_mlp", "band_mlp"])
def test_fresh_mixer_is_an_exact_allpass(gate: str, bands: str, generator: str) -> None:
    mixer = SpectrumMixing(8, (12, 10), gate=gate, bands=bands, generator=generator, spec_pool=4)
    x = torch.randn(2, 8, 12, 10)
    torch.testing.assert_close(mixer(x), x, atol=1e-5, rtol=1e-5)


def test_spec_keep_is_a_low_pass_projection() -> None:
    mixer = SpectrumMixing(4, (16, 16), spec_keep=0.25, weights="allpass")
    x = torch.randn(2, 4, 16, 16)
    once = mixer(x)
    assert mixer.spectrum(x).shape == (2, 4, 4, 4)
    torch.testing.assert_close(mixer(once), once, atol=1e-5, rtol=1e-5)
    flat = torch.ones(1, 4, 16, 16)
    torch.testing.assert_close(mixer(flat), flat, atol=1e-5, rtol=1e-5)


def trained_looking(weights: str, **knobs: object) -> SpectrumMixing:
    torch.manual_seed(0)
    mixer = SpectrumMixing(8, (12, 16), weights=weights, **knobs)
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return mixer


@pytest.mark.parametrize("weights", ["dynamic", "learned", "allpass"])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_dc_split_and_band_scales_do_not_change_the_function(weights: str, keep: float) -> None:
    mixer = trained_looking(weights, spec_keep=keep)
    x = torch.randn(2, 8, 12, 16) + 3.0
    expected = mixer(x)
    mixer.split_dc()
    torch.testing.assert_close(mixer(x), expected, atol=1e-5, rtol=1e-5)
    if weights == "dynamic":
        kept = (mixer.along_h.kept, mixer.along_w.kept)
        mixer.set_band_scales(*(torch.rand(n) * 6 + 0.5 for n in kept))
        torch.testing.assert_close(mixer(x), expected, atol=1e-5, rtol=1e-5)


def test_dc_split_needs_a_basis_with_dc() -> None:
    with pytest.raises(SpecError, match="constant row"):
        SpectrumMixing(4, (8, 8), transform="random", dc_split=True)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_keep_the_shape_and_have_gradients(name: str) -> None:
    mixer = rival_mixer(name, 16, (8, 6))
    x = torch.randn(2, 16, 8, 6, requires_grad=True)
    y = mixer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())


def test_global_filter_starts_near_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 8, 8)
    y = rival_mixer("gfnet", 8, (8, 8))(x)
    assert (y - x).norm() < 0.1 * x.norm()
