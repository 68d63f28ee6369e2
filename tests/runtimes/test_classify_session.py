"""Sessions of classifiers: what they hear, when they say it, and that blocks do not matter."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spectral_edge as se
from spectral_edge.errors import RuntimeUnfit, SpecError, StreamError
from spectral_edge.logmel_stream import LogMelStream
from spectral_edge.runtimes.classify import ClassifySession, detections
from spectral_edge.runtimes.decisions import Decider, probabilities
from tests.runtimes.spotters import COLOURS, FRONTEND, LABELS, RATE, spotter, tones

KINDS = ("stream", "patch", "window")
STEP = {"stream": 1, "patch": 4, "window": 5}  # frames
SPEECH = tones((0, 0.5), (400, 0.6), (0, 0.5), (3000, 0.6), (0, 0.507))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("spotters")
    return {kind: spotter(kind, folder / f"{kind}.seb") for kind in (*KINDS, "colour")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_tones_are_heard_when_they_sound(bundles: dict[str, Path], kind: str, engine: str) -> None:
    with se.open(bundles[kind], engine=engine) as session:
        assert isinstance(session, se.ClassifySession)
        results = session.process(SPEECH)
    step = STEP[kind] / 100
    assert [r.time for r in results] == pytest.approx([step * (i + 1) for i in range(len(results))])
    assert results[-1].time >= len(SPEECH) / RATE > results[-1].time - step
    found = [d for r in results for d in r.detections]
    assert [d.label for d in found] == ["low", "high"]
    assert 0.5 < found[0].time < 0.9
    assert 1.6 < found[1].time < 2.0
    for r in results:
        assert r.label == r.top[0][0]
        assert r.score == r.top[0][1]
        assert len(r.top) == 3
        assert sum(score for _, score in r.top) == pytest.approx(1)
        assert [s for _, s in r.top] == sorted((s for _, s in r.top), reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_gives_the_same_results(bundles: dict[str, Path], kind: str) -> None:
    rng = np.random.default_rng(1)
    with se.open(bundles[kind]) as session:
        whole = session.process(SPEECH)
        for largest in (1, 100, 4000):
            results, at = [], 0
            clip = SPEECH if largest > 1 else SPEECH[:700]
            while at < len(clip):
                n = int(rng.integers(0, largest + 1))
                results += session.push(clip[at : at + n])
                at += n
            if largest > 1:
                assert results + session.flush() == whole
            else:
                assert results == whole[: len(results)]
            session.reset()
        as_float = session.process(SPEECH.astype(np.float32) / np.float32(32768))
        assert as_float == whole


@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_and_backends_say_the_same(bundles: dict[str, Path], kind: str) -> None:
    said = []
    for engine, backend in (("litert", "c"), ("onnxruntime", "c"), ("litert", "numpy")):
        with se.open(bundles[kind], engine=engine, backend=backend) as session:
            said.append(session.process(SPEECH[: 4 * RATE // 5]))
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_softmax_of_the_dequantised_program(bundles: dict[str, Path], kind: str) -> None:
    """Session against front end, engine and formulas put together by hand."""
    from spectral_edge.runtimes.engines.registry import load_engine

    bundle = se.Bundle.load(bundles[kind])
    engine = load_engine(bundle, "onnxruntime")
    source, out = bundle.inputs[0], bundle.outputs[0]
    assert source.qparams is not None
    assert out.qparams is not None
    stream = LogMelStream(FRONTEND, source.qparams)
    frames = stream.push(SPEECH[: RATE // 160 * 160])
    step = STEP[kind]
    past = np.tile(stream.silence, (20, 1))
    expected = []
    for at in range(0, len(frames) - step + 1, step):
        if kind == "window":
            past = np.concatenate([past, frames[at : at + step]])[-20:]
            engine.inputs[source.name][0, 0] = past
        else:
            engine.inputs[source.name][0, 0] = frames[at : at + step]
        engine.step()
        codes = engine.outputs[out.name].reshape(-1).astype(np.float64)
        logits = (codes - out.qparams.zero_point) * out.qparams.scale
        expected.append(np.exp(logits) / np.exp(logits).sum())
    policy = se.DetectionPolicy(smoothing="none")
    with se.open(bundles[kind], engine="onnxruntime", policy=policy) as session:
        got = [[dict(r.top)[n] for n in LABELS] for r in session.push(SPEECH[:RATE])]
    assert np.allclose(got, expected, atol=1e-12)


def test_golden_inputs_are_the_codes_of_a_session(bundles: dict[str, Path]) -> None:
    """Calibration, golden data and device share one front end."""
    bundle = se.Bundle.load(bundles["stream"])
    pcm = tones((0, 1), (400, 1), (0, 0.5), (3000, 1), (0, 0.5))  # what it was calibrated with
    codes = LogMelStream(FRONTEND, bundle.inputs[0].qparams).push(pcm)
    golden = bundle.golden()[f"input.{bundle.inputs[0].name}"][:, 0, 0, 0]
    assert golden.shape == codes.shape
    assert (golden == codes).mean() > 0.9999


def test_channels_are_streams_of_their_own(bundles: dict[str, Path]) -> None:
    other = tones((3000, 0.8), (0, len(SPEECH) / RATE - 0.8))
    both = np.stack([SPEECH[: len(other)], other], axis=1)
    with se.open(bundles["window"]) as session:
        one = [session.process(np.ascontiguousarray(c)) for c in both.T]
        results = session.process(both)
    assert [(r.time, r.channel) for r in results] == sorted((r.time, r.channel) for r in results)
    for channel in (0, 1):
        mine = [r for r in results if r.channel == channel]
        assert [(r.time, r.top) for r in mine] == [(r.time, r.top) for r in one[channel]]
        assert all(d.channel == channel for r in mine for d in r.detections)


def test_other_sample_rates(bundles: dict[str, Path]) -> None:
    import soxr

    fast = soxr.resample(SPEECH.astype(np.float32) / 32768, RATE, 44_100).astype(np.float32)
    with se.open(bundles["patch"], sample_rate=44_100) as session:
        whole = session.process(fast)
        results, at = [], 0
        for n in (1, 5000, 17, 30_000, len(fast)):
            results += session.push(fast[at : at + n])
            at += n
        assert results + session.flush() == whole
        assert session.describe()["resampled_to"] == RATE
        short = session.process(fast[:100])
    assert [d.label for r in whole for d in r.detections] == ["low", "high"]
    assert whole[-1].time >= len(SPEECH) / RATE
    assert len(short) == 1


def test_sessions_begin_anew(bundles: dict[str, Path]) -> None:
    with se.open(bundles["window"]) as session:
        first = session.process(SPEECH)
        session.push(SPEECH[:12_345])
        session.reset()
        assert session.push(SPEECH) + session.flush() == first
        assert session.flush() == []
        assert session.push(np.zeros(0, np.int16)) == []
        assert session.flush() == []


def test_detections_of_endless_blocks(bundles: dict[str, Path]) -> None:
    blocks = [SPEECH[i : i + 1000] for i in range(0, len(SPEECH), 1000)]
    with se.open(bundles["stream"]) as session:
        assert [d.label for d in detections(session, iter(blocks))] == ["low", "high"]


def test_memory_does_not_grow(bundles: dict[str, Path]) -> None:
    with se.open(bundles["window"]) as session:
        block = SPEECH[:4000]
        for _ in range(20):
            session.push(block)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            session.push(block)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert after - before < 20_000


def test_float_bundles_too(tmp_path: Path) -> None:
    path = spotter("window", tmp_path / "f.seb", "float32")
    with se.open(path) as session:
        found = [d.label for r in session.process(SPEECH) for d in r.detections]
    assert found == ["low", "high"]


def test_pictures(bundles: dict[str, Path]) -> None:
    with se.open(bundles["colour"]) as session:
        assert session.takes_pictures
        for i, colour in enumerate(COLOURS):
            pixels = np.zeros((31, 50, 3), np.uint8)
            pixels[:, :, i] = 255
            result = session.classify(pixels)
            assert result.label == colour
            assert result.score > 0.9
            assert [d.label for d in result.detections] == [colour]
            assert session.classify(pixels) == result
        with pytest.raises(StreamError, match=r"use classify\(image\)"):
            session.push(SPEECH)
        with pytest.raises(StreamError, match="picture is float64"):
            session.classify(pixels / 255)


def test_sigmoid_gives_several_labels(tmp_path: Path) -> None:
    policy = se.DetectionPolicy(threshold=0.9, smoothing="none", ignore=("quiet",))
    path = spotter("window", tmp_path / "s.seb", activation="sigmoid", policy=policy)
    both = np.clip(tones((400, 0.8)).astype(int) + tones((3000, 0.8)), -32768, 32767)
    with se.open(path) as session:
        found = {d.label for r in session.process(both.astype(np.int16)) for d in r.detections}
    assert found == {"low", "high"}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ([1, 2], "block is list"),
        (np.zeros(3), "block is float64"),
        (np.zeros((2, 2, 2), np.int16), "must be .samples. or"),
        (np.zeros((2, 65), np.int16), "block has 65 channels"),
        (np.array([0, np.nan], np.float32), "block holds nan at sample 1"),
    ],
)
def test_bad_blocks(bundles: dict[str, Path], block: Any, words: str) -> None:
    with se.open(bundles["stream"]) as session:
        before = session.push(SPEECH[:RATE])
        with pytest.raises(StreamError, match=words):
            session.push(block)
        rest = session.push(SPEECH[RATE:]) + session.flush()
        assert before + rest == session.process(SPEECH)


def test_misuse(bundles: dict[str, Path]) -> None:
    session = se.open(bundles["stream"])
    session.push(SPEECH[:10])
    with pytest.raises(StreamError, match="began with another dtype"):
        session.push(np.zeros((4, 2), np.int16))
    with pytest.raises(StreamError, match="classifies audio"):
        session.classify(np.zeros((4, 4, 3), np.uint8))
    session.close()
    for call in (session.reset, session.flush, lambda: session.push(SPEECH)):
        with pytest.raises(StreamError, match="session is closed"):
            call()
    with pytest.raises(SpecError, match="policy names 'loud'"):
        se.open(bundles["stream"], policy=se.DetectionPolicy(ignore=("loud",)))
    labels = tuple(f"l{i}" for i in range(5000))
    with pytest.raises(SpecError, match="too much memory"):
        Decider(se.Classifier(labels), se.DetectionPolicy(smoothing_seconds=3600), 0.01)


def test_audio_sessions_take_no_policy(tiny: Path, bundles: dict[str, Path]) -> None:
    with pytest.raises(SpecError, match="has no labels"):
        se.open(tiny, policy=se.DetectionPolicy())
    with pytest.raises(RuntimeUnfit, match="has no labels"):
        ClassifySession(se.Bundle.load(tiny))
    with pytest.raises(RuntimeUnfit, match="log_mel"):
        se.Session(se.Bundle.load(bundles["stream"]))


def test_probabilities() -> None:
    logits = np.array([-800.0, 0.0, 3.0, 800.0])
    assert probabilities(logits, "softmax")[-1] == 1.0
    assert probabilities(logits, "sigmoid") == pytest.approx([0, 0.5, 1 / (1 + np.exp(-3)), 1])


@pytest.mark.parametrize("kind", [*KINDS, "colour"])
def test_bundles_prove_themselves(bundles: dict[str, Path], kind: str) -> None:
    report = se.check(bundles[kind], engines=["litert", "onnxruntime"])
    assert report.passed, report.table()
    assert report.hops >= (24 if kind in ("window", "colour") else 90)
