"""Learned gain control (an average that starts at the first frame) and a small network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.gallery.entry import Entry, causal1d


class Pcen(nn.Module):
    def __init__(self, bands: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((bands,), 0.9))
        self.root, self.smooth = nn.Parameter(torch.full((bands,), 0.5)), 0.05

    def forward(self, energy: torch.Tensor) -> torch.Tensor:  # [batch, frames, bands]
        def cell(frame: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            m = (1 - self.smooth) * m + self.smooth * frame
            return m, m

        mean = se.layers.scan(cell, energy, energy[:, 0], 1)[0]
        scaled = energy / (mean + 1e-4) ** self.alpha
        return (scaled + 2.0) ** self.root - 2.0**self.root


class PcenCnn(nn.Module):
    def __init__(self, bands: int = 32, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.pcen = Pcen(bands)
        self.first, self.second = nn.Conv1d(bands, width, 5), nn.Conv1d(width, width, 5)
        self.head = nn.Conv1d(width, classes, 1)

    def forward(self, energy: torch.Tensor) -> torch.Tensor:
        x = self.pcen(energy.abs()).transpose(1, 2)
        x = F.relu6(self.first(causal1d(x, 5)))
        x = F.hardswish(self.second(causal1d(x, 5)))
        logits: torch.Tensor = self.head(x)
        return logits


def entry() -> Entry:
    return Entry(PcenCnn(), (torch.randn(1, 8, 32),), 1)
