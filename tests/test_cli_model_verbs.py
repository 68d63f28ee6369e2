"""The command line from nothing to enhanced audio: train, quantize, export, check, compare, run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectral_edge.cli import main

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[1] / "spectral_edge" / "training" / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_audio: Path) -> Path:
    """A working folder with a recipe of two steps and some noisy speech."""
    path = tmp_path_factory.mktemp("cli")
    recipe = yaml.safe_load((RECIPES / "toy.yaml").read_text())
    recipe["run"] |= {"epochs": 1, "steps_per_epoch": 2}
    (path / "brief.yaml").write_text(yaml.safe_dump(recipe))
    (path / "noisy").mkdir()
    shutil.copy(demo_audio / "noisy.wav", path / "noisy")
    return path


def result_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_the_whole_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = result_of(capsys, "train", folder / "brief.yaml", "--out", folder / "runs")
    checkpoint = trained["checkpoint"]
    calibration = ("--calibration", folder / "noisy")
    int8, real = folder / "int8.seb", folder / "float32.seb"
    made = result_of(capsys, "quantize", checkpoint, int8, *calibration)
    assert made["precision"] == "w8a8"
    made = result_of(capsys, "export", checkpoint, real, *calibration, "--formats", "tflite")
    assert made["precision"] == "float32"
    assert result_of(capsys, "check", int8, "--engine", "litert", "onnxruntime")["passed"]
    assert result_of(capsys, "check", real)["passed"]
    assert result_of(capsys, "compare", real, int8)["si_sdr_db"] > 0
    worst = result_of(capsys, "debug", checkpoint, *calibration, "--worst", 3)["tensors"]
    assert len(worst) == 3
    source, target = folder / "noisy" / "noisy.wav", folder / "enhanced.wav"
    assert result_of(capsys, "run", int8, source, target)["rtf"] < 1
    assert target.stat().st_size == source.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "missing.yaml"), "missing.yaml"),
        (
            ("quantize", "missing.pt", "a.seb", "--calibration", "noisy"),
            "missing.pt does not exist",
        ),
        (("quantize", "brief.yaml", "a.seb", "--calibration", "noisy"), "checkpoint"),
    ],
)
def test_bad_input(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_calibration_folder_without_audio(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = folder / "empty"
    empty.mkdir()
    code = main(["quantize", "missing.pt", "a.seb", "--calibration", str(empty)])
    assert code == 2
    assert "no audio (.wav, .flac" in capsys.readouterr().err
