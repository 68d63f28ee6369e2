"""Audio Mamba (AuM) with square or full-frequency patches (FFTP), and a one-directional stream.

Backbone: Erol et al., "Audio Mamba" on Vision Mamba blocks, counted against its published sizes.
Full-frequency patches: Makineni et al., arXiv 2508.21243; patch width and stride are knobs, results
are our reconstruction. The edge sizes and the streaming read-out are ours.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.layers.patch import (
    PatchEmbedding,
    resize_kernel,
    resize_positions,
    token_grid,
)
from spectral_edge.layers.selective_scan import ExponentialMean, SelectiveScan, initial_step_bias
from spectral_edge.layers.tokens import activation, fold_norm, token_norm

__all__ = [
    "DIRECTIONS",
    "SIZES",
    "Aum",
    "AumSize",
    "MambaMixer",
    "aum_model",
    "resized_from_square",
]

DIRECTIONS = ("fo_fo", "fo_bi", "bi_bi")
READOUTS = ("cls", "mean", "running")
CONV_TAPS = 4
POSITION_STD = 0.02


@dataclass(frozen=True)
class AumSize:
    """One row of the size table.

    Attributes:
        width: d; the mixer works at 2·d.
        layers: Mamba blocks.
        order: state values per channel.
        directions: ``fo_fo`` (one causal scan), ``fo_bi`` (second, reversed scan with its own
            decay)
            or ``bi_bi`` (separate branch for the reversed sequence, halved).
        window: (frames, mels).
        patch: (frames, mels).
        stride: (frames, mels).
        classes: outputs.
        readout: ``cls`` (token in the middle, learned positions), ``mean`` over tokens, or
            ``running`` (exponential mean, logits per token: the stream).
        mean_frames: time constant of the running mean, in tokens.
        norm: ``rms`` or ``bn`` (integer engines; folds in :meth:`Aum.deployable`).
        activation: after the convolution and in the gate: ``silu`` or ``hardswish``.
    """

    width: int
    layers: int = 24
    order: int = 16
    directions: str = "fo_bi"
    window: tuple[int, int] = (1024, 128)
    patch: tuple[int, int] = (16, 16)
    stride: tuple[int, int] = (16, 16)
    classes: int = 527
    readout: str = "cls"
    mean_frames: float = 12.5
    norm: str = "rms"
    activation: str = "silu"

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along (time, mel)."""
        return token_grid(self.window, self.patch, self.stride)

    @property
    def tokens(self) -> int:
        """Tokens of a window, without the class token."""
        return self.grid[0] * self.grid[1]

    @property
    def inner(self) -> int:
        """Width inside the mixer."""
        return 2 * self.width

    @property
    def rank(self) -> int:
        """Width of the step-size bottleneck."""
        return math.ceil(self.width / 16)

    def full_frequency(self, frames: int, stride: int | None = None) -> AumSize:
        """Return the size with patches of all mels × ``frames`` (stride: the same if not given)."""
        mels = self.window[1]
        return replace(self, patch=(frames, mels), stride=(stride or frames, mels))


def _edge(width: int, layers: int, order: int, mels: int, patch: int, **more: Any) -> AumSize:
    settings: dict[str, Any] = {
        "directions": "fo_fo", "window": (100, mels), "patch": (patch, mels),
        "stride": (patch, mels), "classes": 35, "readout": "running",
    }  # fmt: skip
    return AumSize(width, layers, order, **{**settings, **more})


SIZES = {
    "aum_base": AumSize(768),
    "aum_small": AumSize(384, directions="bi_bi"),
    "aum_tiny": AumSize(192, directions="bi_bi"),
    "aum_base_kws": AumSize(768, window=(128, 128), classes=35),
    "fftp_aum_base": AumSize(768).full_frequency(4),
    "fftp_aum_small": AumSize(384, directions="bi_bi").full_frequency(4),
    "fftp_aum_tiny": AumSize(192, directions="bi_bi").full_frequency(4),
    "fftp_aum_base_kws": AumSize(768, window=(128, 128), classes=35).full_frequency(4),
    "fftp_aum_xs": _edge(64, 4, 8, 40, 4),
    "fftp_aum_s": _edge(96, 6, 8, 64, 4),
    "fftp_aum_m": _edge(128, 8, 16, 64, 4),
    "fftp_aum_tag": _edge(192, 8, 16, 64, 8, window=(1000, 64), classes=527, mean_frames=25.0),
}


