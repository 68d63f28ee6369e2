"""Recipes: what is shipped loads, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectral_edge.errors import SpecError
from spectral_edge.training.recipe import expand_folder, load_recipe, recipe_names

MINIMAL: dict[str, Any] = {
    "name": "x",
    "model": "saf_edge_nano",
    "data": {"clean": ["a"], "noise": ["b"]},
}


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_survive_a_round_trip(name: str) -> None:
    recipe = load_recipe(name, {})
    assert recipe.name == name
    assert load_recipe(recipe.to_dict(), {}) == recipe


def test_yaml_file_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nmodel: saf_edge_s\ndata: {clean: [a], noise: [b]}\n")
    recipe = load_recipe(path, {"run.epochs": 3, "data.mix.snr_db": [0, 5], "seed": 9})
    assert (recipe.run.epochs, recipe.data.mix.snr_db, recipe.seed) == (3, (0.0, 5.0), 9)
    assert recipe.run.batch == load_recipe(MINIMAL, {}).run.batch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run.epoch": 3}, "recipe.run has unknown key 'epoch'; known keys: .*epochs"),
        ({"lr": 1.0}, "recipe has unknown key 'lr'"),
        ({"run.epochs": "many"}, "recipe.run.epochs is 'many', must be int"),
        ({"run.epochs": True}, "recipe.run.epochs is True, must be int"),
        ({"run.devices": 1.5}, "recipe.run.devices is 1.5, must be int or str"),
        ({"data.clean": "a"}, "recipe.data.clean is 'a', must be a list"),
        ({"data.mix.snr_db": [1]}, r"snr_db is \[1\], must have 2 entries"),
        ({"data": 3}, "recipe.data is 3, must be a mapping"),
        ({"data": {"clean": ["a"]}}, "data lacks noise"),
        ({"data": {}}, "data lacks clean: name folders of it, or pairs"),
        ({"data.pairs": ["p"]}, "train on mixtures or on pairs"),
        ({"run.schedule": "step"}, "run.schedule is 'step', must be one of cosine, plateau"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_recipe(MINIMAL, changes)


def test_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(SpecError, match=r"'nothing', must be a .yaml file or one of .*toy"):
        load_recipe("nothing", {})


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n"])
def test_broken_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"broken\.yaml"):
        load_recipe(path, {})


def test_folders_expand_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clean").mkdir()
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert expand_folder("clean", "$SOME_DATA") == tmp_path / "clean"
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(SpecError, match=r"variable that is not set"):
        expand_folder("clean", "$SOME_DATA")
    with pytest.raises(SpecError, match=r"noise does not exist: check data\.root"):
        expand_folder("noise", str(tmp_path))
