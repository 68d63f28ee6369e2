"""Diagonal linear state space with fixed decays: a bank of exponential averages per channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.gallery.entry import Entry


class Diagonal(nn.Module):
    def __init__(self, width: int, order: int = 4) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-1.0, 3.0, order).repeat(width, 1))
        self.b, self.c = (nn.Parameter(torch.randn(width, order) / order) for _ in range(2))
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, width]
        decay, b, c = torch.sigmoid(self.decay), self.b, self.c

        def cell(frame: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = h * decay + frame.unsqueeze(-1) * b
            return (h * c).sum(-1), h

        start = x.new_zeros(x.shape[0], *self.decay.shape)
        y: torch.Tensor = se.layers.scan(cell, x, start, 1)[0]
        return y + self.skip * x


class S4d(nn.Module):
    def __init__(self, features: int = 32, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.spaces = nn.ModuleList(Diagonal(width) for _ in range(2))
        self.mixes = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.stem(features)
        for space, mix, norm in zip(self.spaces, self.mixes, self.norms, strict=True):
            x = x + F.glu(mix(F.gelu(space(norm(x)))), dim=-1)
        logits: torch.Tensor = self.head(x)
        return logits


def entry() -> Entry:
    return Entry(S4d(), (torch.randn(1, 8, 32),), 1)
