"""Attention with left and short right context by the mask; a mean of the past as memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry

LEFT, RIGHT = 12, 2


class Layer(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.memory = nn.Linear(width, width)
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        seen = F.avg_pool1d(F.pad(y.transpose(1, 2), (31, 0)), 32, 1).transpose(1, 2)
        y = self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        x = x + y + self.memory(seen)
        out: torch.Tensor = x + self.feed(self.norm2(x))
        return out


class Emformer(nn.Module):
    def __init__(self, features: int = 40, width: int = 16, classes: int = 20) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        at = torch.arange(features.shape[1])
        distance = at[:, None] - at[None, :]
        mask = (distance >= LEFT) | (distance < -RIGHT)
        x = self.stem(features)
        for layer in self.layers:
            x = layer(x, mask)
        return torch.log_softmax(self.head(x), dim=-1)


def entry() -> Entry:
    return Entry(Emformer(), (torch.randn(1, 8, 40),), 1, delay=2 * RIGHT)
