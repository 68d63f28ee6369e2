"""Feed-forward memory: a filter over past and a few later frames per layer (lookahead)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry

PAST, AHEAD = 8, 1


class Memory(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)
        self.taps = nn.Conv1d(width, width, PAST + 1 + AHEAD, groups=width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, width]
        p = self.narrow(F.relu(self.wide(x)))
        memory = self.taps(F.pad(p.transpose(1, 2), (PAST, AHEAD))).transpose(1, 2)
        out: torch.Tensor = x + p + memory
        return out


class Fsmn(nn.Module):
    def __init__(self, features: int = 40, width: int = 24, classes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * features, width)
        self.layers = nn.Sequential(*(Memory(width, 32) for _ in range(3)))
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        padded = F.pad(features, (0, 0, 2, 0))
        stacked = padded.unfold(1, 3, 1).transpose(2, 3).flatten(2)  # three frames side by side
        return torch.softmax(self.head(self.layers(F.relu(self.stem(stacked)))), dim=-1)


def entry() -> Entry:
    return Entry(Fsmn(), (torch.randn(1, 8, 40),), 1, delay=3 * AHEAD)
