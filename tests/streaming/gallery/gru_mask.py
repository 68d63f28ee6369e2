"""Log-spectrum in, mask out: linear, two GRUs, two linear layers (NSNet style)."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry


class GruMask(nn.Module):
    def __init__(self, bins: int = 65, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(bins, width)
        self.time = nn.GRU(width, width, 2, batch_first=True)
        self.wide, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, bins)

    def forward(self, power: torch.Tensor) -> torch.Tensor:  # [batch, frames, bins]
        x = torch.log10(power.abs() + 1e-6)
        y = self.time(torch.relu(self.stem(x)))[0]
        return torch.sigmoid(self.head(torch.relu(self.wide(y))))


def entry() -> Entry:
    return Entry(GruMask(), (torch.randn(1, 8, 65),), 1)
