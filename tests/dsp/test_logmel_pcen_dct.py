"""Log-mel, PCEN and DCT in integers: against float64, and C against NumPy bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from spectral_edge import _native
from spectral_edge.dsp import FixedDCT, FixedLogMel, FixedPCEN, FixedSTFT
from spectral_edge.dsp.dct import dct_matrix
from spectral_edge.dsp.melbank import mel_bank
from spectral_edge.errors import SpecError, StreamError
from spectral_edge.program import QParams
from tests.dsp.signals import LEVELS_DBFS, SIGNALS, at_level, signal, speech_clips, voice
from tests.tolerances import DCT_SNR_DB, LOG_MEL_CODES_DIFFERENT, LOG_MEL_DB, PCEN_RELATIVE

needs_core = pytest.mark.skipif(_native.core() is None, reason=_native.absence() or "core")
STFT = FixedSTFT("hann", 160, 16_000, mfft=512)


def float_bank(bank, bins):
    """float64[bands, bins] of an integer bank with its normalisation."""
    weights, at = np.zeros((len(bank.first), bins)), 0
    for row, first, count, offset in zip(weights, bank.first, bank.count, bank.offset, strict=True):
        row[first : first + count] = bank.weight[at : at + count] / 32768 * 2 ** (offset / 2**24)
        at += count
    return weights


def hz_to_mel(f, scale):
    f = np.asarray(f, float)
    if scale != "slaney":
        return 2595 * np.log10(1 + f / 700)
    return np.where(f < 1000, f * 3 / 200, 15 + 27 * np.log(np.maximum(f, 1) / 1000) / np.log(6.4))


def mel_to_hz(m, scale):
    m = np.asarray(m, float)
    if scale != "slaney":
        return 700 * (10 ** (m / 2595) - 1)
    return np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))


@pytest.mark.parametrize("scale", ["htk", "slaney", "kaldi"])
def test_filters_are_the_textbook_triangles(scale):
    bank = mel_bank(16_000, 512, 40, 20.0, 7600.0, scale, "slaney")
    points = np.linspace(hz_to_mel(20, scale), hz_to_mel(7600, scale), 42)
    edges, f = mel_to_hz(points, scale), np.arange(257) * 31.25
    axis, corners = (hz_to_mel(f, scale), points) if scale == "kaldi" else (f, edges)
    ideal = np.zeros((40, 257))
    for b in range(40):
        left, centre, right = corners[b : b + 3]
        rise, fall = (axis - left) / (centre - left), (right - axis) / (right - centre)
        ideal[b] = np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[b + 2] - edges[b])
    np.testing.assert_allclose(float_bank(bank, 257), ideal, atol=2**-15 * ideal.max())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("log", "base"), [("ln", np.log), ("dB", None), ("log2", np.log2)])
def test_log_mel_against_float64(log, base, power):
    mel = FixedLogMel(STFT, 40, power=power, log=log, floor=-200 if log == "dB" else -60)
    weights = float_bank(mel.bank, 257)
    clips = [at_level(voice(160 * 300), dbfs) for dbfs in LEVELS_DBFS]
    for pcm in (*clips, *speech_clips(160 * 300).values()):
        seen = mel(pcm) / 65536
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, (512, 512)), 512)[::1]
        start = 512 - STFT.m_num_mid + STFT.p_min * 160
        frames = frames[start::160][: seen.shape[1]]
        spectrum = np.abs(np.fft.rfft(frames * STFT.win)).T / 32768
        energy = weights @ spectrum**power
        heard = energy > 0
        factor = 20 / power if power == 1 else 10
        ideal = np.log10(np.maximum(energy, 1e-300)) * factor
        decibels = (
            seen * {"ln": 1 / np.log(10), "dB": 1 / factor, "log2": np.log10(2)}[log] * factor
        )
        assert np.abs(decibels - ideal)[heard].max() <= LOG_MEL_DB
        assert (seen[~heard] == mel.rule.floor / 65536).all()
        codes = mel.codes(mel(pcm), QParams(0.5 if log == "dB" else 0.115, 100))
        step = QParams(0.5 if log == "dB" else 0.115, 100).scale
        unit = base(np.maximum(energy, 1e-300)) if base else ideal
        unit = np.maximum(np.where(heard, unit, -1e9), mel.rule.floor / 65536) / step
        exact = np.clip(np.sign(unit) * np.floor(np.abs(unit) + 0.5) + 100, -128, 127)
        assert np.abs(codes - exact).max() <= 1
        assert (codes != exact).mean() <= LOG_MEL_CODES_DIFFERENT


@needs_core
@pytest.mark.parametrize("power", [1, 2])
def test_log_mel_and_pcen_have_the_same_bits_in_c(power):
    for scale, norm in (("htk", None), ("slaney", "slaney"), ("kaldi", None)):
        both = [
            FixedLogMel(
                STFT,
                32,
                mel=scale,
                norm=norm,
                power=power,
                log="log2",
                floor=-30,
                full_scale=1,
                backend=b,
            )
            for b in ("c", "numpy")
        ]
        chains = [FixedPCEN(32, backend=b) for b in ("c", "numpy")]
        for kind in range(len(SIGNALS)):
            spectrum = STFT.stft(signal(kind, 160 * 40))
            logs = [mel.transform(spectrum) for mel in both]
            np.testing.assert_array_equal(*logs)
            np.testing.assert_array_equal(*(p.push(x) for p, x in zip(chains, logs, strict=True)))


def test_silence_is_the_floor():
    mel = FixedLogMel(STFT, 40, floor=-23.0)
    assert (mel(np.zeros(1600, np.int16)) == -23 * 65536).all()
    assert not FixedPCEN(40).push(np.full((40, 9), -30 * 65536, np.int32)).any()


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_pcen_against_float64(backend):
    mel = FixedLogMel(STFT, 40, log="log2", floor=-30, full_scale=1)
    logs = mel(at_level(voice(160 * 300), -10))
    chain = FixedPCEN(40, backend=backend)
    seen = chain.push(logs) / 65536
    energy, m, ideal = 2.0 ** (logs / 65536), np.zeros(40), []
    energy = np.minimum(energy, 2**30)
    for e in energy.T:
        m += 0.025 * (e - m)
        ideal.append((e / (2.0**11 + m) ** 0.98 + 2) ** 0.5 - 2**0.5)
    ideal = np.array(ideal).T
    np.testing.assert_allclose(seen, ideal, atol=2**-14, rtol=PCEN_RELATIVE)
    chain.reset()
    split = np.concatenate([chain.push(logs[:, :7]), chain.push(logs[:, 7:])], axis=1)
    np.testing.assert_array_equal(split / 65536, seen)


def blocks(n, count=400):
    """int8 blocks of a first-order process in two dimensions, correlation 0.95."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((count, n + 20, n + 20))
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        for i in range(1, len(x)):
            x[i] += 0.95 * x[i - 1]
        x = np.moveaxis(x, 0, axis)
    x = x[:, 20:, 20:]
    return np.clip(np.rint(x / np.abs(x).max() * 127), -128, 127).astype(np.int8)


