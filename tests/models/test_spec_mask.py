"""SpecMask's invariants, for every draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from spectral_edge.errors import SpecError
from spectral_edge.layers.spec_mask import SpecAugment, SpecMask

SHAPES = st.tuples(st.integers(4, 130), st.sampled_from((8, 40, 64, 128)))


@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    patch=st.sampled_from((1, 2, 4)),
    budget=st.floats(0, 0.9),
    share=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_area_is_exact_aligned_and_repeatable(
    shape: tuple[int, int], patch: int, budget: float, share: float, seed: int
) -> None:
    frames, mels = shape
    mask = SpecMask(patch=patch, budget=budget, full_share=share)
    cells = mask.draw(frames, mels, np.random.default_rng(seed))
    columns = frames // patch
    # the budget is the same for any share, and nothing is hidden twice (area counts cells once)
    assert cells.sum() == patch * mask.area(frames, mels)
    assert not cells[columns * patch :].any()
    grid = cells[: columns * patch].reshape(columns, patch, mels)
    assert (grid == grid[:, :1]).all()  # aligned to patches
    again = mask.draw(frames, mels, np.random.default_rng(seed))
    assert np.array_equal(cells, again)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_full_columns_take_their_share(share: float) -> None:
    mask = SpecMask(patch=4, budget=0.25, full_share=share)
    counts = []
    for seed in range(30):
        cells = mask.draw(128, 64, np.random.default_rng(seed))[::4]
        counts.append(int(cells.all(axis=1).sum()))
    wanted = round(share * mask.area(128, 64) / 64)
    assert min(counts) >= wanted  # local blocks may complete a column by chance
    assert np.mean(counts) < wanted + 1.0


def test_free_alignment_keeps_the_area() -> None:
    mask = SpecMask(patch=8, budget=0.3, aligned=False)
    areas = {int(mask.draw(96, 40, np.random.default_rng(s)).sum()) for s in range(20)}
    assert areas == {8 * mask.area(96, 40)}


def test_apply_fills_and_leaves_the_rest() -> None:
    x = torch.randn(5, 1, 96, 64)
    y = SpecMask(probability=1.0, fill=7.0).apply(x, np.random.default_rng(0))
    hidden = y == 7.0
    assert torch.equal(y[~hidden], x[~hidden])
    assert (hidden.sum((1, 2, 3)) == 4 * SpecMask().area(96, 64)).all()
    assert torch.equal(SpecMask(probability=0.0).apply(x, np.random.default_rng(0)), x)


def test_spec_augment_covers_its_expected_share() -> None:
    augment = SpecAugment(frequency=48, time=192)
    rng = np.random.default_rng(0)
    mean = np.mean([augment.draw(1024, 128, rng).mean() for _ in range(400)])
    assert augment.expected_share(1024, 128) == pytest.approx(0.26, abs=0.01)
    assert SpecAugment().expected_share(128, 128) == pytest.approx(0.34, abs=0.01)
    assert mean == pytest.approx(augment.expected_share(1024, 128), abs=0.02)


@pytest.mark.parametrize(
    "bad", [{"budget": 1.5}, {"full_share": -1.0}, {"patch": 0}, {"probability": 2.0}]
)
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="must be"):
        SpecMask(**bad)
