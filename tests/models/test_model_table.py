"""The table of networks: every name, sizes of the built network, states of the real stream."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

import spectral_edge as se
from spectral_edge.cli import main
from spectral_edge.models import (
    CLASSIFIERS,
    MODELS,
    ModelRow,
    ast_model,
    aum_model,
    build,
    dsm_stream_model,
    model_table,
    models_as_text,
)


@pytest.fixture(scope="module")
def table() -> dict[str, ModelRow]:
    return {row.name: row for row in model_table()}


def test_every_network_is_in_the_table(table: dict[str, ModelRow]) -> None:
    assert set(table) == {*MODELS, *CLASSIFIERS}
    text = models_as_text(list(table.values()))
    print(text)
    assert len(text.splitlines()) == len(table) + 2


# parameters and MACs per window of the specification's tables (sections 3.3 and 3.7)
DSM = {
    "dsm_s": (24.2e6, 4.55e9), "dsm_m": (41.7e6, 7.37e9), "dsm_l": (71.1e6, 13.3e9),
    "dsm_kws_m": (319e3, 14.1e6), "dsm_tag": (561e3, 70e6), "dsm_img96": (326e3, 22e6),
    "dsm_img128": (1.38e6, 91e6),
}  # fmt: skip


@pytest.mark.parametrize("name", DSM)
def test_dsm_sizes_are_those_of_the_design(name: str, table: dict[str, ModelRow]) -> None:
    assert (table[name].parameters, table[name].macs) == pytest.approx(DSM[name], rel=0.03)


def test_smallest_dsm_pays_for_its_pooling_matrices(table: dict[str, ModelRow]) -> None:
    row = table["dsm_kws_s"]
    assert row.parameters == pytest.approx(116e3, rel=0.03)
    assert 5.0e6 < row.macs < 5.25e6  # 5.0 without the matrices that pool and spread bands


STREAMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "saf_edge_nano": (lambda: build("saf_edge_nano", se.StftFrontend()), (1, 3, 12, 257)),
    "dsm_stream_k8": (lambda: dsm_stream_model("dsm_stream_k8").deployable(), (1, 1, 48, 64)),
    "fftp_ast_stream": (lambda: ast_model("fftp_ast_stream").deployable(), (1, 1, 48, 64)),
    "fftp_aum_xs": (lambda: aum_model("fftp_aum_xs").deployable(), (1, 1, 48, 40)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_states_of_the_table_are_those_of_the_program(
    name: str, table: dict[str, ModelRow]
) -> None:
    torch.manual_seed(0)
    make, shape = STREAMS[name]
    x = torch.randn(shape)
    program = se.streamify(make().eval(), x, time_dim=2, check_lengths=())
    assert table[name].state_values == program.state_elements
    quantised = se.quantize(program, [(x,)])
    sizes = {"int8": 1, "float32": 4}
    real = sum(sizes[s.dtype] * torch.Size(s.shape).numel() for s in quantised.states.values())
    assert table[name].w8a8_state_bytes == real


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["saf_edge_s"]["state_bytes"] == 4 * by_name["saf_edge_s"]["state_values"]
    assert by_name["fftp_aum_xs"]["tokens"] == 25
    assert main(["inspect"]) == 2
    assert "or --models" in capsys.readouterr().err
