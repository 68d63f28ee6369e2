"""The toy recipe learns, resumes to the same bits, and names what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectral_edge.errors import SpecError
from spectral_edge.models import load_checkpoint
from spectral_edge.training.clips import load_clips
from spectral_edge.training.evaluate import evaluate, model_enhancer, noisy_enhancer
from spectral_edge.training.loop import train
from tests.training.test_mixtures import _mixtures

pytestmark = pytest.mark.filterwarnings(
    # torch's own pytree deprecation, triggered by Lightning's import
    "ignore:.*is deprecated.*:FutureWarning"
)

SHORT: dict[str, Any] = {
    "run__steps_per_epoch": 2,
    "run__epochs": 2,
    "data__mix__seconds": 0.5,
    "data__val_mixtures": 2,
    "progress": False,
}


def _weights(path: Path) -> dict[str, torch.Tensor]:
    model, _, _ = load_checkpoint(path)
    return model.state_dict()


def test_toy_recipe_beats_the_noisy_input(tmp_path: Path) -> None:
    best = train("toy", out=tmp_path, progress=False)
    model, frontend, info = load_checkpoint(best)
    assert info["recipe"]["name"] == "toy"
    assert any((tmp_path / "toy" / "logs").glob("events.*"))
    enhance = model_enhancer(model, frontend)
    _write_pairs(tmp_path / "pairs")
    enhanced = evaluate(enhance, tmp_path / "pairs", names=("si_sdr",)).means["si_sdr"]
    noisy = evaluate(noisy_enhancer, tmp_path / "pairs", names=("si_sdr",)).means["si_sdr"]
    assert enhanced > noisy + 1.0, (enhanced, noisy)


def test_interrupted_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    train("toy", out=tmp_path / "whole", **SHORT)
    train("toy", out=tmp_path / "parts", stop_after_epochs=1, **SHORT)
    halfway = _weights(tmp_path / "parts/toy/last.pt")
    train("toy", out=tmp_path / "parts", resume=True, **SHORT)
    whole, parts = (_weights(tmp_path / name / "toy/last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], halfway[name]) for name in whole)


def test_start_checkpoint_gives_the_first_weights(tmp_path: Path) -> None:
    short = SHORT | {"run__epochs": 1, "run__ema": 0.0}
    first = train("toy", out=tmp_path / "a", **short)
    second = train("toy", out=tmp_path / "b", start=str(first), run__lr=1e-12, **short)
    a, b = _weights(first), _weights(second)
    for name in a:
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)
    with pytest.raises(SpecError, match="has another front end"):
        train(
            "toy",
            out=tmp_path / "c",
            start=str(first),
            frontend={"n_fft": 256, "hop_length": 128},
            **short,
        )


def test_pairs_train_with_plateau_ratio_mask_and_half_precision(tmp_path: Path) -> None:
    _write_pairs(tmp_path / "pairs")
    pairs = str(tmp_path / "pairs")
    recipe = {
        "name": "pairs", "model": "saf_edge_nano", "options": {"lookahead": 1},
        "data": {"pairs": [pairs], "val_pairs": [pairs], "mix": {"seconds": 0.5}},
        "loss": {"irm": 0.1},
        "run": {
            "epochs": 3, "steps_per_epoch": 0, "batch": 2, "lr": 0.01, "schedule": "plateau",
            "plateau_epochs": 1, "accelerator": "cpu", "precision": "bf16-mixed", "ema": 0.5,
        },
    }  # fmt: skip
    model, _, info = load_checkpoint(train(recipe, out=tmp_path, progress=False))
    assert info["step"] in (2, 4, 6)  # four pairs, two at once
    assert model.layers[0][1].along_time[0].lookahead == 1


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    wild = SHORT | {"run__epochs": 9, "run__lr": 0.9, "run__ema": 0.0, "run__patience": 1}
    train("toy", out=tmp_path, **wild)
    last = torch.load(tmp_path / "toy" / "last.pt", weights_only=True)
    assert last["info"]["epoch"] < 9


def test_voicebank_folder_is_a_recipe(tmp_path: Path) -> None:
    import soundfile

    for kind in ("noisy", "clean"):
        folder = tmp_path / "set" / f"{kind}_trainset_28spk_wav"
        folder.mkdir(parents=True)
        for name in ("p226_001", "p230_001", "p231_001"):
            wave = np.random.default_rng(len(kind)).standard_normal(9000) * 0.1
            soundfile.write(folder / f"{name}.wav", wave, 16_000, subtype="PCM_16")
    small = {"channels": 8, "layers": 1, "heads": 2, "kernel": [3, 3], "dense_edges": 1}
    best = train(
        "voicebank_saf_paper", out=tmp_path, data_root=tmp_path / "set", progress=False,
        options=small, run__epochs=1, run__batch=2, run__workers=0, run__accelerator="cpu",
        data__mix__seconds=0.5,
    )  # fmt: skip
    model, frontend, info = load_checkpoint(best)
    assert (frontend.n_fft, frontend.window, info["step"]) == (320, "hann", 1)
    assert model.options.channels == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": True}, "nothing to resume"),
        ({"frontend": {"nfft": 512}}, "recipe.frontend has unknown key 'nfft'"),
        ({"data__clean": ["nowhere"]}, "nowhere does not exist: check data.root"),
        ({"data__val_clean": [], "data__val_noise": []}, "no validation data"),
        ({"model": "saf"}, "model is 'saf', must be one of"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        train("toy", out=tmp_path, progress=False, **arguments)


def _write_pairs(folder: Path) -> None:
    import soundfile

    from spectral_edge.training.recipe import MixRecipe

    mixtures = _mixtures(MixRecipe(seconds=1.0, snr_db=(0.0, 5.0)), seed=5, count=4)
    for kind in ("noisy", "clean"):
        (folder / kind).mkdir(parents=True)
    for index in range(len(mixtures)):
        for kind, wave in zip(("noisy", "clean"), mixtures[index], strict=True):
            soundfile.write(folder / kind / f"{index}.wav", wave.numpy(), 16_000, subtype="PCM_16")


def test_evaluation_rows_progress_and_refusals(tmp_path: Path) -> None:
    _write_pairs(tmp_path)
    calls: list[tuple[int, int]] = []
    result = evaluate(
        noisy_enhancer,
        tmp_path,
        names=("si_sdr", "ssnr"),
        progress=lambda done, total: calls.append((done, total)),
        limit=2,
    )
    assert calls == [(1, 2), (2, 2)]
    assert [row["file"] for row in result.rows] == ["0.wav", "1.wav"]
    mean = np.mean([float(row["ssnr"]) for row in result.rows])
    assert result.means["ssnr"] == pytest.approx(mean)
    composite = evaluate(noisy_enhancer, tmp_path, names=("covl", "csig", "cbak"), limit=1)
    assert all(1.0 <= composite.means[name] <= 5.0 for name in ("covl", "csig", "cbak"))
    with pytest.raises(SpecError, match="metric is 'mos'"):
        evaluate(noisy_enhancer, tmp_path, names=("mos",))
    with pytest.raises(SpecError, match=r"returned shape \(15999,\)"):
        evaluate(lambda clip, rate: clip[1:], tmp_path, names=("si_sdr",))
    with pytest.raises(SpecError, match="noisy does not exist"):
        evaluate(noisy_enhancer, tmp_path / "noisy")


def test_enhancer_refuses_another_rate() -> None:
    from spectral_edge.frontend import StftFrontend
    from spectral_edge.models import build

    enhance = model_enhancer(build("saf_edge_nano", StftFrontend()), StftFrontend())
    clip = load_clips(["toy:1"], None, 16_000, "clean")[0]
    assert enhance(clip, 16_000).shape == clip.shape
    with pytest.raises(SpecError, match="8000 Hz, the model's front end 16000"):
        enhance(clip, 8_000)
