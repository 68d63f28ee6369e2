"""Window models as streams with cached patch embeddings."""

from __future__ import annotations

import pytest
import torch

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.models.ast import ast_model
from spectral_edge.models.aum import aum_model
from spectral_edge.models.sliding import SlidingWindow
from spectral_edge.models.window import window_program

MODELS = {
    "ast": lambda: ast_model("fftp_ast_xs", layers=1, norm="bn"),
    "ast with class tokens": lambda: ast_model("fftp_ast_xs", layers=1, prefix=2),
    "aum both ways": lambda: aum_model(
        "fftp_aum_xs", layers=1, directions="fo_bi", readout="cls", window=(48, 40)
    ),
    "aum two branches": lambda: aum_model(
        "fftp_aum_xs", layers=1, directions="bi_bi", readout="mean", window=(48, 40)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_newest_row_is_the_model_on_the_newest_window(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    frames = model.size.window[0]
    model(torch.randn(4, 1, frames, 40))
    model.eval()
    x = torch.randn(2, 1, 2 * frames, 40)
    with torch.no_grad():
        rows = SlidingWindow(model)(x)
        expected = model(x[:, :, -frames:])
    torch.testing.assert_close(rows[:, -1], expected, atol=1e-5, rtol=1e-4)
    assert rows.shape[1] == 2 * model.size.tokens


@pytest.mark.parametrize("name", ["ast with class tokens", "aum both ways"])
def test_stream_keeps_only_patch_embeddings(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(1, 1, 48, 40)
    program = se.streamify(SlidingWindow(model).deployable(), x, time_dim=2, check_lengths=(1, 15))
    shapes = [spec.shape for spec in program.states.values()]
    assert shapes == [(1, model.size.tokens - 1, model.size.width)]
    assert (program.delay, program.hop_multiple) == (0, model.size.patch[0])


@pytest.mark.parametrize("name", ["aum both ways", "aum two branches"])
def test_two_directions_become_a_window_program(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(2, 1, 48, 40)
    program = window_program(model, x)
    torch.testing.assert_close(program.step((x,), ())[0][0], model(x), atol=1e-5, rtol=1e-4)


def test_what_streams_by_itself_or_overlaps_is_refused() -> None:
    with pytest.raises(SpecError, match="streams by itself"):
        SlidingWindow(aum_model("fftp_aum_xs", layers=1))
    with pytest.raises(SpecError, match="without overlap"):
        SlidingWindow(ast_model("fftp_ast_xs", layers=1, stride=(2, 40)))
