"""What is asked of all networks together: presets, counters, integer streams, graph contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spectral_edge as se
from spectral_edge.dsp.simulate import FrontendSimulation
from spectral_edge.models import aum, build
from spectral_edge.models.aum import Aum, AumSize
from spectral_edge.models.classifiers import build_classifier
from spectral_edge.models.counters import GATE_MACS, SCAN_MACS, aum_macs, measured_macs
from spectral_edge.models.dsm import Dsm, prepare_integer_spectrum
from spectral_edge.models.saf_paper import paper_frontend
from spectral_edge.models.window import window_program
from tests.dsp.test_stft_accuracy import round_trip

# -- the three front ends of the enhancers ---------------------------------------------------------

PRESETS = {
    "paper": paper_frontend(),
    "edge": se.StftFrontend(),
    "edge-ll": se.StftFrontend(n_fft=320, hop_length=160),
}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("samples", [4000, 4321])
def test_inverse_of_the_transform_is_the_clip(name: str, samples: int) -> None:
    simulation = FrontendSimulation(PRESETS[name]).double()
    torch.manual_seed(0)
    wave = 0.1 * torch.randn(2, samples, dtype=torch.float64)
    _, context = simulation.analyze(wave)
    ones = {"mask": torch.ones(1, dtype=torch.float64), "bias": torch.zeros(1)}
    assert (simulation.synthesize(ones, context) - wave).abs().max() < 1e-6


@pytest.mark.parametrize("name", PRESETS)
def test_streaming_overlap_add_gives_every_sample_back(name: str) -> None:
    frontend = PRESETS[name]
    pcm = np.random.default_rng(0).integers(-9000, 9000, 8 * frontend.n_fft).astype(np.int16)
    assert round_trip(pcm, frontend.n_fft, frontend.hop_length, frontend.window) == 0


# -- counters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", aum.DIRECTIONS)
def test_closed_form_of_audio_mamba_is_what_torch_counts(directions: str) -> None:
    """Torch counts products of matrices: of a scan its read-out alone, of gates nothing."""
    size: AumSize = replace(aum.SIZES["aum_tiny"], layers=2, directions=directions)
    with torch.device("meta"):
        counted = measured_macs(Aum(size), (1, 1, *size.window))
    scans = 1 if directions == "fo_fo" else 2
    uncounted = size.inner * ((SCAN_MACS - 1) * size.order + GATE_MACS)
    length = size.tokens + (size.readout == "cls")
    assert counted == aum_macs(size) - scans * size.layers * length * uncounted


# -- integer streams -------------------------------------------------------------------------------

Make = Callable[[], nn.Module]


def saf(**options: int) -> Make:
    return lambda: build("saf_edge_nano", se.StftFrontend(), **options)


def classifier(name: str, mels: int, **options: object) -> Make:
    return lambda: build_classifier(name, 4, (1, 48, mels), **options)


STREAMS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "saf_edge_nano": (saf(), (1, 3, 24, 257)),
    "saf_edge_nano, look-ahead": (saf(lookahead=2), (1, 3, 24, 257)),
    "fftp_aum": (
        classifier("fftp_aum_xs", 40, layers=1, norm="bn", activation="hardswish"), (1, 1, 80, 40),
    ),
    "fftp_ast": (
        classifier("fftp_ast_stream", 64, layers=1, recent=6, norm="bn", activation="relu6"),
        (1, 1, 80, 64),
    ),
    "dsm_stream": (classifier("dsm_stream", 64, blocks=1, columns=8), (1, 1, 80, 64)),
}  # fmt: skip
QUICK = ("saf_edge_nano", "fftp_ast")
MARKED = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in STREAMS]


def ready(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = STREAMS[name]
    model, x = make(), torch.randn(shape)
    with torch.no_grad():
        model.train()(x)  # moves the BatchNorm statistics
    model.eval()
    return getattr(model, "deployable", lambda: model)(), x


def leaves(outputs: object) -> list[torch.Tensor]:
    found: list[torch.Tensor] = torch.utils._pytree.tree_leaves(outputs)
    return found


@pytest.mark.parametrize("name", MARKED)
def test_integer_stream_is_causal_to_the_bit_and_does_not_depend_on_the_batch(name: str) -> None:
    model, x = ready(name)
    program = se.streamify(model, x, time_dim=2, check_lengths=(13,))
    quantised = se.quantize(program, [(x,)])
    half = x.shape[2] // 2
    changed = x.clone()
    changed[:, :, half:] = 3.0 * torch.randn_like(changed[:, :, half:])
    seen = (half - program.delay) // program.hop_multiple
    whole, other = leaves(quantised.run(x)), leaves(quantised.run(changed))
    for a, b in zip(whole, other, strict=True):
        axis = 1 if a.ndim == 3 else 2
        per_hop = program.hop_multiple if a.shape[axis] == x.shape[2] else 1
        kept = seen * per_hop
        assert torch.equal(a.narrow(axis, 0, kept), b.narrow(axis, 0, kept))
        assert not torch.equal(a, b)
    both = leaves(quantised.run(torch.cat((changed, x))))
    for a, pair in zip(whole, both, strict=True):
        assert torch.equal(a, pair[1:])


# -- what the graphs of edge networks may hold -----------------------------------------------------

# no integer kernel anywhere, or a float island: the front end's work, or a norm that does not fold
DISALLOWED = (
    "atan2", "fft", "stft", "complex", "pow", "layer_norm", "rms_norm", "group_norm", "gelu",
    "prelu", "rsqrt", "log", "silu",
)  # fmt: skip
SCAN_ONLY = ("exp", "softplus")  # of the selective scan, which stays float
WINDOWS: dict[str, tuple[str, tuple[int, int, int], dict[str, object]]] = {
    "dsm_kws_s": ("dsm_kws_s", (1, 32, 32), {"depths": (1, 1, 1)}),
    "fftp_ast_xs": ("fftp_ast_xs", (1, 50, 40), {"norm": "bn", "activation": "relu6"}),
}  # fmt: skip


def ops_of(program: se.StepProgram) -> set[str]:
    return {
        str(node.target).removeprefix("aten.").split(".")[0]
        for node in program.module.graph.nodes
        if node.op == "call_function"
    }


def bad(ops: set[str], allowed: tuple[str, ...] = ()) -> set[str]:
    return {o for o in ops if any(w in o.lower() for w in DISALLOWED) and o not in allowed}


@pytest.mark.parametrize("name", MARKED)
def test_streams_hold_no_disallowed_op(name: str) -> None:
    model, x = ready(name)
    ops = ops_of(se.streamify(model, x, time_dim=2, check_lengths=()))
    print(sorted(ops))
    assert not bad(ops)
    assert name == "fftp_aum" or not ops & set(SCAN_ONLY)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_hold_no_disallowed_op(name: str) -> None:
    torch.manual_seed(0)
    kind, shape, options = WINDOWS[name]
    model, x = build_classifier(kind, 4, shape, **options), torch.randn(4, *shape)
    with torch.no_grad():
        model.train()(x)
    model.eval()
    if isinstance(model, Dsm):
        model = prepare_integer_spectrum(model, [x])
    ops = ops_of(window_program(model, x))
    print(sorted(ops))
    assert not bad(ops)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saf_edge_nano", "fftp_ast", "dsm_stream"])
def test_exported_files_hold_no_disallowed_op(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model, x = ready(name)
    program = se.quantize(se.streamify(model, x, time_dim=2, check_lengths=()), [(x,)])
    bundle = se.export(program, tmp_path / "x.seb", frontend=None, formats=("onnx",))
    graph = onnx.load_from_string(bundle.members["model.onnx"]).graph
    kinds = {node.op_type for node in graph.node}
    print(sorted(kinds))
    assert not bad(kinds)
    assert not kinds & {"Loop", "Scan", "If", "Atan", "DFT", "STFT", "LayerNormalization", "Erf"}
