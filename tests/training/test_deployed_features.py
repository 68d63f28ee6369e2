"""Training on the features of the device: the same bits, and the whole way to a session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.models.window import window_program
from spectral_edge.runtimes.classify import ClassifySession
from spectral_edge.training.classify import (
    classifier_frontend,
    evaluate_classifier,
    load_classifier,
    train_classifier,
)
from spectral_edge.training.classify_recipe import (
    FeatureRecipe,
    classify_recipe_names,
    load_classify_recipe,
)
from spectral_edge.training.deployed_features import deployed_frontend, frontend_features
from spectral_edge.training.examples import LazyFeatures, load_examples, load_features
from spectral_edge.training.labelled import LabelledSet

PAPERS = ("audioset20k", "imagenet", "speech_commands35_ast", "speech_commands35_aum",
          "speech_commands35_fftp_ast.", "speech_commands35_fftp_aum.")  # fmt: skip


def clips(*examples: NDArray[Any], rate: int = 16_000, name: str = "clips") -> LabelledSet:
    kind = "audio" if examples[0].dtype == np.int16 else "image"
    targets = np.zeros(len(examples), np.int64)
    return LabelledSet(name, kind, ("one",), targets, lambda i: examples[i], rate)


@pytest.fixture
def words(demo_audio: Path) -> NDArray[np.int16]:
    """A second of recorded speech in noise."""
    pcm, rate = soundfile.read(demo_audio / "noisy.wav", dtype="int16")
    assert rate == 16_000
    return np.ascontiguousarray(pcm[4_000:20_000])


class Sum(nn.Module):
    """The smallest network that takes windows: its session is asked for what it was fed with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean(dim=(1, 2, 3)), x.amax(dim=(1, 2, 3))], dim=1)


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_training_and_session_see_the_same_bits(
    words: NDArray[np.int16], tmp_path: Path, rate: int
) -> None:
    """What the engine of a session holds after a clip is the row that training had of it."""
    features = FeatureRecipe(mels=40, frames=100)
    examples = clips(words[:rate], words[:rate][::-1].copy(), rate=rate)
    trained = load(features, examples)
    frontend = deployed_frontend(features, examples)
    program = window_program(Sum().eval(), trained).with_(golden_inputs=(trained,))
    labels = se.Classifier(("low", "high"), window_hop=100)
    path = se.export(program, tmp_path / "sum.seb", frontend=frontend, labels=labels).path
    for i in range(len(examples)):
        with ClassifySession(se.Bundle.load(path)) as session:
            for block in np.array_split(examples.load(i), 37):  # blocks as a sound card gives them
                session.push(block)
            (stream,) = session.streams
            (fed,) = stream.engine.inputs.values()
            assert fed.size == trained[i].numel()
            np.testing.assert_array_equal(fed.reshape(100, 40), trained[i, 0].numpy())


def load(features: FeatureRecipe, examples: LabelledSet) -> torch.Tensor:
    frontend = deployed_frontend(features, examples)
    return frontend_features(examples, frontend, features.frames).inputs


def test_both_backends_and_lazy_loading_give_the_same(words: NDArray[np.int16]) -> None:
    features = FeatureRecipe(mels=64, frames=90)
    examples = clips(words, words[:5_000])
    rows = load(features, examples)
    frontend = deployed_frontend(features, examples)
    middle = words[(len(words) - 14_400) // 2 :][:14_400]
    np.testing.assert_array_equal(frontend.features(middle, backend="numpy"), rows[0, 0])
    silence = frontend.features(np.zeros(160, np.int16))
    np.testing.assert_array_equal(rows[1, 0, -1], silence[0])  # short clips end in silence
    lazy = LazyFeatures(examples, features)
    assert all(torch.equal(lazy[i][0], rows[i]) for i in (1, 0, 1))


def test_pictures_are_those_of_the_device() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1)).astype(np.uint8)
    features = FeatureRecipe(size=(32, 32))
    examples = clips(pixels)
    frontend = deployed_frontend(features, examples)
    assert frontend == se.ImageFrontend(32, 32, 1)
    rows = load(features, examples)
    np.testing.assert_array_equal(rows[0], frontend.features(pixels))
    assert torch.equal(LazyFeatures(examples, features)[0][0], rows[0])


@pytest.mark.parametrize("name", classify_recipe_names())
def test_edge_recipes_deploy_and_papers_publish(name: str) -> None:
    front = load_classify_recipe(name).features.front
    assert front == ("published" if f"{name}.".startswith(PAPERS) else "deployed")


