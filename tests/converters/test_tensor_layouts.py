"""Layouts: reshapes that move nothing are found, and every axis survives channels-last storage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

from spectral_edge.converters.tflite.layout import (
    channels_last,
    identity,
    physical,
    same_order,
    view_layout,
    view_ready_layout,
)
from spectral_edge.converters.to_tflite import write_tflite
from tests.converters.canonical import step_program
from tests.converters.gallery import IMAGE, Lambda, LitertStep, random_feeds, run_torch
from tests.tolerances import FLOAT_ENGINE_ABSOLUTE

FACTORS = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5)


def _stored(x: np.ndarray, perm: tuple[int, ...]) -> np.ndarray:
    return x.transpose(perm).ravel()


def _shapes(data: st.DataObject) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes with equal products, made by grouping one list of factors twice."""
    factors = data.draw(FACTORS)
    shapes = []
    for _ in range(2):
        shape, rest = [], list(factors)
        while rest:
            take = data.draw(st.integers(1, len(rest)))
            shape.append(int(np.prod(rest[:take])))
            rest = rest[take:]
        shapes.append(tuple(shape))
    return shapes[0], shapes[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_view_layout_keeps_every_byte_in_place(data: st.DataObject) -> None:
    old, new = _shapes(data)
    perm = tuple(data.draw(st.permutations(range(len(old)))))
    x = np.arange(np.prod(old)).reshape(old)
    found = view_layout(old, new, perm)
    if found is None:
        perm = view_ready_layout(old, new, perm)
        found = view_layout(old, new, perm)
    assert found is not None
    np.testing.assert_array_equal(_stored(x, perm), _stored(x.reshape(new), found))


def test_merging_axes_that_lie_apart_has_no_layout() -> None:
    assert view_layout((1, 4, 6, 5), (1, 24, 5), channels_last(4)) is None


def test_splitting_channels_has_a_layout() -> None:
    perm = view_layout((1, 16, 6, 5), (1, 4, 4, 6, 5), channels_last(4))
    assert perm is not None
    assert physical((1, 4, 4, 6, 5), perm) == (1, 6, 5, 4, 4)


def test_axes_of_size_one_do_not_matter() -> None:
    assert same_order((1, 8, 1, 1), channels_last(4), identity(4))
    assert not same_order((1, 8, 1, 2), channels_last(4), identity(4))


AXES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cat": lambda x, d: torch.cat((x, -x), d),
    "slice": lambda x, d: x.narrow(d, 1, x.shape[d] - 2),
    "slice_step": lambda x, d: x[tuple(slice(None, None, 3 if i == d else 1) for i in range(4))],
    "pad": lambda x, d: F.pad(x, [0, 0] * (3 - d) + [2, 1]),
    "pad_value": lambda x, d: F.pad(x, [0, 0] * (3 - d) + [1, 2], value=0.5),
    "softmax": lambda x, d: x.softmax(d),
    "mean": lambda x, d: x.mean(d),
    "mean_kept": lambda x, d: x.mean(d, keepdim=True),
    "amax": lambda x, d: x.amax(d),
    "sum_but_one": lambda x, d: x.sum([i for i in range(1, 4) if i != d]),
    "select": lambda x, d: x.select(d, 2),
    "flip": lambda x, d: x.flip(d),
    "roll": lambda x, d: x.roll(2, d),
    "split": lambda x, d: torch.cat(x.split(2, d)[:2], d),
    "stack": lambda x, d: torch.stack((x, x + 1), d),
    "unsqueeze": lambda x, d: x.unsqueeze(d) * 2,
    "layer_norm": lambda x, d: F.layer_norm(x.transpose(d, 3), x.transpose(d, 3).shape[3:]),
    "repeat": lambda x, d: x.repeat([3 if i == d else 1 for i in range(4)]),
    "transpose_view": lambda x, d: x.transpose(d, 3).reshape(1, -1),
    "linear": lambda x, d: x.transpose(d, 3) @ torch.ones(x.shape[d], 3),
    "index_select": lambda x, d: x.index_select(d, torch.tensor([3, 0, 2])),
    "broadcast": lambda x, d: x + torch.arange(x.shape[d]).reshape([-1] + [1] * (3 - d)),
}


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("name", AXES)
def test_every_axis_of_a_channels_last_image(name: str, axis: int) -> None:
    program = step_program(Lambda(lambda x: AXES[name](x, axis)), [torch.randn(IMAGE)])
    file = write_tflite(program)
    feeds = random_feeds(program)
    result = LitertStep(file.data, file.layout)(feeds)["output"]
    expected = run_torch(program, feeds)["output"]
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= FLOAT_ENGINE_ABSOLUTE * 10


def test_convolutions_of_an_image_need_no_transpose() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(16, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, (1, 3))
    )
    file = write_tflite(step_program(model, [torch.randn(IMAGE)]))
    assert file.op_counts == {"CONV_2D": 2}
    assert list(file.layout.values()) == [[0, 2, 3, 1]] * 2


def test_a_padding_that_same_describes_writes_one_operator() -> None:
    """A kernel as high as the image leaves the stride along height free."""
    model = torch.nn.Conv2d(16, 8, (6, 5), padding=(0, 2))
    assert write_tflite(step_program(model, [torch.randn(IMAGE)])).op_counts == {"CONV_2D": 1}


def test_permutes_between_products_cost_nothing() -> None:
    def attention(x: Tensor) -> Tensor:
        heads = x.view(1, 24, 4, 8).transpose(1, 2)
        mixed = (heads @ heads.transpose(2, 3)).softmax(-1) @ heads
        return mixed.transpose(1, 2).reshape(1, 24, 32)

    file = write_tflite(step_program(Lambda(attention), [torch.randn(1, 24, 32)]))
    assert file.op_counts.get("TRANSPOSE", 0) <= 2, file.op_counts
