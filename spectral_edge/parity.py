"""``check``: a bundle proves itself, file by file and engine by engine.

This is where converters (what the files say) and runtimes (what the engines do) meet, so it lives
in the core and imports both lazily. The contract: the same quantisation
parameters in torch, TFLite and ONNX; the same codes from every engine over a closed loop in which
each engine feeds back its own states.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit
from spectral_edge.qparams import QParams
from spectral_edge.report import EngineParity, Gate, ParityReport, TensorParity

__all__ = ["LONG_ENOUGH", "check"]

LONG_ENOUGH = 500  # hops of a closed loop that count as a proof
FLOAT_TOLERANCE = 1e-4  # of the peak, for float32 bundles
SNR_MARGIN_DB = 0.3  # an engine may lose this much against the float program


@dataclass(frozen=True)
class _Contract:
    """What codes of one engine must satisfy."""

    share: float
    max_difference: int
    words: str


def _contract(bundle: Bundle, engine: str) -> _Contract | None:
    """Return the contract on codes, None for an engine that is held to its SNR only."""
    if engine == "onnxruntime":
        return _Contract(0.998, 1, "≥ 99.8 % equal, at most 1 code apart")
    if engine == "reference":
        return _Contract(1.0, 0, "all codes equal")
    if engine in ("litert", "native"):
        versions = bundle.manifest["formats"].get("tflite", {}).get("op_versions", {})
        if "BATCH_MATMUL" in versions:
            return _Contract(0.0, 2, "at most 2 codes apart (activation × activation products)")
        return _Contract(0.995, 1, "≥ 99.5 % equal, at most 1 code apart")
    return None


def check(
    path: str | os.PathLike[str] | Bundle,
    engines: Sequence[str] | None = None,
    hops: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Check a bundle against its own golden rollout on every installed engine.

    Args:
        path: a ``.seb`` file, a bundle directory or a loaded bundle.
        engines: engine names; None takes every engine that has its format in the bundle, but for
            ``native``, which compiles first. An engine asked for by name that is missing counts as
            failed, otherwise as skipped.
        hops: compare only this many golden hops.
        progress: called with a line of text before each part.

    Returns:
        Gates on what the files say and one entry per engine; ``report.passed`` sums it up.

    Raises:
        BundleError: the bundle is damaged or has no golden rollout.
        SpecError: an unknown engine name.
    """
    from spectral_edge.runtimes.engines.registry import engines_for

    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    golden = bundle.golden()
    say = progress or (lambda _: None)
    say("qparams in the files")
    gates = _qparam_gates(bundle)
    fitting = [info.name for info in engines_for(bundle) if not info.compiles]
    names = list(engines) if engines else fitting
    checked = []
    for name in names:
        say(f"golden rollout on {name}")
        checked.append(_engine_parity(bundle, golden, name, hops, asked=bool(engines)))
    count = min(len(golden[f"input.{t.name}"]) for t in bundle.inputs)
    count = min(count, hops or count)
    return ParityReport(
        bundle=bundle.path.name,
        bundle_sha256=bundle.sha256,
        precision=bundle.precision,
        hops=count,
        gates=tuple(gates),
        engines=tuple(checked),
    )


# -- what the files say ---------------------------------------------------------------------------


def _qparam_gates(bundle: Bundle) -> list[Gate]:
    if bundle.precision == "float32":
        return []
    expected = {name: (scale, zp) for name, scale, zp in bundle.manifest["qparams"]}
    states = [
        (s, expected.get(f"state.{s}"), expected.get(f"state.{s}.next")) for s in bundle.states
    ]
    differing = [name for name, a, b in states if a != b]
    gates = [
        Gate(
            "state-in = state-out qparams",
            not differing,
            f"{len(states) - len(differing)} of {len(states)} states"
            + (f"; differ: {', '.join(differing)}" if differing else ""),
        )
    ]
    for kind, library in (("tflite", "flatbuffers"), ("onnx", "onnx")):
        if kind in bundle.manifest["formats"]:
            gates.append(_file_gate(bundle, kind, library, expected))
    return gates


def _file_gate(
    bundle: Bundle, kind: str, library: str, expected: Mapping[str, tuple[float, int]]
) -> Gate:
    """Compare every activation's scale and zero point with the table of the torch program."""
    title = f"{'TFLite' if kind == 'tflite' else 'ONNX'} qparams = torch, bit for bit"
    try:
        found = _file_qparams(bundle, kind, library)
    except RuntimeUnavailable as error:
        return Gate(title, True, f"not checked: {error}")
    pairs = {(np.float32(scale).tobytes(), int(zp)) for scale, zp in found.values()}
    missing = [
        name
        for name, (scale, zp) in expected.items()
        if (found[name] != (scale, zp) if name in found else _key(scale, zp) not in pairs)
    ]
    named = sum(name in found for name in expected)
    detail = f"{len(expected) - len(missing)} of {len(expected)} tensors, {named} of them by name"
    if missing:
        detail += f"; first that differs: {missing[0]}"
    return Gate(title, not missing, detail)


def _key(scale: float, zero_point: int) -> tuple[bytes, int]:
    return np.float32(scale).tobytes(), int(zero_point)


