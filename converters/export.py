"""The third arrow: a step program to a bundle that carries its own proof."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectral_edge import __version__
from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.classifier import Classifier
from spectral_edge.errors import ParityError, SpecError
from spectral_edge.frontend import Frontend, StftFrontend
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.manifest import FORMAT, FORMAT_VERSION
from spectral_edge.program import StateSpec, StepProgram, TensorSpec

from .coverage import coverage_warnings
from .file_qparams import program_qparams, verify_qparams
from .golden import fake_quant_agreement, golden_rollout, initial_code
from .to_onnx import write_onnx
from .to_tflite import write_tflite

__all__ = ["FORMATS", "Progress", "export"]

Progress = Callable[[str, int, int], None]
FORMATS = ("tflite", "onnx", "pt2")


def export(
    program: StepProgram,
    path: str | os.PathLike[str],
    *,
    frontend: Frontend | None = None,
    formats: Sequence[str] = ("tflite", "onnx"),
    labels: Sequence[str] | Classifier | None = None,
    name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    card: str | None = None,
    reference: StepProgram | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Write a step program as a bundle: model files, manifest, golden rollout, card.

    Args:
        program: float or quantised program.
        path: a ``.seb`` file or a directory.
        frontend: the front end the model was trained with; None takes the program's own
            (``program.frontend``), and without one the bundle starts from plain tensors.
        formats: some of ``tflite``, ``onnx``, ``pt2`` (the exported torch program as a member).
        labels: of a classifier, one per value of its output; a
            :class:`spectral_edge.Classifier` also says how windows follow each other and what
            counts as a detection.
        name: name of the bundle; the file name without suffix when None.
        metrics: plain data for the manifest, for example quality on a test set.
        card: text for ``card.md`` instead of the generated one.
        reference: the float program; with it the golden rollout also holds what float gives.
        progress: called as ``progress(what, done, total)``.

    Returns:
        The written bundle.

    Raises:
        SpecError: an unknown format or none, a front end whose tensors are not the program's, or
            labels that are not its outputs'.
        UnsupportedOp: an op that a writer cannot spell.
        ConversionError: an exporter failed.
        ParityError: a written file holds other qparams than the program.
    """
    path = Path(path)
    if labels is not None and not isinstance(labels, Classifier):
        labels = Classifier(tuple(labels))
    frontend = frontend or program.frontend
    _check(program, frontend, formats)
    _check_labels(program, frontend, labels)
    steps = [*formats, "golden rollout", "bundle"]

    def say(what: str) -> None:
        if progress is not None:
            progress(what, steps.index(what), len(steps))

    warnings: list[str] = []
    members, entries = _write_files(program, formats, warnings, say)
    say("golden rollout")
    golden, source = golden_rollout(program, reference)
    members["golden.npz"] = _npz(golden)
    states, initial = _states(program)
    if initial:
        members["initial.npz"] = _npz(initial)
    say("bundle")
    provenance = _provenance(program, source, warnings)
    if program.precision != "float32":
        provenance["fake_quant_codes_equal"] = fake_quant_agreement(program, golden)
    manifest = _manifest(program, frontend, labels, states) | {
        "name": name or path.stem,
        "formats": entries,
        "metrics": dict(metrics or {}),
        "provenance": provenance,
    }
    members["card.md"] = (card or _card(manifest)).encode()
    bundle = write_bundle(path, manifest, members)
    if progress is not None:
        progress("bundle", len(steps), len(steps))
    return bundle


def _check(program: StepProgram, frontend: Frontend | None, formats: Sequence[str]) -> None:
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        raise SpecError(f"formats are {tuple(formats)}, choose some of {FORMATS}")
    if program.precision not in ("float32", "w8a8"):
        raise SpecError(f"precision is {program.precision}, files can be float32 or w8a8")
    if frontend is None:
        return
    shape, rows = program.inputs[0].shape, program.hop_multiple
    if isinstance(frontend, ImageFrontend):
        rows = frontend.height
    elif program.inputs[0].time_dim is None and len(shape) == 4:
        rows = shape[2]  # a window
    expected = (1, frontend.channels, rows, frontend.bins)
    if shape != expected:
        raise SpecError(
            f"input {program.inputs[0].name!r} has shape {list(shape)}, this front end makes "
            f"{list(expected)}: export with the front end that the model was built with"
        )


def _check_labels(
    program: StepProgram, frontend: Frontend | None, classifier: Classifier | None
) -> None:
    if classifier is None:
        if frontend is not None and not isinstance(frontend, StftFrontend):
            raise SpecError(
                f"a {frontend.kind} front end belongs to a classifier: give labels=[…], one per "
                "value of the output"
            )
        return
    if frontend is None or frontend.head != "logits":
        raise SpecError("labels need a front end with head 'logits', such as LogMelFrontend()")
    shape = program.outputs[0].shape
    if not shape or shape[-1] != len(classifier.labels):
        raise SpecError(
            f"there are {len(classifier.labels)} labels, output {program.outputs[0].name!r} has "
            f"shape {list(shape)}: give one label per value of its last axis"
        )


