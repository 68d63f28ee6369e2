"""DSM: counted sizes, equivalent deployable forms, streaming."""

from __future__ import annotations

import pytest
import torch

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.models.counters import measured_macs, parameter_count
from spectral_edge.models.dsm import SIZES, Dsm, dsm_model, prepare_integer_spectrum
from spectral_edge.models.dsm_stream import DsmStream, dsm_stream_model
from spectral_edge.models.window import window_program

# parameters and MACs as specified (MACs: the pooling and spreading matrices are counted here too)
COUNTS = {
    "dsm_s": (24.2e6, 4.55e9),
    "dsm_m": (41.7e6, 7.37e9),
    "dsm_l": (71.1e6, 13.3e9),
    "dsm_kws_s": (116e3, 5.0e6),
    "dsm_kws_m": (319e3, 14.1e6),
    "dsm_tag": (561e3, 70e6),
    "dsm_img96": (326e3, 22e6),
    "dsm_img128": (1.38e6, 91e6),
}


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_as_specified(name: str) -> None:
    parameters, macs = COUNTS[name]
    with torch.device("meta"):
        model = dsm_model(name)
    counted = measured_macs(model, (1, *SIZES[name].input))
    print(f"{name}: {parameter_count(model)} parameters, {counted / 1e6:.2f} MMAC")
    assert parameter_count(model) == pytest.approx(parameters, rel=0.006)
    assert counted == pytest.approx(macs, rel=0.04)


def test_edge_dsm_spends_a_fifth_in_the_transforms() -> None:
    with torch.device("meta"):
        plain, without = dsm_model("dsm_kws_s"), dsm_model("dsm_kws_s", mixer="fcanet")
    share = 1 - measured_macs(without, (1, 1, 96, 64)) / measured_macs(plain, (1, 1, 96, 64))
    assert 0.13 < share < 0.30


def busy(name: str = "dsm_kws_s", **changes: object) -> Dsm:
    """A model whose every parameter and running statistic is away from its start."""
    torch.manual_seed(1)
    model = dsm_model(name, **changes)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model(torch.randn(8, *model.input_shape))
    return model.eval()


def test_deployable_copy_is_the_same_function() -> None:
    model = busy()
    x = torch.randn(3, 1, 96, 64)
    torch.testing.assert_close(model.deployable()(x), model(x), atol=1e-4, rtol=1e-4)


def test_integer_spectrum_is_the_same_function_with_flat_bands() -> None:
    model = busy()
    x = torch.randn(6, 1, 96, 64) + 1.0
    ready = prepare_integer_spectrum(model, [x])
    torch.testing.assert_close(ready(x), model(x), atol=1e-4, rtol=1e-4)
    mixer, plain = ready.stages[0][0].mix, model.stages[0][0].mix
    v = model.stages[0][0].enter(model.stem(x))
    flat = mixer.spectrum(v - v.mean((2, 3), keepdim=True)).abs().amax((0, 1))
    peaky = plain.spectrum(v).abs().amax((0, 1))
    assert flat.max() / flat[1:, 1:].mean() < peaky.max() / peaky[1:, 1:].mean()


def test_learned_static_weights_and_rivals_build_and_train() -> None:
    for changes in (
        {"knobs": {"weights": "learned"}},
        {"knobs": {"weights": "allpass", "spec_keep": 0.5}},
        {"knobs": {"transform": "learned"}},
        {"mixer": "afno"},
        {"mixer": "dfformer"},
    ):
        model = dsm_model("dsm_kws_s", classes=4, input_shape=(1, 32, 32), **changes)
        model(torch.randn(2, 1, 32, 32)).sum().backward()


def test_window_must_divide() -> None:
    with pytest.raises(SpecError, match="98×64, 3 stages need multiples of 16"):
        dsm_model("dsm_kws_s", input_shape=(1, 98, 64))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(SpecError, match="must be one of dsm_s, dsm_m"):
        dsm_model("dsm_xxl")
    with pytest.raises(SpecError, match="must be dsm or one of gfnet"):
        dsm_model("dsm_kws_s", mixer="fft")


def test_window_form_becomes_a_step_program_without_states() -> None:
    model = prepare_integer_spectrum(busy(), [torch.randn(2, 1, 96, 64)])
    program = window_program(model, torch.randn(1, 1, 96, 64))
    assert not program.states
    x = torch.randn(1, 1, 96, 64)
    torch.testing.assert_close(program.step((x,), ())[0][0], model(x), atol=1e-5, rtol=1e-4)


def test_dsm_stream_is_causal_and_streams() -> None:
    torch.manual_seed(0)
    model = dsm_stream_model(blocks=2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model = model.deployable()
    program = se.streamify(model, torch.randn(1, 1, 64, 64), time_dim=2, check_lengths=(1, 18))
    assert (program.delay, program.hop_multiple) == (0, 4)
    ring = [s.shape for name, s in program.states.items() if "mix" in name]
    assert ring == [(1, 32, 15, 16)] * 2


def test_dsm_stream_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    model: DsmStream = dsm_stream_model(blocks=2, columns=8).eval()
    x = torch.randn(1, 1, 80, 64)
    changed = x.clone()
    changed[:, :, 40:] += 1.0
    with torch.no_grad():
        a, b = model(x), model(changed)
    assert torch.equal(a[:, :10], b[:, :10])
    assert not torch.equal(a[:, 10:], b[:, 10:])


@pytest.mark.parametrize("transform", ["random", "identity", "learned"])
def test_integer_spectrum_leaves_out_what_a_basis_cannot_do(transform: str) -> None:
    torch.manual_seed(0)
    model = dsm_model(
        "dsm_kws_s", 4, (1, 32, 32), depths=(1, 1, 1), knobs={"transform": transform}
    ).eval()
    x = torch.randn(4, 1, 32, 32)
    ready = prepare_integer_spectrum(model, [x])
    torch.testing.assert_close(ready(x), model(x), atol=1e-4, rtol=1e-4)
