"""The command line on bundles: results, JSON, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_edge import audio
from spectral_edge.cli import main
from tests.runtimes.tiny import tiny_bundle

Result = tuple[int, str, str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bundle(tmp_path_factory.mktemp("b") / "tiny.seb").path)


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("w") / "noisy.wav"
    rng = np.random.default_rng(0)
    audio.write(path, (rng.standard_normal((16_000, 2)) * 2000).astype(np.int16), 16_000)
    return str(path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """Run a verb in this process: exit code, standard output, standard error."""
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def data(result: Result) -> Any:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def test_run_enhances_a_file(
    capsys: pytest.CaptureFixture[str], bundle: str, wav: str, tmp_path: Path
) -> None:
    import spectral_edge as se

    target = tmp_path / "out.flac"
    code, out, err = call(capsys, "run", bundle, wav, str(target))
    assert (code, err) == (0, "")
    assert "real-time factor" in out
    assert "p95" in out
    clip, rate = audio.read(wav)
    enhanced, same_rate = audio.read(target)
    assert rate == same_rate
    with se.open(bundle) as session:
        assert np.array_equal(enhanced, session.process(clip))


def test_run_as_json_with_other_engine_and_backend(
    capsys: pytest.CaptureFixture[str], bundle: str, wav: str, tmp_path: Path
) -> None:
    outs = []
    for i, options in enumerate((["--engine", "onnxruntime"], ["--backend", "numpy"])):
        target = str(tmp_path / f"{i}.wav")
        found = data(call(capsys, "run", bundle, wav, target, "--json", *options))
        assert found["samples"] == 16_000
        assert found["hops"] == 63
        assert found["hop_us"]["p99"] is None
        outs.append(audio.read(target)[0])
    assert found["frontend_backend"] == "numpy"
    assert np.array_equal(*outs)


def test_bench_and_its_gate(
    capsys: pytest.CaptureFixture[str], bundle: str, tmp_path: Path
) -> None:
    quick = ("--seconds", "0.1", "--repetitions", "1", "--no-cold-start")
    found = data(call(capsys, "bench", bundle, "--json", *quick))
    assert found["schema"] == "spectral-edge latency report"
    (tmp_path / "r.json").write_text(json.dumps(found))
    code, out, err = call(capsys, "bench", bundle, *quick, "--gate-us", "0.001")
    assert code == 5
    assert "µs per hop" in out
    assert err.startswith("spectral-edge: error: p99 of a hop is")
    code, out, _ = call(capsys, "report", str(tmp_path / "r.json"))
    assert code == 0
    assert out.startswith("## Latency of tiny on litert")
    page = tmp_path / "page.html"
    assert call(capsys, "report", str(tmp_path / "r.json"), "-o", str(page))[0] == 0
    assert page.read_text().startswith("<!doctype html>")


def test_compare_and_its_gate(
    capsys: pytest.CaptureFixture[str], bundle: str, tmp_path: Path
) -> None:
    same = data(call(capsys, "compare", bundle, bundle, "--json"))
    assert same["si_sdr_db"] is None
    other = str(tiny_bundle(tmp_path / "through.seb", through=True).path)
    code, out, err = call(capsys, "compare", bundle, other, "--min-si-sdr", "90")
    assert code == 3
    assert "times as fast" in out
    assert "the gate is 90 dB" in err


def test_inspect(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    code, out, _ = call(capsys, "inspect", bundle)
    assert code == 0
    for word in ("tiny: w8a8", "1x3x1x257", "model.tflite", "head mask_bias"):
        assert word in out
    assert data(call(capsys, "inspect", bundle, "--json"))["manifest"]["name"] == "tiny"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    found = data(call(capsys, "doctor", "--json"))
    assert found["can_run"]
    named = {f["name"]: f for f in found["findings"]}
    assert named["litert"]["ok"]
    missing = [f for f in found["findings"] if not f["ok"]]
    assert all(f["advice"] for f in missing)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "VERB"),
        (("fly",), 2, "invalid choice: 'fly'"),
        (("ablate",), 2, "required: ids"),
        (("run", "BUNDLE"), 2, "required: input, output"),
        (("run", "missing.seb", "WAV", "out.wav"), 2, "no bundle at missing.seb"),
        (("run", "WAV", "WAV", "out.wav"), 2, "no complete bundle"),
        (("run", "BUNDLE", "missing.wav", "out.wav"), 2, "no audio file at missing.wav"),
        (("run", "BUNDLE", "BUNDLE", "out.wav"), 2, "is not audio"),
        (("run", "BUNDLE", "WAV", "WAV"), 2, "is the input; choose another name"),
        (("run", "BUNDLE", "WAV", "out.mp3"), 2, "must end in .wav or .flac"),
        (("run", "BUNDLE", "WAV", "out.wav", "--threads", "0"), 2, "threads is 0"),
        (("run", "BUNDLE", "WAV", "out.wav", "--engine", "abacus"), 2, "invalid choice: 'abacus'"),
        (("bench", "BUNDLE", "--seconds", "0"), 2, "seconds is 0"),
        (("bench", "BUNDLE", "--target", "adb://X"), 4, "cannot be reached"),
        (("bench", "BUNDLE", "--audio", "missing.wav"), 2, "no audio file"),
        (("inspect", "missing.seb"), 2, "no bundle at"),
        (("report", "missing.json"), 2, "is not a report"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    wav: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"BUNDLE": bundle, "WAV": wav}
    seen, out, err = call(capsys, *(places.get(a, a) for a in arguments))
    assert seen == code
    assert out == ""
    assert words in err
    assert err.startswith("spectral-edge: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_wrong_rate_without_resampling(
    capsys: pytest.CaptureFixture[str], bundle: str, tmp_path: Path
) -> None:
    source = tmp_path / "in.wav"
    audio.write(source, np.ones(4000, np.int16), 8_000)
    target = str(tmp_path / "out.wav")
    code, _, err = call(capsys, "run", bundle, str(source), target, "--no-resample")
    assert code == 2
    assert "has 8000 Hz" in err
    found = data(call(capsys, "run", bundle, str(source), target, "--json"))
    assert (found["samples"], found["resampled_to"]) == (4000, 16_000)


def test_missing_engine_exits_4(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    wav: str,
    tmp_path: Path,
) -> None:
    from spectral_edge.runtimes.engines import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    target = tmp_path / "out.wav"
    code, _, err = call(capsys, "run", bundle, wav, str(target), "--engine", "onnxruntime")
    assert code == 4
    assert "pip install 'spectral-edge[onnx]'" in err
    assert not target.exists()


def test_missing_library_exits_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str
) -> None:
    monkeypatch.setitem(sys.modules, "spectral_edge.inspection", None)
    code, _, err = call(capsys, "inspect", bundle)
    assert code == 1  # not a library that an extra brings: a defect
    assert "internal error" in err

    def needs_torch(args: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("spectral_edge.cli._inspect", needs_torch)
    code, _, err = call(capsys, "inspect", bundle)
    assert code == 4
    assert "pip install 'spectral-edge[train]'" in err


def test_a_defect_exits_1_and_shows_where_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str
) -> None:
    def broken(args: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("spectral_edge.cli._inspect", broken)
    monkeypatch.delenv("SPECTRAL_EDGE_DEBUG", raising=False)
    code, _, err = call(capsys, "inspect", bundle)
    assert code == 1
    assert err == (
        "spectral-edge: error: internal error: KeyError: 'x'; SPECTRAL_EDGE_DEBUG=1 shows where\n"
    )
    monkeypatch.setenv("SPECTRAL_EDGE_DEBUG", "1")
    _, _, err = call(capsys, "inspect", bundle)
    assert "Traceback" in err


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    verbs = [line.split()[0] for line in out.splitlines() if line.startswith("    ")][1:]
    assert len(verbs) >= 11
    for verb in verbs:
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0
        assert f"spectral-edge {verb}" in out
        assert "--json" in out


def test_the_program_itself(bundle: str) -> None:
    """One run as a process: output on stdout only, and a closed pipe is no error."""
    command = [sys.executable, "-m", "spectral_edge.cli", "inspect", bundle, "--json"]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["manifest"]["format"] == "spectral-edge bundle"
