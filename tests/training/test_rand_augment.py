"""RandAugment: shapes stay, strength is bounded, a generator decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectral_edge.training.augment import Augment
from spectral_edge.training.classify_recipe import AugmentRecipe, FeatureRecipe
from spectral_edge.training.examples import LazyFeatures
from spectral_edge.training.rand_augment import CHANGES, rand_augment
from spectral_edge.training.synthetic import toy_img

pillow = pytest.importorskip("PIL.Image", reason="pillow is not installed")


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 32, channels)).astype(np.uint8)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_change_keeps_the_shape(name: str, channels: int) -> None:
    image = picture(channels)
    before = pillow.fromarray(image if channels == 3 else image[..., 0])
    for sign in (-1, 1):
        after = CHANGES[name](before, 0.9, sign)
        assert (after.size, after.mode) == (before.size, before.mode)
    moved = np.asarray(CHANGES[name](before, 0.9, 1)) != np.asarray(before)
    assert moved.any() or name in ("autocontrast", "color")


def test_generator_decides() -> None:
    a, b, c = (rand_augment(picture(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_batches_and_lazy_sets_use_it() -> None:
    torch.manual_seed(0)
    examples = toy_img(6)
    plain = LazyFeatures(examples, FeatureRecipe())
    lazy = LazyFeatures(examples, FeatureRecipe(), rand=True)
    x = torch.stack([plain[i][0] for i in range(6)])
    assert not torch.equal(torch.stack([lazy[i][0] for i in range(6)]), x)
    y = torch.arange(6) % 3
    change = Augment(AugmentRecipe(rand=True), FeatureRecipe(), 3, seed=0)
    changed, _ = change(x, y)
    assert changed.shape == x.shape
    assert float(changed.abs().max()) <= 1.0
    assert not torch.equal(changed, x)
    kept, _ = Augment(AugmentRecipe(rand=True), FeatureRecipe(lazy=True), 3, seed=0)(x, y)
    assert torch.equal(kept, x)
