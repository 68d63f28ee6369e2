"""Attention without softmax: sums of key-value products over all the past."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry


class Layer(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).unbind(2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("bthd,bthe->bthde", k, v).cumsum(dim=1)
        total = (q * k.cumsum(dim=1)).sum(-1, keepdim=True)
        y = torch.einsum("bthd,bthde->bthe", q, memory) / total
        out: torch.Tensor = x + self.out(y.reshape(b, t, c))
        return out


class LinearAttention(nn.Module):
    def __init__(self, features: int = 40, width: int = 16, classes: int = 12) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.layers = nn.Sequential(Layer(width), Layer(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        logits: torch.Tensor = self.head(self.layers(self.stem(features)))
        return logits


def entry() -> Entry:
    return Entry(LinearAttention(), (torch.randn(1, 8, 40),), 1)
