"""Edge classifiers on their way out: window or stream, w8a8, one bundle, equal codes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import spectral_edge as se
from spectral_edge.models.classifiers import build_classifier
from spectral_edge.models.dsm import Dsm, prepare_integer_spectrum
from spectral_edge.models.window import window_program

WINDOWS = {
    "dsm_kws_s": ((1, 32, 32), {"widths": (16, 32), "depths": (1, 1), "spec_pool": (4, 4)}),
    "fftp_ast_xs": ((1, 50, 40), {"layers": 1, "norm": "bn", "activation": "relu6"}),
    "ast_tiny": ((1, 32, 32), {"layers": 1, "width": 48, "prefix": 0}),
}
STREAMS = {
    "fftp_aum_xs": ((1, 60, 40), {"layers": 1}),
    "fftp_ast_stream": ((1, 60, 64), {"layers": 1, "recent": 8}),
    "dsm_stream": ((1, 60, 64), {"blocks": 1, "columns": 8}),
}


def exported(
    program: se.StepProgram, x: torch.Tensor, path: Path, *formats: str
) -> se.ParityReport:
    quantised = se.quantize(program, [(x,)])
    se.export(quantised, path, frontend=None, formats=formats)
    return se.check(path)


def passed(report: se.ParityReport) -> list[str]:
    failed = [e.engine for e in report.engines if e.status == "failed"]
    assert not failed, [(e.engine, e.reason) for e in report.engines]
    return [e.engine for e in report.engines if e.status == "passed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WINDOWS)
def test_window_goes_to_both_formats(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, options = WINDOWS[name]
    model, x = build_classifier(name, 5, shape, **options), torch.randn(8, *shape)
    model(x)  # moves the BatchNorm statistics
    if isinstance(model, Dsm):
        model = prepare_integer_spectrum(model, [x])
    report = exported(window_program(model.eval(), x), x, tmp_path / "x.seb", "tflite", "onnx")
    assert {"litert", "onnxruntime"} <= set(passed(report))


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_stream_goes_to_onnx(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, options = STREAMS[name]
    model, x = build_classifier(name, 5, shape, **options), torch.randn(4, *shape)
    model(x)
    ready = model.eval().deployable()
    program = se.streamify(ready, x, time_dim=2, check_lengths=())
    assert "onnxruntime" in passed(exported(program, x, tmp_path / "x.seb", "onnx"))
