"""A saved state goes on with the same bytes; bytes that are no state change nothing."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.errors import StreamError
from spectral_edge.runtimes.saved_state import SessionState
from tests.tolerances import RESTORED_RESAMPLER_SNR_DB

Arrays = dict[str, NDArray[Any]]


def saved(path: Path, noise: NDArray[np.int16], cut: int = 1001) -> bytes:
    with se.open(path) as session:
        session.push(noise[:cut])
        return session.state().to_bytes()


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_continuation_is_byte_identical(
    tiny: Path, noise: NDArray[np.int16], engine: str, channels: int | None, dtype: type
) -> None:
    """Through bytes, into another session that was busy with something else; the tail, too."""
    clip = noise if channels is None else np.stack([np.roll(noise, c) for c in range(channels)], 1)
    if dtype is np.float32:
        clip = (clip / 32768).astype(np.float32)
    for cut in (0, 1, 255, 256, 1001):
        with se.open(tiny, engine=engine) as first, se.open(tiny, engine=engine) as second:
            whole = np.concatenate([first.push(clip), first.flush()])
            first.push(clip[:cut])
            data = first.state().to_bytes()
            second.push(noise[:777])
            second.load_state(SessionState.from_bytes(data))
            rest = np.concatenate([second.push(clip[cut:]), second.flush()])
        assert rest.dtype == dtype
        assert np.array_equal(rest, whole[cut:])


def test_a_state_remembers_the_form_of_its_stream(tiny: Path, noise: NDArray[np.int16]) -> None:
    with se.open(tiny) as session:
        session.push(noise.astype(np.float32)[:, None] / 32768)
        state = SessionState.from_bytes(session.state().to_bytes())
        session.reset()
        session.load_state(state)
        assert (state.dtype, state.axes) == ("float32", 1)
        with pytest.raises(StreamError, match=r"this stream began with float32\[samples, 1\]"):
            session.push(noise)


def test_states_move_between_backends_of_the_front_end(
    tiny: Path, noise: NDArray[np.int16]
) -> None:
    with se.open(tiny) as session, se.open(tiny, backend="numpy") as golden:
        session.push(noise[:1001])
        golden.load_state(SessionState.from_bytes(session.state().to_bytes()))
        assert np.array_equal(golden.push(noise[1001:]), session.push(noise[1001:]))


def refuse(path: Path, noise: NDArray[np.int16], data: bytes) -> None:
    """``data`` is refused, with a StreamError, and a session that was given it goes on."""
    with se.open(path) as session, se.open(path) as undisturbed:
        for s in (session, undisturbed):
            s.push(noise[:999])
        with pytest.raises(StreamError):
            session.load_state(SessionState.from_bytes(data))
        assert np.array_equal(session.push(noise[999:]), undisturbed.push(noise[999:]))


def test_damaged_bytes_are_refused(tiny: Path, noise: NDArray[np.int16]) -> None:
    good = saved(tiny, noise)
    for data in (
        b"",
        b"PK\x03\x04",
        good[:100],
        good[: len(good) // 2],
        good[:-1],
        noise.tobytes(),
    ):
        refuse(tiny, noise, data)


def test_any_flipped_byte_is_refused_or_harmless(tiny: Path, noise: NDArray[np.int16]) -> None:
    """A flip may change a value of the memory; nothing else than a StreamError may come of it."""
    good, rng = saved(tiny, noise), np.random.default_rng(0)
    with se.open(tiny) as session:
        for at in rng.integers(0, len(good), 300):
            data = bytearray(good)
            data[at] ^= int(rng.integers(1, 256))
            try:
                session.load_state(SessionState.from_bytes(bytes(data)))
            except StreamError:
                continue
            session.push(noise[: session.streams[0].frontend.frontend.hop_length])


def swap(key: str, value: NDArray[Any] | None) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        if value is None:
            del arrays[key]
        else:
            arrays[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap("session", np.array([1, 1, 0, 0, 16000], np.int32)),
        swap("session", np.array([2, 65, 0, 0, 16000], np.int32)),
        swap("session", np.array([2, -1, 0, 0, 16000], np.int32)),
        swap("session", np.array([2, 1, 3, 0, 16000], np.int32)),
        swap("session", np.array([2, 1, 1, 2, 16000], np.int32)),
        swap("session", np.array([2, 1, 0, 0, 48000], np.int32)),
        swap("session", np.array([1, 1, 0, 0], np.int32)),
        swap("session", np.array([2, 1, 0], np.int32)),
        swap("session", None),
        swap("bundle", np.zeros(32, np.uint8)),
        swap("bundle", np.zeros(3, np.uint8)),
        swap("0.frontend", None),
        swap("0.frontend", np.zeros(10, np.uint8)),
        swap("0.hop_in", np.zeros(255, np.int16)),
        swap("0.hop_out", np.zeros(256, np.int8)),
        swap("0.fill", np.array(256)),
        swap("0.fill", np.array(-1)),
        swap("0.fill", np.array(0.5)),
        swap("0.fill", np.zeros(2, np.int64)),
        swap("0.model.past", None),
        swap("0.model.past", np.zeros((1, 3, 1, 256), np.int8)),
        swap("0.model.past", np.zeros((1, 3, 1, 257), np.int16)),
        swap("0.model.future", np.zeros(1, np.int8)),
        swap("1.model.past", np.zeros((1, 3, 1, 257), np.int8)),
        swap("extra", np.zeros(1)),
    ],
)
def test_a_state_of_another_shape_is_refused(
    tiny: Path, noise: NDArray[np.int16], change: Callable[[Arrays], None]
) -> None:
    with np.load(io.BytesIO(saved(tiny, noise)), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    refuse(tiny, noise, stream.getvalue())


def test_pickles_are_refused(tiny: Path, noise: NDArray[np.int16]) -> None:
    stream = io.BytesIO()
    np.savez(stream, session=np.array([{"a": 1}], object))
    refuse(tiny, noise, stream.getvalue())


def test_a_state_of_another_bundle_is_refused(
    tiny: Path, through: Path, noise: NDArray[np.int16]
) -> None:
    refuse(through, noise, saved(tiny, noise))


def test_a_half_loaded_state_is_taken_back(tiny: Path, noise: NDArray[np.int16]) -> None:
    """Two channels, the second of which does not fit: the first is as it was."""
    both = np.stack([noise, noise], axis=1)
    with se.open(tiny) as session, se.open(tiny) as undisturbed:
        for s in (session, undisturbed):
            s.push(both[:999])
        state = session.state()
        session.push(both[:10])
        undisturbed.push(both[:10])
        bad = dataclasses.replace(state.channels[1], frontend=b"bad")
        with pytest.raises(StreamError, match="does not belong"):
            session.load_state(dataclasses.replace(state, channels=(state.channels[0], bad)))
        assert np.array_equal(session.push(both[999:]), undisturbed.push(both[999:]))


# --- sessions that resample ---------------------------------------------------------------------


def long_noise(seconds: float, rate: int) -> NDArray[np.int16]:
    noise = np.random.default_rng(5).standard_normal(int(seconds * rate)) * 3000
    return noise.astype(np.int16)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("cut", [0, 1, 3001, 60_001])
def test_a_resampling_session_goes_on(tiny: Path, rate: int, cut: int) -> None:
    """Aligned to the sample and all but equal; a short stream goes on with the same bytes."""
    clip = long_noise(0.3 + cut / rate, rate)
    with se.open(tiny, sample_rate=rate) as first, se.open(tiny, sample_rate=rate) as second:
        whole = np.concatenate([first.push(clip), first.flush()])
        first.push(clip[: cut // 2])
        first.push(clip[cut // 2 : cut])
        data = first.state().to_bytes()
        second.push(clip[:777])
        second.load_state(SessionState.from_bytes(data))
        rest = np.concatenate([second.push(clip[cut : cut + 501]), second.push(clip[cut + 501 :])])
        rest = np.concatenate([rest, second.flush()])
    assert len(rest) == len(whole) - cut
    difference = (rest.astype(int) - whole[cut:]).astype(float)
    if cut <= rate // 2:
        assert not difference.any()
    else:
        noise_power = max(np.mean(difference**2), 1e-9)
        power = np.mean(whole[cut:].astype(float) ** 2)
        assert 10 * np.log10(power / noise_power) >= RESTORED_RESAMPLER_SNR_DB


def resampler_changes() -> list[Callable[[Arrays], None]]:
    counts = np.array([1001, 0, 0, 0, 0], np.int64)
    return [
        swap("0.rate.down", None),
        swap("0.rate.counts", None),
        swap("0.rate.counts", counts),
        swap("0.rate.counts", np.full(5, -1, np.int64)),
        swap("0.rate.counts", np.full(5, 2**62, np.int64)),
        swap("0.rate.counts", counts.astype(np.int32)),
        swap("0.rate.down", np.zeros(1000, np.float32)),
        swap("0.rate.down", np.full(1001, np.nan, np.float32)),
        swap("0.rate.up", np.zeros(1, np.float32)),
        swap("0.rate.ready", np.zeros(3, np.float32)),
        swap("1.rate.ready", np.zeros(3, np.float32)),
    ]


@pytest.mark.parametrize("change", resampler_changes())
def test_a_resampler_state_that_does_not_add_up_is_refused(
    tiny: Path, change: Callable[[Arrays], None]
) -> None:
    clip = long_noise(0.2, 48_000)
    with se.open(tiny, sample_rate=48_000) as session:
        session.push(clip[:1001])
        data = session.state().to_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    sessions = [se.open(tiny, sample_rate=48_000) for _ in range(2)]
    for session in sessions:
        session.push(clip[:999])
    with pytest.raises(StreamError):
        sessions[0].load_state(SessionState.from_bytes(stream.getvalue()))
    assert np.array_equal(*[session.push(clip[999:]) for session in sessions])


def test_a_state_of_another_sample_rate_is_refused(tiny: Path) -> None:
    with se.open(tiny, sample_rate=48_000) as session, se.open(tiny) as native:
        with pytest.raises(StreamError, match=r"open it with sample_rate=48000"):
            native.load_state(session.state())
        with pytest.raises(StreamError, match="this session takes 48000 Hz"):
            session.load_state(native.state())
