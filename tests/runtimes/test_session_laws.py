"""The laws of a session: alignment, any split gives the same bytes, state is all there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.errors import BundleError, RuntimeUnfit, SpecError, StreamError
from tests.runtimes.tiny import tiny_bundle
from tests.tolerances import FLOAT_ENGINES_PCM, LET_THROUGH_SNR_DB

HOP, WINDOW = 256, 512


def pushed(session: se.Session, clip: NDArray[np.int16], sizes: list[int]) -> NDArray[np.int16]:
    """Push ``clip`` in blocks of ``sizes``, over and over, and return all of it with the tail."""
    session.reset()
    parts, start, turn = [], 0, 0
    while start < len(clip):
        size = sizes[turn % len(sizes)]
        block = clip[start : start + size]
        parts.append(session.push(block))
        assert parts[-1].shape == block.shape
        start, turn = start + size, turn + 1
    return np.concatenate([*parts, session.flush()])


@pytest.mark.parametrize("at", [0, 1, 255, 256, 257, 700, 1234])
def test_impulse_comes_out_late_by_the_stated_latency(through: Path, at: int) -> None:
    clip = np.zeros(3000, np.int16)
    clip[at] = 20_000
    with se.open(through) as session:
        out = pushed(session, clip, [HOP])
        assert int(np.argmax(np.abs(out))) == at + session.latency_samples
        assert int(np.argmax(np.abs(session.process(clip)))) == at


def test_latency_is_one_window(through: Path) -> None:
    with se.open(through) as session:
        assert session.latency_samples == WINDOW
        assert not session.push(np.full(WINDOW, 1000, np.int16)).any()


@pytest.mark.parametrize("frontend", [(512, 256), (512, 128), (320, 160), (400, 100), (512, 512)])
def test_let_through_is_the_input_times_a_constant(
    tmp_path: Path, frontend: tuple[int, int]
) -> None:
    n_fft, hop = frontend
    window = "rect" if hop == n_fft else "sqrt_hann"
    spec = se.StftFrontend(
        n_fft=n_fft, hop_length=hop, window=window, level="none", compression=1.0
    )
    bundle = tiny_bundle(tmp_path / "b.seb", through=True, frontend=spec)
    rng = np.random.default_rng(0)
    clip = (rng.standard_normal(4000) * 2000).astype(np.int16)
    with se.open(bundle) as session:
        out = session.process(clip)
    wanted = clip * (255 / 256)
    error = out - wanted
    assert 10 * np.log10((wanted @ wanted) / (error @ error)) >= LET_THROUGH_SNR_DB


@pytest.mark.parametrize("size", [1, 7, HOP - 1, HOP, HOP + 1, 3 * HOP, 100_000])
def test_split_gives_the_same_bytes(tiny: Path, noise: NDArray[np.int16], size: int) -> None:
    with se.open(tiny) as session:
        whole = session.process(noise)
        again = pushed(session, noise, [size])
        assert np.array_equal(again[session.latency_samples :], whole)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any))
def test_random_splits_give_the_same_bytes(tiny: Path, sizes: list[int]) -> None:
    clip = (np.random.default_rng(5).standard_normal(3000) * 3000).astype(np.int16)
    with se.open(tiny) as session:
        whole = session.process(clip)
        assert np.array_equal(pushed(session, clip, sizes)[session.latency_samples :], whole)


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, WINDOW, 1000])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_process_keeps_length_dtype_and_channels(tiny: Path, samples: int, dtype: type) -> None:
    rng = np.random.default_rng(2)
    with se.open(tiny) as session:
        for shape in ((samples,), (samples, 1), (samples, 3)):
            clip = rng.integers(-9000, 9000, shape)
            clip = clip.astype(np.int16) if dtype is np.int16 else (clip / 32768).astype(np.float32)
            out = session.process(clip)
            assert out.shape == clip.shape
            assert out.dtype == dtype


def test_channels_are_separate_streams(tiny: Path, noise: NDArray[np.int16]) -> None:
    with se.open(tiny) as session:
        left, right = session.process(noise), session.process(noise[::-1].copy())
        both = session.process(np.stack([noise, noise[::-1]], axis=1))
    assert np.array_equal(both, np.stack([left, right], axis=1))


def test_float_audio_is_int16_audio_scaled(tiny: Path, noise: NDArray[np.int16]) -> None:
    with se.open(tiny) as session:
        out = session.process((noise / 32768).astype(np.float32))
        assert np.array_equal(out * 32768, session.process(noise))
        loud = session.process(np.full(2000, 1e30, np.float32))
    assert np.isfinite(loud).all()


def test_state_is_everything(tiny: Path, noise: NDArray[np.int16]) -> None:
    with se.open(tiny) as first, se.open(tiny) as second:
        first.push(noise[:1001])
        saved = first.state()
        expected = first.push(noise[1001:])
        second.push(noise[:77])
        second.load_state(saved)
        assert np.array_equal(second.push(noise[1001:]), expected)
        first.load_state(saved)
        assert np.array_equal(first.push(noise[1001:]), expected)


def test_engines_and_backends_give_the_same_audio(tiny: Path, noise: NDArray[np.int16]) -> None:
    outs = []
    for engine, backend in (("litert", "auto"), ("onnxruntime", "auto"), ("litert", "numpy")):
        with se.open(tiny, engine=engine, backend=backend) as session:
            outs.append(session.process(noise))
    assert all(np.array_equal(outs[0], out) for out in outs[1:])


def test_float_bundle_runs(tiny_float: Path, noise: NDArray[np.int16]) -> None:
    outs = []
    for engine in ("litert", "onnxruntime"):
        with se.open(tiny_float, engine=engine) as session:
            outs.append(session.process(noise).astype(int))
    assert np.abs(outs[0] - outs[1]).max() <= FLOAT_ENGINES_PCM


def test_flush_ends_the_stream(tiny: Path, noise: NDArray[np.int16]) -> None:
    with se.open(tiny) as session:
        once = np.concatenate([session.push(noise), session.flush()])
        again = np.concatenate([session.push(noise), session.flush()])
        assert np.array_equal(once, again)
        session.push(noise.astype(np.float32)[:, None] / 32768)
        tail = session.flush()
        assert (tail.shape, tail.dtype) == ((session.latency_samples, 1), np.float32)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (np.zeros(10, np.float64), "float64, must be a NumPy array of int16 or float32"),
        (np.zeros(10, np.int32), "int32"),
        ([0, 1, 2], "list"),
        (np.zeros((2, 3, 4), np.int16), r"shape \(2, 3, 4\)"),
        (np.zeros((2, 65), np.int16), "65 channels, must be 1…64"),
        (np.zeros((2, 0), np.int16), "0 channels"),
        (np.array([0, np.nan], np.float32), "nan at sample 1"),
        (np.array([[0, np.inf]], np.float32), "inf"),
    ],
)
def test_bad_blocks_leave_the_session_as_it_was(
    tiny: Path, noise: NDArray[np.int16], block: NDArray[np.int16], words: str
) -> None:
    with se.open(tiny) as session, se.open(tiny) as undisturbed:
        session.push(noise[:999])
        undisturbed.push(noise[:999])
        with pytest.raises(StreamError, match=words):
            session.push(block)
        with pytest.raises(StreamError, match=words):
            session.process(block)
        assert np.array_equal(session.push(noise[999:]), undisturbed.push(noise[999:]))


def test_a_stream_keeps_its_form(tiny: Path) -> None:
    with se.open(tiny) as session:
        session.push(np.zeros((10, 2), np.int16))
        with pytest.raises(StreamError, match=r"int16\[samples\], this stream began with"):
            session.push(np.zeros(10, np.int16))
        with pytest.raises(StreamError, match="call reset"):
            session.push(np.zeros((10, 2), np.float32))
        session.reset()
        session.push(np.zeros(10, np.int16))


def test_closed_session_says_so(tiny: Path) -> None:
    session = se.open(tiny)
    session.close()
    session.close()
    for call in (session.flush, session.reset, session.state, session.describe):
        with pytest.raises(StreamError, match="session is closed; open the bundle again"):
            call()
    with pytest.raises(StreamError, match="closed"):
        session.push(np.zeros(1, np.int16))


def test_state_of_another_bundle_is_refused(tiny: Path, through: Path) -> None:
    with (
        se.open(tiny) as one,
        se.open(through) as other,
        pytest.raises(StreamError, match="state is"),
    ):
        one.load_state(other.state())


def test_describe_shows_what_is_used(tiny: Path) -> None:
    with se.open(tiny, engine="litert") as session:
        said = session.describe()
    assert said["engine"]["engine"] == "litert"
    assert said["frontend_backend"] in ("c", "numpy")
    assert said["latency_samples"] == WINDOW
    assert said["sample_rate"] == 16_000


def test_arguments_are_checked(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="engine is 'abacus', must be one of litert"):
        se.open(tiny, engine="abacus")
    with pytest.raises(SpecError, match="threads is 0"):
        se.open(tiny, threads=0)
    with pytest.raises(SpecError, match="backend"):
        se.open(tiny, backend="fpga")
    with pytest.raises(BundleError, match="no bundle at"):
        se.open(tmp_path / "missing.seb")
    only_onnx = tiny_bundle(tmp_path / "o.seb", formats=("onnx",))
    with pytest.raises(RuntimeUnfit, match=r"has \['onnx'\], engine litert runs tflite"):
        se.open(only_onnx, engine="litert")
    with se.open(only_onnx) as session:
        assert session.engine == "onnxruntime"


def test_a_head_without_audio_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b.seb", frontend=se.StftFrontend(head="logits"))
    with pytest.raises(RuntimeUnfit, match="head 'logits'"):
        se.open(bundle)
    bundle = tiny_bundle(
        tmp_path / "c.seb", changes={"frontend": None, "frontend_fingerprint": None}
    )
    with pytest.raises(RuntimeUnfit, match="no front end"):
        se.open(bundle)
