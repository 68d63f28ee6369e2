"""The golden files are what the NumPy model computes today; the C tests read the same files."""

from __future__ import annotations

import pytest

from spectral_edge.dsp.engine_numpy import GoldenEngine
from tests.golden.regenerate import (
    FRONTEND_CASES,
    HERE,
    STFT_CASES,
    frontend_hash,
    frontend_line,
    plan_of,
    stft_hash,
    vector_lines,
)

HASHES = (HERE / "hashes.txt").read_text().splitlines()


@pytest.mark.parametrize("case", STFT_CASES, ids=lambda c: "-".join(map(str, c)))
def test_stft_hash(case):
    assert f"stft {case[0]} {case[1]} {case[2]} {stft_hash(*case)}" in HASHES


@pytest.mark.parametrize("case", FRONTEND_CASES, ids=lambda c: c[0].fingerprint)
def test_frontend_hash(case):
    plan = plan_of(*case)
    assert f"{frontend_line(*case)} {frontend_hash(GoldenEngine(plan), plan)}" in HASHES


def test_every_line_is_tested():
    assert len(HASHES) == len(STFT_CASES) + len(FRONTEND_CASES)


def test_vectors():
    assert (HERE / "stft_vectors.txt").read_text().splitlines() == list(vector_lines())
