"""The Python of docs/how-to/denoise-live.md runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from spectral_edge.cli import _parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "denoise-live.md"


def test_python_of_the_page(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tiny, tmp_path / "denoiser.seb")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["enhanced"].shape == (160, 1)
    assert capsys.readouterr().out == "0\n"


def test_commands_of_the_page() -> None:
    lines = re.findall(r"^    spectral-edge (live .*)$", PAGE.read_text("utf-8"), re.M)
    assert len(lines) == 3
    for line in lines:
        _parser().parse_args(line.split())