@pytest.mark.parametrize("n", [7, 8, 14, 16])
def test_dct_forward_and_back(n):
    dct, x = FixedDCT(n), blocks(n)
    i = np.arange(n)
    ideal = np.sqrt(2 / n) * np.cos(np.pi * i[:, None] * (2 * i + 1) / (2 * n))
    ideal[0] = np.sqrt(1 / n)
    for forward, inverse, exact in (
        (dct.forward, dct.inverse, x @ ideal.T),
        (dct.forward_2d, dct.inverse_2d, ideal @ x @ ideal.T),
    ):
        seen = forward(x)
        error = seen / 2.0**dct.fraction_bits - exact
        assert 10 * np.log10((exact**2).sum() / (error**2).sum()) >= DCT_SNR_DB
        np.testing.assert_array_equal(inverse(seen), x)


@needs_core
@pytest.mark.parametrize("n", range(2, 65))
def test_dct_has_the_same_bits_in_c(n):
    core = _native.core()
    for bits in (7, 12, 14):
        made = np.empty((n, n), np.int16)
        assert core.se_make_dct(n, bits, made.ctypes.data) == 0
        np.testing.assert_array_equal(made, dct_matrix(n, bits))
    dct = FixedDCT(n)
    rng = np.random.default_rng(n)
    x, y = rng.integers(-(2**20), 2**20, (n, n)).astype(np.int32), np.empty(n, np.int32)
    for function, method, shift in (
        (core.se_dct_forward, dct.forward, dct.coeff_bits - dct.fraction_bits),
        (core.se_dct_inverse, dct.inverse, dct.coeff_bits + dct.fraction_bits),
    ):
        function(made.ctypes.data, n, x[0].ctypes.data, shift, y.ctypes.data)
        np.testing.assert_array_equal(y, method(x[0]))
    block, work = x >> 8, np.empty((n, n), np.int32)
    golden = dct.forward_2d(block)
    shift = dct.coeff_bits - dct.fraction_bits
    core.se_dct_forward_2d(made.ctypes.data, n, shift, 14, block.ctypes.data, work.ctypes.data)
    np.testing.assert_array_equal(block, golden)
    back = dct.inverse_2d(golden)
    shift = dct.coeff_bits + dct.fraction_bits
    core.se_dct_inverse_2d(made.ctypes.data, n, 14, shift, block.ctypes.data, work.ctypes.data)
    np.testing.assert_array_equal(block, back)


def test_refusals():
    with pytest.raises(SpecError, match="holds no bin"):
        FixedLogMel(STFT, 256)
    with pytest.raises(SpecError, match="power is 3"):
        FixedLogMel(STFT, power=3)
    with pytest.raises(SpecError, match="log is 'log10'"):
        FixedLogMel(STFT, log="log10")
    with pytest.raises(SpecError, match="within 0"):
        FixedLogMel(STFT, fmax=9000.0)
    with pytest.raises(SpecError, match="mel is 'bark'"):
        FixedLogMel(STFT, mel="bark")
    with pytest.raises(SpecError, match="65"):
        FixedDCT(65)
    with pytest.raises(StreamError, match=r"\(3,\)"):
        FixedDCT(8).forward(np.zeros(3, np.int8))
    with pytest.raises(SpecError, match="alpha"):
        FixedPCEN(alpha=2)
    with pytest.raises(SpecError, match="delta"):
        FixedPCEN(delta=0)
    with pytest.raises(StreamError, match="40, frames"):
        FixedPCEN().push(np.zeros((3, 3), np.int32))
