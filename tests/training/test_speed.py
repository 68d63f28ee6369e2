"""The table of training speed: every row can be measured, and the command prints it."""

from __future__ import annotations

import pytest

from spectral_edge.training.speed import CLASSIFIERS, ENHANCERS, main, training_speed


def test_named_rows_are_measured() -> None:
    rows = training_speed(("fftp_ast_xs", "saf_edge_nano"), seconds=0.01)
    assert [r.name for r in rows] == ["fftp_ast_xs", "saf_edge_nano"]
    assert rows[1].input == (3, 125, 257)
    assert all(r.clips_per_second > 0 for r in rows)
    assert {"dsm_kws_s", "fftp_aum_s"} <= set(CLASSIFIERS)
    assert "saf_edge_s" in ENHANCERS


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fftp_ast_xs", "--seconds", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "clips/s" in out
    assert "1 thread(s), torch" in out
