"""Log-mel of training: frame counts, an independent computation, normalisation, caching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_edge.errors import SpecError
from spectral_edge.training.labelled import audio_features, fitted
from spectral_edge.training.log_mel import SPEECH_COMMANDS, LogMel, mel_matrix
from spectral_edge.training.synthetic import toy_img, toy_kws


def test_frame_counts() -> None:
    front = LogMel(mels=40)
    assert front.raw(torch.zeros(1, 16_000)).shape == (1, 98, 40)
    assert front.samples_for(100) == 16_240
    assert front.raw(torch.zeros(1, 16_240)).shape[1] == 100
    assert SPEECH_COMMANDS(torch.randn(2, 16_000)).shape == (2, 1, 128, 128)


def slow_kaldi(wave: np.ndarray, mels: int) -> np.ndarray:
    """The definition, frame by frame and filter by filter, in float64."""
    wave = wave - wave.mean()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)

    def mel(f: float) -> float:
        return 1127 * np.log(1 + f / 700)

    edges = np.linspace(mel(20), mel(8000), mels + 2)
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start : start + 400] - wave[start : start + 400].mean()
        emphasised = frame - 0.97 * np.concatenate((frame[:1], frame[:-1]))
        power = np.abs(np.fft.rfft(emphasised * window, 512)) ** 2
        row = []
        for m in range(mels):
            low, centre, high = edges[m : m + 3]
            total = 0.0
            for k in range(256):
                x = mel(k * 16_000 / 512)
                total += power[k] * max(
                    0, min((x - low) / (centre - low), (high - x) / (high - centre))
                )
            row.append(np.log(max(total, 1.1920929e-07)))
        rows.append(row)
    return np.array(rows)


def test_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal(2000)
    got = LogMel(mels=24).raw(torch.from_numpy(wave).float()[None])[0].numpy()
    np.testing.assert_allclose(got, slow_kaldi(wave, 24), atol=2e-3)


def test_silence_sits_on_the_floor_and_padding_on_the_mean() -> None:
    front = LogMel(mels=40, frames=110)
    out = front(torch.zeros(1, 16_000))[0, 0]
    assert torch.allclose(out[:98] * 2 * front.std + front.mean, torch.tensor(1.1920929e-07).log())
    assert (out[98:] == 0).all()


def test_int16_is_full_scale_one() -> None:
    wave = torch.randint(-9000, 9000, (1, 4000), dtype=torch.int16)
    torch.testing.assert_close(LogMel().raw(wave), LogMel().raw(wave.float() / 32768))


def test_dc_blocker_is_the_recurrence() -> None:
    front, wave = LogMel(centring="blocker"), torch.randn(1, 3000) + 2.0
    y, last_x, last_y = [], 0.0, 0.0
    for x in wave[0].tolist():
        last_y = x - last_x + 0.995 * last_y
        last_x = x
        y.append(last_y)
    torch.testing.assert_close(front._centred(wave)[0], torch.tensor(y), atol=1e-4, rtol=1e-4)


def test_every_filter_has_weight_at_the_edge_sizes() -> None:
    for mels in (40, 64):
        assert (mel_matrix(mels, 512, 16_000, 20.0, 8000.0).sum(0) > 0).all()


def test_features_are_cached_and_equal(tmp_path: Path) -> None:
    clips, front = toy_kws(9, classes=3), LogMel(mels=40)
    calls: list[tuple[int, int, str]] = []
    first = audio_features(
        clips, front, samples=16_240, cache=tmp_path, batch=4, progress=lambda *a: calls.append(a)
    )
    assert [c[:2] for c in calls] == [(4, 9), (8, 9), (9, 9)]
    again = audio_features(clips, front, samples=16_240, cache=tmp_path, progress=lambda *a: 1 / 0)
    assert torch.equal(first.inputs, again.inputs)
    assert first.inputs.shape == (9, 1, 100, 40)
    assert first.targets.tolist() == [0, 1, 2] * 3


def test_clips_are_cut_in_the_middle_and_padded_behind() -> None:
    assert fitted(np.arange(10), 4).tolist() == [3, 4, 5, 6]
    assert fitted(np.arange(3), 5).tolist() == [0, 1, 2, 0, 0]


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(SpecError, match="takes audio"):
        audio_features(toy_img(2), LogMel(), samples=16_000)
    with pytest.raises(SpecError, match="has 8000 Hz, the front end 16000"):
        audio_features(toy_kws(2, sample_rate=8000), LogMel(), samples=16_000)
    with pytest.raises(SpecError, match="100 samples, one frame takes 400"):
        LogMel().raw(torch.zeros(1, 100))


def test_padding_before_or_after_normalising() -> None:
    wave = torch.randn(1, 1600)
    for mean, std, value in ((-4.2677393, 4.5689974, 0.467), (-6.845978, 5.5654526, 0.615)):
        by_mean = LogMel(mels=40, frames=20, mean=mean, std=std)(wave)
        raw = LogMel(mels=40, frames=20, mean=mean, std=std, fill="raw_zero")(wave)
        assert torch.equal(by_mean[..., :8, :], raw[..., :8, :])
        assert float(by_mean[..., 8:, :].abs().max()) == 0.0
        assert raw[..., 8:, :].unique().item() == pytest.approx(value, abs=6e-4)
    with pytest.raises(SpecError, match="fill is 'zero', must be mean or raw_zero"):
        LogMel(fill="zero")
