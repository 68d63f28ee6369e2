"""The shipped keyword spotter: it loads, proves itself, and hears words of people it never met."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

import spectral_edge as se
from spectral_edge.training.classify import load_classifier
from spectral_edge.training.labelled import fitted
from spectral_edge.training.loaders import csv_set
from tests.tolerances import ZOO_KEYWORD_ACCURACY

ZOO = Path(str(files("spectral_edge"))) / "zoo"
BUNDLE = ZOO / "dsm_kws_s.seb"


def test_it_is_complete_and_small() -> None:
    bundle = se.Bundle.load(BUNDLE)
    assert bundle.frontend == se.LogMelFrontend()
    assert bundle.classifier is not None
    assert len(bundle.classifier.labels) == 12
    assert bundle.member("card.md").decode() == (ZOO / "dsm_kws_s.md").read_text("utf-8")
    assert BUNDLE.stat().st_size < 1_000_000
    weights = ZOO / "dsm_kws_s.pt"
    network, _, labels = load_classifier(weights)
    assert labels == bundle.classifier.labels
    assert not network.training
    assert weights.stat().st_size < 350_000


def test_it_proves_itself() -> None:
    report = se.check(BUNDLE, engines=["litert", "onnxruntime"])
    assert report.passed, report.table()


def test_silence_and_noise_give_nothing() -> None:
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(10 * 16_000) * 300).astype(np.int16)
    with se.open(BUNDLE) as session:
        for pcm in (noise, noise * 0):
            results = session.process(pcm)
            assert not [d for r in results for d in r.detections]
            assert {r.label for r in results[3:]} <= {"_silence_", "_unknown_"}


def test_it_knows_the_words_of_the_validation_speakers(data_root: Path) -> None:
    clips = csv_set(data_root / "keywords/gsc12.csv", "val")
    raw = se.DetectionPolicy(smoothing="none")
    hits = []
    with se.open(BUNDLE, policy=raw) as session:
        for i in range(0, len(clips), 3):
            pcm = fitted(clips.load(i), 96 * 160)
            hits.append(session.process(pcm)[-1].label == clips.classes[int(clips.targets[i])])
    assert np.mean(hits) > ZOO_KEYWORD_ACCURACY
