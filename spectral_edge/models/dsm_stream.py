"""DSM as a stream: a DCT over the bands of a column, a sliding DCT over the newest columns.

Every ``patch`` frames give one column of tokens. The mixer transforms the newest K columns (a ring
of K - 1 remains between steps), weighs the spectrum, and synthesises the newest column only, which
is one row of the inverse. Everything is causal, so streamify takes it. The layout is our own
choice; see :mod:`spectral_edge.models.dsm` for the idea and its source.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.layers.dct import dct_matrix
from spectral_edge.layers.selective_scan import ExponentialMean
from spectral_edge.layers.spectrum import band_edges
from spectral_edge.layers.tokens import TokenBatchNorm, fold_norm

__all__ = ["SIZES", "DsmStream", "DsmStreamSize", "SlidingSpectrumMixing", "dsm_stream_model"]


@dataclass(frozen=True)
class DsmStreamSize:
    """Widths of a streaming DSM.

    Attributes:
        width: channels C.
        blocks: mixer-and-MLP blocks.
        columns: K, columns that the sliding DCT sees.
        patch: (frames, mels) of a token.
        mels: bands of the log-mel features.
        ratio: MLP width as a multiple of C.
        spec_pool: bands (along columns, along mel) of the weight generator.
        classes: outputs.
        mean_frames: time constant of the running mean before the head, in columns.
    """

    width: int = 32
    blocks: int = 6
    columns: int = 16
    patch: tuple[int, int] = (4, 4)
    mels: int = 64
    ratio: int = 2
    spec_pool: tuple[int, int] = (4, 4)
    classes: int = 35
    mean_frames: float = 12.5


SIZES = {
    "dsm_stream": DsmStreamSize(),
    "dsm_stream_k8": DsmStreamSize(columns=8),
    "dsm_stream_k32": DsmStreamSize(columns=32),
}


class SlidingSpectrumMixing(nn.Module):
    """Dynamic spectrum mixing over (newest K columns × bands), newest column out.

    ``forward``: float32[batch, channels, columns, bands] -> the same shape, causal in columns.

    The transform along columns is a depth-wise convolution whose K outputs per channel are the rows
    of the DCT; the constant matrices pool, spread and invert as 1×1 group convolutions and linears.
    """

    rows: Tensor
    newest: Tensor
    across: Tensor
    back: Tensor
    average_t: Tensor
    average_f: Tensor
    member_t: Tensor
    member_f: Tensor

    def __init__(self, channels: int, bands: int, columns: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.columns = channels, columns
        along = dct_matrix(columns).float()
        constants = {
            "rows": along.repeat(channels, 1)[:, None, :, None],
            "newest": along[:, -1].repeat(channels, 1)[:, :, None, None],
            "across": dct_matrix(bands).float(),
            "back": dct_matrix(bands).float().T,
        }
        for axis, count, parts in (("t", columns, pool[0]), ("f", bands, pool[1])):
            edges = band_edges("linear", count, parts)
            member = torch.zeros(count, len(edges) - 1)
            for i, (low, high) in enumerate(itertools.pairwise(edges)):
                member[low:high, i] = 1.0
            constants[f"average_{axis}"] = (member / member.sum(dim=0)).T.contiguous()
            constants[f"member_{axis}"] = member
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)
        shape = (self.average_t.shape[0], self.average_f.shape[0])
        hidden = max(1, channels // 4)
        self.first, self.act = nn.Linear(channels, hidden), nn.ReLU6()
        self.second = nn.Linear(hidden, channels)
        self.static = nn.Parameter(torch.zeros(*shape, channels))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def weights(self, spectrum: Tensor) -> Tensor:
        """Return the weight of every coefficient, float32[batch, C, K, columns, bands]."""
        size = spectrum.abs().permute(0, 3, 1, 4, 2)  # [batch, columns, C, bands, K]
        pooled = F.linear(F.linear(size, self.average_t).transpose(3, 4), self.average_f)
        z = self.second(self.act(self.first(pooled.permute(0, 1, 3, 4, 2)))) + self.static
        gate = (2.0 * torch.sigmoid(z)).permute(0, 1, 4, 2, 3)  # [batch, columns, C, s_t, s_f]
        wide = F.linear(F.linear(gate, self.member_f).transpose(3, 4), self.member_t)
        return wide.permute(0, 2, 4, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        past = F.pad(F.linear(x, self.across), (0, 0, self.columns - 1, 0))
        spectrum = F.conv2d(past, self.rows, groups=self.channels)
        spectrum = spectrum.unflatten(1, (self.channels, self.columns))  # type: ignore[no-untyped-call]
        weighted = (spectrum * self.weights(spectrum)).flatten(1, 2)
        newest = F.conv2d(weighted, self.newest, groups=self.channels)
        return F.linear(newest, self.back)


class DsmStreamBlock(nn.Module):
    """1×1, sliding spectrum mixing, 1×1; then the MLP; both residual, BatchNorm where it folds."""

    def __init__(self, size: DsmStreamSize) -> None:
        super().__init__()
        wide, hidden = size.width, size.ratio * size.width
        bands = size.mels // size.patch[1]
        self.enter = nn.Sequential(nn.Conv2d(wide, wide, 1), nn.BatchNorm2d(wide))
        self.mix = SlidingSpectrumMixing(wide, bands, size.columns, size.spec_pool)
        self.leave = nn.Conv2d(wide, wide, 1)
        self.widen = nn.Sequential(nn.Conv2d(wide, hidden, 1), nn.BatchNorm2d(hidden))
        self.act = nn.ReLU6()
        self.narrow = nn.Conv2d(hidden, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.leave(self.mix(self.enter(x)))
        result: Tensor = x + self.narrow(self.act(self.widen(x)))
        return result


class DsmStream(nn.Module):
    """Causal DSM over log-mel features.

    ``forward``: features float32[batch, 1, frames, mels] -> logits float32[batch, columns,
    classes], one row per ``patch[0]`` frames, time axis 1.

    Raises:
        SpecError: mels that the patch does not divide.
    """

    def __init__(self, size: DsmStreamSize) -> None:
        super().__init__()
        if size.mels % size.patch[1]:
            raise SpecError(f"mels is {size.mels}, must be a multiple of the patch {size.patch[1]}")
        self.size = size
        self.patch = nn.Conv2d(1, size.width, size.patch, stride=size.patch)
        self.blocks = nn.Sequential(*(DsmStreamBlock(size) for _ in range(size.blocks)))
        self.mean = ExponentialMean(size.mean_frames)
        self.norm: nn.Module = TokenBatchNorm(size.width)
        self.head = nn.Linear(size.width, size.classes)

    def forward(self, features: Tensor) -> Tensor:
        x = self.blocks(self.patch(features)).mean(dim=3).transpose(1, 2)
        result: Tensor = self.head(self.norm(self.mean(x)))
        return result

    def deployable(self) -> DsmStream:
        """Return an equivalent copy in eval mode with the last BatchNorm folded into the head."""
        model = copy.deepcopy(self).eval()
        model.norm = fold_norm(model.norm, model.head)
        return model


def dsm_stream_model(name: str = "dsm_stream", **changes: Any) -> DsmStream:
    """Return a freshly initialised streaming DSM.

    Args:
        name: key of :data:`SIZES`.
        changes: fields of :class:`DsmStreamSize` to replace.

    Raises:
        SpecError: an unknown name.
    """
    if name not in SIZES:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(SIZES)}")
    return DsmStream(replace(SIZES[name], **changes))
