"""Broadcast residual: 2-D features, a temporal path on the mean over bands, sub-spectral norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d


class SubSpectralNorm(nn.Module):
    """Batch norm per group of bands."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups, self.norm = groups, nn.BatchNorm2d(channels * groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, f = x.shape
        y = x.reshape(b, c, t, self.groups, f // self.groups).transpose(2, 3)
        y = self.norm(y.reshape(b, c * self.groups, t, f // self.groups))
        z: torch.Tensor = y.reshape(b, c, self.groups, t, f // self.groups).transpose(2, 3)
        return z.reshape(b, c, t, f)


class Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.bands = nn.Conv2d(width, width, (1, 3), padding=(0, 1), groups=width)
        self.norm = SubSpectralNorm(width, 4)
        self.time = nn.Conv2d(width, width, (3, 1), dilation=(dilation, 1), groups=width)
        self.norm2, self.point = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.bands(x))
        mean = y.mean(dim=3, keepdim=True)
        mean = self.point(F.silu(self.norm2(self.time(causal2d(mean, 3, self.dilation)))))
        return F.relu(x + y + mean)


class BcResNet(nn.Module):
    def __init__(self, bands: int = 32, width: int = 12, classes: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, (3, 5), (1, 2), padding=(0, 2))
        self.blocks = nn.Sequential(*(Block(width, d) for d in (1, 2, 4)))
        self.head = nn.Conv2d(width, classes, (1, bands // 2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bands]
        x = self.blocks(F.relu(self.stem(causal2d(features, 3))))
        logits: torch.Tensor = self.head(x).squeeze(3)
        return logits


def entry() -> Entry:
    return Entry(BcResNet(), (torch.randn(1, 1, 8, 32),), 2)
