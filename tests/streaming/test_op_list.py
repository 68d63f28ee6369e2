"""The list of supported ops in the documentation is the rule table."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectral_edge.errors import SpecError
from spectral_edge.streaming.list_ops import main, markdown, section
from spectral_edge.streaming.optable import RULES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "stream-your-own-model.md"


def test_page_and_table_are_equal() -> None:
    assert section(PAGE.read_text(encoding="utf-8")) == markdown(), (
        "run: python -m spectral_edge.streaming.list_ops docs/how-to/stream-your-own-model.md"
    )


def test_table_names_what_people_look_for() -> None:
    text = markdown()
    for name in ("conv2d", "nn.GRU", "spectral_edge.layers.scan", "cumsum", "unfold", "softmax"):
        assert f"`{name}" in text
    assert len(RULES) > 200


def test_writing_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8").replace("`conv2d`", ""), encoding="utf-8")
    main([str(page)])
    assert section(page.read_text(encoding="utf-8")) == markdown()
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(SpecError, match="has no marks"):
        main([str(page)])
