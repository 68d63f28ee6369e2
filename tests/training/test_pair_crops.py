"""Pieces of finished pairs: aligned, repeatable, every pair in its turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spectral_edge.errors import AudioError
from spectral_edge.training.mixing import PairCrops

RATE = 16_000


def clips(lengths: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = []
    for i, n in enumerate(lengths):
        clean = (np.arange(n) % 1000 + 1000 * i + 1).astype(np.int16)
        rows.append((-clean, clean))
    return rows


def crops(pairs: list, **changes: int) -> PairCrops:
    settings = {"seed": 3, "first": 0, "count": 8} | changes
    return PairCrops(pairs, 0.01, RATE, **settings)


def test_pieces_are_aligned_and_repeatable() -> None:
    a, b = (crops(clips((400, 500, 300))) for _ in range(2))
    for i in range(len(a)):
        noisy, clean = a[i]
        assert noisy.shape == clean.shape == (160,)
        assert torch.equal(noisy, -clean)
        assert torch.equal(noisy, b[i][0])
    assert torch.equal(a[5][0], crops(clips((400, 500, 300)), first=5)[0][0])


def test_every_pair_comes_up_before_any_again() -> None:
    a = crops(clips((400, 500, 300)), count=6)
    seen = [int(a[i][1].abs().max() * 32768) // 1000 for i in range(6)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


def test_short_pairs_end_in_silence_and_files_are_read(tmp_path: Path) -> None:
    ((noisy, clean),) = clips((100,))
    for name, clip in (("noisy", noisy), ("clean", clean)):
        soundfile.write(tmp_path / f"{name}.wav", clip, RATE, subtype="PCM_16")
    files = [(tmp_path / "noisy.wav", tmp_path / "clean.wav")]
    piece = crops(files)[0][1]
    assert torch.equal(piece, crops([(noisy, clean)])[0][1])
    assert not piece[100:].any()
    with pytest.raises(AudioError, match="must be aligned"):
        crops([(noisy, clean[:-1])])[0]
