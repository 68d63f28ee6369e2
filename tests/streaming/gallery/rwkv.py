"""Token shift and a numerically safe weighted average of all the past (RWKV style)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from tests.streaming.gallery.entry import Entry


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Return every frame's predecessor."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


class TimeMix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mix = nn.Parameter(torch.rand(3, width))
        self.decay, self.bonus = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.key, self.value, self.gate = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = shifted(x)
        k, v, r = (
            layer(x * m + before * (1 - m))
            for layer, m in zip((self.key, self.value, self.gate), self.mix, strict=True)
        )
        decay, bonus, width = torch.exp(self.decay), self.bonus, self.width
        State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

        def cell(frame: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            key, value = frame.chunk(2, dim=1)
            top, bottom, peak = state
            now = torch.maximum(peak, key + bonus)
            a, b = torch.exp(peak - now), torch.exp(key + bonus - now)
            y = (a * top + b * value) / (a * bottom + b)
            later = torch.maximum(peak - decay, key)
            a, b = torch.exp(peak - decay - later), torch.exp(key - later)
            return y, (a * top + b * value, a * bottom + b, later)

        zero = x.new_zeros(x.shape[0], width)
        start = (zero, zero.clone(), zero - 30.0)
        y = se.layers.scan(cell, torch.cat([k, v], dim=-1), start, 1)[0]
        out: torch.Tensor = self.out(torch.sigmoid(r) * y)
        return out


class ChannelMix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(width))
        self.key, self.value = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.mix + shifted(x) * (1 - self.mix)
        out: torch.Tensor = self.value(F.relu(self.key(y)).square())
        return out


class Rwkv(nn.Module):
    def __init__(self, features: int = 32, width: int = 16, classes: int = 12) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.time, self.norm = TimeMix(width), nn.LayerNorm(width)
        self.channels, self.norm2 = ChannelMix(width), nn.LayerNorm(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # [batch, frames, features]
        x = self.stem(features)
        x = x + self.time(self.norm(x))
        x = x + self.channels(self.norm2(x))
        logits: torch.Tensor = self.head(x)
        return logits


def entry() -> Entry:
    return Entry(Rwkv(), (torch.randn(1, 8, 32),), 1)
