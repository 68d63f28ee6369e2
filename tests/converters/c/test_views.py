"""Strided views against NumPy: whatever can be said with strides reads the same elements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral_edge.converters.c.view import Buffer, View, collapse, contiguous


def elements(view: View) -> NDArray[np.int64]:
    """Element numbers that a view reads."""
    grid = np.indices(view.shape).reshape(len(view.shape), math.prod(view.shape))
    steps = np.array(view.strides, np.int64).reshape(-1, 1)
    return (view.offset + (grid * steps).sum(axis=0)).reshape(view.shape)


def factorised(size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """A random shape of ``size`` elements."""
    shape = []
    while size > 1:
        options = [d for d in range(2, size + 1) if size % d == 0]
        shape.append(int(rng.choice(options)))
        size //= shape[-1]
    for _ in range(int(rng.integers(3))):
        shape.insert(int(rng.integers(len(shape) + 1)), 1)
    return tuple(shape)


@pytest.mark.parametrize("seed", range(40))
def test_moves_read_what_numpy_reads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, 4))
    size = math.prod(shape)
    view, array = contiguous(Buffer("float32", size), shape), np.arange(size).reshape(shape)
    for _ in range(6):
        kind = rng.integers(3)
        if kind == 0:
            order = [int(i) for i in rng.permutation(len(view.shape))]
            view, array = view.permuted(order), array.transpose(order)
        elif kind == 1 and view.shape:
            begin = [int(rng.integers(n)) for n in view.shape]
            part = tuple(
                int(rng.integers(1, n - b + 1)) for n, b in zip(view.shape, begin, strict=True)
            )
            view = view.sliced(begin, part, [1] * len(part))
            array = array[tuple(slice(b, b + n) for b, n in zip(begin, part, strict=True))]
        else:
            wanted = factorised(array.size, rng)
            reshaped = view.reshaped(wanted)
            if reshaped is not None:
                view, array = reshaped, array.reshape(wanted)
        assert view.shape == array.shape
        assert np.array_equal(elements(view), array)
        if view.is_packed:
            assert np.array_equal(array.reshape(-1), view.offset + np.arange(array.size))
        sizes, (steps,) = collapse(view.shape, [view.strides])
        flat = elements(View(view.buffer, sizes, steps, view.offset))
        assert np.array_equal(flat.reshape(-1), array.reshape(-1))


def test_a_packed_view_takes_every_shape() -> None:
    view = contiguous(Buffer("int8", 24), (2, 3, 4))
    assert view.reshaped((4, 6)) == contiguous(view.buffer, (4, 6))
    assert view.permuted([1, 0, 2]).reshaped((24,)) is None
