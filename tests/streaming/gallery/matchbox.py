"""Blocks of 1-D separable convolutions with sub-blocks and a pointwise skip (MatchboxNet style)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.depth = nn.Conv1d(inputs, inputs, kernel, dilation=dilation, groups=inputs)
        self.point, self.norm = nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.point(self.depth(causal1d(x, self.kernel, self.dilation))))
        return y


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.subs = nn.ModuleList(
            Separable(inputs if i == 0 else outputs, outputs, kernel) for i in range(2)
        )
        self.skip = nn.Sequential(nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i, sub in enumerate(self.subs):
            y = sub(y)
            if i + 1 < len(self.subs):
                y = self.dropout(F.relu(y))
        out: torch.Tensor = self.dropout(F.relu(y + self.skip(x)))
        return out


class Matchbox(nn.Module):
    def __init__(self, features: int = 32, classes: int = 12) -> None:
        super().__init__()
        self.stem = Separable(features, 32, 11)
        self.blocks = nn.Sequential(Block(32, 16, 13), Block(16, 16, 15))
        self.tail = Separable(16, 32, 15, dilation=2)
        self.head = nn.Conv1d(32, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, features, frames]
        x = F.relu(self.tail(self.blocks(F.relu(self.stem(features)))))
        logits: torch.Tensor = self.head(x)
        return logits


def entry() -> Entry:
    return Entry(Matchbox(), (torch.randn(1, 32, 8),), 2)
