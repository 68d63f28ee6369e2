"""Paper-size SAF: size, every option, causality, streaming equality."""

from __future__ import annotations

import math

import pytest
import torch

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.layers.cells import PHASES, PhaseInput
from spectral_edge.models.counters import measured_macs, parameter_count
from spectral_edge.models.saf_paper import (
    SafPaperOptions,
    paper_frontend,
    reconstruct,
    saf_paper,
)

SMALL = {"channels": 8, "layers": 1, "heads": 2, "kernel": (5, 5), "dilations": (1, 2)}
TINY_FRONTEND = se.StftFrontend(n_fft=64, hop_length=32)  # 33 bins


def small(**changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return saf_paper(TINY_FRONTEND, **{**SMALL, "dense_edges": 2, **changes}).eval()


def spectrum(frames: int, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(batch, 2, frames, 33)
    return torch.cat((x.norm(dim=1, keepdim=True), x), dim=1)


def test_size_is_the_published_one() -> None:
    with torch.device("meta"):
        model = saf_paper()
    assert parameter_count(model) == pytest.approx(577_000, abs=5_000)
    per_frame = measured_macs(model, (1, 3, 10, 161)) / 10
    print(f"{parameter_count(model)} parameters, {per_frame / 1e6:.1f} MMAC per frame")
    assert per_frame == pytest.approx(47.7e6, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"layers": 4}, 0.487), ({"layers": 4, "dilations": (1, 2, 4, 8)}, 0.558),
        ({"channels": 48, "layers": 6, "dilations": (1, 2, 4, 8)}, 0.455),
    ],
)  # fmt: skip
def test_other_layouts_have_their_counted_sizes(
    changes: dict[str, object], millions: float
) -> None:
    with torch.device("meta"):
        assert parameter_count(saf_paper(**changes)) / 1e6 == pytest.approx(millions, abs=0.0006)


OPTIONS = [
    *({"phase": p, "real_imag": r} for p in PHASES for r in (True, False)),
    *({"norm": n} for n in ("ln_f", "bn", "gn", "rms", "none")),
    *({"window": w} for w in (1, 5, 7, 0, -1)),
    *({"kernel": (k, k)} for k in (3, 9)),
    {"kernel": (11, 1)}, {"kernel": (1, 11)}, {"separable": True}, {"share_heads": True},
    *({"core": c} for c in ("attention_bins", "attention_frames", "attention_both")),
    *({"reconstruction": r} for r in ("mask", "bias", "complex_mask")),
    {"bias_domain": "magnitude"}, {"fusion": "cross"},
]  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_runs_and_reconstructs(changes: dict[str, object]) -> None:
    model = small(**changes)
    x = spectrum(9, batch=2)
    enhanced = reconstruct(x, model(x))
    assert enhanced.shape == (2, 2, 9, 33)
    assert enhanced.isfinite().all()


CAUSAL = [
    {}, {"norm": "bn"}, {"norm": "ln_f"}, {"norm": "gn"}, {"norm": "rms"}, {"phase": "ifgd"},
    {"phase": "gated"}, {"separable": True}, {"window": 5}, {"core": "attention_frames"},
]  # fmt: skip


@pytest.mark.parametrize("changes", CAUSAL, ids=str)
def test_causal_form_does_not_look_ahead(changes: dict[str, object]) -> None:
    model = small(causal=True, **changes)
    x = spectrum(40)
    changed = x.clone()
    changed[:, :, 25:] += 1.0
    with torch.no_grad():
        a, b = model(x)["mask"], model(changed)["mask"]
    torch.testing.assert_close(a[:, :, :25], b[:, :, :25], atol=1e-6, rtol=0)
    assert not torch.allclose(a[:, :, 25:], b[:, :, 25:])


@pytest.mark.parametrize("lookahead", [1, 2])
def test_lookahead_is_exactly_that_many_frames(lookahead: int) -> None:
    model = small(causal=True, lookahead=lookahead)
    x = spectrum(40)
    changed = x.clone()
    changed[:, :, 25:] += 1.0
    with torch.no_grad():
        different = (model(x)["mask"] - model(changed)["mask"]).abs().amax((0, 1, 3)) > 1e-7
    assert different.nonzero()[0] == 25 - lookahead


def test_causal_form_streams() -> None:
    model = small(causal=True, phase="gated", dense_edges=1, dilations=(1,))
    program = se.streamify(model, spectrum(8), time_dim=2, check_lengths=(1, 20))
    assert (program.delay, program.hop_multiple) == (0, 1)


def test_gated_phase_moves_least_under_noise() -> None:
    """The reason for the gate: weak bins have no phase worth the integer range."""
    torch.manual_seed(0)
    level = 10 ** torch.empty(1, 1, 50, 33).uniform_(-2.0, 0.3)
    angle = torch.rand_like(level) * 2 * math.pi
    clean = torch.cat((level * torch.cos(angle), level * torch.sin(angle)), dim=1)
    noisy = clean + 0.03 * torch.randn_like(clean)

    def change(kind: str) -> float:
        phase = PhaseInput(kind, 33, 0.5, 1.0)
        a, b = (
            phase(torch.cat((z.norm(dim=1, keepdim=True), z), dim=1))[:, 1:] for z in (clean, noisy)
        )
        return float((a - b).norm() / a.norm())

    assert change("gated") < change("cossin") < change("atan2")


def test_steady_tone_has_no_phase_advance_left() -> None:
    phase, k = PhaseInput("ifgd", 33, 0.5, 1.0), 5
    angle = 2 * math.pi * 0.5 * k * torch.arange(10.0)
    x = torch.zeros(1, 3, 10, 33)
    x[0, 0, :, k], x[0, 1, :, k], x[0, 2, :, k] = (
        100.0,
        100 * torch.cos(angle),
        100 * torch.sin(angle),
    )
    advance = phase(x)[0, 1:3, 1:, k]
    torch.testing.assert_close(advance[0], torch.ones(9), atol=0.01, rtol=0)
    torch.testing.assert_close(advance[1], torch.zeros(9), atol=0.01, rtol=0)


def test_paper_frontend_halves_and_comes_back() -> None:
    assert paper_frontend().bins == 161
    with pytest.raises(SpecError, match="must be odd"):
        saf_paper(se.StftFrontend(n_fft=90, hop_length=45))


@pytest.mark.parametrize(
    "bad", [{"phase": "polar"}, {"norm": "ln"}, {"kernel": (4, 3)}, {"lookahead": 11}, {"heads": 5}]
)
def test_options_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"must be|multiple"):
        SafPaperOptions(**bad)