def _write_files(
    program: StepProgram,
    formats: Sequence[str],
    warnings: list[str],
    say: Callable[[str], None],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Model members and their manifest entries, qparams verified."""
    members: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    for kind in formats:
        say(kind)
        members[f"model.{kind}"], entry = _WRITERS[kind](program, warnings)
        if entry:
            entries[kind] = {"member": f"model.{kind}", **entry}
    problems = verify_qparams(program, members.get("model.tflite"), members.get("model.onnx"))
    if problems:
        raise ParityError(
            f"{len(problems)} qparams differ between program and files, first: {problems[0]}"
        )
    return members, entries


# --- files ----------------------------------------------------------------------------------


def _write_tflite(program: StepProgram, warnings: list[str]) -> tuple[bytes, dict[str, Any]]:
    file = write_tflite(program)
    warnings += coverage_warnings(file.op_dtypes, program.precision)
    entry = {
        "layout": file.layout,
        "operators": file.operators,
        "runtime_floor": file.runtime_floor,
        "op_versions": file.op_versions,
    }
    return file.data, entry


def _write_onnx(program: StepProgram, warnings: list[str]) -> tuple[bytes, dict[str, Any]]:
    file = write_onnx(program)
    return file.data, {"nodes": file.nodes, "opset": file.opset}


def _write_pt2(program: StepProgram, warnings: list[str]) -> tuple[bytes, dict[str, Any]]:
    buffer = io.BytesIO()
    torch.export.save(program.exported, buffer)
    return buffer.getvalue(), {}


_WRITERS = {"tflite": _write_tflite, "onnx": _write_onnx, "pt2": _write_pt2}


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


# --- manifest -------------------------------------------------------------------------------


def _dtype(spec: TensorSpec | StateSpec) -> str:
    return spec.qparams.dtype if spec.qparams is not None else spec.dtype


def _quantisation(spec: TensorSpec | StateSpec) -> dict[str, Any]:
    q = spec.qparams
    return {"scale": q.scale if q else None, "zero_point": q.zero_point if q else None}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": _dtype(spec),
        "time_dim": spec.time_dim,
        **_quantisation(spec),
    }


def _states(program: StepProgram) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Manifest entries of the states, and the initial values that are not constant."""
    entries, arrays = [], {}
    for name, spec in program.states.items():
        start = initial_code(spec)
        constant = bool(np.all(start == start.flat[0]))
        entries.append(
            {
                "name": name,
                "shape": list(spec.shape),
                "dtype": _dtype(spec),
                **_quantisation(spec),
                "initial_code": start.flat[0].item() if constant else None,
                "initial": None if constant else name,
            }
        )
        if not constant:
            arrays[name] = start
    return entries, arrays


def _manifest(
    program: StepProgram,
    frontend: Frontend | None,
    classifier: Classifier | None,
    states: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the manifest says about the program itself."""
    return {
        "format": FORMAT,
        **(
            {"version": FORMAT_VERSION, "classifier": classifier.to_dict()}
            if classifier
            else {"version": 1}
        ),
        "precision": program.precision,
        "recipe": program.recipe,
        "frontend": frontend.to_dict() if frontend else None,
        "frontend_fingerprint": frontend.fingerprint if frontend else None,
        "delay": program.delay,
        "hop_multiple": program.hop_multiple,
        "receptive_field": program.receptive_field,
        "inputs": [_tensor(t) for t in program.inputs],
        "outputs": [_tensor(t) for t in program.outputs],
        "states": states,
        "qparams": [list(row) for row in program_qparams(program)],
        "node_count": program.node_count,
        "macs": int(program.macs),
        "state_bytes": _state_bytes(program),
    }


def _state_bytes(program: StepProgram) -> int:
    return sum(s.elements * np.dtype(_dtype(s)).itemsize for s in program.states.values())


def _provenance(program: StepProgram, golden: str, warnings: Sequence[str]) -> dict[str, Any]:
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = datetime.fromtimestamp(seconds, tz=timezone.utc).date().isoformat()
    versions = {"spectral-edge": __version__}
    for package in ("torch", "torchao", "onnx", "onnxscript", "ai-edge-litert", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        **program.provenance,
        "date": date,
        "versions": versions,
        "golden": golden,
        "warnings": list(warnings),
    }


def _card(manifest: Mapping[str, Any]) -> str:
    """What a person wants to know who finds the bundle."""
    frontend = manifest["frontend"]
    lines = [
        f"# {manifest['name']}",
        "",
        f"A step program of spectral-edge {__version__}: one hop in, one hop out, "
        f"{len(manifest['states'])} states ({manifest['state_bytes']} bytes) in between.",
        "",
        f"- precision: {manifest['precision']}"
        + (f", recipe {manifest['recipe']}" if manifest["recipe"] else ""),
        f"- multiply-accumulates per hop: {manifest['macs']}",
        f"- delay: {manifest['delay']} frames",
        f"- formats: {', '.join(sorted(manifest['formats']))}",
    ]
    if frontend and frontend["kind"] == "image":
        lines.append(
            f"- front end: pictures, {frontend['height']}×{frontend['width']} pixels, "
            f"{frontend['channels']} channel(s)"
        )
    elif frontend:
        lines.append(
            f"- front end: {frontend['kind']}, {frontend['sample_rate']} Hz, "
            f"n_fft {frontend['n_fft']}, hop {frontend['hop_length']}"
        )
    if "classifier" in manifest:
        lines.append(f"- labels: {', '.join(manifest['classifier']['labels'])}")
    lines += [f"- {key}: {value}" for key, value in sorted(manifest["metrics"].items())]
    lines += [f"- note: {text}" for text in manifest["provenance"]["warnings"]]
    lines += ["", "`spectral-edge check` repeats the rollout of `golden.npz` on a device.", ""]
    return "\n".join(lines)
