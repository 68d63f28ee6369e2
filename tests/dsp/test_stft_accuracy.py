"""How far the integer STFT is from float64, and that it gives the samples back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectral_edge.dsp.stft import analyse, frames_of, overlap_add
from spectral_edge.dsp.tables import stft_tables
from spectral_edge.frontend import is_smooth, make_window
from tests.dsp.signals import LEVELS_DBFS, SIGNALS, at_level, signal, speech_clips, voice
from tests.tolerances import STFT_SNR_DB, STFT_WORST_FRAME_DB

SIZES = (64, 128, 160, 192, 240, 256, 320, 384, 400, 480, 512, 640, 800, 960, 1024)
SMOOTH = [n for n in range(64, 1025, 2) if is_smooth(n)]
# Windowed samples are Q30 at most, so a frame that holds no more than a step under the very edge
# of its window has few bits; from here on (in int16 steps) every frame has them all.
FAINTEST = 2.0**-9


def limit_of(n: int) -> float:
    return next(db for size, db in STFT_SNR_DB.items() if n <= size)


def spectra(pcm, n, hop, window):
    """Integer spectrum and float64 spectrum of a clip."""
    frames = frames_of(pcm, np.zeros(n, np.int16), hop)
    re, im, e = analyse(frames, stft_tables(n, hop, window))
    return (re + 1j * im) * 2.0 ** -e[:, None], np.fft.rfft(frames * make_window(window, n))


def round_trip(pcm, n, hop, window):
    """Largest error in LSB after analysis and synthesis, warm-up left out."""
    tables = stft_tables(n, hop, window)
    frames = frames_of(pcm, np.zeros(n, np.int16), hop)
    out = overlap_add(*analyse(frames, tables), tables, np.zeros(n, np.int64)).astype(int)
    late = n - hop
    return np.abs(out[2 * late :] - pcm[late : len(out) - late]).max(initial=0)


@pytest.mark.parametrize("hop_part", [2, 4])
@pytest.mark.parametrize("window", ["sqrt_hann", "hann"])
@pytest.mark.parametrize("n", SIZES)
def test_snr_at_every_level(n, window, hop_part):
    for dbfs in LEVELS_DBFS:
        pcm = at_level(voice(n // hop_part * 80), dbfs)
        seen, ideal = spectra(pcm, n, n // hop_part, window)
        error, power = np.abs(seen - ideal) ** 2, np.abs(ideal) ** 2
        assert 10 * np.log10(power.sum() / error.sum()) >= limit_of(n)


@pytest.mark.parametrize("kind", range(len(SIGNALS)), ids=lambda k: SIGNALS[k])
def test_worst_frame_of_hostile_signals(kind):
    for n in SIZES:
        for window in ("sqrt_hann", "hann", "rect"):
            pcm = signal(kind, n * 12)
            seen, ideal = spectra(pcm, n, n // 2, window)
            error, power = (np.abs(v) ** 2 for v in (seen - ideal, ideal))
            heard = power.sum(axis=1) > 0
            assert (seen[~heard] == 0).all()
            worst = (power.sum(axis=1)[heard] / np.maximum(error.sum(axis=1)[heard], 1e-30)).min()
            assert 10 * np.log10(worst) >= STFT_WORST_FRAME_DB


@pytest.mark.parametrize("n", SIZES)
def test_round_trip_is_exact(n):
    for window, hop in (
        ("sqrt_hann", n // 2),
        ("sqrt_hann", n // 4),
        ("hann", n // 4),
        ("rect", n),
    ):
        for kind in range(len(SIGNALS)):
            assert round_trip(signal(kind, n * 8), n, hop, window) == 0
        for dbfs in LEVELS_DBFS:
            assert round_trip(at_level(voice(n * 8), dbfs), n, hop, window) == 0


@pytest.mark.parametrize("n", SIZES)
def test_made_and_clipped_speech(n):
    """SNR at every level, every single frame, and 0 LSB back, for the windows that allow it."""
    for window, hop in (
        *(("sqrt_hann", n // 2), ("sqrt_hann", n // 4), ("hann", n // 2), ("hann", n // 4)),
        *(("hamming", n // 2), ("rect", n)),
    ):
        exact = stft_tables(n, hop, window).condition >= 1 / 16
        for pcm in speech_clips(24_000).values():
            seen, ideal = spectra(pcm, n, hop, window)
            error = (np.abs(seen - ideal) ** 2).sum(axis=1)
            power = (np.abs(ideal) ** 2).sum(axis=1)
            assert 10 * np.log10(power.sum() / error.sum()) >= limit_of(n)
            frames = frames_of(pcm, np.zeros(n, np.int16), hop)
            heard = np.abs(frames * make_window(window, n)).max(axis=1) >= FAINTEST
            worst = (power[heard] / np.maximum(error[heard], 1e-30)).min()
            assert 10 * np.log10(worst) >= STFT_WORST_FRAME_DB
            if exact:
                assert round_trip(pcm, n, hop, window) == 0


@pytest.mark.parametrize("window", ["sqrt_hann", "hann", "hamming"])
@pytest.mark.parametrize("n", SIZES)
def test_one_step_anywhere_in_a_frame(n, window):
    """The faintest frame there is: its worst ratio, and its error in absolute terms."""
    taper = make_window(window, n)
    frames = np.eye(n, dtype=np.int16)
    re, im, e = analyse(frames, stft_tables(n, n // 2, window))
    error = (re + 1j * im) * 2.0 ** -e[:, None] - np.fft.rfft(frames * taper)
    heard = taper >= FAINTEST
    assert np.abs(error[~heard]).max(initial=0) <= 2.0**-27
    noise = (np.abs(error[heard]) ** 2).sum(axis=1)
    ratio = (n // 2 + 1) * taper[heard] ** 2 / np.maximum(noise, 1e-30)
    assert 10 * np.log10(ratio.min()) >= STFT_WORST_FRAME_DB


@pytest.mark.parametrize("n", [1080, 1280, 1536, 2000, 2048, 3072, 3240, 4000, 4096])
def test_round_trip_of_long_frames_is_within_one_step(n):
    clips = [signal(kind, n * 6) for kind in range(len(SIGNALS))]
    for pcm in (*clips, *speech_clips(n * 8).values()):
        for window, hop in (("sqrt_hann", n // 2), ("sqrt_hann", n // 4), ("rect", n)):
            assert round_trip(pcm, n, hop, window) <= 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SMOOTH), st.data(), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_round_trip_of_any_window_and_hop(n, data, shift, seed):
    """Every well-conditioned pair is exact: smallest over largest sum of w² at least 1/16."""
    window = data.draw(st.sampled_from(["sqrt_hann", "hann", "hamming", "rect"]))
    hop = data.draw(st.integers(max(1, n // 8), n))
    if stft_tables(n, hop, window).condition < 1 / 16:
        return
    rng = np.random.default_rng(seed)
    pcm = (rng.integers(-32768, 32768, hop * (2 * n // hop + 4)) >> shift).astype(np.int16)
    for clip in (pcm, *speech_clips(hop * (2 * n // hop + 8)).values()):
        assert round_trip(clip, n, hop, window) == 0


def test_loud_spectra_saturate():
    """A spectrum far above full scale clips the output and wraps nowhere."""
    tables = stft_tables(512, 256, "sqrt_hann")
    shape = (6, 257)
    for exponent in (30, 0, -40, -100):
        re, im = np.random.default_rng(1).integers(-(2**31), 2**31, (2, *shape))
        memory, e = np.zeros(512, np.int64), np.full(6, exponent)
        out = overlap_add(re, im, e, tables, memory)
        assert np.abs(memory).max() < 2**30
        if exponent <= 0:
            assert out.max() == 32767
