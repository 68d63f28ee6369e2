"""Sound event detection: 2-D convolutions with pooling over bands and time, GRU over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d


class SoundEvents(nn.Module):
    def __init__(self, bands: int = 32, classes: int = 6) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=(0, 1)), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 16, 3, padding=(0, 1)), nn.BatchNorm2d(16)
        self.time = nn.GRU(16 * bands // 16, 24, batch_first=True)
        self.head = nn.Linear(24, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bands]
        x = F.relu(self.norm(self.first(causal2d(features, 3))), inplace=True)
        x = F.max_pool2d(x, (2, 4))
        x = F.relu(self.norm2(self.second(causal2d(x, 3))), inplace=True)
        x = F.avg_pool2d(x, (1, 4))
        x = x.permute(0, 2, 1, 3).flatten(2)
        return torch.sigmoid(self.head(self.time(x)[0]))


def entry() -> Entry:
    return Entry(SoundEvents(), (torch.randn(1, 1, 8, 32),), 2, hop_multiple=2)
