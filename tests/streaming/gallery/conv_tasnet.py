"""Causal Conv-TasNet: learned filter bank on the waveform, TCN with cumulative norm, mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class CumulativeNorm(nn.Module):
    """Mean and variance over channels and all frames so far."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels, 1) + 0.5)
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, x.shape[2] + 1, dtype=x.dtype) * x.shape[1]
        mean = (x.sum(1).cumsum(1) / count).unsqueeze(1)
        power = (x.square().sum(1).cumsum(1) / count).unsqueeze(1)
        scale = ((power - mean.square()).clamp_min(0) + 1e-6).rsqrt()
        return (x - mean) * scale * self.gain + self.bias


class Block(nn.Module):
    def __init__(self, width: int, inner: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.up = nn.Conv1d(width, inner, 1)
        self.act, self.norm = nn.PReLU(), CumulativeNorm(inner)
        self.time = nn.Conv1d(inner, inner, 3, dilation=dilation, groups=inner)
        self.act2, self.norm2 = nn.PReLU(), CumulativeNorm(inner)
        self.residual, self.skip = nn.Conv1d(inner, width, 1), nn.Conv1d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(self.act(self.up(x)))
        y = self.norm2(self.act2(self.time(causal1d(y, 3, self.dilation))))
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    def __init__(self, basis: int = 32, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, basis, 16, stride=8)
        self.norm, self.stem = CumulativeNorm(basis), nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(Block(width, 2 * width, 2**i) for i in range(3))
        self.mask = nn.Conv1d(width, basis, 1)
        self.decoder = nn.ConvTranspose1d(basis, 1, 16, stride=8)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:  # [batch, 1, samples]
        basis = F.relu(self.encoder(F.pad(wave, (8, 0))))
        y, total = self.stem(self.norm(basis)), torch.zeros(())
        for block in self.blocks:
            y, skip = block(y)
            total = total + skip
        mask = torch.sigmoid(self.mask(total))
        out: torch.Tensor = self.decoder(basis * mask)[..., : wave.shape[2]]
        return out


def entry() -> Entry:
    return Entry(ConvTasNet(), (torch.randn(1, 1, 64),), 2, hop_multiple=8)