class MambaBranch(nn.Module):
    """Causal convolution, projections and scan(s) of one direction, [batch, tokens, inner]."""

    def __init__(self, size: AumSize, *, second_scan: bool) -> None:
        super().__init__()
        inner = size.inner
        self.order, self.rank = size.order, size.rank
        self.conv = nn.Conv2d(inner, inner, (CONV_TAPS, 1), groups=inner)
        self.act = activation(size.activation)
        self.project = nn.Linear(inner, size.rank + 2 * size.order, bias=False)
        self.step_size = nn.Linear(size.rank, inner)
        stream = size.readout == "running" and size.directions == "fo_fo"
        self.scan = SelectiveScan(inner, size.order, stream=stream)
        self.back = (
            SelectiveScan(inner, size.order, reverse=True, skip=False, stream=False)
            if second_scan
            else None
        )
        bound = size.rank**-0.5
        nn.init.uniform_(self.step_size.weight, -bound, bound)
        with torch.no_grad():
            self.step_size.bias.copy_(initial_step_bias(inner))

    def forward(self, x: Tensor) -> Tensor:
        columns = F.pad(x.transpose(1, 2).unsqueeze(3), (0, 0, CONV_TAPS - 1, 0))
        u = self.act(self.conv(columns)).squeeze(3).transpose(1, 2)
        low, b, c = self.project(u).split([self.rank, self.order, self.order], dim=2)
        delta = F.softplus(self.step_size(low))
        y = self.scan(u, delta, b, c)
        if self.back is not None:
            assert self.scan.skip is not None
            y = y + self.back(u, delta, b, c) + self.scan.skip * u
        result: Tensor = y
        return result


class MambaMixer(nn.Module):
    """Gated selective scan in one or two directions: float32[batch, tokens, width] -> the same."""

    def __init__(self, size: AumSize) -> None:
        super().__init__()
        self.enter = nn.Linear(size.width, 2 * size.inner, bias=False)
        self.ahead = MambaBranch(size, second_scan=size.directions == "fo_bi")
        self.behind = MambaBranch(size, second_scan=False) if size.directions == "bi_bi" else None
        self.gate = activation(size.activation)
        self.leave = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.enter(x).chunk(2, dim=2)
        y = self.ahead(u)
        if self.behind is not None:
            y = 0.5 * (y + self.behind(u.flip(1)).flip(1))
        result: Tensor = self.leave(y * self.gate(z))
        return result


