"""Classifier training: recipes, learning, resuming, checkpoints, pretraining, augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_edge.errors import SpecError
from spectral_edge.models.classifiers import CLASSIFIERS, build_classifier
from spectral_edge.training.augment import Augment
from spectral_edge.training.classify import (
    ClassifierModule,
    clip_logits,
    evaluate_classifier,
    load_classifier,
    mean_average_precision,
    train_classifier,
)
from spectral_edge.training.classify_recipe import (
    AugmentRecipe,
    ClassifyRecipe,
    FeatureRecipe,
    PretrainRecipe,
    classify_recipe_names,
    load_classify_recipe,
)
from spectral_edge.training.examples import load_features, make_loader
from spectral_edge.training.pretrain import pretraining_task, run_pretraining

TINY = {
    "name": "tiny",
    "model": "fftp_ast_xs",
    "options": {"layers": 1, "width": 32},
    "data": {
        "kind": "toy_kws",
        "classes": 4,
        "examples": [48, 16, 16],
        "options": {"seconds": 0.5},
    },
    "features": {"mels": 40, "frames": 50, "mean": -0.6, "std": 1.8},
    "run": {"epochs": 3, "batch": 16, "lr": 0.003, "accelerator": "cpu"},
}


def tiny(**changes: object) -> ClassifyRecipe:
    return load_classify_recipe(TINY, changes)


@pytest.mark.parametrize("name", classify_recipe_names())
def test_shipped_recipes_load_and_name_their_model(name: str) -> None:
    recipe = load_classify_recipe(name)
    assert recipe.name == name
    assert recipe.model in CLASSIFIERS
    assert recipe.note


def test_recipe_round_trip_and_mistakes() -> None:
    recipe = tiny(**{"augment.mask": "spec_mask"})
    assert load_classify_recipe(recipe.to_dict()) == recipe
    with pytest.raises(SpecError, match="unknown key 'epoch'"):
        tiny(**{"run.epoch": 3})
    with pytest.raises(SpecError, match=r"augment.mask is 'cutout'"):
        tiny(**{"augment.mask": "cutout"})
    with pytest.raises(SpecError, match=r"must be a .yaml file or one of audioset20k_ast"):
        load_classify_recipe("nonsense")
    with pytest.raises(SpecError, match="no option 'depth'"):
        train_classifier(tiny(**{"options.depth": 3}))
    with pytest.raises(SpecError, match=r"needs data.root"):
        train_classifier(tiny(**{"data.kind": "csv"}))


def test_learns_keeps_the_best_and_reloads(tmp_path: Path) -> None:
    seen: list[str] = []
    result = train_classifier(
        tiny(**{"run.epochs": 6, "run.ema": 0.8}),
        out=tmp_path,
        progress=lambda done, total, what: seen.append(what),
    )
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < losses[0]
    assert any("accuracy" in what for what in seen)
    assert result.checkpoint is not None
    network, recipe, classes = load_classifier(result.checkpoint)
    data = load_features(recipe, "test")
    assert evaluate_classifier(network, data) == result.scores
    assert classes == ("word00", "word01", "word02", "word03")
    torch.save({"format": "x"}, tmp_path / "x.pt")
    with pytest.raises(SpecError, match="is no classifier checkpoint"):
        load_classifier(tmp_path / "x.pt")


def test_same_seed_same_weights() -> None:
    a, b = (train_classifier(tiny(**{"run.epochs": 1})).model for _ in range(2))
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_lazy_features_are_the_same_inputs() -> None:
    kept, lazy = (
        train_classifier(tiny(**{"run.epochs": 1, "features.lazy": flag})) for flag in (False, True)
    )
    torch.testing.assert_close(lazy.scores["loss"], kept.scores["loss"], atol=1e-3, rtol=0)


def test_several_labels_give_map(tmp_path: Path) -> None:
    recipe = load_classify_recipe(
        {
            **TINY,
            "data": {"kind": "toy_tag", "examples": [24, 12, 12], "options": {"seconds": 0.5}},
            "run": {**TINY["run"], "epochs": 1, "loss": "bce"},
        }
    )
    assert set(train_classifier(recipe).scores) == {"map", "loss"}


def test_resume_goes_on(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to resume"):
        train_classifier(tiny(), out=tmp_path, resume=True)
    first = train_classifier(tiny(**{"run.epochs": 1}), out=tmp_path)
    told: list[str] = []
    result = train_classifier(
        tiny(**{"run.epochs": 2}), out=tmp_path, resume=True,
        progress=lambda done, total, what: told.append(f"{done}/{total} {what}"),
    )  # fmt: skip
    assert result.history[:1] == first.history  # told of the whole run
    assert len(result.history) == 2
    assert [line[:3] for line in told if "tiny:" in line] == ["2/2"]  # only the second epoch ran


def test_start_from_a_checkpoint_with_another_head(tmp_path: Path) -> None:
    first = train_classifier(tiny(**{"run.epochs": 1}), out=tmp_path)
    recipe = tiny(
        **{
            "start": str(first.checkpoint),
            "data.classes": 3,
            "run.lr": 1e-12,
            "run.schedule": "constant",
        }
    )
    second = train_classifier(recipe).model
    torch.testing.assert_close(second.patch.conv.weight, first.model.patch.conv.weight)


EDGE = [n for n in CLASSIFIERS if not any(w in n for w in ("base", "small", "dsm_s", "dsm_l"))]


@pytest.mark.parametrize("name", [*(n for n in EDGE if n != "dsm_m"), "dsm_stream"])
def test_every_name_builds_for_an_edge_window(name: str) -> None:
    model = build_classifier(name, 5, (1, 96, 64)).eval()
    with torch.no_grad():
        assert clip_logits(model(torch.randn(2, 1, 96, 64))).shape == (2, 5)


def test_average_precision_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.3]])
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    assert mean_average_precision(scores, targets) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_schedules() -> None:
    def rates(**run: object) -> list[float]:
        recipe = tiny(**{f"run.{k}": v for k, v in run.items()})
        module = ClassifierModule(torch.nn.Linear(2, 2), recipe, 2, steps=10)
        return [module.relative_lr(step) for step in range(10 * recipe.run.epochs)]

    steps = rates(schedule="steps", epochs=6, start=2, every=2, factor=0.5)
    assert [steps[10 * e] for e in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    cosine = rates(schedule="cosine", epochs=3, warmup_steps=5)
    assert cosine[0] == pytest.approx(0.2)
    assert cosine[4:] == sorted(cosine[4:], reverse=True)
    assert set(rates(schedule="constant")) == {1.0}


def augmented(**settings: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(8, 1, 20, 16), torch.arange(8) % 4
    change = Augment(AugmentRecipe(**settings), FeatureRecipe(), 4, seed=1)
    return (x, *change(x, y))


def test_mixing_keeps_label_mass_and_adds_power() -> None:
    x, mixed, targets = augmented(mixup=1.0)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert not torch.equal(x, mixed)
    assert mixed.max() <= x.max() + 0.2  # powers are averaged, never more than the louder one
    _, _, hard = augmented()
    assert set(hard.unique().tolist()) == {0.0, 1.0}


def test_rolls_gains_and_cuts() -> None:
    x, rolled, _ = augmented(roll=5)
    torch.testing.assert_close(rolled.sort(dim=2).values, x.sort(dim=2).values)
    x, louder, _ = augmented(gain=0.5)
    assert (louder - x).flatten(1).std(dim=1).max() < 1e-6
    x, cut, targets = augmented(cutmix=1.0)
    share = (cut == x).float().mean().item()
    assert 0 < share < 1
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("fftp_ast_xs", "patches", {"layers": 1}),
        ("ast_tiny", "patches", {"layers": 1}),
        ("aum_tiny", "patches", {"layers": 1}),
        ("dsm_kws_s", "frequency", {"depths": (1, 1, 1)}),
    ],
)
def test_self_supervised_tasks_learn(name: str, task: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_classifier(name, 3, (1, 32, 32), **options)
    loader = make_loader(load_features_of_gratings(), 16, shuffle=True)
    wrapped = pretraining_task(model, PretrainRecipe(task=task))
    losses = run_pretraining(wrapped, lambda: loader, 4, 3e-3, seed=0)
    assert losses[-1] < losses[0]


def load_features_of_gratings() -> object:
    from spectral_edge.training.labelled import image_features
    from spectral_edge.training.synthetic import toy_img

    return image_features(toy_img(48))


def test_tasks_fit_their_families() -> None:
    with pytest.raises(SpecError, match="for AST and Audio Mamba"):
        pretraining_task(build_classifier("dsm_kws_s", 2, (1, 32, 32)), PretrainRecipe("patches"))
    with pytest.raises(SpecError, match="for DSM"):
        pretraining_task(
            build_classifier("fftp_ast_xs", 2, (1, 30, 40)), PretrainRecipe("frequency")
        )


def test_pretraining_is_part_of_a_recipe() -> None:
    result = train_classifier(
        tiny(**{"pretrain.task": "patches", "pretrain.epochs": 2, "run.epochs": 1})
    )
    assert len(result.pretraining) == 2


def test_distillation_mixes_in_what_the_teacher_says(tmp_path: Path) -> None:
    teacher = train_classifier(tiny(**{"run.epochs": 1, "name": "teacher"}), out=tmp_path)
    changes = {"run.epochs": 1, "distill.teacher": str(teacher.checkpoint), "distill.share": 0.25}
    recipe = tiny(**changes)
    module = ClassifierModule(torch.nn.Linear(2, 2), recipe, 4, 1, teacher.model)
    x, hard = torch.randn(3, 1, 50, 40), torch.eye(4)[:3]
    soft = torch.softmax(teacher.model.eval()(x) / 2.0, dim=1)
    torch.testing.assert_close(module._with_teacher(x, hard), 0.75 * hard + 0.25 * soft)
    assert train_classifier(recipe).scores["loss"] > 0
    with pytest.raises(SpecError, match="knows other classes"):
        train_classifier(tiny(**changes, **{"data.classes": 3}))


def test_erasing_replaces_one_rectangle() -> None:
    torch.manual_seed(0)
    x, y = torch.zeros(8, 3, 32, 32), torch.arange(8) % 4
    change = Augment(AugmentRecipe(erase=1.0), FeatureRecipe(), 4, seed=1)
    changed = (change(x, y)[0] != 0).all(dim=1)
    for mask in changed:
        rows, columns = mask.any(dim=1).sum(), mask.any(dim=0).sum()
        assert mask.sum() == rows * columns
        assert 0.01 < float(mask.float().mean()) < 0.36


def test_resumed_runs_remember_the_best_weights(tmp_path: Path) -> None:
    first = train_classifier(tiny(**{"run.epochs": 2, "run.lr": 0.01}), out=tmp_path)
    ruined = {"run.epochs": 3, "run.lr": 0.01, "run.schedule": "constant", "augment.noise": 90.0}
    again = train_classifier(tiny(**ruined), out=tmp_path, resume=True)
    assert again.scores["accuracy"] >= min(0.5, first.scores["accuracy"])


def test_stops_early_in_half_precision_and_logs(tmp_path: Path) -> None:
    wild = {"run.epochs": 9, "run.lr": 0.5, "run.patience": 1, "run.precision": "bf16-mixed"}
    result = train_classifier(tiny(**wild), out=tmp_path)
    assert len(result.history) < 9
    assert any((tmp_path / "tiny" / "logs").glob("events.*"))
