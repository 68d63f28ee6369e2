"""Temporal convolutional network: dilated causal convolutions with weight norm and residuals."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.streaming.gallery.entry import Entry, causal1d


class Block(nn.Module):
    def __init__(self, width: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.first = weight_norm(nn.Conv1d(width, width, kernel, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(width, width, kernel, dilation=dilation))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dropout(torch.relu(self.first(causal1d(x, self.kernel, self.dilation))))
        y = self.dropout(torch.relu(self.second(causal1d(y, self.kernel, self.dilation))))
        return torch.relu(x + y)


class Tcn(nn.Module):
    def __init__(self, features: int = 40, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv1d(features, width, 1)
        self.blocks = nn.Sequential(*(Block(width, 2**i) for i in range(4)))
        self.head = nn.Conv1d(width, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, features, frames]
        logits: torch.Tensor = self.head(self.blocks(self.stem(features)))
        return logits


def entry() -> Entry:
    return Entry(Tcn(), (torch.randn(1, 40, 8),), 2)
