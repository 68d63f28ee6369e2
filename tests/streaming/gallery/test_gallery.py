"""Every network of the gallery through streamify, and through w8a8 to the engines."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import spectral_edge as se
from spectral_edge.runtimes.engines.compiler import compiler
from tests.streaming.gallery.catalogue import GALLERY
from tests.streaming.support import assert_law, clip_like, randomised

LENGTHS = (1, 5, 70)  # in steps
LARGE = 1000  # nodes of a step
QUICK = ("deep filter", "dtln", "fsmn", "kwt", "rnnoise", "svdf", "tcn")  # the rest is slow


def names(*, quick: bool) -> list[object]:
    at_once = QUICK if quick else ()
    slow = [pytest.param(n, marks=marks(n)) for n in GALLERY if n not in at_once]
    return [*at_once, *slow]


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow, *([pytest.mark.long] if name == "gtcrn" else [])]


@pytest.mark.parametrize("name", names(quick=True))
def test_float_parity(name: str) -> None:
    torch.manual_seed(0)
    entry = GALLERY[name]()
    model = randomised(entry.model)
    start = time.perf_counter()
    program = se.streamify(model, entry.example, entry.time_dim)
    seconds = time.perf_counter() - start
    assert (program.delay, program.hop_multiple) == (entry.delay, entry.hop_multiple)
    worst = max(
        assert_law(model, program, entry.example, LENGTHS, seed=seed, batch=2) for seed in (1, 2)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{name}: {parameters} parameters, {program.node_count} nodes, "
        f"{program.state_elements} state values, delay {program.delay}, error {worst:.1e}, "
        f"{seconds:.1f} s, peak {peak:.0f} MiB"
    )


@pytest.mark.parametrize("name", names(quick=False))
def test_w8a8_codes_on_engines(name: str, tmp_path: Path) -> None:
    """One table of scales in torch, TFLite and ONNX; the same codes in a closed loop."""
    torch.manual_seed(0)
    entry = GALLERY[name]()
    model = randomised(entry.model)
    program = se.streamify(model, entry.example, entry.time_dim, check_lengths=())
    int8 = se.quantize(program, clips(program, entry.example))
    bundle = se.export(int8, tmp_path / "network.seb")
    engines = ["litert", "onnxruntime"]
    if compiler() and program.node_count < LARGE:  # compiling the largest takes half a minute
        engines.append("native")
    report = se.check(bundle, engines=engines)
    print(report.table())
    assert report.passed, report.table()
    for engine in report.engines:
        if engine.engine.startswith("native"):  # C of our own: the golden integers and no others
            outputs = engine.tensors[: len(program.outputs)]
            assert all(t.equal == 1.0 for t in outputs), report.table()


def clips(program: se.StepProgram, example: Sequence[torch.Tensor]) -> list[Any]:
    """Four random clips of 100 steps at batch 1, of 15 where a step is very many nodes."""
    frames = (100 if program.node_count < LARGE else 15) * program.hop_multiple
    axes = [spec.time_dim for spec in program.inputs]
    return [
        tuple(clip_like(x, axis, frames, 1) for x, axis in zip(example, axes, strict=True))
        for _ in range(4)
    ]


@pytest.mark.slow
def test_no_drift_over_10_000_hops() -> None:
    torch.manual_seed(0)
    entry = GALLERY["gru mask"]()
    model = randomised(entry.model)
    program = se.streamify(model, entry.example, entry.time_dim)
    assert_law(model, program, entry.example, (10_000,))


def test_the_gtcrn_class_network_has_the_published_size() -> None:
    parameters = sum(p.numel() for p in GALLERY["gtcrn"]().model.parameters())
    assert 23_000 <= parameters <= 25_000
