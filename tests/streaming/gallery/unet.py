"""U-Net over bands with causal convolutions in time and nearest up-sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (2, 3), (1, stride), padding=(0, 1), bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(causal2d(x, 2))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Stage(1, 8), Stage(8, 12, 2), Stage(12, 16, 2)
        self.up2, self.up1 = Stage(16 + 12, 12), Stage(12 + 8, 8)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bands]
        a = self.first(spectrum)
        b = self.second(a)
        x = self.third(b)
        x = self.up2(torch.cat([F.interpolate(x, scale_factor=(1.0, 2.0)), b], dim=1))
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=(1.0, 2.0)), a], dim=1))
        return torch.sigmoid(self.head(x))


def entry() -> Entry:
    return Entry(UNet(), (torch.randn(1, 1, 8, 32),), 2)
