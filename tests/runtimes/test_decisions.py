"""Smoothing and detection policy, on scores made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.runtimes.decisions import Decider, Result

LABELS = ("a", "b", "other")
PLAIN = {"smoothing": "none", "refractory": 0.0}


def decided(
    scores: list[tuple[float, ...]],
    activation: str = "softmax",
    step: float = 0.1,
    **policy: object,
) -> list[Result]:
    """Feed probabilities, as logits that give them back."""
    decider = Decider(
        se.Classifier(LABELS, activation),
        se.DetectionPolicy(**policy),
        step,  # type: ignore[arg-type]
    )
    results = []
    for i, row in enumerate(scores):
        p = np.clip(np.array(row, np.float64), 1e-9, 1 - 1e-9)
        logits = np.log(p) if activation == "softmax" else np.log(p / (1 - p))
        results.append(decider.update(logits, i * step))
    return results


def steps_of(results: list[Result]) -> list[tuple[int, str]]:
    return [(i, d.label) for i, r in enumerate(results) for d in r.detections]


def of(a: float) -> tuple[float, ...]:
    return (a, (1 - a) / 2, (1 - a) / 2)


def test_every_step_that_is_sure() -> None:
    results = decided([of(0.2), of(0.7), of(0.9), of(0.4)], threshold=0.6, **PLAIN)
    assert steps_of(results) == [(1, "a"), (2, "a")]
    assert results[1].detections[0].score == pytest.approx(0.7)
    assert results[1].time == pytest.approx(0.1)
    assert results[0].label == "b"  # the first of equals


def test_ignored_labels_and_own_thresholds() -> None:
    rows = [(0.1, 0.1, 0.8), (0.7, 0.2, 0.1), (0.2, 0.7, 0.1)]
    assert steps_of(decided(rows, ignore=("other",), **PLAIN)) == [(1, "a"), (2, "b")]
    assert steps_of(decided(rows, ignore=("other",), thresholds={"a": 0.75}, **PLAIN)) == [(2, "b")]


def test_refractory_time() -> None:
    rows = [of(0.9)] * 8
    found = steps_of(decided(rows, smoothing="none", refractory=0.3))
    assert [i for i, _ in found] == [0, 3, 6]
    rows = [(0.9, 0.05, 0.05), (0.05, 0.9, 0.05)] * 3
    under_softmax = steps_of(decided(rows, smoothing="none", refractory=0.3))
    assert under_softmax == [(0, "a"), (3, "b")]
    under_sigmoid = steps_of(decided(rows, "sigmoid", smoothing="none", refractory=0.3))
    assert under_sigmoid == [(0, "a"), (1, "b"), (4, "a"), (5, "b")]


def test_hysteresis_waits_until_the_label_is_gone() -> None:
    rows = [of(p) for p in (0.9, 0.9, 0.58, 0.9, 0.45, 0.9)]
    found = steps_of(decided(rows, threshold=0.6, hysteresis=0.1, **PLAIN))
    assert [i for i, _ in found] == [0, 5]


def test_average() -> None:
    rows = [of(1.0), of(0.0), of(1.0), of(1.0), of(1.0), of(0.1)]
    results = decided(rows, smoothing="average", smoothing_seconds=0.3, refractory=0, threshold=0.9)
    got = [dict(r.top)["a"] for r in results]
    want = [1, 1 / 2, 2 / 3, 2 / 3, 1, 2.1 / 3]
    assert got == pytest.approx(want, abs=1e-6)
    assert steps_of(results) == [(4, "a")]  # step 0 is sure, but too early


def test_exponential() -> None:
    rows = [of(p) for p in (0.9, 0.1, 0.1, 0.8)]
    results = decided(rows, smoothing="exponential", smoothing_seconds=0.2, refractory=0)
    weight, expected = 1 - math.exp(-0.5), 0.9
    for result, row in zip(results, rows, strict=True):
        expected += weight * (row[0] - expected)
        assert dict(result.top)["a"] == pytest.approx(expected, abs=1e-6)
    assert steps_of(results) == [(1, "a"), (3, "a")]  # nothing within the first 0.2 s


def test_reset_forgets() -> None:
    decider = Decider(se.Classifier(LABELS), se.DetectionPolicy(smoothing_seconds=0.5), 0.1)
    logits = [np.array([3.0, 0.0, 0.0])] * 8
    first = [decider.update(x, 0.0) for x in logits]
    decider.reset()
    assert [decider.update(x, 0.0) for x in logits] == first
    assert len([r for r in first if r.detections]) == 1


def test_top_is_cut() -> None:
    decider = Decider(se.Classifier(LABELS), se.DetectionPolicy(), 0.1, top=2)
    assert len(decider.update(np.zeros(3), 0.0).top) == 2
    with pytest.raises(SpecError, match="top is 0"):
        Decider(se.Classifier(LABELS), se.DetectionPolicy(), 0.1, top=0)


def test_plain_data() -> None:
    policy = se.DetectionPolicy(0.7, {"a": 0.9}, 2.0, 0.1, ("other",), "exponential", 0.4)
    classifier = se.Classifier(LABELS, "sigmoid", 16, policy)
    assert se.Classifier.from_dict(classifier.to_dict()) == classifier
    assert se.DetectionPolicy.from_dict({}) == se.DetectionPolicy()
    assert hash(policy) == hash(se.DetectionPolicy.from_dict(policy.to_dict()))
    (result,) = decided([of(0.9)], **PLAIN)
    data = result.to_dict()
    assert data["label"] == "a"
    assert data["detections"][0]["label"] == "a"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: se.Classifier(()), "there are 0 labels"),
        (lambda: se.Classifier("abc"), "labels is 'abc'"),  # type: ignore[arg-type]
        (lambda: se.Classifier(("a", "a")), "label 'a' is there twice"),
        (lambda: se.Classifier(("a", "")), "label is ''"),
        (lambda: se.Classifier(("x" * 101,)), "must be a string of 1…100"),
        (lambda: se.Classifier(("a\n",)), "cannot be printed"),
        (lambda: se.Classifier((3,)), "label is 3"),  # type: ignore[arg-type]
        (lambda: se.Classifier(("a",), "relu"), "activation is 'relu'"),
        (lambda: se.Classifier(("a",), window_hop=0), "window_hop is 0"),
        (lambda: se.Classifier(("a",), window_hop=True), "window_hop is True"),
        (lambda: se.Classifier(("a",), policy={}), "must be a DetectionPolicy"),  # type: ignore[arg-type]
        (
            lambda: se.Classifier(("a",), policy=se.DetectionPolicy(ignore=("b",))),
            "policy names 'b', the labels are a",
        ),
        (lambda: se.DetectionPolicy(threshold=1.1), "threshold is 1.1"),
        (lambda: se.DetectionPolicy(threshold=math.nan), "threshold is nan"),
        (lambda: se.DetectionPolicy(thresholds={"a": 2}), "threshold of 'a' is 2"),
        (lambda: se.DetectionPolicy(thresholds=[1]), "must map labels"),  # type: ignore[arg-type]
        (lambda: se.DetectionPolicy(refractory=-1), "refractory is -1"),
        (lambda: se.DetectionPolicy(refractory=1e9), "refractory is"),
        (lambda: se.DetectionPolicy(hysteresis=2), "hysteresis is 2"),
        (lambda: se.DetectionPolicy(ignore="ab"), "ignore is 'ab'"),  # type: ignore[arg-type]
        (lambda: se.DetectionPolicy(smoothing="median"), "smoothing is 'median'"),
        (lambda: se.DetectionPolicy(smoothing_seconds=math.inf), "smoothing_seconds is inf"),
        (lambda: se.DetectionPolicy.from_dict({"x": 1}), "policy has unknown key 'x'"),
        (lambda: se.Classifier.from_dict({"labels": ["a"], "x": 1}), "unknown key 'x'"),
    ],
)
def test_bad_values_are_refused(make: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()  # type: ignore[operator]
