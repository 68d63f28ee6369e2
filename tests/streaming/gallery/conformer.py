"""Causal conformer after four-fold sub-sampling, with attention within a window."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d, causal2d

WINDOW = 12


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.narrow(F.silu(self.wide(self.norm(x))))
        return y


class Convolution(nn.Module):
    def __init__(self, width: int, kernel: int = 7) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm, self.gate = nn.LayerNorm(width), nn.Conv1d(width, 2 * width, 1)
        self.depth, self.bn = nn.Conv1d(width, width, kernel, groups=width), nn.BatchNorm1d(width)
        self.point = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.gate(self.norm(x).transpose(1, 2)), dim=1)
        y = F.silu(self.bn(self.depth(causal1d(y, self.kernel))))
        out: torch.Tensor = self.point(y).transpose(1, 2)
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = FeedForward(width), FeedForward(width)
        self.norm, self.conv = nn.LayerNorm(width), Convolution(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.last = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * self.first(x)
        at = torch.arange(x.shape[1])
        distance = at[:, None] - at[None, :]
        y = self.norm(x)
        mask = (distance < 0) | (distance >= WINDOW)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        x = x + self.conv(x)
        out: torch.Tensor = self.last(x + 0.5 * self.second(x))
        return out


class Conformer(nn.Module):
    def __init__(self, bands: int = 32, width: int = 16, classes: int = 20) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 4, 3, 2)
        self.stem = nn.Linear(4 * 7, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, 1, frames, bands]
        x = F.relu(self.first(causal2d(features, 2)))
        x = F.relu(self.second(causal2d(x, 2)))
        x = self.blocks(self.stem(x.transpose(1, 2).flatten(2)))
        return torch.log_softmax(self.head(x), dim=-1)


def entry() -> Entry:
    return Entry(Conformer(), (torch.randn(1, 1, 16, 32),), 2, hop_multiple=4)
