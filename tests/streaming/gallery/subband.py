"""Full-band then sub-band LSTM: each bin with its neighbours, one LSTM shared by all bins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry

NEIGHBOURS = 2


class FullSub(nn.Module):
    def __init__(self, bins: int = 17, hidden: int = 12) -> None:
        super().__init__()
        self.full, self.full_out = nn.LSTM(bins, 24, batch_first=True), nn.Linear(24, bins)
        self.sub = nn.LSTM(2 * NEIGHBOURS + 2, hidden, 2, batch_first=True)
        self.head = nn.Linear(hidden, 2)

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bins]
        b, _, t, f = magnitude.shape
        x = magnitude / (magnitude.abs().mean(dim=3, keepdim=True) + 1e-5)
        whole = F.relu(self.full_out(self.full(x.squeeze(1))[0])).unsqueeze(1)
        around = F.unfold(x, (1, 2 * NEIGHBOURS + 1), padding=(0, NEIGHBOURS))
        units = torch.cat([around.reshape(b, -1, t, f), whole], dim=1)  # [b, 6, t, f]
        units = units.permute(0, 3, 2, 1).reshape(b * f, t, -1)
        y: torch.Tensor = self.head(self.sub(units)[0]).reshape(b, f, t, 2)
        return y.permute(0, 3, 2, 1)


def entry() -> Entry:
    return Entry(FullSub(), (torch.randn(1, 1, 8, 17),), 2)
