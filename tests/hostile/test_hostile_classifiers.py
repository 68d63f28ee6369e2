"""Manifests of classifiers that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import spectral_edge as se
from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.errors import BundleError, FrontendMismatch, ManifestError, RuntimeUnfit
from spectral_edge.runtimes.classify import ClassifySession
from tests.runtimes.tiny import tiny_bundle

LABELS = [f"label {i}" for i in range(257)]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Tensors of a denoiser called a classifier: enough for the manifest, not for a session."""
    tiny = tiny_bundle(tmp_path_factory.mktemp("good") / "good.seb", golden_hops=2)
    frontend = se.LogMelFrontend()
    manifest = json.loads(json.dumps(tiny.manifest)) | {
        "version": 2,
        "frontend": frontend.to_dict(),
        "frontend_fingerprint": frontend.fingerprint,
        "classifier": se.Classifier(tuple(LABELS)).to_dict(),
    }
    return write_bundle(tiny.path.with_name("c.seb"), manifest, tiny.members)


def put(*path: Any, to: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def take(*path: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def kind(frontend: Any, **more: Any) -> Change:
    data = frontend.to_dict() | more

    def change(manifest: dict[str, Any]) -> None:
        manifest["frontend"], manifest["frontend_fingerprint"] = data, frontend.fingerprint

    return change


PCEN = se.LogMelFrontend(log="pcen")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (put("version", to=1), ManifestError, "need version 2"),
        (put("classifier", to=None), ManifestError, "classifier is None, must be object"),
        (put("classifier", "labels", to=[]), ManifestError, "has 0 items"),
        (put("classifier", "labels", to=["a"] * 257), ManifestError, "label 'a' is there twice"),
        (put("classifier", "labels", to=LABELS[:-1]), ManifestError, "256 labels, output 'mask'"),
        (put("classifier", "labels", 3, to="x" * 101), ManifestError, "must match"),
        (put("classifier", "labels", 3, to="a\nb"), ManifestError, "must match"),
        (put("classifier", "labels", 3, to="a\u202eb"), ManifestError, "cannot be printed"),
        (put("classifier", "labels", 3, to=4), ManifestError, "must be string"),
        (put("classifier", "labels", to=["a"] * 10_001), ManifestError, "has 10001 items"),
        (put("classifier", "activation", to="relu"), ManifestError, "activation is 'relu'"),
        (put("classifier", "window_hop", to=0), ManifestError, "window_hop is 0"),
        (put("classifier", "window_hop", to=1 << 40), ManifestError, "at most 100000"),
        (put("classifier", "window_hop", to=1.5), ManifestError, "must be integer or null"),
        (put("classifier", "surprise", to=1), ManifestError, "unknown key 'classifier.surprise'"),
        (take("classifier", "policy"), ManifestError, "lacks the key 'policy'"),
        (take("classifier", "policy", "threshold"), ManifestError, "lacks the key 'threshold'"),
        (put("classifier", "policy", "threshold", to=2), ManifestError, "at most 1"),
        (put("classifier", "policy", "refractory", to=1e9), ManifestError, "at most 3600"),
        (put("classifier", "policy", "smoothing", to="x"), ManifestError, "smoothing is 'x'"),
        (put("classifier", "policy", "ignore", to=["y"]), ManifestError, "policy names 'y'"),
        (put("classifier", "policy", "ignore", to="y"), ManifestError, "must be array"),
        (put("classifier", "policy", "thresholds", to={"y": 0.5}), ManifestError, "names 'y'"),
        (put("classifier", "policy", "thresholds", to={LABELS[0]: -1}), ManifestError, "at least"),
        (put("frontend", "n_mels", to=32), FrontendMismatch, "its front end gives"),
        (put("frontend", "n_mels", to=1 << 40), ManifestError, "n_mels is 1099511627776"),
        (put("frontend", "n_fft", to=1 << 30), ManifestError, "n_fft is 1073741824"),
        (put("frontend", "hop_length", to=0), ManifestError, "hop_length is 0"),
        (put("frontend", "std", to=0), ManifestError, "std is 0"),
        (put("frontend", "mel", to=["kaldi"]), ManifestError, "mel is"),
        (put("frontend", "pcen", to=[1]), ManifestError, "pcen is .1., must be an object"),
        (put("frontend", "pcen", to={}), ManifestError, "pcen has unknown keys"),
        (put("frontend", "kind", to="mfcc"), ManifestError, "kind is 'mfcc', this release knows"),
        (put("frontend", "kind", to=None), ManifestError, "kind is None"),
        (put("frontend", "kind", to="image"), ManifestError, "unknown keys"),
        (put("frontend", "more", to=1), ManifestError, "unknown keys"),
        (take("frontend", "log"), ManifestError, "lacks .'log'."),
        (kind(PCEN, pcen=PCEN.to_dict()["pcen"] | {"eps": 0}), ManifestError, "eps is 0"),
        (kind(se.ImageFrontend(), height=1 << 40), ManifestError, "height is"),
        (kind(se.ImageFrontend(), mean=0.5), ManifestError, "mean is 0.5, must be a list"),
        (kind(se.ImageFrontend(), mean=[0.5] * 9), ManifestError, "must be 3 number"),
        (kind(se.ImageFrontend(), std=["a"] * 3), ManifestError, "std is"),
        (kind(se.StftFrontend()), ManifestError, "head 'logits'"),
        (put("frontend", to=None), FrontendMismatch, "its front end gives None"),
    ],
)
def test_manifests_that_make_no_sense(
    good: Bundle, tmp_path: Path, change: Change, error: type[BundleError], words: str
) -> None:
    manifest = json.loads(json.dumps(good.manifest))
    change(manifest)
    with pytest.raises(error, match=words):
        write_bundle(tmp_path / "b.seb", manifest, good.members)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frontend", [se.LogMelFrontend(), se.ImageFrontend(8, 8), se.LogMelFrontend(n_mels=40)]
)
def test_tensors_of_another_front_end(good: Bundle, tmp_path: Path, frontend: Any) -> None:
    manifest = json.loads(json.dumps(good.manifest))
    kind(frontend)(manifest)
    bundle = write_bundle(tmp_path / "b.seb", manifest, good.members)
    with pytest.raises(RuntimeUnfit, match=r"2 outputs|its front end makes"):
        ClassifySession(bundle)
