"""Damaged TFLite files: an error of this project, never a crash, never C that runs wild."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_edge.converters.c import CSource, compile_step
from spectral_edge.converters.tflite.builder import Builder
from spectral_edge.converters.to_tflite import write_tflite
from spectral_edge.errors import ConversionError, UnsupportedOp
from tests.converters.c.running import built, driver, sanitizers
from tests.converters.canonical import quantised, step_program
from tests.runtimes.tiny import tiny_bundle

RUN_OF_ACCEPTED = 6  # damaged files that still read, compiled and run under the sanitizers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, (1, 3), padding=(0, 1))
            self.line = torch.nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(self.conv(x)).mean(1)
            return torch.softmax(self.line(torch.cat([y, y * 2.0], 1)[:, :1]), -1)

    torch.manual_seed(0)
    program = step_program(Net(), [torch.randn(1, 3, 2, 8)])
    tiny = tiny_bundle(tmp_path_factory.mktemp("hostile") / "tiny.seb")
    return {
        "tiny": tiny.member("model.tflite"),
        "float": write_tflite(program).data,
        "codes": write_tflite(quantised(program)).data,
    }


def attempt(content: bytes) -> CSource | None:
    """The source of a file, None when it is refused as it should be."""
    try:
        return compile_step(content)
    except ConversionError:
        return None


@pytest.mark.parametrize("name", ["tiny", "float", "codes"])
def test_every_truncation_is_refused(name: str, files: dict[str, bytes]) -> None:
    content = files[name]
    for size in range(0, len(content), max(1, len(content) // 150)):
        attempt(content[:size])
    for size in (0, 1, 7, 16):
        with pytest.raises(ConversionError, match="TFLite file"):
            compile_step(content[:size])


@pytest.mark.parametrize("name", ["tiny", "float", "codes"])
def test_flipped_bytes_are_refused_or_read(name: str, files: dict[str, bytes]) -> None:
    content, rng = files[name], np.random.default_rng(5)
    accepted = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        accepted += attempt(bytes(damaged)) is not None
    assert 0 < accepted < 400


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float", "codes"])
def test_what_is_read_after_damage_runs_within_its_memory(
    name: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    content, rng, ran = files[name], np.random.default_rng(6), 0
    plain = compile_step(content).source
    while ran < RUN_OF_ACCEPTED:
        damaged = bytearray(content)
        damaged[int(rng.integers(len(damaged)))] ^= int(rng.integers(1, 256))
        made = attempt(bytes(damaged))
        if made is None or made.source == plain:
            continue
        program = built(made.source, tmp_path, *sanitizers(), main=driver(made, 5))
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
        ran += 1


def one_operator(code: str, shape: tuple[int, ...], operands: int = 1) -> bytes:
    """A file with one operator of (1, 4) operands."""
    builder = Builder()
    x = builder.tensor("x", (1, 4), "float32")
    y = builder.tensor("y", shape, "float32")
    builder.operator(code, 1, [x] * operands, [y])
    return builder.finish({"x": x}, {"y": y}, signature="step", description="", metadata={})


def test_an_operator_without_a_form_is_named() -> None:
    with pytest.raises(UnsupportedOp, match="operator 0 is CUMSUM, which has no C form"):
        compile_step(one_operator("CUMSUM", (1, 4)))


@pytest.mark.parametrize("shape", [(), (4,), (1, 3), (2, 1, 1)])
@pytest.mark.parametrize(("code", "operands"), [("ADD", 2), ("TANH", 1), ("SOFTMAX", 1)])
def test_a_result_of_another_shape_is_refused(
    code: str, operands: int, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ConversionError, match=rf"operator 0 \({code}\)"):
        compile_step(one_operator(code, shape, operands))


@pytest.mark.parametrize("code", ["TANH", "RESHAPE"])
def test_long_chains_end_in_source_or_in_an_error_of_ours(code: str) -> None:
    builder = Builder()
    x = last = builder.tensor("x", (1, 4), "float32")
    for _ in range(3000):
        made = builder.tensor("y", (1, 4), "float32")
        builder.operator(code, 1, [last], [made])
        last = made
    content = builder.finish({"x": x}, {"y": last}, signature="step", description="", metadata={})
    made_source = attempt(content)
    if code == "TANH":
        assert made_source is not None
        assert 3000 / 200 <= made_source.kernels <= 3000 / 100
