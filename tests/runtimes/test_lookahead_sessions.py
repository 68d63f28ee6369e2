"""Programs with lookahead, or with several frames a step: a session gives what the model gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import spectral_edge as se
from spectral_edge import audio
from spectral_edge.program import StepProgram
from spectral_edge.runtimes import stream
from spectral_edge.runtimes.files import enhance_file
from spectral_edge.runtimes.scheduler import SharedEngine
from tests.runtimes.lookahead import BINS, FRONTEND, LookAhead, TwoFrames, offline
from tests.tolerances import FLOAT_ENGINES_PCM, SAME_PROGRAM_SNR_DB

HOP, WINDOW = FRONTEND.hop_length, FRONTEND.n_fft
LENGTHS = (0, 1, HOP - 1, HOP, HOP + 1, WINDOW, 5 * HOP, 1000)


@dataclass(frozen=True)
class Made:
    """A model, its programs and bundles."""

    model: nn.Module
    program: StepProgram
    quantized: StepProgram
    float32: se.Bundle
    w8a8: se.Bundle


def make(model: nn.Module, folder: Path, formats: tuple[str, ...]) -> Made:
    program = se.streamify(model, torch.randn(1, 3, 40, BINS), time_dim=2, check_lengths=(4,))
    sequences = [(torch.randn(1, 3, 60, BINS),) for _ in range(2)]
    quantized = se.quantize(program, sequences, recipe="w8a8")
    return Made(
        model,
        program,
        quantized,
        se.export(program, folder / "float32.seb", frontend=FRONTEND, formats=formats[:1]),
        se.export(quantized, folder / "w8a8.seb", frontend=FRONTEND, formats=formats),
    )


@pytest.fixture(scope="module", params=[LookAhead, TwoFrames])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(1)
    formats = ("tflite", "onnx") if request.param is LookAhead else ("onnx",)
    return make(request.param().eval(), tmp_path_factory.mktemp("lookahead"), formats)


def noise(samples: int, seed: int = 0) -> NDArray[np.int16]:
    return (np.random.default_rng(seed).standard_normal(samples) * 3000).astype(np.int16)


def snr_db(wanted: NDArray[np.int16], seen: NDArray[np.int16]) -> float:
    w, error = wanted.astype(float), seen.astype(float) - wanted
    return float(10 * np.log10(max(w @ w, 1e-9) / max(error @ error, 1e-9)))


def test_states_are_named_as_the_session_expects(made: Made) -> None:
    assert (stream.CLOCK, stream.LENGTH) == (StepProgram.CLOCK, StepProgram.LENGTH)
    assert stream.LENGTH_UNKNOWN == StepProgram.LENGTH_UNKNOWN
    assert made.program.delay > 0
    assert {StepProgram.CLOCK, StepProgram.LENGTH} <= set(made.float32.states)


def test_float_session_is_the_model_at_both_edges(made: Made) -> None:
    """Every length: the samples of the first and of the last hops are the model's too."""
    step = made.program.hop_multiple
    with se.open(made.float32) as session:
        for samples in LENGTHS:
            clip = noise(samples)
            wanted = offline(made.float32, made.model, clip, step).astype(int)
            assert np.abs(session.process(clip) - wanted).max(initial=0) <= FLOAT_ENGINES_PCM


def test_int8_session_is_the_program_at_both_edges(made: Made) -> None:
    clips = [noise(samples) for samples in LENGTHS]
    step = made.program.hop_multiple
    wanted = [offline(made.w8a8, made.quantized.run, clip, step) for clip in clips]
    formats = made.w8a8.manifest["formats"]
    engines = [e for e, f in (("litert", "tflite"), ("onnxruntime", "onnx")) if f in formats]
    for engine in engines:
        with se.open(made.w8a8, engine=engine) as session:
            for clip, w in zip(clips, wanted, strict=True):
                seen = session.process(clip)
                assert seen.shape == w.shape
                assert np.array_equal(seen, w) or snr_db(w, seen) >= SAME_PROGRAM_SNR_DB


def test_the_end_is_needed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the clip's length the tail is another one: the tests above see the edge."""
    clip = noise(5 * HOP)
    with se.open(made.float32) as session:
        wanted = session.process(clip)
        monkeypatch.setattr(stream.ChannelStream, "end_clip", lambda self: None)
        seen = session.process(clip)
    ahead = made.program.delay * HOP
    assert np.array_equal(seen[: -ahead - HOP], wanted[: -ahead - HOP])
    assert not np.array_equal(seen, wanted)


def test_latency_counts_lookahead_and_collected_frames(made: Made) -> None:
    program = made.program
    late = WINDOW + (program.delay + program.hop_multiple - 1) * HOP
    clip = noise(1000)
    with se.open(made.w8a8) as session:
        assert session.latency_samples == late
        whole = session.process(clip)
        pushed = np.concatenate([session.push(clip), session.flush()])
    assert not pushed[: late - WINDOW + HOP].any()  # the first frame begins before the clip
    assert np.array_equal(pushed[late:], whole)