def _file_qparams(bundle: Bundle, kind: str, library: str) -> dict[str, tuple[float, int]]:
    if importlib.util.find_spec(library) is None:
        raise RuntimeUnavailable(f"{library} is not installed; pip install '{library}'")
    from spectral_edge.converters import file_qparams

    read = file_qparams.tflite_qparams if kind == "tflite" else file_qparams.onnx_qparams
    return dict(read(bundle.member(bundle.manifest["formats"][kind]["member"])))


# -- what the engines do --------------------------------------------------------------------------


def _engine_parity(
    bundle: Bundle, golden: Mapping[str, NDArray[Any]], name: str, hops: int | None, asked: bool
) -> EngineParity:
    from spectral_edge.runtimes.rollout import rollout

    try:
        result = rollout(bundle, name, hops)
    except RuntimeUnavailable as error:
        return EngineParity(name, None, "failed" if asked else "skipped", str(error))
    except RuntimeUnfit as error:
        return EngineParity(name, None, "failed", str(error))
    contract = _contract(bundle, name)
    allowed = contract.max_difference if contract else 0
    tensors = [
        _compare(t.name, result.outputs[t.name], golden[f"output.{t.name}"], t.qparams, allowed)
        for t in bundle.outputs
    ]
    if result.hops == len(golden[f"input.{bundle.inputs[0].name}"]):
        tensors += [
            _compare(f"state.{s}", result.states[s], golden[f"state.{s}"], spec.qparams, allowed)
            for s, spec in bundle.states.items()
            if f"state.{s}" in golden
        ]
    if bundle.precision == "float32":
        reason, words = _float_verdict(bundle, result.outputs, golden)
    elif contract is None:
        reason, words = _snr_verdict(bundle, result.outputs, golden)
    else:
        reason, words = _codes_verdict(tensors, len(bundle.outputs), contract), contract.words
    status = "failed" if reason else "passed"
    return EngineParity(name, result.version, status, reason, words, tuple(tensors))


def _compare(
    name: str, got: NDArray[Any], want: NDArray[Any], qparams: QParams | None, allowed: float
) -> TensorParity:
    want = want[: len(got)]
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
    first: int | None = None
    if want.ndim and float(difference.max(initial=0.0)) > allowed:
        worst = difference.reshape(len(difference), -1).max(axis=1)
        first = int(np.argmax(worst > allowed))
    signal = qparams.dequantize(want) if qparams else want.astype(np.float64)
    noise = difference * (qparams.scale if qparams else 1.0)
    return TensorParity(
        tensor=name,
        equal=float(np.mean(difference == 0)),
        max_difference=float(difference.max(initial=0.0)),
        first_hop=first,
        snr_db=_snr_db(signal, noise),
    )


def _snr_db(signal: NDArray[Any], noise: NDArray[Any]) -> float | None:
    power = float(np.sum(np.square(noise, dtype=np.float64)))
    if power == 0.0:
        return None
    return float(
        10 * np.log10(max(float(np.sum(np.square(signal, dtype=np.float64))), 1e-30) / power)
    )


def _codes_verdict(tensors: Sequence[TensorParity], outputs: int, contract: _Contract) -> str:
    """Return why the contract on codes fails, or ""."""
    for t in tensors:
        if t.max_difference > contract.max_difference:
            where = "" if t.first_hop is None else f" first at hop {t.first_hop}"
            return f"{t.tensor} is {t.max_difference:g} codes off{where}"
    for t in tensors[:outputs]:
        if t.equal < contract.share:
            return f"{t.tensor} has {100 * t.equal:.3f} % equal codes"
    return ""


def _float_verdict(
    bundle: Bundle, outputs: Mapping[str, NDArray[Any]], golden: Mapping[str, NDArray[Any]]
) -> tuple[str, str]:
    words = f"within {FLOAT_TOLERANCE:g} of the peak"
    for t in bundle.outputs:
        want = golden[f"output.{t.name}"][: len(outputs[t.name])]
        error = float(np.abs(outputs[t.name] - want).max()) / (float(np.abs(want).max()) or 1.0)
        if not error <= FLOAT_TOLERANCE:
            return f"output {t.name} is off by {error:.2e} of the peak", words
    return "", words


def _snr_verdict(
    bundle: Bundle, outputs: Mapping[str, NDArray[Any]], golden: Mapping[str, NDArray[Any]]
) -> tuple[str, str]:
    """Hold an engine with other kernels to its SNR against the float program.

    ``float.<output>`` in the golden file has what the float program gave on hops ``float.hops``.
    """
    words = f"SNR against float within {SNR_MARGIN_DB} dB of torch's"
    if "float.hops" not in golden:
        return "", "loads and runs (the bundle has no float reference)"
    at = golden["float.hops"]
    lost: dict[str, float] = {}
    for t in bundle.outputs:
        here = at[at < len(outputs[t.name])]
        real = golden[f"float.{t.name}"][: len(here)].astype(np.float64)
        assert t.qparams is not None
        torch_noise = t.qparams.dequantize(golden[f"output.{t.name}"][here]) - real
        engine_noise = t.qparams.dequantize(outputs[t.name][here]) - real
        lost[t.name] = (_snr_db(real, torch_noise) or 200.0) - (
            _snr_db(real, engine_noise) or 200.0
        )
    seen = ", ".join(f"{name} {-value:+.2f} dB" for name, value in lost.items())
    bad = [name for name, value in lost.items() if value > SNR_MARGIN_DB]
    return (f"{', '.join(bad)} loses too much ({seen})" if bad else ""), f"{words}: {seen}"
