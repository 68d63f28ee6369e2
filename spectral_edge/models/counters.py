"""Closed-form sizes of the classifier families, and a table of all networks.

Parameters and multiply-accumulates follow from the size alone, without building the network; tests
compare them with the built networks and with published counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectral_edge.frontend import StftFrontend

from . import ast, aum, dsm, dsm_stream, registry
from .ast import AstSize
from .aum import CONV_TAPS, AumSize
from .saf_paper import SafPaper, SafPaperOptions, paper_frontend

__all__ = ["ModelRow", "ast_macs", "aum_macs", "measured_macs", "model_table", "parameter_count"]

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
    """

    name: str
    family: str
    parameters: int
    macs: int
    tokens: int
    stream: bool
    input: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


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
    """Return name, parameters, MACs and input of every network; nothing is allocated."""
    with torch.device("meta"):
        return sorted(_rows(), key=lambda row: (row.family, row.parameters))


COUNT_FRAMES = 64  # MACs per frame are counted over this many


def _saf_rows() -> Iterator[ModelRow]:
    frontend = StftFrontend()
    for name, make in registry.MODELS.items():
        yield _saf_row(name, make(frontend), frontend, stream=True)
    paper = paper_frontend()
    yield _saf_row("saf_paper", SafPaper(paper, SafPaperOptions()), paper, stream=False)


def _saf_row(name: str, model: nn.Module, frontend: StftFrontend, *, stream: bool) -> ModelRow:
    shape = (1, frontend.channels, COUNT_FRAMES, frontend.bins)
    macs = measured_macs(model, shape) // COUNT_FRAMES
    one = (frontend.channels, 1, frontend.bins)
    return ModelRow(name, "saf", parameter_count(model), macs, 0, stream, one)


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
        yield ModelRow(name, "dsm", parameter_count(model), macs, 0, True, step[1:])
    for name, wide in ast.SIZES.items():
        model = ast.Ast(wide)
        macs = ast_macs(wide) // (wide.tokens if wide.recent else 1)
        shape = (1, *wide.window)
        yield ModelRow(
            name, "ast", parameter_count(model), macs, wide.tokens, bool(wide.recent), shape
        )
    for name, deep in aum.SIZES.items():
        model = aum.Aum(deep)
        stream = deep.readout == "running"
        macs = aum_macs(deep) // (deep.tokens if stream else 1)
        shape = (1, *deep.window)
        yield ModelRow(name, "aum", parameter_count(model), macs, deep.tokens, stream, shape)
