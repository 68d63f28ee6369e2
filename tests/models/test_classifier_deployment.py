"""Every edge network on its way out: front end, window or stream, w8a8, bundle, sessions.

Weights are random (the law is about codes, not about accuracy), front ends are those that ship, and
the parity contract is that of ``docs/bundle-format.md``: :func:`spectral_edge.check`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.models.classifiers import build_classifier
from spectral_edge.models.dsm import Dsm, prepare_integer_spectrum
from spectral_edge.models.sliding import SlidingWindow
from spectral_edge.models.window import window_program
from spectral_edge.training.synthetic import toy_set

CLASSES = 10
LABELS = tuple(f"class {i}" for i in range(CLASSES))
ENGINES = ("litert", "onnxruntime")
INTEGER_AST = {"norm": "bn", "activation": "relu6"}
INTEGER_AUM = {"norm": "bn", "activation": "hardswish"}


@dataclass(frozen=True)
class Case:
    """A network, the frames (or pixels) it takes, and how it runs: window, stream or sliding."""

    model: str
    form: str
    size: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "dsm_kws_s": Case("dsm_kws_s", "window", (96, 64)),
    "dsm_kws_m": Case("dsm_kws_m", "window", (96, 64)),
    "dsm_tag": Case("dsm_tag", "window", (256, 64)),
    "dsm_img96": Case("dsm_img96", "picture", (96, 96)),
    "dsm_img128": Case("dsm_img128", "picture", (128, 128)),
    "dsm_stream": Case("dsm_stream", "stream", (100, 64)),
    "dsm_stream_k8": Case("dsm_stream_k8", "stream", (100, 64)),
    "dsm_stream_k32": Case("dsm_stream_k32", "stream", (100, 64)),
    "fftp_ast_xs": Case("fftp_ast_xs", "window", (100, 40)),
    "fftp_ast_s": Case("fftp_ast_s", "window", (100, 64)),
    "fftp_ast_m": Case("fftp_ast_m", "window", (100, 64)),
    "fftp_ast_tag": Case("fftp_ast_tag", "window", (1000, 64)),
    "fftp_ast_s, integer norm": Case("fftp_ast_s", "window", (100, 64), INTEGER_AST),
    "fftp_ast_s, sliding": Case("fftp_ast_s", "sliding", (100, 64), INTEGER_AST),
    "fftp_ast_stream": Case("fftp_ast_stream", "stream", (100, 64)),
    "ast, square patches": Case(
        "ast_tiny", "window", (96, 64), {"layers": 3, "width": 96, "prefix": 0, **INTEGER_AST}
    ),
    "aum, two directions": Case(
        "aum_tiny",
        "window",
        (96, 64),
        {"layers": 2, "width": 64, "order": 8, "readout": "mean", **INTEGER_AUM},
    ),
    "fftp_aum_xs": Case("fftp_aum_xs", "stream", (100, 40)),
    "fftp_aum_s": Case("fftp_aum_s", "stream", (100, 64)),
    "fftp_aum_m": Case("fftp_aum_m", "stream", (100, 64)),
    "fftp_aum_tag": Case("fftp_aum_tag", "stream", (100, 64)),
    "fftp_aum_s, integer norm": Case("fftp_aum_s", "stream", (100, 64), INTEGER_AUM),
}


@cache
def sounds(seconds: float) -> NDArray[np.int16]:
    """int16[samples] of synthetic words."""
    count = int(seconds) + 1
    words = toy_set("toy_kws", count, split="train", sample_rate=16_000)
    joined = np.concatenate([words.load(i) for i in range(count)])
    return joined[: int(seconds * 16_000)]


def pictures(count: int, side: int) -> list[NDArray[np.uint8]]:
    shapes = toy_set("toy_img", count, split="train")
    return [shapes.load(i) for i in range(count)]


def examples(case: Case) -> tuple[Any, Tensor]:
    """Front end and calibration tensor: windows, one stream, or pictures."""
    rows, columns = case.size
    if case.form == "picture":
        frontend = se.ImageFrontend(rows, columns)
        stack = np.stack([frontend.features(p) for p in pictures(8, rows)])
        return frontend, torch.from_numpy(stack)
    front = se.LogMelFrontend(n_mels=columns)
    if case.form == "window":
        count = 3 if rows > 500 else 4
        frames = front.features(sounds(count * rows / 100))
        return front, torch.from_numpy(frames.reshape(count, 1, rows, columns))
    return front, torch.from_numpy(front.features(sounds(1.2)))[None, None]


def program_of(case: Case, x: Tensor) -> se.StepProgram:
    """Random weights, moved BatchNorm statistics, and the step."""
    torch.manual_seed(0)
    channels = 3 if case.form == "picture" else 1
    model: nn.Module = build_classifier(case.model, CLASSES, (channels, *case.size), **case.options)
    model.train()
    rows = case.size[0]
    model(torch.cat([x[:, :, :rows], x[:, :, -rows:]]) if case.form == "sliding" else x)
    model.eval()
    if isinstance(model, Dsm):
        model = prepare_integer_spectrum(model, [x])
    if case.form in ("window", "picture"):
        return window_program(model, x)
    if case.form == "sliding":
        model = SlidingWindow(model)  # type: ignore[arg-type]
    ready = model.deployable()  # type: ignore[operator]
    return se.streamify(ready, x[:, :, :100], time_dim=2, check_lengths=())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_edge_classifier_goes_to_sessions(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    frontend, x = examples(case)
    program = program_of(case, x)
    int8 = se.quantize(program, [(x,)])
    hop = 16 if case.form == "window" else None
    bundle = se.export(
        int8,
        tmp_path / "edge.seb",
        frontend=frontend,
        labels=se.Classifier(LABELS, window_hop=hop),
        reference=program,
    )
    said = []
    for engine in ENGINES:
        with se.open(bundle, engine=engine) as session:
            if case.form == "picture":
                said.append([session.classify(p) for p in pictures(20, 0)[18:]])
            else:
                said.append(session.process(sounds(2.0)))
    report = se.check(bundle, engines=ENGINES)
    print(name, [(t.equal, t.max_difference) for e in report.engines for t in e.tensors[:1]])
    assert report.passed, report.table()
    assert len(said[0]) == len(said[1]) > 0
    for one, other in zip(*said, strict=True):
        assert one.time == other.time
        first, second = dict(one.top), dict(other.top)
        assert max(abs(first[k] - second[k]) for k in {*first} & {*second}) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("size", ["nano", "xs", "s", "m", "l"])
def test_edge_denoiser_goes_to_sessions(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frontend = se.StftFrontend()
    model = getattr(se.models, f"saf_edge_{size}")(frontend)
    from spectral_edge.dsp.features import features_q16

    features = features_q16(frontend, sounds(1.2)).astype(np.float32) / np.float32(65536)
    x = torch.from_numpy(features)[None]
    model.train()
    model(x)
    program = se.streamify(model.eval(), x[:, :, :16], time_dim=2, check_lengths=())
    bundle = se.export(
        se.quantize(program, [(x,)]), tmp_path / "e.seb", frontend=frontend, reference=program
    )
    report = se.check(bundle, engines=ENGINES)
    print(size, [(t.equal, t.max_difference) for e in report.engines for t in e.tensors[:2]])
    assert report.passed, report.table()
    heard = []
    for engine in ENGINES:
        with se.open(bundle, engine=engine) as session:
            heard.append(session.process(sounds(1.2)).astype(np.int32))
    assert np.abs(heard[0] - heard[1]).max() <= np.abs(heard[0]).max() // 50
