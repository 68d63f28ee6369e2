"""One door to both trainers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from spectral_edge.errors import SpecError
from spectral_edge.training import start
from spectral_edge.training.classify_recipe import classify_recipe_names
from spectral_edge.training.recipe import recipe_names
from spectral_edge.training.start import all_recipe_names, train_recipe

pytestmark = pytest.mark.filterwarnings(
    # torch's own pytree deprecation, triggered by Lightning's import
    "ignore:.*is deprecated.*:FutureWarning"
)


def test_names_are_distinct() -> None:
    assert sorted(all_recipe_names()) == sorted({*recipe_names(), *classify_recipe_names()})


def test_classifier_recipes_come_through(tmp_path: Path) -> None:
    seen: list[str] = []
    changes = {"data.examples": [32, 16, 16], "run.epochs": 1}
    trained = train_recipe(
        "toy_kws", out=tmp_path, overrides=changes, progress=lambda _, __, what: seen.append(what)
    )
    assert trained.checkpoint.is_file()
    assert set(trained.scores) == {"accuracy", "loss"}
    assert "training speed" in trained.table()
    assert trained.to_dict()["checkpoint"] == str(trained.checkpoint)
    assert seen


def test_enhancer_recipes_come_through(tmp_path: Path) -> None:
    changes = {"run.epochs": 1, "run.steps_per_epoch": 1, "data.mix.seconds": 0.5}
    trained = train_recipe("toy", out=tmp_path, overrides=changes)
    assert trained.checkpoint == tmp_path / "toy" / "best.pt"
    assert trained.table() == f"best weights: {trained.checkpoint}"


def test_data_folder_takes_the_place_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=f"{tmp_path}/keywords/gsc12.csv is missing"):
        train_recipe("keywords_fftp_ast_s", out=tmp_path, data_root=tmp_path)
    with pytest.raises(SpecError, match=f"{tmp_path}/validation_list.txt is missing"):
        train_recipe("speech_commands35_dsm_kws_s", out=tmp_path, data_root=tmp_path)


def test_unknown_names_list_both_kinds() -> None:
    with pytest.raises(SpecError, match=r"one of denoise_s, .*keywords_fftp_ast_s"):
        train_recipe("nothing")
    assert start.VARIABLE.match("${DATA}/x")


def test_one_bar_per_stage() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with start.progress_bars(out) as tell:
        tell(1, 2, "features of x-train")
        tell(2, 2, "features of x-train")
        tell(1, 3, "x: accuracy 0.5")
    assert "features of x-train" in out.getvalue()
