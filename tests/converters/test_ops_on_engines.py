"""Every op, int8 and float32: torch, LiteRT, ONNX Runtime and the old runtime give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectral_edge.converters.coverage import delegation
from spectral_edge.converters.file_qparams import verify_qparams
from spectral_edge.converters.tflite.versions import FLOOR
from spectral_edge.converters.to_onnx import to_onnx
from spectral_edge.converters.to_tflite import TfliteFile, write_tflite
from spectral_edge.program import StepProgram
from tests.converters.canonical import quantised, step_program
from tests.converters.gallery import (
    CASES,
    Gallery,
    LitertStep,
    codes_equal,
    onnx_session,
    random_feeds,
    run_old_runtime,
    run_onnx,
    run_torch,
)
from tests.tolerances import (
    FLOAT_ENGINE_ABSOLUTE,
    LITERT_CODES_EQUAL,
    ONNXRUNTIME_CODES_EQUAL,
    TFLITE_RUNTIME_MAX_CODES,
)

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def floats() -> StepProgram:
    inputs = [torch.randn(s) for case in CASES.values() for s in case.shapes]
    return step_program(Gallery(CASES), inputs, output_names=list(CASES))


@pytest.fixture(scope="module")
def codes(floats: StepProgram) -> StepProgram:
    return quantised(floats)


@pytest.fixture(scope="module")
def int8_file(codes: StepProgram) -> TfliteFile:
    return write_tflite(codes)


@pytest.fixture(scope="module")
def int8_onnx(codes: StepProgram) -> bytes:
    return to_onnx(codes)


@pytest.fixture(scope="module")
def int8_feeds(codes: StepProgram) -> Arrays:
    return random_feeds(codes)


@pytest.fixture(scope="module")
def int8_torch(codes: StepProgram, int8_feeds: Arrays) -> Arrays:
    return run_torch(codes, int8_feeds)


@pytest.fixture(scope="module")
def int8_litert(int8_file: TfliteFile, int8_feeds: Arrays) -> Arrays:
    return LitertStep(int8_file.data, int8_file.layout)(int8_feeds)


@pytest.fixture(scope="module")
def int8_onnxruntime(int8_onnx: bytes, int8_feeds: Arrays) -> Arrays:
    return run_onnx(onnx_session(int8_onnx), int8_feeds)


@pytest.fixture(scope="module")
def int8_old(
    int8_file: TfliteFile, int8_feeds: Arrays, tmp_path_factory: pytest.TempPathFactory
) -> Arrays:
    pytest.importorskip("tflite_runtime", reason="tflite-runtime is not installed")
    folder = tmp_path_factory.mktemp("old")
    return run_old_runtime(int8_file.data, int8_file.layout, int8_feeds, folder)


@pytest.mark.parametrize("name", CASES)
def test_litert_gives_the_codes_of_torch(
    name: str, int8_torch: Arrays, int8_litert: Arrays
) -> None:
    share, largest = codes_equal(int8_torch[name], int8_litert[name])
    assert (share >= LITERT_CODES_EQUAL, largest <= 1) == (True, True), (share, largest)


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_gives_the_codes_of_torch(
    name: str, int8_torch: Arrays, int8_onnxruntime: Arrays
) -> None:
    share, largest = codes_equal(int8_torch[name], int8_onnxruntime[name])
    assert (share >= ONNXRUNTIME_CODES_EQUAL, largest <= 1) == (True, True), (share, largest)


@pytest.mark.parametrize("name", CASES)
def test_old_runtime_gives_nearly_the_codes_of_torch(
    name: str, int8_torch: Arrays, int8_old: Arrays
) -> None:
    _, largest = codes_equal(int8_torch[name], int8_old[name])
    assert largest <= TFLITE_RUNTIME_MAX_CODES


def test_files_hold_the_qparams_of_the_program(
    codes: StepProgram, int8_file: TfliteFile, int8_onnx: bytes
) -> None:
    assert verify_qparams(codes, int8_file.data, int8_onnx) == []


def test_versions_stay_under_the_floor(int8_file: TfliteFile) -> None:
    above = {k: v for k, v in int8_file.op_versions.items() if v > FLOOR.get(k, 2)}
    assert set(above) <= {"REVERSE_V2"}


def test_only_known_operators_are_left_outside_the_partition(int8_file: TfliteFile) -> None:
    assert set(delegation(int8_file.data).holes) <= {"STRIDED_SLICE", "REVERSE_V2"}


def test_equal_programs_give_equal_bytes(codes: StepProgram, int8_file: TfliteFile) -> None:
    assert write_tflite(codes).data == int8_file.data


@pytest.fixture(scope="module")
def float_results(floats: StepProgram) -> tuple[Arrays, Arrays, Arrays]:
    feeds = random_feeds(floats)
    file = write_tflite(floats)
    return (
        run_torch(floats, feeds),
        LitertStep(file.data, file.layout)(feeds),
        run_onnx(onnx_session(to_onnx(floats)), feeds),
    )


@pytest.mark.parametrize("name", CASES)
def test_float_programs_agree_on_both_engines(
    name: str, float_results: tuple[Arrays, Arrays, Arrays]
) -> None:
    torch_result, litert_result, onnx_result = (r[name] for r in float_results)
    peak = max(1.0, float(np.abs(torch_result).max()))
    for result in (litert_result, onnx_result):
        assert np.abs(result - torch_result).max() <= FLOAT_ENGINE_ABSOLUTE * peak
