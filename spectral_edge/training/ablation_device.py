"""Ablation X1: time of one step of every small network on this machine, against its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.models import MODELS
from spectral_edge.models.ast import ast_model
from spectral_edge.models.aum import aum_model
from spectral_edge.models.counters import parameter_count
from spectral_edge.models.dsm import dsm_model
from spectral_edge.models.dsm_stream import dsm_stream_model
from spectral_edge.models.window import window_program
from spectral_edge.program import StepProgram

from .ablations import Context, Outcome, Variant

__all__ = ["variants"]

FRAME_MS = 10.0  # log-mel frames
WINDOW_MS = 160.0  # a windowed classifier runs this often


def variants(experiment: str, context: Context) -> Iterator[Variant]:
    """Yield one variant per small network."""
    del experiment
    frontend = se.StftFrontend()
    hop_ms = 1000.0 / frontend.hops_per_second
    streams: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {
        "fftp_aum_xs": (lambda: aum_model("fftp_aum_xs"), torch.zeros(1, 1, 48, 40), FRAME_MS),
        "fftp_aum_s": (lambda: aum_model("fftp_aum_s"), torch.zeros(1, 1, 48, 64), FRAME_MS),
        "fftp_aum_m": (lambda: aum_model("fftp_aum_m"), torch.zeros(1, 1, 48, 64), FRAME_MS),
        "fftp_ast_stream": (
            lambda: ast_model("fftp_ast_stream"), torch.zeros(1, 1, 48, 64), FRAME_MS,
        ),
        "dsm_stream": (dsm_stream_model, torch.zeros(1, 1, 48, 64), FRAME_MS),
    }  # fmt: skip
    windows: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "dsm_kws_s": (lambda: dsm_model("dsm_kws_s"), torch.zeros(1, 1, 96, 64)),
        "dsm_kws_m": (lambda: dsm_model("dsm_kws_m"), torch.zeros(1, 1, 96, 64)),
        "fftp_ast_xs": (lambda: ast_model("fftp_ast_xs"), torch.zeros(1, 1, 100, 40)),
        "fftp_ast_s": (lambda: ast_model("fftp_ast_s"), torch.zeros(1, 1, 100, 64)),
        "fftp_ast_m": (lambda: ast_model("fftp_ast_m"), torch.zeros(1, 1, 100, 64)),
        "dsm_tag": (lambda: dsm_model("dsm_tag"), torch.zeros(1, 1, 256, 64)),
        "dsm_img96": (lambda: dsm_model("dsm_img96"), torch.zeros(1, 3, 96, 96)),
        "dsm_img128": (lambda: dsm_model("dsm_img128"), torch.zeros(1, 3, 128, 128)),
    }
    for name in ("nano", "xs", "s", "m", "l"):
        make = partial(MODELS[f"saf_edge_{name}"], frontend)
        streams[f"saf_edge_{name}"] = (make, torch.zeros(1, 3, 4, 257), hop_ms)
    runs = 60 if context.toy else 1000
    for name, (build_stream, example, period) in streams.items():
        yield Variant(name, _stream_runner(build_stream, example, period, runs))
    for name, (build, window) in windows.items():
        yield Variant(f"{name} (window)", _window_runner(build, window, runs))


def _stream_runner(
    make: Callable[[], nn.Module], example: Tensor, period_ms: float, runs: int
) -> Callable[[int], Outcome]:
    def run(seed: int) -> Outcome:
        torch.manual_seed(seed)
        model = make().eval()
        ready = getattr(model, "deployable", lambda: model)()
        program = se.streamify(ready, example, time_dim=2, check_lengths=())
        return _timed(model, program, period_ms * program.hop_multiple, runs)

    return run


def _window_runner(
    make: Callable[[], nn.Module], example: Tensor, runs: int
) -> Callable[[int], Outcome]:
    def run(seed: int) -> Outcome:
        torch.manual_seed(seed)
        model = make()
        return _timed(model, window_program(model, example), WINDOW_MS, runs)

    return run


def _timed(model: nn.Module, program: StepProgram, period_ms: float, runs: int) -> Outcome:
    inputs = [torch.randn(t.shape) for t in program.inputs]
    states = program.initial_states(1)
    times = []
    with torch.no_grad():
        for _ in range(runs + 5):
            started = time.perf_counter()
            _, states = program.step(inputs, states)
            times.append(1000 * (time.perf_counter() - started))
    ordered = sorted(times[5:])
    p50, p99 = ordered[len(ordered) // 2], ordered[int(0.99 * (len(ordered) - 1))]
    extras = {
        "p99 (ms)": p99, "real-time factor": p50 / period_ms, "MMAC per step": program.macs / 1e6,
        "MMAC/s": program.macs / 1e3 / period_ms, "state values": float(program.state_elements),
        "nodes": float(program.node_count),
        "w8a8 weights + state (KB)": (parameter_count(model) + program.state_elements) / 1024,
    }  # fmt: skip
    return Outcome(p50, model, None, None, extras)