def test_mistakes_in_recipes_are_named() -> None:
    base = {"name": "x", "model": "dsm_kws_s", "data": {"kind": "toy_kws"}}
    for changes, words in (
        ({"features.front": "kaldi"}, "features.front is 'kaldi', must be one of deployed, publ"),
        ({"features.centring": "blocker"}, "features.centring is 'blocker', which the deployed"),
        ({"features.fill": "raw_zero"}, "or set features.front to published"),
        ({"features.fill": "zero"}, "features.fill is 'zero', must be one of mean, raw_zero"),
        ({"features.size": [32]}, r"features.size is \(32,\), must be height and width"),
        ({"features.mels": 0}, "must be positive"),
    ):
        with pytest.raises(SpecError, match=words):
            load_classify_recipe(base, changes)
    paper = {"features.front": "published", "features.centring": "blocker"}
    assert load_classify_recipe(base, paper).features.centring == "blocker"


def test_cache_keeps_sets_of_one_name_apart(words: NDArray[np.int16], tmp_path: Path) -> None:
    """Features come from the cache, and only where clips, front end and window are the same."""
    first, other = clips(words, words), clips(words, words[::-1].copy())
    frontend = se.LogMelFrontend()
    told: list[int] = []

    def made(examples: LabelledSet, front: Any = frontend, window: int = 50) -> torch.Tensor:
        tell = lambda done, total, what: told.append(done)  # noqa: E731
        return frontend_features(examples, front, window, tell, tmp_path).inputs

    kept = made(first)
    assert told == [2]
    assert torch.equal(made(first), kept)
    assert told == [2]
    assert not torch.equal(made(other), kept)
    assert not torch.equal(made(first, replace(frontend, mean=-6.0)), kept)
    assert made(first, window=40).shape[2] == 40
    assert told == [2, 2, 2, 2]
    assert len(list(tmp_path.iterdir())) == 4


KWS = {
    "name": "words",
    "model": "dsm_kws_s",
    "options": {"depths": [1, 1, 1]},
    "data": {"kind": "toy_kws", "classes": 4, "examples": [96, 24, 40]},
    "features": {"mels": 64, "frames": 96, "mean": -0.6, "std": 1.8},
    "run": {"epochs": 8, "batch": 16, "lr": 0.004, "accelerator": "cpu", "threads": 1},
}


@pytest.mark.slow
def test_from_recipe_to_labels(tmp_path: Path) -> None:
    """Train, quantise, export; a session on the test clips says what training was told."""
    result = train_classifier(KWS, out=tmp_path)
    assert result.checkpoint is not None
    network, recipe, names = load_classifier(result.checkpoint)
    frontend = classifier_frontend(result.checkpoint)
    assert frontend == deployed_frontend(recipe.features, load_examples(recipe.data, "train"))
    calibration = load_features(recipe, "train").inputs[:48]
    ready = se.models.prepare_integer_spectrum(network, [calibration])
    int8 = se.quantize(window_program(ready, calibration), [(calibration,)])
    policy = se.DetectionPolicy(smoothing="none")
    labels = se.Classifier(names, window_hop=96, policy=policy)
    path = se.export(int8, tmp_path / "w.seb", frontend=frontend, labels=labels).path
    assert se.Bundle.load(path).frontend.fingerprint == frontend.fingerprint
    test = load_examples(recipe.data, "test")
    hits = 0
    with ClassifySession(se.Bundle.load(path)) as session:
        for i, target in enumerate(test.targets):
            middle = test.load(i)[320:][: 96 * 160]
            hits += session.process(middle)[-1].label == names[target]
    accuracy = hits / len(test)
    trained = evaluate_classifier(network, load_features(recipe, "test"))["accuracy"]
    print(f"float, training path {trained:.3f}; w8a8 session from PCM {accuracy:.3f}")
    assert trained == result.scores["accuracy"]
    assert trained > 0.8
    assert accuracy > trained - 0.05


def test_features_far_from_zero_are_told() -> None:
    changes = {"features.mean": -12.0, "run.epochs": 1, "data.examples": [16, 8, 8]}
    with pytest.warns(
        RuntimeWarning, match=r"set features.mean to -\d+\.\d+ and features.std to"
    ) as w:
        train_classifier(KWS, overrides=changes)
    found = str(w[0].message).split("features.mean to ")[1]
    mean, std = (float(word) for word in found.split(" and features.std to "))
    recipe = load_classify_recipe(KWS, {**changes, "features.mean": mean, "features.std": std})
    inputs = load_features(recipe, "train").inputs
    assert abs(float(inputs.mean())) < 0.05
    assert 0.4 < float(inputs.std()) < 0.6


def test_published_features_have_no_session(tmp_path: Path) -> None:
    changes = {"features.front": "published", "run.epochs": 1, "data.examples": [16, 8, 8]}
    result = train_classifier(KWS, out=tmp_path, overrides=changes)
    assert result.checkpoint is not None
    with pytest.raises(SpecError, match=r"does not say what front end .* features.front deployed"):
        classifier_frontend(result.checkpoint)
