"""Temporal convolutions for keywords: residual blocks, windowed mean instead of a clip mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 9) -> None:
        super().__init__()
        self.kernel = kernel
        self.depth = nn.Conv1d(inputs, inputs, kernel, groups=inputs, bias=False)
        self.point, self.norm = nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)
        self.depth2 = nn.Conv1d(outputs, outputs, kernel, groups=outputs, bias=False)
        self.point2, self.norm2 = nn.Conv1d(outputs, outputs, 1), nn.BatchNorm1d(outputs)
        self.short = nn.Sequential(
            nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.point(self.depth(causal1d(x, self.kernel)))))
        y = self.norm2(self.point2(self.depth2(causal1d(y, self.kernel))))
        return F.relu(y + self.short(x))


class TcResNet(nn.Module):
    def __init__(self, features: int = 40, classes: int = 12, window: int = 20) -> None:
        super().__init__()
        self.window = window
        self.stem = nn.Conv1d(features, 16, 3, bias=False)
        self.blocks = nn.Sequential(Block(16, 24), Block(24, 32), Block(32, 48))
        self.head = nn.Conv1d(48, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, features, frames]
        x = self.blocks(self.stem(causal1d(features, 3)))
        x = F.avg_pool1d(causal1d(x, self.window), self.window, 1)
        logits: torch.Tensor = self.head(x)
        return logits


def entry() -> Entry:
    return Entry(TcResNet(), (torch.randn(1, 40, 8),), 2)
