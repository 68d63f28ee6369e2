"""Convolutions with a stride over bands, then blocks of GRU over time and attention over bands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry


class RnnFormer(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.time, self.time_out = nn.GRU(width, width, batch_first=True), nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.norm2 = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, bands, width]
        b, t, f, c = x.shape
        y = self.time(x.transpose(1, 2).reshape(b * f, t, c))[0]
        y = self.time_out(y).reshape(b, f, t, c).transpose(1, 2)
        x = x + self.norm(y.reshape(b * t * f, c)).reshape(b, t, f, c)
        q, k, v = self.qkv(x).reshape(b * t, f, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, f, c)
        y = self.out(y).reshape(b * t * f, c)
        out: torch.Tensor = x + self.norm2(y).reshape(b, t, f, c)
        return out


class FastEnhancer(nn.Module):
    def __init__(self, bins: int = 64, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, width, 8, 4, 2), nn.BatchNorm1d(width), nn.SiLU())
        conv = nn.Conv1d(width, width, 3, 1, 1)
        self.convs = nn.Sequential(conv, nn.BatchNorm1d(width), nn.SiLU())
        self.narrow, self.wide = nn.Linear(bins // 4, 8), nn.Linear(8, bins // 4)
        self.blocks = nn.Sequential(RnnFormer(width), RnnFormer(width))
        self.join = nn.Conv1d(2 * width, width, 1)
        self.head = nn.ConvTranspose1d(width, 2, 8, 4, 2)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, frames, 2, bins]
        b, t, _, f = spectrum.shape
        skip = self.convs(self.stem(spectrum.reshape(b * t, 2, f)))
        x = self.narrow(skip).reshape(b, t, -1, 8).transpose(2, 3)
        x = self.wide(self.blocks(x).transpose(2, 3)).reshape(b * t, -1, f // 4)
        mask = self.head(torch.relu(self.join(torch.cat([x, skip], dim=1))))
        out: torch.Tensor = torch.tanh(mask.reshape(b, t, 2, f)) * spectrum
        return out


def entry() -> Entry:
    return Entry(FastEnhancer(), (torch.randn(1, 8, 2, 64),), 1)
