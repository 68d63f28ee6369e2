"""The golden files are what the NumPy model computes today; the C tests read the same files."""

from __future__ import annotations

import pytest

from spectral_edge import _native
from spectral_edge.dsp.engine_numpy import GoldenEngine
from tests.golden.regenerate import (
    DCT_CASES,
    FRONTEND_CASES,
    HERE,
    MEL_CASES,
    PADDED_CASES,
    STFT_CASES,
    dct_hash,
    feature_vector_lines,
    frontend_hash,
    frontend_line,
    mel_hash,
    mel_line,
    plan_of,
    stft_hash,
    vector_lines,
)

HASHES = (HERE / "hashes.txt").read_text().splitlines()
BACKENDS = ["numpy", *(["c"] if _native.core() else [])]


def name_of(case):
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", STFT_CASES, ids=name_of)
def test_stft_hash(case):
    assert f"stft {name_of(case).replace('-', ' ')} {stft_hash(*case)}" in HASHES


@pytest.mark.parametrize("case", PADDED_CASES, ids=name_of)
def test_padded_hash(case):
    m, n_fft, hop, window = case
    assert f"padded {m} {n_fft} {hop} {window} {stft_hash(n_fft, hop, window, m)}" in HASHES


@pytest.mark.parametrize("case", FRONTEND_CASES, ids=lambda c: c[0].fingerprint)
def test_frontend_hash(case):
    plan = plan_of(*case)
    assert f"{frontend_line(*case)} {frontend_hash(GoldenEngine(plan), plan)}" in HASHES


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", MEL_CASES, ids=lambda c: f"{c.n_fft}-{c.mel['n_mels']}")
def test_log_mel_and_pcen_hash(case, backend):
    assert f"{mel_line(case)} {mel_hash(case, backend)}" in HASHES


@pytest.mark.parametrize("case", DCT_CASES, ids=name_of)
def test_dct_hash(case):
    assert f"dct {name_of(case).replace('-', ' ')} {dct_hash(*case)}" in HASHES


def test_every_line_is_tested():
    cases = (STFT_CASES, PADDED_CASES, FRONTEND_CASES, MEL_CASES, DCT_CASES)
    assert len(HASHES) == sum(map(len, cases))


@pytest.mark.parametrize(
    ("name", "lines"), [("stft", vector_lines), ("feature", feature_vector_lines)]
)
def test_vectors(name, lines):
    assert (HERE / f"{name}_vectors.txt").read_text().splitlines() == list(lines())
