"""Mixing on the fly: levels, determinism, clips from folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from spectral_edge.errors import AudioError, SpecError
from spectral_edge.training.clips import load_clips, load_pairs, to_int16
from spectral_edge.training.mixing import Mixtures, active_level, change_speeds, rms
from spectral_edge.training.recipe import MixRecipe

RATE = 16_000
EVERYTHING = MixRecipe(
    seconds=0.5,
    pause=0.5,
    second_noise=0.5,
    babble=0.3,
    shaped=0.3,
    equalize=0.5,
    reverb=0.5,
)


def _mixtures(mix: MixRecipe, *, seed: int = 0, first: int = 0, count: int = 12) -> Mixtures:
    clean = load_clips(["toy:3"], None, RATE, "clean")
    noise = load_clips(["toy:3"], None, RATE, "noise")
    return Mixtures(clean, noise, mix, RATE, seed=seed, first=first, count=count)


def test_example_depends_on_seed_and_index_only() -> None:
    whole, tail = _mixtures(EVERYTHING), _mixtures(EVERYTHING, first=5, count=7)
    for offset in range(7):
        for a, b in zip(whole[5 + offset], tail[offset], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(whole[0][0], _mixtures(EVERYTHING, seed=1)[0][0])


def test_worker_processes_give_the_same_examples() -> None:
    mixtures = _mixtures(EVERYTHING, count=4)
    alone = list(DataLoader(mixtures, batch_size=2))
    workers = list(DataLoader(mixtures, batch_size=2, num_workers=2))
    for a, b in zip(alone, workers, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_examples_are_finite_and_unclipped() -> None:
    mixtures = _mixtures(EVERYTHING, count=40)
    for index in range(len(mixtures)):
        noisy, clean = mixtures[index]
        assert noisy.dtype == clean.dtype == torch.float32
        assert noisy.shape == clean.shape == (RATE // 2,)
        assert bool(torch.isfinite(noisy).all())
        assert float(torch.maximum(noisy.abs(), clean.abs()).max()) <= 1.0


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_snr_and_level_are_those_asked_for(snr: float) -> None:
    mix = MixRecipe(
        seconds=1.0, snr_db=(snr, snr), level_dbfs=(-30.0, -30.0), pause=0.0, second_noise=0.0
    )
    noisy, clean = (part.numpy() for part in _mixtures(mix)[0])
    noise = noisy - clean
    assert 20 * np.log10(active_level(clean) / rms(noise)) == pytest.approx(snr, abs=0.01)
    assert 20 * np.log10(rms(noisy)) == pytest.approx(-30.0, abs=0.01)


def test_room_keeps_the_direct_sound_in_the_target() -> None:
    dry = MixRecipe(seconds=0.5, snr_db=(60.0, 60.0), pause=0.0, reverb=0.0)
    wet = MixRecipe(seconds=0.5, snr_db=(60.0, 60.0), pause=0.0, reverb=1.0)
    assert _residue(wet) > 100 * _residue(dry)


def _residue(mix: MixRecipe) -> float:
    noisy, clean = (part.numpy() for part in _mixtures(mix)[1])
    return float(np.sum((noisy - clean) ** 2) / np.sum(clean**2))


def test_active_level_ignores_pauses() -> None:
    tone = 0.1 * np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    padded = np.concatenate((np.zeros(RATE, np.float32), tone))
    assert active_level(padded) == pytest.approx(active_level(tone))
    assert rms(padded) == pytest.approx(rms(tone) / np.sqrt(2))


def test_speeds_change_the_length() -> None:
    pytest.importorskip("soxr", reason="soxr is not installed")
    clip = load_clips(["toy:1"], None, RATE, "clean")[0]
    slow, same, fast = change_speeds([clip], [0.9, 1.0, 1.1], RATE)
    assert slow.size == pytest.approx(clip.size / 0.9, abs=2)
    assert fast.size == pytest.approx(clip.size / 1.1, abs=2)
    assert same is clip
    assert slow.dtype == fast.dtype == np.int16


def _write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def test_folders_are_read_in_order_with_sub_folders(tmp_path: Path) -> None:
    for index, name in enumerate(["b.wav", "a/z.flac", "a/y.WAV"]):
        _write(tmp_path / name, np.full(10 + index, 100, np.int16))
    clips = load_clips([tmp_path.name], str(tmp_path.parent), RATE, "clean")
    assert [clip.size for clip in clips] == [12, 11, 10]
    assert all(clip.dtype == np.int16 and clip[0] == 100 for clip in clips)


def test_pairs_are_matched_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "noisy/a.wav", np.full(9, 2, np.int16))
    _write(tmp_path / "clean/a.wav", np.full(9, 1, np.int16))
    ((noisy, clean),) = load_pairs([str(tmp_path)], None, RATE)
    assert (noisy[0], clean[0]) == (2, 1)
    _write(tmp_path / "clean/a.wav", np.full(8, 1, np.int16))
    with pytest.raises(AudioError, match="9 samples, its clean file 8"):
        load_pairs([str(tmp_path)], None, RATE)
    (tmp_path / "clean/a.wav").unlink()
    with pytest.raises(SpecError, match="no clean file"):
        load_pairs([str(tmp_path)], None, RATE)


def test_bad_files_and_folders_are_refused(tmp_path: Path) -> None:
    def load() -> None:
        load_clips([str(tmp_path)], None, RATE, "noise")

    with pytest.raises(SpecError, match=r"holds no \.wav or \.flac"):
        load()
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nonsense")
    with pytest.raises(AudioError, match="not audio"):
        load()
    _write(bad, np.zeros(10, np.int16), 44_100)
    with pytest.raises(AudioError, match="44100 Hz, training needs 16000"):
        load()
    _write(bad, np.zeros((10, 2), np.int16))
    with pytest.raises(AudioError, match="2 channels"):
        load()
    _write(bad, np.zeros(0, np.int16))
    with pytest.raises(AudioError, match="is empty"):
        load()


@pytest.mark.parametrize(
    ("folders", "message"), [([], "data.noise is empty"), (["toy:x"], "'toy:' and a count")]
)
def test_bad_folder_names_are_refused(folders: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_clips(folders, None, RATE, "noise")


def test_int16_saturates() -> None:
    assert to_int16(np.array([2.0, -2.0, 0.5])).tolist() == [32767, -32768, 16384]
