"""The command line on classifiers: run to JSON and CSV, pictures, check, bench, compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spectral_edge as se
from spectral_edge import audio
from tests.runtimes.spotters import RATE, spotter, tones
from tests.test_cli_bundle_verbs import call, data

Capture = pytest.CaptureFixture[str]
SPEECH = tones((0, 0.5), (400, 0.6), (0, 0.5), (3000, 0.6), (0, 0.5))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(spotter("window", tmp_path_factory.mktemp("w") / "tones.seb"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(spotter("colour", tmp_path_factory.mktemp("c") / "colours.seb"))


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("a") / "tones.wav"
    audio.write(path, SPEECH, RATE)
    return str(path)


def test_run_writes_detections(capsys: Capture, window: str, wav: str, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    code, out, err = call(capsys, "run", window, wav, str(target))
    assert (code, err) == (0, "")
    assert "low" in out
    assert "2 detections in 1 file(s)" in out
    stored = json.loads(target.read_text())
    assert (stored["schema"], stored["version"]) == ("spectral-edge detections", 1)
    (file,) = stored["files"]
    assert (file["source"], file["channels"], file["results"]) == (wav, 1, [])
    assert file["seconds"] == len(SPEECH) / RATE
    with se.open(window) as session:
        found = [d.to_dict() for r in session.process(SPEECH) for d in r.detections]
    assert file["detections"] == found
    assert [d["label"] for d in found] == ["low", "high"]


def test_run_on_several_files_as_csv(
    capsys: Capture, window: str, wav: str, tmp_path: Path
) -> None:
    slow = str(tmp_path / "slow.wav")
    audio.write(slow, np.stack([SPEECH[::2], SPEECH[::2] * 0], axis=1), RATE // 2)
    target = tmp_path / "found.csv"
    done = data(call(capsys, "run", window, wav, slow, str(target), "--json"))
    assert [f["source"] for f in done["files"]] == [wav, slow]
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert list(rows[0]) == ["source", "time", "channel", "label", "score"]
    first = [r for r in rows if r["source"] == wav]
    assert [r["label"] for r in first] == ["low", "high"]
    assert {r["channel"] for r in rows if r["source"] == slow} == {"0"}


def test_run_with_another_policy(capsys: Capture, window: str, wav: str, tmp_path: Path) -> None:
    target = str(tmp_path / "f.json")
    options = ["--threshold", "1", "--refractory", "2", "--smoothing-seconds", "0.2"]
    done = data(call(capsys, "run", window, wav, target, "--json", *options))
    assert done["files"][0]["detections"] == []
    assert done["policy"]["threshold"] == 1
    assert done["policy"]["refractory"] == 2
    assert done["policy"]["ignore"] == ["quiet"]
    done = data(call(capsys, "run", window, wav, target, "--json", "--every-result"))
    assert len(done["files"][0]["results"]) == 54
    assert done["files"][0]["results"][0]["label"] == "quiet"


def test_run_on_pictures(capsys: Capture, colour: str, tmp_path: Path) -> None:
    paths = []
    for i, name in enumerate(("red", "green")):
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[:, :, i] = 255
        paths.append(str(tmp_path / f"{name}.png"))
        Image.fromarray(pixels).save(paths[-1])
    target = tmp_path / "labels.json"
    code, out, _ = call(capsys, "run", colour, *paths, str(target))
    assert code == 0
    assert "red.png: red" in out
    files = json.loads(target.read_text())["files"]
    assert [f["results"][0]["label"] for f in files] == ["red", "green"]
    assert call(capsys, "run", colour, *paths, str(tmp_path / "l.csv"))[0] == 0
    rows = list(csv.DictReader((tmp_path / "l.csv").read_text().splitlines()))
    assert [r["label"] for r in rows] == ["red", "green"]
    assert call(capsys, "run", colour, str(target), str(tmp_path / "x.json"))[0] == 2


def test_run_says_what_is_wrong(capsys: Capture, window: str, wav: str, tmp_path: Path) -> None:
    out = str(tmp_path / "f.json")
    for arguments, words in (
        (["run", window, wav, str(tmp_path / "f.wav")], "labels go into .json or .csv"),
        (["run", window, str(tmp_path / "gone.wav"), out], "no audio file at"),
        (["run", window, wav, str(tmp_path / "no" / "f.json")], "choose another folder"),
        (["run", window, wav, out, "--threshold", "2"], "threshold is 2.0"),
        (["run", window, wav, out, "--engine", "tensorflow"], "tensorflow"),
    ):
        code, stdout, err = call(capsys, *arguments)
        assert code in (2, 4)
        assert stdout == ""
        assert words in err
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_classifier_options_are_refused_elsewhere(
    capsys: Capture, wav: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.runtimes.tiny import tiny_bundle

    tiny = str(tiny_bundle(tmp_path_factory.mktemp("t") / "tiny.seb").path)
    code, _, err = call(capsys, "run", tiny, wav, str(tmp_path / "o.wav"), "--threshold", "0.5")
    assert (code, "--threshold is for classifiers" in err) == (2, True)
    code, _, err = call(capsys, "run", tiny, wav, wav, str(tmp_path / "o.wav"))
    assert (code, "got 2 inputs" in err) == (2, True)


def test_inspect_and_check(capsys: Capture, window: str, colour: str) -> None:
    _, out, _ = call(capsys, "inspect", window)
    assert "hann 400 in n_fft 512, hop 160, 64 kaldi bands" in out
    assert "3 labels (softmax): quiet, low, high, a window every 5 frames" in out
    assert "score ≥ 0.6" in out
    _, out, _ = call(capsys, "inspect", colour)
    assert "pictures, 8×8 pixels" in out
    manifest = data(call(capsys, "inspect", window, "--json"))["manifest"]
    assert manifest["version"] == 2
    for path in (window, colour):
        assert call(capsys, "check", path, "--engine", "litert", "onnxruntime")[0] == 0


def test_bench_and_report(capsys: Capture, window: str, colour: str, tmp_path: Path) -> None:
    options = ["--seconds", "0.2", "--repetitions", "2", "--no-cold-start", "--json"]
    for path, hop in ((window, 800), (colour, 1)):
        report = data(call(capsys, "bench", path, *options))
        assert report["declared"]["hop_length"] == hop
        assert report["measured"]["wall_us"]["model"]["p50"] > 0
        (tmp_path / "r.json").write_text(json.dumps(report))
        assert call(capsys, "report", str(tmp_path / "r.json"))[0] == 0


@pytest.mark.slow
def test_bench_with_cold_start(capsys: Capture, window: str, colour: str) -> None:
    for path in (window, colour):
        report = data(call(capsys, "bench", path, "--seconds", "0.2", "--json"))
        assert report["measured"]["cold_start"]["first_hop_ms"] > 0


def test_compare(
    capsys: Capture, window: str, colour: str, wav: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    real = str(spotter("window", tmp_path_factory.mktemp("f") / "float.seb", "float32"))
    found = data(call(capsys, "compare", real, window, "--audio", wav, "--json"))
    assert found["equal_samples"] > 0.95
    assert 0 < found["score_difference"] < 0.2
    code, _, err = call(capsys, "compare", colour, window)
    assert (code, "other labels, steps or sample rates" in err) == (2, True)


@pytest.mark.slow
def test_compare_pictures_and_as_text(capsys: Capture, window: str, colour: str) -> None:
    assert "100.00 % of labels equal" in call(capsys, "compare", window, window)[1]
    assert data(call(capsys, "compare", colour, colour, "--json"))["score_difference"] == 0
