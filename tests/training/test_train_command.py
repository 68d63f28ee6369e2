"""`spectral-edge train` end to end: an enhancer, words and pictures; stopped, resumed, averaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spectral_edge.cli import main
from spectral_edge.models import load_checkpoint
from spectral_edge.training import start
from spectral_edge.training.classify import load_classifier

pytestmark = pytest.mark.filterwarnings(
    # torch's own pytree deprecation, triggered by Lightning's import
    "ignore:.*is deprecated.*:FutureWarning"
)

Capture = pytest.CaptureFixture[str]

RECIPES: dict[str, dict[str, Any]] = {
    "toy": {
        "run.steps_per_epoch": 2, "run.ema": 0.9, "data.mix.seconds": 0.5, "data.val_mixtures": 2,
    },
    "toy_kws": {
        "model": "dsm_kws_s", "options": {"depths": [1, 1, 1]}, "features.mels": 64,
        "features.frames": 96, "data.examples": [48, 16, 16], "augment.mixup": 0.5,
        "augment.mask": "none", "augment.noise": 0.1, "run.ema": 0.9, "run.accelerator": "cpu",
    },
    "toy_img": {
        "options": {"drop_path": 0.1}, "data.examples": [48, 24, 24], "augment.shift": 2,
        "run.ema": 0.9, "run.accelerator": "cpu",
    },
}  # fmt: skip


def command(name: str, out: Path, *more: str, **changes: Any) -> list[str]:
    """Arguments of the command line for a small run of a shipped recipe."""
    settings = {**RECIPES[name], **{key.replace("__", "."): v for key, v in changes.items()}}
    words = ["train", name, "--out", str(out), *more]
    for key, value in settings.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return words


def weights_of(name: str, checkpoint: Path) -> dict[str, torch.Tensor]:
    if name == "toy":
        return dict(load_checkpoint(checkpoint)[0].state_dict())
    return dict(load_classifier(checkpoint)[0].state_dict())


@pytest.mark.parametrize("name", RECIPES)
def test_stopped_and_resumed_gives_the_bits_of_a_whole_run(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weight average, augmentation and mixing: all of it goes on where it was."""
    epochs = {"run__epochs": 3}
    assert main(command(name, tmp_path / "whole", **epochs)) == 0
    out, _ = capsys.readouterr()
    whole = tmp_path / "whole" / name / "best.pt"
    assert f"best weights: {whole}" in out
    assert ("accuracy on the test split" in out) == (name != "toy")
    stop_after_two_epochs(monkeypatch)
    code = main(command(name, tmp_path / "parts", **epochs))
    out, err = capsys.readouterr()
    assert (code, out) == (130, "")
    last = tmp_path / "parts" / name / "last.ckpt"
    assert f"interrupted: {last} has the finished epochs, go on with resume" in err
    monkeypatch.undo()
    parts = tmp_path / "parts" / name / "best.pt"
    assert main(command(name, tmp_path / "parts", "--resume", **epochs)) == 0
    for file in ("best.pt", *(["last.pt"] if name == "toy" else [])):
        a, b = (weights_of(name, path.with_name(file)) for path in (whole, parts))
        assert all(torch.equal(a[key], b[key]) for key in a)


def stop_after_two_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the first step of the third epoch."""
    import lightning

    usual = lightning.Trainer.fit

    class Stop(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    def fit(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.callbacks.append(Stop())
        return usual(trainer, *args, **kwargs)

    monkeypatch.setattr(lightning.Trainer, "fit", fit)


@pytest.mark.parametrize("name", RECIPES)
def test_resuming_a_finished_run_changes_nothing(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main([*command(name, tmp_path, run__epochs=1), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    before = weights_of(name, Path(first["checkpoint"]))
    assert main([*command(name, tmp_path, "--resume", run__epochs=1), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["checkpoint"], again["scores"]) == (first["checkpoint"], first["scores"])
    after = weights_of(name, Path(again["checkpoint"]))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_nothing_to_resume(tmp_path: Path, capsys: Capture) -> None:
    for name in RECIPES:
        assert main(command(name, tmp_path, "--resume")) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"nothing to resume: {tmp_path / name / 'last.ckpt'} does not exist" in err
        assert err.count("\n") == 1


def test_early_stop_and_average_from_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    """A hopeless rate ends after the patience; what is kept is the average, not the last step."""
    wild = {"run__epochs": 9, "run__lr": 0.5, "run__patience": 1, "run__schedule": "constant"}
    assert main(command("toy_img", tmp_path, **wild)) == 0
    stored = torch.load(tmp_path / "toy_img" / "last.ckpt", weights_only=False)
    assert stored["epoch"] < 8
    assert len(stored["history"]) == stored["epoch"] + 1
    kept = weights_of("toy_img", tmp_path / "toy_img" / "best.pt")
    state = stored["state_dict"]
    averages = {k.removeprefix("average."): v for k, v in state.items() if "average." in k}
    assert set(averages) == set(kept)
    assert any(not torch.equal(averages[k], state[f"network.{k}"]) for k in averages)
    capsys.readouterr()


def test_a_recipe_file_of_ones_own(tmp_path: Path, capsys: Capture) -> None:
    recipe = {
        "name": "mine", "model": "fftp_ast_xs", "options": {"layers": 1, "width": 16},
        "data": {"kind": "toy_kws", "classes": 3, "examples": [12, 6, 6]},
        "features": {
            "mels": 40, "frames": 50, "mean": -0.6, "std": 1.8, "cache": str(tmp_path / "kept"),
        },
        "run": {"epochs": 1, "batch": 4, "accelerator": "cpu"},
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["train", str(path), "--out", str(tmp_path)]) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 3
    assert start.Trained(tmp_path, {}).table()
    recipe["features"]["front"] = "kaldi"  # type: ignore[index]
    path.write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    assert main(["train", str(path), "--out", str(tmp_path)]) == 2
    assert "features.front is 'kaldi', must be one of deployed" in capsys.readouterr().err
