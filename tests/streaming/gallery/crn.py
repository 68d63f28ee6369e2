"""Convolutional recurrent network: convolutions over bands, LSTM over time, decoder with skips."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d


class Crn(nn.Module):
    def __init__(self, bins: int = 33) -> None:
        super().__init__()
        widths = (2, 8, 12, 16)
        pairs = list(pairwise(widths))
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, (2, 3), (1, 2)), nn.BatchNorm2d(b), nn.ELU())
            for a, b in pairs
        )
        self.time = nn.LSTM(16 * 3, 16 * 3, 2, batch_first=True)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * b, a, (2, 3), (1, 2)), nn.BatchNorm2d(a))
            for a, b in reversed(pairs)
        )

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, 2, frames, bins]
        x, skips = spectrum, []
        for layer in self.encoder:
            x = layer(causal2d(x, 2))
            skips.append(x)
        b, c, t, f = x.shape
        y = self.time(x.permute(0, 2, 1, 3).reshape(b, t, c * f))[0]
        x = y.reshape(b, t, c, f).permute(0, 2, 1, 3)
        for layer, skip in zip(self.decoder, reversed(skips), strict=True):
            x = layer(torch.cat([x, skip], 1))[:, :, :-1]
            x = F.elu(x)
        return torch.tanh(x) * spectrum[..., : x.shape[3]]


def entry() -> Entry:
    return Entry(Crn(), (torch.randn(1, 2, 8, 31),), 2)
