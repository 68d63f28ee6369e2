"""Dual-path recurrence: bidirectional LSTM over bands in a frame, LSTM over frames per band."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry


class DualPath(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.bands = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.bands_out, self.bands_norm = nn.Linear(2 * hidden, width), nn.LayerNorm(width)
        self.time = nn.LSTM(width, hidden, batch_first=True)
        self.time_out, self.time_norm = nn.Linear(hidden, width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, bands, width]
        b, t, f, c = x.shape
        y = self.bands_out(self.bands(x.reshape(b * t, f, c))[0]).reshape(b, t, f, c)
        x = x + self.bands_norm(y)
        y = self.time(x.transpose(1, 2).reshape(b * f, t, c))[0]
        y = self.time_out(y).reshape(b, f, t, c).transpose(1, 2)
        out: torch.Tensor = x + self.time_norm(y)
        return out


class Dprnn(nn.Module):
    def __init__(self, width: int = 8, hidden: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(2, width)
        self.blocks = nn.Sequential(DualPath(width, hidden), DualPath(width, hidden))
        self.head = nn.Linear(width, 2)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, frames, bands, 2]
        return torch.tanh(self.head(self.blocks(self.stem(spectrum)))) * spectrum


def entry() -> Entry:
    return Entry(Dprnn(), (torch.randn(1, 8, 9, 2),), 1)
