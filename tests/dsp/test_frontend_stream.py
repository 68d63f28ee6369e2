"""The front end as one stream: features, level, codes, masks, delay, state, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectral_edge import _native
from spectral_edge.dsp import mask as masks
from spectral_edge.dsp.features import CodeRule, exponent_q31, features_q16
from spectral_edge.dsp.fixed import FrontendStream
from spectral_edge.dsp.stft import frames_of
from spectral_edge.errors import RuntimeUnavailable, SpecError, StreamError
from spectral_edge.frontend import StftFrontend, make_window
from spectral_edge.program import QParams
from tests.dsp.signals import LEVELS_DBFS, at_level, signal, voice
from tests.tolerances import (
    EXPAND_TABLE_DB,
    FEATURE_ABSOLUTE_Q16,
    FEATURE_RELATIVE,
    STFT_WORST_FRAME_DB,
)

BACKENDS = [
    "numpy",
    pytest.param(
        "c", marks=pytest.mark.skipif(_native.core() is None, reason=_native.absence() or "core")
    ),
]
SIGMOID = QParams(1 / 256, -128)
INPUT, BIAS = QParams(0.0125, -90), QParams(1 / 64, 5)


def float_levels(frontend, pcm):
    """The square root of the running power, float64, by the formulas of docs/numerics.md."""
    hop, rate = frontend.hop_length, frontend.sample_rate
    if frontend.level == "none":
        return np.full(len(pcm) // hop, 32768.0)
    alpha = 1 - np.exp(-hop / (2 * rate))
    power, floor = (32768 * 10 ** (-26 / 20)) ** 2, (32768 * 10 ** (-60 / 20)) ** 2
    levels = []
    for block in pcm.reshape(-1, hop).astype(float):
        power = max(power + alpha * (min((block**2).mean(), 8 * power) - power), floor)
        levels.append(np.sqrt(power))
    return np.array(levels)


def float_features(frontend, pcm):
    """float64[3, frames, bins]: mag, re, im; and how far integer STFT noise may move them."""
    n, hop = frontend.n_fft, frontend.hop_length
    window = make_window(frontend.window, n)
    spectrum = np.fft.rfft(frames_of(pcm, np.zeros(n, np.int16), hop) * window)
    spectrum /= float_levels(frontend, pcm)[:, None] * np.sqrt((window**2).sum())
    size = np.abs(spectrum)
    gain = np.where(size > 0, np.maximum(size, 1e-300) ** (frontend.compression - 1), 0)
    noise = 10 ** (-STFT_WORST_FRAME_DB / 20) * np.sqrt((size**2).mean(axis=1, keepdims=True))
    moved = 3 * ((size + noise) ** frontend.compression - size**frontend.compression)
    ideal = np.stack([size**frontend.compression, gain * spectrum.real, gain * spectrum.imag])
    return ideal, moved


@pytest.mark.parametrize("level", ["none", "running_rms"])
@pytest.mark.parametrize("compression", [0.3, 0.5, 1.0])
def test_features_are_those_of_float64(compression, level):
    frontend = StftFrontend(compression=compression, level=level)
    for dbfs in LEVELS_DBFS:
        pcm = at_level(voice(256 * 150), dbfs)
        seen = features_q16(frontend, pcm) / 65536
        ideal, moved = float_features(frontend, pcm)
        # the level is rounded to 2^-17 relative, once per hop
        allowed = moved + np.maximum(
            FEATURE_ABSOLUTE_Q16 / 65536, (FEATURE_RELATIVE + 2e-5) * np.abs(ideal)
        )
        assert (np.abs(seen - ideal) <= allowed).all()


def test_codes_differ_from_float64_only_at_ties():
    frontend = StftFrontend()
    pcm = at_level(voice(256 * 400), -20)
    ideal = float_features(frontend, pcm)[0] / INPUT.scale
    ideal = np.clip(np.sign(ideal) * np.floor(np.abs(ideal) + 0.5) + INPUT.zero_point, -128, 127)
    values = features_q16(frontend, pcm).astype(np.int64)
    codes = CodeRule.of(INPUT.scale, INPUT.zero_point).codes(values)
    assert np.abs(codes - ideal).max() <= 1
    assert (codes != ideal).mean() <= 5e-4


@given(st.floats(2**-30, 2**10, width=32), st.integers(-128, 127), st.data())
@settings(max_examples=200, deadline=None)
def test_quantiser_rounds_half_away_from_zero(scale, zero_point, data):
    rule = CodeRule.of(scale, zero_point)
    value = data.draw(st.integers(-(2**31) + 1, 2**31 - 1))
    exact = abs(value) / 65536 / scale
    tie = abs(exact - np.floor(exact) - 0.5) < 1e-6 * max(exact, 1)
    rounded = np.sign(value) * np.floor(exact + 0.5) + zero_point
    seen = int(rule.codes(np.array([value]))[0])
    expected = int(np.clip(rounded, -128, 127))
    assert seen == expected or (tie and abs(seen - expected) == 1)


def test_quantiser_at_ties():
    rule = CodeRule.of(1 / 64, 3)  # one code is 1024
    values = np.array([511, 512, 513, -511, -512, -513, 1536, -1536, 10**9, -(10**9)])
    assert rule.codes(values).tolist() == [3, 4, 4, 3, 2, 2, 5, 1, 127, -128]


def bound(frontend, backend, delay=0, codes=True):
    """A stream with its buffers: (stream, pcm in, codes, mask, bias, pcm out)."""
    quantised = (INPUT, SIGMOID, BIAS) if codes else (None, None, None)
    stream = FrontendStream(frontend, *quantised, backend=backend, delay=delay)
    dtype = np.int8 if codes else np.float32
    hop, bins = frontend.hop_length, frontend.bins
    buffers = (
        np.zeros(hop, np.int16),
        np.zeros((1, 1, bins, frontend.channels), dtype),
        np.zeros((1, 1, bins, 2 if frontend.head == "complex_mask" else 1), dtype),
        np.zeros((1, 1, bins, 2), dtype),
        np.zeros(hop, np.int16),
    )
    stream.bind(*buffers)
    return (stream, *buffers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", ["mask", "mask_bias"])
@pytest.mark.parametrize("compression", [0.3, 0.5, 1.0])
def test_full_mask_gives_the_input_back(head, compression, backend):
    """Mask 1 and bias 0, float32: the pair of power laws costs less than 0.05 dB."""
    frontend = StftFrontend(head=head, compression=compression)
    stream, pcm_in, _, mask, bias, pcm_out = bound(frontend, backend, codes=False)
    mask[:], bias[:] = 1, 0
    pcm = at_level(voice(256 * 60), -6)
    out = []
    for hop in pcm.reshape(-1, 256):
        pcm_in[:] = hop
        stream.analyze()
        stream.synthesize()
        out.append(pcm_out.copy())
    error = np.concatenate(out)[512:].astype(float) - pcm[256:-256]
    assert np.abs(error).max() <= (0 if head == "mask" else 1)
    assert 20 * np.log10(1 + np.abs(error).max() / np.abs(pcm).max()) < EXPAND_TABLE_DB


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", ["mask", "mask_bias", "complex_mask"])
def test_zero_mask_is_silence(head, backend):
    frontend = StftFrontend(head=head)
    stream, pcm_in, _, mask, bias, pcm_out = bound(frontend, backend)
    mask[:], bias[:] = SIGMOID.zero_point, BIAS.zero_point
    for hop in signal(0, 256 * 5).reshape(-1, 256):
        pcm_in[:] = hop
        stream.analyze()
        stream.synthesize()
        assert not pcm_out.any()


@pytest.mark.parametrize("compression", [0.3, 0.5, 1.0])
def test_expansion_against_float64(compression):
    rng = np.random.default_rng(3)
    u = (rng.standard_normal((2, 8, 257)) * 2.0 ** rng.integers(4, 26, (2, 8, 257))).astype(
        np.int64
    )
    _, whole, fraction = exponent_q31(compression)
    scale = np.full(8, 12 << 24)
    re, im, e = masks.expand(*u, scale, whole, fraction)
    seen = (re + 1j * im) * 2.0 ** -e[:, None]
    z = (u[0] + 1j * u[1]) / 65536
    ideal = z * np.abs(z) ** (1 / compression - 1) * 4096
    peak = np.abs(ideal).max(axis=1, keepdims=True)
    assert (np.abs(seen - ideal) <= 6e-5 * np.abs(ideal) + 2e-8 * peak).all()


@pytest.mark.parametrize("mask", [2**31 - 2, 2**30, 12345, 1])
def test_mask_power(mask):
    for compression in (0.3, 0.5, 1.0):
        _, whole, fraction = exponent_q31(compression)
        seen = masks.mask_power(np.array([mask]), whole, fraction)[0] / 2**31
        assert seen == pytest.approx((mask / 2**31) ** (1 / compression), rel=3e-5, abs=2**-31)


@pytest.mark.parametrize("backend", BACKENDS)
def test_delay_meets_the_frame_of_then(backend):
    """With a delay of d frames the output is that of delay 0, d hops later."""
    frontend = StftFrontend(head="mask_bias")
    pcm = at_level(voice(256 * 30), -10).reshape(-1, 256)
    rng = np.random.default_rng(0)
    network = rng.integers(-128, 128, (30, 3, 257)).astype(np.int8)
    outputs = []
    for delay in (0, 3):
        stream, pcm_in, _, mask, bias, pcm_out = bound(frontend, backend, delay)
        out = []
        for t, hop in enumerate(pcm):
            pcm_in[:] = hop
            stream.analyze()
            made = network[max(t - delay, 0)]
            mask[0, 0, :, 0], bias[0, 0] = made[0], made[1:].T
            stream.synthesize()
            out.append(pcm_out.copy())
        outputs.append(np.concatenate(out))
    assert not outputs[1][: 3 * 256].any()
    np.testing.assert_array_equal(outputs[1][3 * 256 :], outputs[0][: -3 * 256])


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_equals_hops_equals_any_split(backend):
    frontend = StftFrontend(n_fft=320, hop_length=160)
    pcm = signal(8, 160 * 40)
    whole = features_q16(frontend, pcm, backend)
    stream, pcm_in, codes, *_ = bound(frontend, backend)
    rule = CodeRule.of(INPUT.scale, INPUT.zero_point)
    for t, hop in enumerate(pcm.reshape(-1, 160)):
        pcm_in[:] = hop
        stream.analyze()
        np.testing.assert_array_equal(codes[0, 0].T, rule.codes(whole[:, t].astype(np.int64)))
    for cuts in ([1, 39], [20, 20], [7, 13, 0, 20]):
        stream = FrontendStream(frontend, backend=backend)
        parts, at = [], 0
        for hops in cuts:
            parts.append(stream.clip(pcm[at : at + hops * 160]))
            at += hops * 160
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("delay", [0, 2])
def test_state_moves_between_backends(delay):
    if _native.core() is None:
        pytest.skip(_native.absence())
    frontend = StftFrontend(n_fft=64, hop_length=32)
    pcm = signal(0, 32 * 20).reshape(-1, 32)
    straight = bound(frontend, "c", delay)
    relay = [bound(frontend, b, delay) for b in ("c", "numpy")]
    for t, hop in enumerate(pcm):
        current = relay[t % 2]
        current[0].load_state(relay[(t + 1) % 2][0].state())
        for stream, pcm_in, _, mask, _, _ in (straight, current):
            pcm_in[:], mask[:] = hop, t
            stream.analyze()
            stream.synthesize()
        np.testing.assert_array_equal(straight[5], current[5])
        assert straight[0].state() == current[0].state()


@pytest.mark.parametrize("backend", BACKENDS)
def test_foreign_states_are_refused(backend):
    stream = FrontendStream(StftFrontend(), backend=backend)
    state = stream.state()
    other = FrontendStream(StftFrontend(hop_length=128), backend=backend).state()
    for bad in (b"", state[:-1], state + b"\0", other, b"\xff" * len(state)):
        with pytest.raises(StreamError, match="does not belong"):
            stream.load_state(bad)
    wild = state[:40] + b"\x80" * (len(state) - 40)  # a right head before wild numbers
    stream.load_state(wild)
    stream.clip(signal(0, 2560))


def test_silence_is_zero_and_stays_zero():
    frontend = StftFrontend()
    assert not features_q16(frontend, np.zeros(5120, np.int16)).any()


def test_refusals():
    frontend = StftFrontend()
    with pytest.raises(SpecError, match="backend is 'gpu'"):
        FrontendStream(frontend, backend="gpu")
    with pytest.raises(SpecError, match="delay is -1"):
        FrontendStream(frontend, delay=-1)
    with pytest.raises(StreamError, match="no buffers"):
        FrontendStream(frontend).analyze()
    with pytest.raises(StreamError, match="must be int16"):
        features_q16(frontend, np.zeros(512))
    with pytest.raises(StreamError, match="one hop needs 256"):
        features_q16(frontend, np.zeros(100, np.int16))
    stream, pcm_in, codes, mask, bias, pcm_out = bound(frontend, "auto")
    for buffers, message in (
        ((pcm_in[:-1], codes, mask, bias, pcm_out), r"must be contiguous int16\[256\]"),
        ((pcm_in, codes[..., :2], mask, bias, pcm_out), "3 channels and 257 bins"),
        ((pcm_in, codes, None, bias, pcm_out), "mask is missing"),
        ((pcm_in, codes.astype(np.int16), mask, bias, pcm_out), "must be int8"),
    ):
        with pytest.raises(StreamError, match=message):
            stream.bind(*buffers)
    with pytest.raises(SpecError, match="scale of the features"):
        FrontendStream(frontend, QParams(1e-20, 0))


def test_without_core_numpy_serves_and_says_so(monkeypatch):
    monkeypatch.setenv("SPECTRAL_EDGE_CORE", "off")
    caches = (_native._load, _native.warn_once_of_absence)
    for cache in caches:
        cache.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="NumPy golden model is used instead"):
            stream = FrontendStream(StftFrontend())
        assert stream.backend == "numpy"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FrontendStream(StftFrontend())  # once is enough
        with pytest.raises(RuntimeUnavailable, match="SPECTRAL_EDGE_CORE=off"):
            FrontendStream(StftFrontend(), backend="c")
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()
