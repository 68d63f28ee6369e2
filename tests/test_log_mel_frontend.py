"""``LogMelFrontend``: the value, its arithmetic against float64, codes, streams, sequences."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge import audio
from spectral_edge.errors import SpecError, StreamError
from spectral_edge.frontend import any_frontend_from_dict, frontend_from_dict
from spectral_edge.logmel_stream import LogMelStream
from spectral_edge.qparams import QParams
from tests.tolerances import LOG_MEL_DB

RATE = 16_000
VARIANTS = {
    "kaldi": se.LogMelFrontend(),
    "htk in dB": se.LogMelFrontend(n_mels=40, mel="htk", log="dB", mean=-40.0, std=20.0),
    "slaney magnitude": se.LogMelFrontend(
        n_mels=32, mel="slaney", norm="slaney", power=1, log="log2", win_length=0, window="hamming"
    ),
    "8 kHz": se.LogMelFrontend(8_000, 256, 80, 200, "sqrt_hann", 24, 60.0, 3_600.0),
    "pcen": se.LogMelFrontend(log="pcen", mean=0.5, std=1.0),
}


def noise(samples: int, seed: int = 0) -> NDArray[np.int16]:
    """Noise that swells and falls, with silence in the middle."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal(samples) * 6000 * np.abs(np.sin(np.arange(samples) / 1500))
    wave[samples // 3 : samples // 2] = 0
    return np.clip(wave, -32768, 32767).astype(np.int16)


def in_float64(frontend: se.LogMelFrontend, pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    """The same features in float64, with a filter bank of its own."""
    hop, n = frontend.hop_length, frontend.n_fft
    padded = np.concatenate([np.zeros(n - hop), pcm.astype(np.float64) / 32768])
    frames = np.stack([padded[k * hop : k * hop + n] for k in range(len(pcm) // hop)])
    spectrum = np.abs(np.fft.rfft(frames * frontend.padded_window(), axis=1)) ** frontend.power
    energy = spectrum @ filters(frontend)
    unit = {"ln": 1.0, "dB": 10 / math.log(10), "log2": 1 / math.log(2)}[frontend.log]
    unit *= 2 if frontend.log == "dB" and frontend.power == 1 else 1
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(energy) * unit, frontend.silence)
    scaled: NDArray[np.float64] = (logs - frontend.mean) / frontend.std
    return scaled


def filters(f: se.LogMelFrontend) -> NDArray[np.float64]:
    def mel(hz: Any) -> Any:
        hz = np.asarray(hz, np.float64)
        if f.mel == "slaney":
            above = 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / math.log(6.4)
            return np.where(hz <= 1000, hz * 3 / 200, above)
        return np.log1p(hz / 700)

    def hertz(m: Any) -> Any:
        if f.mel == "slaney":
            return np.where(m <= 15, m * 200 / 3, 1000 * 6.4 ** ((m - 15) / 27))
        return 700 * np.expm1(m)

    points = np.linspace(mel(f.fmin), mel(f.fmax), f.n_mels + 2)
    bins = np.arange(f.n_fft // 2 + 1) * f.sample_rate / f.n_fft
    axis, corner = (mel(bins), points) if f.mel == "kaldi" else (bins, hertz(points))
    up = (axis[:, None] - corner[:-2]) / (corner[1:-1] - corner[:-2])
    down = (corner[2:] - axis[:, None]) / (corner[2:] - corner[1:-1])
    bank = np.maximum(0, np.minimum(up, down))
    if f.norm == "slaney":
        edges = hertz(points)
        bank = bank * 2 / (edges[2:] - edges[:-2])
    result: NDArray[np.float64] = bank
    return result


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "pcen"])
def test_features_are_those_of_float64(name: str) -> None:
    frontend = VARIANTS[name]
    pcm = noise(RATE)
    got, want = frontend.features(pcm), in_float64(frontend, pcm)
    assert got.shape == want.shape == (len(pcm) // frontend.hop_length, frontend.n_mels)
    assert got.dtype == np.float32
    # quiet frames at the edge of silence hold the FFT's own rounding; loud bands do not
    heard = want > (frontend.silence - frontend.mean) / frontend.std + 2 / frontend.std
    decibel = {"ln": math.log(10) / 10, "dB": 1.0, "log2": math.log2(10) / 10}[frontend.log]
    assert np.abs(got - want)[heard].max() < LOG_MEL_DB * decibel / frontend.std
    assert heard.mean() > 0.5


@pytest.mark.parametrize("name", VARIANTS)
def test_core_and_numpy_have_the_same_bits(name: str) -> None:
    pcm = noise(RATE // 2)
    frontend, qparams = VARIANTS[name], QParams(0.02, -3, "int8")
    assert np.array_equal(frontend.features(pcm, "c"), frontend.features(pcm, "numpy"))
    hops = pcm[: len(pcm) // frontend.hop_length * frontend.hop_length]
    c, n = (LogMelStream(frontend, qparams, backend) for backend in ("c", "numpy"))
    assert (c.backend, n.backend) == ("c", "numpy")
    assert np.array_equal(c.push(hops), n.push(hops))
    assert np.array_equal(c.silence, n.silence)


@pytest.mark.parametrize("name", VARIANTS)
def test_codes_are_the_exact_rounding_of_the_integers(name: str) -> None:
    frontend = VARIANTS[name]
    qparams = QParams(float(np.float32(0.013)), 5, "int8")
    pcm = noise(40 * frontend.hop_length)
    values = LogMelStream(frontend).values(pcm)
    codes = LogMelStream(frontend, qparams).push(pcm)
    mean = round(frontend.mean * 65536)
    per_code = Fraction(qparams.scale * frontend.std) * 65536
    for value, code in zip(values.flat[::7].tolist(), codes.flat[::7].tolist(), strict=True):
        exact = (value - mean) / per_code
        rounded = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
        assert code == max(-128, min(127, rounded + 5))


def test_training_features_quantise_to_the_codes_of_the_device() -> None:
    frontend, qparams = se.LogMelFrontend(), QParams(float(np.float32(0.021)), 7, "int8")
    pcm = noise(RATE)
    device = LogMelStream(frontend, qparams).push(pcm)
    trained = qparams.quantize(frontend.features(pcm))
    off = np.abs(device.astype(int) - trained)
    assert off.max() <= 1  # at ties only: half away from zero here, half to even there
    assert (off == 0).mean() > 0.9999


@pytest.mark.parametrize("name", VARIANTS)
def test_any_split_into_hops_gives_the_same_frames(name: str) -> None:
    frontend = VARIANTS[name]
    pcm = noise(60 * frontend.hop_length)
    stream = LogMelStream(frontend)
    whole = stream.push(pcm)
    stream.reset()
    parts, at = [], 0
    for hops in (1, 0, 7, 20, 32):
        parts.append(stream.push(pcm[at : at + hops * frontend.hop_length]))
        at += hops * frontend.hop_length
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(frontend.features(np.append(pcm, [1, 2, 3]).astype(np.int16)), whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_silence_is_one_value(name: str) -> None:
    frontend = VARIANTS[name]
    stream = LogMelStream(frontend)
    frames = stream.push(np.zeros(10 * frontend.hop_length, np.int16))
    assert np.array_equal(frames, np.tile(stream.silence, (10, 1)))
    want = (frontend.silence - frontend.mean) / frontend.std
    assert stream.silence == pytest.approx(want, abs=1e-4)


def test_level_does_not_matter_to_pcen_much() -> None:
    frontend = VARIANTS["pcen"]
    rng = np.random.default_rng(1)
    quiet = (rng.standard_normal(4 * RATE) * 300).astype(np.int16)
    ends = [frontend.features(pcm)[-100:].mean() for pcm in (quiet, (quiet * 30).astype(np.int16))]
    assert abs(ends[0] - ends[1]) < 0.1
    plain = se.LogMelFrontend()
    ends = [plain.features(pcm)[-100:].mean() for pcm in (quiet, (quiet * 30).astype(np.int16))]
    assert ends[1] - ends[0] == pytest.approx(2 * math.log(30) / plain.std, abs=0.05)


def test_derived_values() -> None:
    frontend = se.LogMelFrontend()
    assert (frontend.bins, frontend.channels, frontend.head) == (64, 1, "logits")
    assert frontend.hops_per_second == 100
    assert frontend.algorithmic_latency == 0.025
    assert not frontend.invertible
    assert frontend.fmax == 8_000
    assert frontend.floor == pytest.approx(math.log(2**-23), abs=1e-4)
    assert frontend.fingerprint == "6df2550d1db587fb"
    assert hash(frontend) == hash(se.LogMelFrontend())
    with pytest.raises(dataclasses.FrozenInstanceError):
        frontend.n_mels = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", VARIANTS)
def test_goes_through_plain_data(name: str) -> None:
    frontend = VARIANTS[name]
    again = any_frontend_from_dict(frontend.to_dict())
    assert again == frontend
    assert again.fingerprint == frontend.fingerprint
    prints = {f.fingerprint for f in VARIANTS.values()}
    assert len(prints) == len(VARIANTS)
    with pytest.raises(SpecError, match="front end kind is 'log_mel', must be 'stft'"):
        frontend_from_dict(frontend.to_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_rate": 1_000}, "sample_rate is 1000"),
        ({"sample_rate": 16_000.0}, "sample_rate is 16000.0"),
        ({"n_fft": 514}, "no prime factor above 5"),
        ({"n_fft": 8192}, "n_fft is 8192"),
        ({"win_length": 513}, "win_length is 513"),
        ({"win_length": 8}, "win_length is 8"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"hop_length": 401}, "hop_length is 401"),
        ({"n_mels": 0}, "n_mels is 0"),
        ({"n_mels": 1 << 40}, "n_mels is 1099511627776"),
        ({"n_mels": 128}, "holds no bin of 512"),
        ({"n_mels": True}, "n_mels is True"),
        ({"window": "kaiser"}, "window is 'kaiser'"),
        ({"window": ["hann"]}, "window is"),
        ({"mel": "bark"}, "mel is 'bark'"),
        ({"norm": "area"}, "norm is 'area'"),
        ({"power": 3}, "power is 3"),
        ({"log": "log10"}, "log is 'log10'"),
        ({"fmin": -1}, "fmin is -1"),
        ({"fmin": math.nan}, "fmin is nan"),
        ({"fmax": 9_000}, "fmax is 9000"),
        ({"fmin": 500, "fmax": 400}, "must be below fmax"),
        ({"floor": math.inf}, "floor is inf"),
        ({"floor": -1e9}, "floor is -1000000000.0"),
        ({"mean": math.nan}, "mean is nan"),
        ({"std": 0}, "std is 0"),
        ({"std": "1"}, "std is '1'"),
        ({"pcen": se.Pcen()}, "set log='pcen'"),
        ({"log": "pcen", "power": 1}, "needs power 2"),
        ({"log": "pcen", "floor": -20.0}, "floor -30"),
        ({"log": "pcen", "pcen": 3}, "must be a Pcen"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        se.LogMelFrontend(**changes)


@pytest.mark.parametrize("field", ["s", "alpha", "delta", "r", "eps"])
@pytest.mark.parametrize("value", [0, -1, 1e12, math.nan, "1", None, True])
def test_bad_pcen_is_refused(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"{field} is"):
        se.Pcen(**{field: value})


def test_blocks_must_be_whole_hops() -> None:
    stream = LogMelStream(se.LogMelFrontend())
    for bad in (np.zeros(100, np.int16), np.zeros(160), np.zeros((160, 1), np.int16)):
        with pytest.raises(StreamError, match=r"must be int16\[hops"):
            stream.push(bad)
    with pytest.raises(StreamError, match=r"must be int16\[samples\]"):
        stream.features(np.zeros(160))
    with pytest.raises(SpecError, match="log-mel makes int8"):
        LogMelStream(se.LogMelFrontend(), QParams(0.1, 0, "int16"))


def test_sequences_are_what_the_stream_gives(tmp_path: Path) -> None:
    frontend = se.LogMelFrontend()
    pcm = np.stack([noise(RATE + 50), noise(RATE + 50, 1)], axis=1)
    audio.write(tmp_path / "two.wav", pcm, RATE)
    streams = [s[0].numpy() for s in frontend.sequences([tmp_path / "two.wav"])]
    assert [s.shape for s in streams] == [(1, 1, 101, 64)] * 2
    for channel, stream in zip(pcm.T, streams, strict=True):
        assert np.array_equal(stream[0, 0, :100], frontend.features(channel))
    windows = [s[0].numpy() for s in frontend.sequences([tmp_path / "two.wav"], window=40)]
    assert [w.shape for w in windows] == [(2, 1, 40, 64)] * 2
    assert np.array_equal(windows[0][1, 0], streams[0][0, 0, 61:])
    cut = [s[0] for s in frontend.sequences([tmp_path / "two.wav"], 0.25, window=40, window_hop=3)]
    assert cut[0].shape == (1, 1, 40, 64)  # 25 frames, silence in front
    assert np.allclose(cut[0][0, 0, :15], (frontend.silence + 7) / 5, atol=1e-4)
    with pytest.raises(SpecError, match="window is -1"):
        frontend.sequences([], window=-1)


def test_sequences_change_the_rate(tmp_path: Path) -> None:
    audio.write(tmp_path / "slow.wav", noise(8_000), 8_000)
    (sequence,) = se.LogMelFrontend().sequences([tmp_path / "slow.wav"])
    assert sequence[0].shape == (1, 1, 100, 64)
