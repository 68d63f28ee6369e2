"""Every op of the op gallery as C: the golden codes, and float32 within the engines' tolerance."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectral_edge.converters.c import compile_step
from spectral_edge.converters.exact import ExactStep
from spectral_edge.converters.to_tflite import TfliteFile, write_tflite
from spectral_edge.program import StepProgram
from spectral_edge.runtimes.engines import compiler as compiling
from tests.converters.c.running import CStep, built, driver, sanitizers
from tests.converters.canonical import quantised, step_program
from tests.converters.gallery import CASES, Gallery, boundary, codes_equal, random_feeds, run_torch
from tests.tolerances import FLOAT_ENGINE_ABSOLUTE

Arrays = dict[str, NDArray[Any]]
X86 = platform.machine() == "x86_64"

# The golden rollout has these as one op in float64 or as an integer sum, the file as several float
# operators or with a weight that no integer kernel takes: a code of many lies on the other side.
SPLIT_IN_THE_FILE = 0.995


@pytest.fixture(scope="module")
def floats() -> StepProgram:
    torch.manual_seed(0)
    inputs = [torch.randn(s) for case in CASES.values() for s in case.shapes]
    return step_program(Gallery(CASES), inputs, output_names=list(CASES))


@pytest.fixture(scope="module")
def codes(floats: StepProgram) -> StepProgram:
    return quantised(floats)


@pytest.fixture(scope="module")
def int8_file(codes: StepProgram) -> TfliteFile:
    return write_tflite(codes)


@pytest.fixture(scope="module")
def float_file(floats: StepProgram) -> TfliteFile:
    return write_tflite(floats)


@pytest.fixture(scope="module")
def golden(codes: StepProgram) -> Arrays:
    inputs, outputs = boundary(codes)
    feeds = random_feeds(codes)
    real = [
        torch.from_numpy(s.qparams.dequantize(feeds[n]) if s.qparams else feeds[n])
        for n, s in inputs
    ]
    results, _ = ExactStep(codes).step(real, [])
    return {
        name: spec.qparams.quantize(r.numpy()) if spec.qparams else r.numpy()
        for (name, spec), r in zip(outputs, results, strict=True)
    }


@pytest.fixture(scope="module")
def in_c(codes: StepProgram, int8_file: TfliteFile) -> Arrays:
    return CStep(int8_file.data, int8_file.layout)(random_feeds(codes))


@pytest.fixture(scope="module")
def floats_in_c(floats: StepProgram, float_file: TfliteFile) -> tuple[Arrays, Arrays]:
    feeds = random_feeds(floats)
    return run_torch(floats, feeds), CStep(float_file.data, float_file.layout)(feeds)


@pytest.mark.parametrize("name", CASES)
def test_codes_are_the_golden_ones(name: str, golden: Arrays, in_c: Arrays) -> None:
    share, largest = codes_equal(golden[name], in_c[name])
    assert largest <= 1
    assert share >= SPLIT_IN_THE_FILE, share


@pytest.mark.parametrize("name", CASES)
def test_float_results_are_those_of_torch(name: str, floats_in_c: tuple[Arrays, Arrays]) -> None:
    wanted, seen = (r[name] for r in floats_in_c)
    peak = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(seen - wanted).max() <= FLOAT_ENGINE_ABSOLUTE * peak


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86-64", "haswell"] if X86 else [])
def test_older_processors_give_the_same_codes(
    machine: str,
    codes: StepProgram,
    int8_file: TfliteFile,
    in_c: Arrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without AVX-512, and without AVX, other forms of the vector operations are compiled."""
    flags = [f"-march={machine}" if f == "-march=native" else f for f in compiling.FLAGS]
    monkeypatch.setattr(compiling, "FLAGS", tuple(flags))
    seen = CStep(int8_file.data, int8_file.layout)(random_feeds(codes))
    assert all(np.array_equal(seen[name], in_c[name]) for name in CASES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "float"])
def test_sanitizers_find_nothing(
    kind: str, int8_file: TfliteFile, float_file: TfliteFile, tmp_path: Path
) -> None:
    made = compile_step((int8_file if kind == "int8" else float_file).data)
    program = built(made.source, tmp_path, *sanitizers(), main=driver(made, 3))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
