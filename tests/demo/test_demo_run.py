"""The whole demo, once, with the shipped checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spectral_edge import Bundle, audio
from spectral_edge.demo.page import parity_rows

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

CHECKPOINT = Path(__file__).resolve().parents[2] / "spectral_edge" / "zoo" / "saf_edge_s.pt"


@pytest.mark.slow
@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no checkpoint in spectral_edge/zoo")
def test_demo_leaves_a_proven_bundle_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectral_edge.demo import pipeline

    monkeypatch.setattr(pipeline, "BENCH_SECONDS", 0.2)
    told: list[tuple[str, float | None]] = []
    (tmp_path / "mine.txt").write_text("not the demo's")
    result = pipeline.run_demo(
        out=tmp_path, progress=lambda step, seconds, note: told.append((step, seconds))
    )
    assert result.passed
    assert {path.name for path in tmp_path.iterdir()} == {
        "denoiser.seb",
        "denoiser-float32.seb",
        "noisy.wav",
        "enhanced.wav",
        "spectrogram.png",
        "report.html",
        "report.json",
        "mine.txt",
    }
    assert Bundle.load(result.bundle).precision == "w8a8"
    noisy, _ = audio.read(tmp_path / "noisy.wav")
    enhanced, _ = audio.read(result.enhanced)
    assert enhanced.shape == noisy.shape
    assert np.std(enhanced.astype(np.float64)) < np.std(noisy.astype(np.float64))
    assert result.quality["w8a8"].si_sdr > result.quality["noisy"].si_sdr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(result.to_dict()))
    page = result.page.read_text(encoding="utf-8")
    assert "passed" in page
    for row in parity_rows(report["parity"]):
        assert row["engine"] in page
    begun = [step for step, seconds in told if seconds is None]
    done = [step for step, seconds in told if seconds is not None]
    assert begun == done == [step.name for step in result.steps]
    assert "denoiser" in result.table()


def test_demo_refuses_what_is_not_audio_and_writes_nothing(tmp_path: Path) -> None:
    from spectral_edge.demo.pipeline import run_demo
    from spectral_edge.errors import AudioError

    (tmp_path / "speech.wav").write_bytes(b"this is no audio at all")
    with pytest.raises(AudioError, match=r"speech\.wav is not audio"):
        run_demo(tmp_path / "speech.wav", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
