"""Depth-wise separable 2-D network for keywords, streamed: one answer per frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d, causal2d


class Separable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 3, padding=(0, 1), groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.point = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.depth(causal2d(x, 3))))
        return F.relu(self.norm2(self.point(x)))


class DsCnn(nn.Module):
    def __init__(self, bands: int = 20, width: int = 16, classes: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, (10, 4), (1, 2), padding=(0, 1), bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Separable(width) for _ in range(3)))
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bands]
        x = self.blocks(F.relu(self.norm(self.stem(causal2d(features, 10)))))
        x = x.mean(dim=3)  # bands; [batch, width, frames]
        x = F.max_pool1d(causal1d(x, 8), 8, 1)
        logits: torch.Tensor = self.head(x.transpose(1, 2))
        return logits


def entry() -> Entry:
    return Entry(DsCnn(), (torch.randn(1, 1, 8, 20),), 2)
