"""Closed-form sizes of the classifier families, and a table of all networks.

Parameters and multiply-accumulates follow from the size alone, without building the network; tests
compare them with the built networks and with published counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectral_edge.frontend import StftFrontend
from spectral_edge.layers import CausalConv2d
from spectral_edge.table import text_table

from . import ast, aum, dsm, dsm_stream, registry, saf
from .ast import AstSize
from .aum import CONV_TAPS, AumSize
from .saf_paper import paper_frontend

__all__ = [
    "ModelRow",
    "ast_macs",
    "aum_macs",
    "measured_macs",
    "model_table",
    "models_as_text",
    "parameter_count",
]

SCAN_MACS = 6  # per channel and state value: decay, its product, drive, its product, sum, read-out
GATE_MACS = 2  # per channel and direction: skip and gate


@dataclass(frozen=True)
class ModelRow:
    """One network of the table.

    Attributes:
        name: as it is built.
        family: saf, dsm, ast or aum.
        parameters: learned values.
        macs: multiply-accumulates of one window (stream: of one step).
        tokens: tokens of a window (0: not a token model).
        stream: runs as a stream.
        input: (channels, frames or height, mels or width).
        state_values: values that a stream carries from step to step (0: a window keeps none).
        float_state_values: those of them that stay float32 in w8a8 (running means, scan states).
    """

    name: str
    family: str
    parameters: int
    macs: int
    tokens: int
    stream: bool
    input: tuple[int, ...]
    state_values: int = 0
    float_state_values: int = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of the state in float32."""
        return 4 * self.state_values

    @property
    def w8a8_state_bytes(self) -> int:
        """Bytes of the state in w8a8."""
        return self.state_values + 3 * self.float_state_values

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        sizes = {"state_bytes": self.state_bytes, "w8a8_state_bytes": self.w8a8_state_bytes}
        return asdict(self) | sizes


def parameter_count(model: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(p.numel() for p in model.parameters())


def measured_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return MACs of convolutions and matrix products of one forward pass, counted by torch."""
    device = next(model.parameters()).device
    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(shape, device=device))
    model.train(training)
    return int(counter.get_total_flops()) // 2


def ast_macs(size: AstSize) -> int:
    """Return MACs of one window: patches, projections, attention, MLP, head."""
    d = size.width
    length = size.tokens + size.prefix
    per_token = 4 * d * d + 2 * size.ratio * d * d
    reach = size.recent or length
    blocks = size.layers * length * (per_token + 2 * reach * d)
    patch = size.tokens * size.patch[0] * size.patch[1] * d
    rows = length if size.recent else 1
    return blocks + patch + rows * d * size.classes


def aum_macs(size: AumSize) -> int:
    """Return MACs of one window: patches, projections, convolution, scans, gates, head."""
    d, inner, rank, order = size.width, size.inner, size.rank, size.order
    scan = inner * (SCAN_MACS * order + GATE_MACS)
    branch = inner * CONV_TAPS + inner * (rank + 2 * order) + rank * inner + scan
    if size.directions == "fo_bi":
        branch += scan
    if size.directions == "bi_bi":
        branch *= 2
    per_token = d * 2 * inner + branch + inner * d
    length = size.tokens + (size.readout == "cls")
    patch = size.tokens * size.patch[0] * size.patch[1] * d
    rows = size.tokens if size.readout == "running" else 1
    return size.layers * length * per_token + patch + rows * d * size.classes


def model_table() -> list[ModelRow]:
    """Return parameters, MACs, tokens, input and state of every network; nothing is allocated."""
    return list(_table())


@cache
def _table() -> tuple[ModelRow, ...]:
    with torch.device("meta"):
        return tuple(sorted(_rows(), key=lambda row: (row.family, row.parameters)))


def models_as_text(rows: list[ModelRow]) -> str:
    """Return the table for a terminal."""
    head = ["network", "parameters", "MMAC", "per", "tokens", "input", "state", "w8a8 state"]
    lines = [
        [
            row.name, f"{row.parameters:,}", f"{row.macs / 1e6:,.3f}",
            "step" if row.stream else "frame" if row.family == "saf" else "window",
            str(row.tokens or "–"), "×".join(map(str, row.input)),
            f"{row.state_bytes:,} B" if row.stream else "–",
            f"{row.w8a8_state_bytes:,} B" if row.stream else "–",
        ]
        for row in rows
    ]  # fmt: skip
    return text_table(head, lines)


COUNT_FRAMES = 64  # MACs per frame are counted over this many


def _saf_rows() -> Iterator[ModelRow]:
    for name, make in registry.MODELS.items():
        stream = name in saf.SIZES
        frontend = StftFrontend() if stream else paper_frontend()
        model = make(frontend)
        shape = (1, frontend.channels, COUNT_FRAMES, frontend.bins)
        state = _kept_frames(model, shape) if stream else 0
        macs = measured_macs(model, shape) // COUNT_FRAMES
        one = (frontend.channels, 1, frontend.bins)
        yield ModelRow(name, "saf", parameter_count(model), macs, 0, stream, one, state)


def _kept_frames(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the values of past frames that the causal convolutions read."""
    kept: list[int] = []

    def watch(conv: CausalConv2d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        kept.append(conv.past_frames * inputs[0].shape[1] * inputs[0].shape[3])

    convs = [m for m in model.modules() if isinstance(m, CausalConv2d)]
    hooks = [conv.register_forward_hook(watch) for conv in convs]
    with torch.no_grad():
        model.eval()(torch.zeros(shape, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return sum(kept)


def _rows() -> Iterator[ModelRow]:
    yield from _saf_rows()
    for name, size in dsm.SIZES.items():
        model: nn.Module = dsm.Dsm(size)
        macs = measured_macs(model, (1, *size.input))
        yield ModelRow(name, "dsm", parameter_count(model), macs, 0, False, size.input)
    for name, small in dsm_stream.SIZES.items():
        model = dsm_stream.DsmStream(small)
        step = (1, 1, small.patch[0], small.mels)
        macs = measured_macs(model, step)
        ring = (small.columns - 1) * (small.mels // small.patch[1]) * small.width
        yield ModelRow(
            name, "dsm", parameter_count(model), macs, 1, True, step[1:],
            small.blocks * ring + small.width, small.width,
        )  # fmt: skip
    for name, wide in ast.SIZES.items():
        model = ast.Ast(wide)
        stream = bool(wide.recent)
        macs = ast_macs(wide) // (wide.tokens if stream else 1)
        mean = wide.width if stream else 0
        ring = 2 * (wide.recent - 1) * wide.width * wide.layers if stream else 0
        yield ModelRow(
            name, "ast", parameter_count(model), macs, wide.tokens, stream, (1, *wide.window),
            ring + mean, mean,
        )  # fmt: skip
    for name, deep in aum.SIZES.items():
        model = aum.Aum(deep)
        stream = deep.readout == "running"
        macs = aum_macs(deep) // (deep.tokens if stream else 1)
        kept = deep.layers * deep.inner * deep.order + deep.width if stream else 0
        taps = deep.layers * (CONV_TAPS - 1) * deep.inner if stream else 0
        yield ModelRow(
            name, "aum", parameter_count(model), macs, deep.tokens, stream, (1, *deep.window),
            kept + taps, kept,
        )  # fmt: skip
