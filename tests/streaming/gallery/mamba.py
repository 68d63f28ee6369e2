"""Selective state space: short convolution, input-dependent decay, gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from spectral_edge.layers.selective_scan import SelectiveScan
from tests.streaming.gallery.entry import Entry, causal1d


class Block(nn.Module):
    def __init__(self, width: int, order: int = 4, kernel: int = 4) -> None:
        super().__init__()
        inner = 2 * width
        self.order, self.inner, self.kernel = order, inner, kernel
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.select, self.step = nn.Linear(inner, 1 + 2 * order), nn.Linear(1, inner)
        self.scan, self.out = SelectiveScan(inner, order), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, gate = self.project(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv(causal1d(u.transpose(1, 2), self.kernel)).transpose(1, 2))
        step, b, c = self.select(u).split([1, self.order, self.order], dim=-1)
        y = self.scan(u, F.softplus(self.step(step)), b, c)
        out: torch.Tensor = x + self.out(y * F.silu(gate))
        return out


class Mamba(nn.Module):
    def __init__(self, features: int = 32, width: int = 12, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.blocks = nn.Sequential(Block(width), Block(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        logits: torch.Tensor = self.head(self.blocks(self.stem(features)))
        return logits


def entry() -> Entry:
    return Entry(Mamba(), (torch.randn(1, 8, 32),), 1)
