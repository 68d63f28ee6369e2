"""The C functions of one value against float64: their largest error in units of the last place."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral_edge.converters.c.prelude import HEAD, helpers
from spectral_edge.runtimes.engines.compiler import library_for
from tests.converters.c.running import command

COUNT = 1 << 20
CASES: dict[str, tuple[Callable[..., NDArray[np.float64]], float, float, float]] = {
    "se_exp": (np.exp, -87.0, 88.0, 2.0),
    "se_logistic": (lambda x: 1 / (1 + np.exp(-x)), -80.0, 30.0, 4.0),
    "se_tanh": (np.tanh, -12.0, 12.0, 4.0),
    "se_log": (np.log, 1e-30, 1e4, 2.0),
}


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    command()
    loops = "".join(
        f"void all_{n}(const float *x, float *y, int n) {{"
        f" for (int i = 0; i < n; i++) y[i] = {n}(x[i]); }}\n"
        for n in CASES
    )
    return ctypes.CDLL(str(library_for(HEAD + helpers(loops) + loops)[0]))


def call(library: ctypes.CDLL, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.empty_like(x)
    library[f"all_{name}"](
        x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), len(x)
    )
    return y


@pytest.mark.parametrize("name", CASES)
def test_error_stays_within_the_promise(name: str, library: ctypes.CDLL) -> None:
    exact, low, high, most = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, COUNT)
    small = np.exp(rng.uniform(-20, 0, COUNT)) * rng.choice([-1.0, 1.0], COUNT)
    x = np.concatenate([x, np.abs(small) if name == "se_log" else small]).astype(np.float32)
    wanted = exact(x.astype(np.float64))
    unit = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    error = np.abs(call(library, name, x).astype(np.float64) - wanted) / unit
    print(f"{name}: {error.max():.2f} ulp at {x[error.argmax()]!r}")
    assert error.max() <= most


def test_ends_of_the_range(library: ctypes.CDLL) -> None:
    x = np.array([-np.inf, -200.0, -104.0, 0.0, 200.0, np.inf], np.float32)
    assert call(library, "se_exp", x)[[0, 1, 3]].tolist() == [0.0, 0.0, 1.0]
    assert np.isinf(call(library, "se_exp", x)[4:]).all()
    assert call(library, "se_tanh", x).tolist() == [-1.0, -1.0, -1.0, 0.0, 1.0, 1.0]
    assert call(library, "se_logistic", x)[3:].tolist() == [0.5, 1.0, 1.0]
    logs = call(library, "se_log", np.array([0.0, -1.0, 1.0, np.inf], np.float32))
    assert logs[0] == -np.inf
    assert np.isnan(logs[1])
    assert logs[2:].tolist() == [0.0, np.inf]
