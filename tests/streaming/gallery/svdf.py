"""Rank-one filters over features and time: a linear layer, a memory of frames, a weighted sum."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class Svdf(nn.Module):
    def __init__(self, inputs: int, units: int, memory: int, rank: int = 2) -> None:
        super().__init__()
        self.memory, self.rank = memory, rank
        self.features = nn.Linear(inputs, units * rank, bias=False)
        self.time = nn.Conv1d(units * rank, units * rank, memory, groups=units * rank, bias=False)
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, inputs]
        y = self.time(causal1d(self.features(x).transpose(1, 2), self.memory))
        y = y.unflatten(1, (-1, self.rank)).sum(2).transpose(1, 2)
        return torch.relu(y + self.bias)


class SvdfNet(nn.Module):
    def __init__(self, features: int = 40, classes: int = 3) -> None:
        super().__init__()
        self.first, self.second = Svdf(features, 24, 10), Svdf(16, 24, 12)
        self.narrow, self.head = nn.Linear(24, 16), nn.Linear(24, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.second(self.narrow(self.first(features)))
        return torch.softmax(self.head(x), dim=-1)


def entry() -> Entry:
    return Entry(SvdfNet(), (torch.randn(1, 8, 40),), 1)