class MambaBlock(nn.Module):
    """Norm and mixer, residual."""

    def __init__(self, size: AumSize) -> None:
        super().__init__()
        self.norm = token_norm(size.norm, size.width)
        self.mixer = MambaMixer(size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.mixer(self.norm(x))
        return result


class Aum(nn.Module):
    """Mamba blocks over patches of a log-mel window or stream.

    ``forward``: features float32[batch, 1, frames, mels] -> logits float32[batch, classes]; with
    ``readout="running"`` float32[batch, tokens, classes], one row per patch, time axis 1. With
    ``fo_fo`` and ``running`` it is causal, so streamify takes it (one step per ``stride`` frames).

    Args:
        size: a row of :data:`SIZES`, or your own.

    Raises:
        SpecError: a size that contradicts itself.
    """

    def __init__(self, size: AumSize) -> None:
        super().__init__()
        _check(size)
        self.size = size
        past = size.patch[0] - size.stride[0] if size.readout == "running" else 0
        self.patch = PatchEmbedding(size.width, size.patch, size.stride, past)
        self.token = self.positions = None
        if size.readout == "cls":
            self.token = nn.Parameter(torch.zeros(1, 1, size.width))
            self.positions = nn.Parameter(torch.zeros(1, size.tokens + 1, size.width))
            nn.init.trunc_normal_(self.token, std=POSITION_STD)
            nn.init.trunc_normal_(self.positions, std=POSITION_STD)
        self.blocks = nn.Sequential(*(MambaBlock(size) for _ in range(size.layers)))
        self.mean = ExponentialMean(size.mean_frames) if size.readout == "running" else None
        self.norm = token_norm(size.norm, size.width)
        self.head = nn.Linear(size.width, size.classes)
        for name, weight in self.named_parameters():
            if name.endswith("leave.weight"):  # keeps the residual stream's variance over depth
                with torch.no_grad():
                    weight.div_(math.sqrt(size.layers))

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks over embedded patches, before the last norm."""
        result: Tensor = self.blocks(tokens)
        return result

    def classify(self, patches: Tensor) -> Tensor:
        """Return the logits of embedded patches, float32[batch, tokens, width]."""
        x, middle = patches, self.size.tokens // 2
        if self.positions is not None:
            x = torch.cat((F.pad(x[:, :middle], (0, 0, 0, 1)), x[:, middle:]), dim=1)
            x = x + self._table()
        x = self.encode(x)
        if self.mean is not None:
            x = self.norm(self.mean(x))
        elif self.positions is not None:
            x = self.norm(x[:, middle])
        else:
            x = self.norm(x).mean(dim=1)
        result: Tensor = self.head(x)
        return result

    def _table(self) -> Tensor:
        """Positions, with the class token added at its place in the middle."""
        assert self.positions is not None
        if self.token is None:
            return self.positions
        middle = self.size.tokens // 2
        return self.positions + F.pad(self.token, (0, 0, middle, self.size.tokens - middle))

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.patch(features))

    def deployable(self) -> Aum:
        """Return an equivalent eval-mode copy: BatchNorm folded, class token in the table."""
        model = copy.deepcopy(self).eval()
        if model.token is not None:
            model.positions = nn.Parameter(self._table().detach().clone())
            model.token = None
        if self.size.norm == "bn":
            for block in model.blocks:
                assert isinstance(block, MambaBlock)
                block.norm = fold_norm(block.norm, block.mixer.enter)
            model.norm = fold_norm(model.norm, model.head)
        return model


def _check(size: AumSize) -> None:
    if size.directions not in DIRECTIONS:
        raise SpecError(
            f"directions is {size.directions!r}, must be one of {', '.join(DIRECTIONS)}"
        )
    if size.readout not in READOUTS:
        raise SpecError(f"readout is {size.readout!r}, must be one of {', '.join(READOUTS)}")
    if size.norm not in ("rms", "bn"):
        raise SpecError(f"norm is {size.norm!r}, must be rms or bn")
    if size.readout == "running" and size.patch[1] != size.window[1]:
        raise SpecError("a running read-out takes full-frequency patches: one token per time step")
    if size.patch[0] < size.stride[0]:
        raise SpecError(f"stride {size.stride} leaves gaps between patches of {size.patch}")


def aum_model(name: str, **changes: Any) -> Aum:
    """Return a freshly initialised Audio Mamba.

    Args:
        name: key of :data:`SIZES`.
        changes: fields of :class:`AumSize` to replace; ``window``, ``classes`` are the usual ones.

    Raises:
        SpecError: an unknown name.
    """
    if name not in SIZES:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(SIZES)}")
    return Aum(replace(SIZES[name], **changes))


def resized_from_square(model: Aum, patch: int, stride: int | None = None) -> Aum:
    """Return a full-frequency model that starts from a square-patch one.

    The kernel is resized by the pseudo-inverse method; the position table, whose class token sits
    in the middle, is averaged over mel and interpolated over time; everything else is copied.

    Args:
        model: window form with square (or other) patches.
        patch: frames of the new patches.
        stride: frames between them; None: no overlap.
    """
    size = model.size.full_frequency(patch, stride)
    result = Aum(size)
    weights = dict(model.state_dict())
    weights["patch.conv.weight"] = resize_kernel(weights["patch.conv.weight"], size.patch)
    if "positions" in weights:
        table, middle = weights["positions"], model.size.tokens // 2
        grid = torch.cat((table[:, :middle], table[:, middle + 1 :]), dim=1)
        grid = resize_positions(grid, model.size.grid, size.grid)
        new = size.tokens // 2
        weights["positions"] = torch.cat(
            (grid[:, :new], table[:, middle : middle + 1], grid[:, new:]), dim=1
        )
    result.load_state_dict(weights)
    return result