@pytest.mark.parametrize("at", [0, HOP - 1, HOP, 777])
def test_impulse_comes_out_late_by_the_stated_latency(made: Made, at: int) -> None:
    clip = np.zeros(1500, np.int16)
    clip[at] = 20_000
    with se.open(made.float32) as session:
        late = np.concatenate([session.push(clip), session.flush()])
    assert int(np.argmax(np.abs(late))) == at + session.latency_samples


@pytest.mark.parametrize("size", [1, HOP - 1, HOP, HOP + 1, 500])
def test_split_gives_the_same_bytes(made: Made, size: int) -> None:
    clip = noise(900)
    with se.open(made.w8a8) as session:
        whole = session.process(clip)
        parts = [session.push(clip[i : i + size]) for i in range(0, len(clip), size)]
        out = np.concatenate([*parts, session.flush()])
    assert np.array_equal(out[session.latency_samples :], whole)


@pytest.mark.parametrize("cut", [0, 5 * HOP, 5 * HOP + 1, 6 * HOP + 7])
def test_saved_state_goes_on_with_the_same_bytes(made: Made, cut: int) -> None:
    """Also between the frames of one step, also through the end of the clip."""
    clip = noise(900)
    with se.open(made.w8a8) as first, se.open(made.w8a8) as second:
        whole = np.concatenate([first.push(clip), first.flush()])
        first.push(clip[:cut])
        saved = first.state().to_bytes()
        second.push(noise(123, seed=9))
        second.load_state(type(first.state()).from_bytes(saved))
        rest = np.concatenate([second.push(clip[cut:]), second.flush()])
    assert np.array_equal(rest, whole[cut:])


def test_channels_and_sessions_on_one_engine(made: Made) -> None:
    left, right = noise(900), noise(900, seed=1)
    shared = SharedEngine.open(made.w8a8)
    with (
        se.open(made.w8a8) as alone,
        se.open(made.w8a8, engine=shared) as one,
        se.open(made.w8a8, engine=shared) as two,
    ):
        wanted = [alone.process(left), alone.process(right)]
        both = np.stack([left, right], axis=1)
        assert np.array_equal(alone.process(both).T, wanted)
        assert np.array_equal(one.process(both).T, wanted)
        outs: list[list[NDArray[np.int16]]] = [[], []]
        for start in range(0, 900, 100):
            outs[0].append(one.push(left[start : start + 100]))
            outs[1].append(two.push(right[start : start + 100]))
        ends = [np.concatenate([*outs[0], one.flush()]), np.concatenate([*outs[1], two.flush()])]
    for end, clip in zip(ends, wanted, strict=True):
        assert np.array_equal(end[one.latency_samples :], clip)


def test_the_clock_of_a_long_stream_is_set_back(made: Made) -> None:
    """After months a clock would read as the end of the clip; nobody hears that it is set back."""
    clip, session = noise(40 * HOP), se.open(made.w8a8)
    wanted = np.concatenate([session.push(clip), session.flush()])
    for cut in (20 * HOP, 21 * HOP):
        session.push(clip[:cut])
        state = session.state()
        for clock in (stream.CLOCK_LIMIT + 5, stream.CLOCK_LIMIT - 5):
            state.channels[0].model[stream.CLOCK][...] = clock
            session.load_state(state)
            session.streams[0]._until_clock = 3
            seen = session.push(clip[cut:])
            after = int(session.state().channels[0].model[stream.CLOCK][0])
            assert (after < stream.CLOCK_LIMIT) == (clock > stream.CLOCK_LIMIT)
            assert np.array_equal(np.concatenate([seen, session.flush()]), wanted[cut:])


def test_files_are_what_process_gives(made: Made, tmp_path: Path) -> None:
    clip = noise(16_000)
    audio.write(tmp_path / "in.wav", clip, 16_000)
    enhance_file(made.w8a8, tmp_path / "in.wav", tmp_path / "out.wav")
    with se.open(made.w8a8) as session:
        assert np.array_equal(audio.read(tmp_path / "out.wav")[0][:, 0], session.process(clip))


def test_resampled_clips_end_as_the_model_does(made: Made) -> None:
    soxr = pytest.importorskip("soxr")
    clip = noise(3000).astype(np.float32) / 32768
    with se.open(made.w8a8, sample_rate=48_000) as session, se.open(made.w8a8) as native:
        seen = session.process(clip)
        inner = native.process(soxr.resample(clip, 48_000, 16_000, quality="HQ"))
    wanted = soxr.resample(inner, 16_000, 48_000, quality="HQ")
    n = min(len(seen), len(wanted))
    assert abs(len(wanted) - len(seen)) <= 2
    assert np.array_equal(seen[:n], wanted[:n])
