"""Scales that integer kernels refuse: activations that never move, or move very differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import Node

from spectral_edge.converters.coverage import delegation
from spectral_edge.converters.file_qparams import verify_qparams
from spectral_edge.converters.to_tflite import write_tflite
from spectral_edge.program import StepProgram
from tests.converters.canonical import DEQUANTIZE, QUANTIZE, quantised, step_program
from tests.converters.gallery import (
    IMAGE,
    Lambda,
    LitertStep,
    codes_equal,
    random_feeds,
    run_torch,
)
from tests.tolerances import LITERT_CODES_EQUAL

SCALES = {"next to nothing": 9.094947017729282e-13, "huge": 1e6}


def _with_output_scale(program: StepProgram, scale: float) -> StepProgram:
    """Replace the scale of everything that is not an input."""
    placed = {t.qparams.scale for t in program.inputs if t.qparams}

    def changed(node: Node) -> bool:
        return node.target in (QUANTIZE, DEQUANTIZE) and node.args[1] not in placed

    scale = float(np.float32(scale))
    for node in program.module.graph.nodes:
        if changed(node):
            node.args = (node.args[0], scale, 0, *node.args[3:])
    program.module.recompile()
    from dataclasses import replace

    outputs = tuple(
        replace(t, qparams=replace(t.qparams, scale=scale, zero_point=0))  # type: ignore[type-var]
        for t in program.outputs
    )
    return program.with_(outputs=outputs)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "conv2d": (lambda: nn.Conv2d(16, 8, 1), 1),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, groups=16), 1),
    "linear": (lambda: nn.Linear(20, 12), 1),
    "add": (lambda: Lambda(torch.add), 2),
    "sub": (lambda: Lambda(torch.sub), 2),
    "mul": (lambda: Lambda(torch.mul), 2),
    "square": (lambda: Lambda(torch.square), 1),
    "relu": (lambda: Lambda(torch.relu), 1),
    "mean": (lambda: Lambda(lambda x: x.mean(1)), 1),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
@pytest.mark.parametrize("name", MODELS)
def test_files_load_and_give_the_codes_of_torch(name: str, scale: float) -> None:
    make, count = MODELS[name]
    torch.manual_seed(0)
    program = quantised(step_program(make(), [torch.randn(IMAGE) for _ in range(count)]))
    program = _with_output_scale(program, scale)
    file = write_tflite(program)
    assert verify_qparams(program, file.data) == []
    assert delegation(file.data).holes == ()
    feeds = random_feeds(program)
    result: dict[str, Any] = LitertStep(file.data, file.layout)(feeds)
    share, largest = codes_equal(run_torch(program, feeds)["output"], result["output"])
    assert largest <= 1
    assert share >= LITERT_CODES_EQUAL
