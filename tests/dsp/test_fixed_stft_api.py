"""``FixedSTFT``: scipy's and torch's framing, round trips, streams, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT

from spectral_edge import _native
from spectral_edge.dsp import BlockSpectrum, FixedSTFT
from spectral_edge.errors import SpecError, StreamError
from tests.dsp.signals import SIGNALS, signal

BACKENDS = ["numpy"] + (["c"] if _native.core() else [])
PAIRS = [("sqrt_hann", 512, 256), ("hann", 400, 100), ("hann", 320, 77), ("hamming", 64, 32)]


def snr(seen, ideal):
    return 10 * np.log10((np.abs(ideal) ** 2).sum() / (np.abs(seen - ideal) ** 2).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("window", "m", "hop"), PAIRS)
@pytest.mark.parametrize("n", [256, 1000, 4321])
def test_same_frames_as_scipy(window, m, hop, n, backend):
    fixed = FixedSTFT(window, hop, 16_000, mfft=m, backend=backend)
    theirs = ShortTimeFFT(fixed.win, hop, 16_000)
    pcm = signal(0, n)
    ideal = theirs.stft(pcm.astype(float))
    spectrum = fixed.stft(pcm)
    assert spectrum.re.shape == ideal.shape
    assert snr(spectrum.to_complex(), ideal) > 118
    assert (fixed.p_min, fixed.p_max(n)) == (theirs.p_min, theirs.p_max(n))
    np.testing.assert_allclose(fixed.f, theirs.f)
    np.testing.assert_allclose(fixed.t(n), theirs.t(n))
    assert fixed.delta_t == theirs.delta_t
    assert fixed.lower_border_end == theirs.lower_border_end
    if n >= m:
        assert fixed.upper_border_begin(n) == theirs.upper_border_begin(n)
    np.testing.assert_allclose(fixed.dual_win, theirs.dual_win, atol=1e-8)
    np.testing.assert_array_equal(fixed.istft(spectrum, k1=n), pcm)
    again = FixedSTFT.from_scipy(theirs, backend=backend).stft(pcm)
    assert snr(again.to_complex(), ideal) > 118


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("m", "mfft", "hop"), [(400, 512, 160), (399, 512, 100), (64, 1024, 32), (25, 64, 7)]
)
@pytest.mark.parametrize("phase_shift", [0, None, 5, -20])
def test_longer_transforms_are_scipy_s(m, mfft, hop, phase_shift, backend):
    """Zeros behind the window, phases where scipy puts them, no more delay than m - hop."""
    window = 0.05 + 0.95 * np.hanning(m + 2)[1:-1]
    theirs = ShortTimeFFT(window, hop, 16_000, mfft=mfft, phase_shift=phase_shift)
    fixed = FixedSTFT.from_scipy(theirs, backend=backend)
    pcm = signal(0, 2345)
    ideal, spectrum = theirs.stft(pcm.astype(float)), fixed.stft(pcm)
    assert spectrum.re.shape == ideal.shape
    assert snr(spectrum.to_complex(), ideal) > 118
    assert (fixed.m_num, fixed.mfft, fixed.f_pts) == (m, mfft, mfft // 2 + 1)
    assert (fixed.k_min, fixed.k_max(2345)) == (theirs.k_min, theirs.k_max(2345))
    assert fixed.T == theirs.T
    np.testing.assert_allclose(fixed.f, theirs.f)
    np.testing.assert_allclose(fixed.dual_win, theirs.dual_win, atol=1e-8)
    np.testing.assert_array_equal(fixed.istft(spectrum, k1=2345), pcm)
    stream = fixed.stream()
    out = stream.pull(stream.push(pcm))
    late = fixed.delay_samples
    assert late == m - hop
    np.testing.assert_array_equal(out[2 * late :], pcm[late : len(out) - late])


@pytest.mark.parametrize(
    ("window", "m", "n", "hop"), [("hann", 400, 512, 160), ("rect", 25, 64, 9)]
)
def test_longer_transforms_have_the_same_bits(window, m, n, hop):
    engines = [FixedSTFT(window, hop, 16_000, mfft=n, win_length=m, backend=b) for b in BACKENDS]
    for kind in range(len(SIGNALS)):
        spectra = [fixed.stft(signal(kind, 3000)) for fixed in engines]
        for other in spectra[1:]:
            np.testing.assert_array_equal(other.re, spectra[0].re)
            np.testing.assert_array_equal(other.im, spectra[0].im)
            np.testing.assert_array_equal(other.exp, spectra[0].exp)
        for fixed in engines:
            np.testing.assert_array_equal(fixed.istft(spectra[0], k1=3000), signal(kind, 3000))


@pytest.mark.parametrize("win_length", [400, 512])
def test_same_frames_as_torch_with_a_short_window(win_length):
    fixed = FixedSTFT.from_torch(512, 160, win_length=win_length)
    pcm = signal(0, 4000)
    ideal = torch.stft(
        torch.from_numpy(pcm.astype(float)),
        512,
        160,
        win_length,
        torch.hann_window(win_length, dtype=torch.float64),
        center=True,
        pad_mode="constant",
        return_complex=True,
    ).numpy()
    spectrum = fixed.stft(pcm)
    seen = spectrum.to_complex()[:, -fixed.p_min :][:, : ideal.shape[1]]
    assert snr(seen, ideal) > 118
    np.testing.assert_array_equal(fixed.istft(spectrum, k1=4000), pcm)


def test_same_phases_as_torch():
    fixed = FixedSTFT.from_torch(512, 128)
    pcm = signal(0, 512 + 128 * 9)
    window = torch.hann_window(512, dtype=torch.float64)
    ideal = torch.stft(
        torch.from_numpy(pcm.astype(float)),
        512,
        128,
        window=window,
        center=False,
        return_complex=True,
    ).numpy()
    first = -(fixed.p_min * 128 - 256) // 128  # scipy's framing starts before the clip
    seen = fixed.stft(pcm).to_complex()[:, first : first + ideal.shape[1]]
    assert snr(seen, ideal) > 118


@pytest.mark.parametrize("backend", BACKENDS)
def test_stream_equals_clip_for_any_blocks(backend):
    fixed = FixedSTFT("sqrt_hann", 160, 16_000, mfft=320, backend=backend)
    pcm = signal(8, 160 * 30)
    stream = fixed.stream()
    assert stream.backend == backend
    whole = stream.push(pcm)
    out = stream.pull(whole)
    np.testing.assert_array_equal(out[160:], pcm[:-160])
    for size in (1, 7, 160, 161, 1000):
        stream.reset()
        parts = [stream.push(pcm[i : i + size]) for i in range(0, len(pcm), size)]
        for name in ("re", "im", "exp"):
            joined = np.concatenate([getattr(p, name) for p in parts], axis=-1)
            np.testing.assert_array_equal(joined, getattr(whole, name))
        pulled = np.concatenate([stream.pull(p) for p in parts])
        np.testing.assert_array_equal(pulled, out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bound_buffers(backend):
    fixed = FixedSTFT("hann", 160, 16_000, mfft=512, win_length=400, backend=backend)
    pcm = signal(8, 160 * 20)
    stream = fixed.stream()
    whole = stream.push(pcm)
    late = stream.pull(whole)
    stream.reset()
    block, out = np.zeros(160, np.int16), np.zeros(160, np.int16)
    re, im = np.zeros(257, np.int32), np.zeros(257, np.int32)
    analyze, synthesize = stream.bind(block, re, im, out)
    for t in range(20):
        block[:] = pcm[t * 160 : (t + 1) * 160]
        e = analyze()
        synthesize(e)
        assert e == whole.exp[t]
        np.testing.assert_array_equal(re, whole.re[:, t])
        np.testing.assert_array_equal(im, whole.im[:, t])
        np.testing.assert_array_equal(out, late[t * 160 : (t + 1) * 160])
    with pytest.raises(StreamError, match=r"re is int32\[256\]"):
        stream.bind(block, re[1:], im, out)
    stream.push(pcm[:3])
    with pytest.raises(StreamError, match="3 samples wait"):
        stream.bind(block, re, im, out)


def test_floats_channels_and_own_windows():
    window = np.bartlett(129)[:-1]
    fixed = FixedSTFT(window, 32, 8_000)
    pcm = np.stack([signal(0, 900), signal(5, 900)])
    spectrum = fixed.stft(pcm)
    assert spectrum.re.shape[:2] == (2, 65)
    np.testing.assert_array_equal(fixed.istft(spectrum, k1=900), pcm)
    floats = fixed.stft((pcm / 32768).astype(np.float32))
    np.testing.assert_array_equal(floats.re, spectrum.re)
    again = BlockSpectrum.from_complex(spectrum.to_complex())
    np.testing.assert_array_equal(fixed.istft(again, k1=900), pcm)
    np.testing.assert_allclose(fixed.spectrogram(pcm), np.abs(spectrum.to_complex()) ** 2)


def test_given_dual_window():
    window = np.hanning(129)[:-1] ** 0.5
    flat = np.full(128, 1.0)
    with pytest.raises(SpecError, match="off by"):
        FixedSTFT(window, 64, 8_000, dual_win=flat)
    rect = FixedSTFT(np.ones(128), 32, 8_000, dual_win=np.repeat([0, 1.0, 0, 0], 32))
    pcm = signal(0, 1000)
    np.testing.assert_array_equal(rect.istft(rect.stft(pcm), k1=900), pcm[:900])


def test_badly_conditioned_pairs_warn_and_keep_their_word():
    with pytest.warns(RuntimeWarning, match="badly conditioned") as caught:
        fixed = FixedSTFT("hann", 220, 16_000, mfft=256)
    assert fixed.round_trip_error > 0
    assert str(fixed.round_trip_error) in str(caught[0].message)
    for kind in range(10):
        pcm = signal(kind, 5000)
        error = fixed.istft(fixed.stft(pcm), k1=5000).astype(int) - pcm
        assert np.abs(error).max() <= fixed.round_trip_error


def test_refusals():
    for arguments, message in (
        ({"win": np.ones(62), "hop": 2, "fs": 1}, "62 samples"),
        ({"win": np.ones(98), "hop": 2, "fs": 1}, "98 samples"),
        ({"win": np.full(64, 1.5), "hop": 2, "fs": 1}, "within"),
        ({"win": np.ones(64), "hop": 65, "fs": 1}, "hop is 65"),
        ({"win": np.ones(64), "hop": 2, "fs": 0}, "fs is 0"),
        ({"win": np.ones(64), "hop": 2, "fs": 1, "mfft": 62}, "mfft is 62"),
        ({"win": np.ones(130), "hop": 2, "fs": 1, "mfft": 128}, "win has 130"),
        ({"win": np.ones(60), "hop": 61, "fs": 1, "mfft": 64}, "hop is 61"),
        ({"win": np.ones(64), "hop": 2, "fs": 1, "win_length": 60}, "win_length is 60"),
        ({"win": "hann", "hop": 2, "fs": 1, "mfft": 64, "win_length": 0}, "win has 0"),
        ({"win": "kaiser", "hop": 2, "fs": 1, "mfft": 128}, "kaiser"),
        ({"win": np.ones(64), "hop": 2, "fs": 1, "phase_shift": 64}, "phase_shift is 64"),
    ):
        with pytest.raises(SpecError, match=message):
            FixedSTFT(**arguments)
    fixed = FixedSTFT("sqrt_hann", 32, 8_000, mfft=64)
    with pytest.raises(StreamError, match="NaN"):
        fixed.stft(np.array([0.0, np.nan]))
    with pytest.raises(StreamError, match="int32"):
        fixed.stft(np.zeros(100, np.int32))
    with pytest.raises(StreamError, match="must hold samples"):
        fixed.stft(np.zeros(0, np.int16))
    with pytest.raises(StreamError, match="k0, k1"):
        fixed.istft(fixed.stft(signal(0, 100)), k0=5, k1=4)
    lonely = FixedSTFT("hann", 64, 8_000, mfft=64)
    spectrum = lonely.stft(signal(0, 100))
    with pytest.raises(SpecError, match="cannot be inverted"):
        lonely.istft(spectrum)
