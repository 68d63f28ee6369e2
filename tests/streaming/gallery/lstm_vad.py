"""Voice activity: convolutions with a stride in time, LSTM, one probability per four frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class LstmVad(nn.Module):
    def __init__(self, bins: int = 40, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv1d(bins, width, 3, stride=2)
        self.second = nn.Conv1d(width, width, 3, stride=2)
        self.time = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, bins, frames]
        x = F.relu(self.first(F.pad(features, (1, 0))))
        x = F.relu(self.second(causal1d(x, 2)))
        y = self.time(x.transpose(1, 2))[0]
        return torch.sigmoid(self.head(F.relu(y)))


def entry() -> Entry:
    return Entry(LstmVad(), (torch.randn(1, 40, 16),), 2, hop_multiple=4)
