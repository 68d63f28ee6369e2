"""Keyword transformer within a window: post-norm encoder, learned bias by distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry

WINDOW = 16


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.by_distance = nn.Parameter(0.1 * torch.randn(heads, WINDOW))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        at = torch.arange(t)
        distance = at[:, None] - at[None, :]
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        scores = scores + self.by_distance[:, distance.clamp(0, WINDOW - 1)]
        scores = scores.masked_fill((distance < 0) | (distance >= WINDOW), float("-inf"))
        y = torch.softmax(scores, dim=-1) @ v
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(b, t, c))
        return out


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.attention(x))
        out: torch.Tensor = self.norm2(x + self.narrow(F.gelu(self.wide(x))))
        return out


class Kwt(nn.Module):
    def __init__(self, features: int = 40, width: int = 16, classes: int = 12) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.layers = nn.Sequential(Encoder(width, 2), Encoder(width, 2))
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        logits: torch.Tensor = self.head(self.layers(self.stem(features)))
        return logits


def entry() -> Entry:
    return Entry(Kwt(), (torch.randn(1, 8, 40),), 1)
