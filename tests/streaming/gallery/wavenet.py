"""Gated dilated convolutions with residual and skip paths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class WaveNet(nn.Module):
    def __init__(self, width: int = 16, skip: int = 24, layers: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 2)
        self.gated = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(layers)
        )
        self.residual = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.skips = nn.ModuleList(nn.Conv1d(width, skip, 1) for _ in range(layers))
        self.first, self.head = nn.Conv1d(skip, skip, 1), nn.Conv1d(skip, 1, 1)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:  # [batch, 1, samples]
        x = self.stem(causal1d(wave, 2))
        total: torch.Tensor | None = None
        for i, gated in enumerate(self.gated):
            a, b = gated(causal1d(x, 2, 2**i)).chunk(2, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skip = self.skips[i](y)
            total = skip if total is None else total + skip
            x = x + self.residual[i](y)
        assert total is not None
        out: torch.Tensor = self.head(F.relu(self.first(F.relu(total))))
        return out


def entry() -> Entry:
    return Entry(WaveNet(), (torch.randn(1, 1, 8),), 2)
