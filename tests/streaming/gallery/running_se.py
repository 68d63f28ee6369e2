"""Separable convolutions whose squeeze-and-excitation looks at the mean of all the past."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class RunningExcitation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.cumsum(dim=2) / torch.arange(1, x.shape[2] + 1, dtype=x.dtype)
        gate = torch.sigmoid(self.wide(F.silu(self.narrow(mean.transpose(1, 2)))))
        return x * gate.transpose(1, 2)


class Block(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.depth = nn.Conv1d(width, width, kernel, groups=width)
        self.point = nn.Conv1d(width, width, 1)
        self.norm, self.excite = nn.BatchNorm1d(width), RunningExcitation(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.excite(self.norm(self.point(self.depth(causal1d(x, self.kernel)))))
        return F.silu(x + y)


class RunningSe(nn.Module):
    def __init__(self, features: int = 40, width: int = 24, classes: int = 30) -> None:
        super().__init__()
        self.stem = nn.Conv1d(features, width, 3)
        self.blocks = nn.Sequential(Block(width, 5), Block(width, 7), Block(width, 9))
        self.head = nn.Conv1d(width, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, features, frames]
        logits: torch.Tensor = self.head(self.blocks(self.stem(causal1d(features, 3))))
        return logits


def entry() -> Entry:
    return Entry(RunningSe(), (torch.randn(1, 40, 8),), 2)
