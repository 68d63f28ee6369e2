"""Latency reports: complete, by their schema, and honest about what they cannot say."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from spectral_edge.errors import RuntimeUnfit, SpecError
from spectral_edge.report import (
    Distribution,
    EngineParity,
    Gate,
    LatencyReport,
    ParityReport,
    TensorParity,
    nearest_rank,
)
from spectral_edge.report_files import load_report, render_reports
from spectral_edge.runtimes.bench import bench, speech_like_noise
from spectral_edge.runtimes.compare import compare, si_sdr_db
from spectral_edge.runtimes.scheduler.counters import TimeHistogram
from spectral_edge.schema import load_schema


@pytest.fixture(scope="module")
def report(tiny: Path) -> LatencyReport:
    return bench(tiny, seconds=0.3, repetitions=3, paced=True)


def test_report_follows_its_schema_and_comes_back(report: LatencyReport, tmp_path: Path) -> None:
    text = json.dumps(report.to_dict(), allow_nan=False)
    schema = load_schema("report")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    path = tmp_path / "r.json"
    path.write_text(text)
    assert load_report(path) == report
    assert load_report(path).table() == report.table()


def test_parts_add_up(report: LatencyReport) -> None:
    for times in (report.wall, report.cpu):
        assert set(times) == {"hop", "frontend", "model", "copies"}
        total = sum(times[part].mean for part in ("frontend", "model", "copies"))
        assert total == pytest.approx(times["hop"].mean, rel=1e-9)
        assert times["hop"].n == 3 * report.repetitions["hops_each"]
        assert times["hop"].min <= times["hop"].p50 <= times["hop"].p95 <= times["hop"].max


def test_declared_and_measured_are_apart(report: LatencyReport) -> None:
    data = report.to_dict()
    assert data["kind"] == "measured"
    assert data["declared"]["hop_us"] == 16_000
    assert data["declared"]["algorithmic_ms"] == 32
    assert set(data["measured"]).isdisjoint(data["declared"])
    assert data["measured"]["cold_start"]["total_ms"] > 0
    assert len(data["measured"]["cold_start"]["totals_ms"]) == 3
    assert data["measured"]["memory"]["scope"] == "fresh process"
    assert data["runtime"]["engine"] == "litert"


def test_equal_bits_give_equal_hashes(report: LatencyReport, tiny: Path, through: Path) -> None:
    again = bench(tiny, engine="onnxruntime", seconds=0.05, repetitions=1, cold_start=False)
    assert again.output_sha256 == report.output_sha256
    other = bench(through, seconds=0.05, repetitions=1, cold_start=False)
    assert other.output_sha256 != report.output_sha256
    assert other.memory["scope"] == "this process"
    assert other.paced is None


def test_audio_of_another_rate_can_be_fed(tiny: Path, tmp_path: Path) -> None:
    from spectral_edge import audio

    audio.write(tmp_path / "a.wav", speech_like_noise(44_100, 0.5), 44_100)
    told: list[float] = []
    report = bench(
        tiny,
        seconds=0.05,
        audio=tmp_path / "a.wav",
        repetitions=1,
        cold_start=False,
        progress=told.append,
    )
    assert report.stream["hops"] >= 200
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_bad_arguments(tiny: Path) -> None:
    with pytest.raises(SpecError, match="seconds is 0"):
        bench(tiny, seconds=0)
    with pytest.raises(SpecError, match="repetitions is 0"):
        bench(tiny, repetitions=0)
    with pytest.raises(
        RuntimeUnfit, match=r"target 'ssh://pi@host' cannot be reached.*copy the bundle"
    ):
        bench(tiny, target="ssh://pi@host")


@pytest.mark.parametrize(
    ("percent", "wanted"), [(0, 1), (25, 1), (26, 2), (50, 2), (75, 3), (99, 4), (100, 4)]
)
def test_percentiles_are_values_that_occurred(percent: float, wanted: float) -> None:
    assert nearest_rank(np.array([1.0, 2, 3, 4]), percent) == wanted


@pytest.mark.parametrize(
    ("n", "p99", "p999"), [(999, False, False), (1000, True, False), (10_000, True, True)]
)
def test_no_percentile_without_the_samples_for_it(n: int, p99: bool, p999: bool) -> None:
    d = Distribution.of(np.arange(n))
    assert (d.p99 is not None, d.p999 is not None) == (p99, p999)


def test_histogram_is_within_one_bin_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    times = np.exp(rng.normal(11, 1, 5000)).astype(np.int64)
    histogram = TimeHistogram()
    for t in times:
        histogram.add(int(t))
    assert histogram.n == len(times)
    assert histogram.max_ns == times.max()
    for percent in (1, 50, 95, 99, 100):
        truth = nearest_rank(np.sort(times), percent) / 1000
        assert (
            truth <= histogram.percentile_us(percent) * (1 + 1e-9) <= truth * 2 ** (1 / 64) * 1.001
        )


def test_comparison_of_a_bundle_with_itself(tiny: Path) -> None:
    same = compare(tiny, tiny, hops=100)
    assert same.si_sdr_db is None
    assert same.equal_samples == 1.0
    assert same.hop_ratio > 0


def test_si_sdr_ignores_the_scale() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 40_000))
    estimate = clean + 0.1 * noise
    assert si_sdr_db(clean, estimate) == pytest.approx(20, abs=0.1)
    assert si_sdr_db(clean, 3 * estimate) == pytest.approx(si_sdr_db(clean, estimate) or 0)


def parity(status: str, passed: bool = True) -> ParityReport:
    tensors = (
        TensorParity("output.mask", 0.9991, 1, None, 51.2),
        TensorParity("state.past", 1.0, 0),
    )
    return ParityReport(
        bundle="b.seb",
        bundle_sha256="0" * 64,
        precision="w8a8",
        hops=500,
        gates=(Gate("state in = state out", passed, "12 of 12"),),
        engines=(
            EngineParity("litert", "2.3.0", status, "", "≥ 99.5 % equal", tensors),
            EngineParity("tensorflow", None, "skipped", "not installed"),
        ),
    )


def test_parity_report_passes_only_when_something_ran() -> None:
    assert parity("passed").passed
    assert not parity("failed").passed
    assert not parity("skipped").passed
    assert not parity("passed", passed=False).passed


def test_reports_go_on_one_page(report: LatencyReport, tmp_path: Path) -> None:
    agreement = parity("passed")
    text = json.dumps(agreement.to_dict())
    jsonschema.Draft202012Validator(load_schema("report")).validate(json.loads(text))
    (tmp_path / "p.json").write_text(text)
    loaded = load_report(tmp_path / "p.json")
    assert loaded == agreement
    for word in ("litert 2.3.0", "99.910 %", "51.2 dB", "identical", "skipped: not installed"):
        assert word in loaded.table()
    page = render_reports([report, loaded], "md")
    assert page.count("## ") == 2
    assert "&lt;" in render_reports([parity("<script>")], "html")
    with pytest.raises(SpecError, match="report kind is 'pdf'"):
        render_reports([report], "pdf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a report"),
        ("[]", r"is not a report \(schema None\)"),
        ('{"schema": "spectral-edge latency report"}', "lacks the key 'version'"),
    ],
)
def test_files_that_are_not_reports(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(SpecError, match=words):
        load_report(tmp_path / "r.json")
