"""Attention made of convolutions and products: across neighbouring bands, and across time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import CausalConv2d, conv_norm

__all__ = ["BandMixing", "ConvAttention", "LocalBandAttention"]

BRANCH_GAMMA = 0.5  # initial gain of a residual branch


class LocalBandAttention(nn.Module):
    """Every band attends to itself and its two neighbours, with sigmoid gates; residual.

    ``y[f] = x[f] + norm(out(sum_j gate_j[f] · v[f + j]))``, j in {-1, 0, 1}, and
    ``gate_j[f] = sigmoid(q[f]·k[f + j] per head + position[head, j, f])``. Gates replace softmax
    over three because sigmoid has an integer kernel with a fixed output scale and no reduction.

    The three neighbours lie one after another along the band axis, so that each of the two
    products, the head sum, the sigmoid and the sum over neighbours is a single op. The shift needs
    no slicing: keys repeat with period bands + 2, queries with period bands + 3, so the second and
    the third copy of the queries meet keys one and two bands further on; a depth-wise convolution
    of three taps, bands + 3 apart, adds the copies up. Head sum and spreading back to channels are
    1×1 convolutions that start as block matrices (1/√d and 1) and are learned.

    ``forward``: float32[batch, channels, frames, bands] -> the same shape. ``bands`` is fixed.
    """

    def __init__(self, channels: int, bands: int, heads: int) -> None:
        super().__init__()
        self.query = CausalConv2d(channels, channels)
        self.key = CausalConv2d(channels, channels)
        self.value = CausalConv2d(channels, channels)
        self.score = CausalConv2d(channels, heads)
        self.spread = CausalConv2d(heads, channels)
        self.gather = nn.Conv2d(
            channels, channels, (1, 3), dilation=(1, bands + 3), groups=channels
        )
        self.out = conv_norm(channels, channels, relu=False, gamma=BRANCH_GAMMA)
        self.position = nn.Parameter(torch.zeros(1, heads, 1, 3 * (bands + 2)))
        self._start_as_blocks(channels, heads)

    def _start_as_blocks(self, channels: int, heads: int) -> None:
        member = torch.arange(channels) // (channels // heads) == torch.arange(heads)[:, None]
        with torch.no_grad():
            scale = 1.0 / math.sqrt(channels // heads)
            self.score.weight.copy_(member[:, :, None, None] * scale)
            self.spread.weight.copy_(member.T[:, :, None, None])
            self.gather.weight.fill_(1.0 / 3.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        spaced = F.pad(query, (0, 3))
        queries = torch.cat((spaced, spaced, query), dim=3)
        key, value = F.pad(key, (1, 1)), F.pad(value, (1, 1))
        keys, values = torch.cat((key, key, key), dim=3), torch.cat((value, value, value), dim=3)
        gates = torch.sigmoid(self.score(queries * keys) + self.position)
        branch: Tensor = self.out(self.gather(self.spread(gates) * values))
        return x + branch


class BandMixing(nn.Module):
    """Depth-wise 1×3 convolution over bands, 1×1, residual: the cheap stand-in for attention.

    ``forward``: float32[batch, channels, frames, bands] -> the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            conv_norm(channels, channels, (1, 3), groups=channels, relu=False),
            conv_norm(channels, channels, relu=False, gamma=BRANCH_GAMMA),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.mix(x)
        return x + branch


class ConvAttention(nn.Module):
    """Large-kernel convolution times values: the spectrum attention of SAF, separable and causal.

    ``y = x + norm(out(A ⊙ V))`` with ``V = 1×1`` and ``A`` = 1×1, ReLU6, depth-wise k_t×1,
    depth-wise 1×k_f. Both factors end in BatchNorm, so the product has a known range. With
    ``lookahead`` the convolution along time sees that many later frames.

    ``forward``: float32[batch, channels, frames, bands] -> the same shape.
    """

    def __init__(self, channels: int, kernel: tuple[int, int], lookahead: int = 0) -> None:
        super().__init__()
        frames, bands = kernel
        self.enter = conv_norm(channels, channels)
        self.along_time = conv_norm(
            channels, channels, (frames, 1), groups=channels, relu=False, lookahead=lookahead
        )
        self.along_bands = conv_norm(channels, channels, (1, bands), groups=channels, relu=False)
        self.value = conv_norm(channels, channels, relu=False)
        self.out = conv_norm(channels, channels, relu=False, gamma=BRANCH_GAMMA)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.along_bands(self.along_time(self.enter(x)))
        branch: Tensor = self.out(attention * self.value(x))
        return x + branch
