"""Bundles that the runtime tests share; small, hand-written, real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtimes.tiny import tiny_bundle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A w8a8 bundle whose state matters."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny.seb").path


@pytest.fixture(scope="session")
def tiny_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of the same weights."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "float.seb", precision="float32").path


@pytest.fixture(scope="session")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A w8a8 bundle that lets everything through."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "through.seb", through=True).path


@pytest.fixture(scope="session")
def noise() -> NDArray[np.int16]:
    """int16[5000] of noise: not a whole number of hops."""
    rng = np.random.default_rng(11)
    return (rng.standard_normal(5000) * 3000).astype(np.int16)
