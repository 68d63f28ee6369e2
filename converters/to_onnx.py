"""ONNX files from step programs: torch's exporter, then a clean-up of what it leaves behind."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from spectral_edge import __version__
from spectral_edge.errors import ConversionError, RuntimeUnavailable
from spectral_edge.program import StepProgram, state_input, state_output
from spectral_edge.qparams import QParams

from .file_qparams import ONNX_METADATA_KEY
from .onnx_clean import clean_model
from .passes import clean

__all__ = ["OPSET", "OnnxFile", "to_onnx", "write_onnx"]

OPSET = 21  # int8 blockless QuantizeLinear with output_dtype; GELU as one op since 20


@dataclass(frozen=True)
class OnnxFile:
    """A written model and what the manifest says about it."""

    data: bytes
    nodes: int
    op_counts: dict[str, int]
    opset: int = OPSET


def to_onnx(program: StepProgram) -> bytes:
    """Write ``program`` as an ONNX file, opset 21, QDQ form when it is quantised.

    Inputs, outputs and states are int8 where the program quantises them, else float32; shapes are
    the logical (torch) ones. Equal programs give equal bytes.

    Raises:
        ConversionError: torch's exporter cannot spell an op, or the result is not valid ONNX.
        RuntimeUnavailable: onnx or onnxscript is not installed.
    """
    return write_onnx(program).data


def write_onnx(program: StepProgram) -> OnnxFile:
    """Write ``program`` and report node counts; see :func:`to_onnx`."""
    inputs = [(t.name, _codes(t.qparams)) for t in program.inputs]
    inputs += [(state_input(n), _codes(s.qparams)) for n, s in program.states.items()]
    outputs = [(t.name, _codes(t.qparams)) for t in program.outputs]
    outputs += [(state_output(n), _codes(s.qparams)) for n, s in program.states.items()]
    model = _torch_export(program)
    counts = clean_model(model, inputs, outputs)
    _note_qparams(model, (*inputs, *outputs))
    model.producer_name, model.producer_version = "spectral-edge", __version__
    _check(model)
    data = model.SerializeToString(deterministic=True)
    return OnnxFile(data, sum(counts.values()), counts)


def _codes(qparams: QParams | None) -> QParams | None:
    return qparams if qparams is not None and qparams.dtype == "int8" else None


def _torch_export(program: StepProgram) -> Any:
    """Return the ModelProto that torch writes for the cleaned program at batch 1."""
    example: list[Any] = [
        torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in program.inputs
    ]
    example += list(program.initial_states(1))
    module = clean(program.module, example)
    try:
        import onnxscript  # noqa: F401 (the exporter needs it)
    except ImportError as error:
        raise RuntimeUnavailable(
            "writing .onnx needs onnx and onnxscript: pip install 'spectral-edge[onnx]'"
        ) from error
    with _quiet(), torch.no_grad():
        exported = torch.export.export(module, tuple(example), strict=False)
        try:
            written = torch.onnx.export(
                exported, dynamo=True, opset_version=OPSET, verbose=False, external_data=False
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConversionError(_reason(error)) from error
    assert written is not None
    return written.model_proto


def _reason(error: BaseException) -> str:
    """Last line with content of the innermost cause: torch's own message is a page long."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"torch.onnx.export cannot write the step: {lines[0] if lines else cause!r}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it warns about optional packages and its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _note_qparams(model: Any, boundary: Sequence[tuple[str, QParams | None]]) -> None:
    """Write the boundary's qparams into the metadata: int8 inputs say nothing about their scale."""
    table = {name: [q.scale, q.zero_point] for name, q in boundary if q is not None}
    if table:
        model.metadata_props.add(key=ONNX_METADATA_KEY, value=json.dumps(table))


def _check(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the written ONNX model is not valid: {error}") from error
