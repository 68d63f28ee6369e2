"""Two stages of two LSTMs, the second on a learned basis with per-frame norm (DTLN style)."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry


class InstantNorm(nn.Module):
    """Layer norm per frame, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = (x - mean).pow(2).mean(dim=-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-7) * self.gain + self.bias


class Stage(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.LSTM(size, hidden, batch_first=True)
        self.second = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.second(self.first(x)[0])[0]))


class Dtln(nn.Module):
    def __init__(self, block: int = 32, hop: int = 16, basis: int = 24, hidden: int = 16) -> None:
        super().__init__()
        self.block, self.hop = block, hop
        self.analysis = nn.Linear(block, basis, bias=False)
        self.norm, self.stage = InstantNorm(basis), Stage(basis, hidden)
        self.basis = nn.Linear(block, basis, bias=False)
        self.norm2, self.stage2 = InstantNorm(basis), Stage(basis, hidden)
        self.inner = nn.Linear(basis, block, bias=False)
        self.synthesis = nn.ConvTranspose1d(basis, 1, block, stride=hop, bias=False)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:  # [batch, samples]
        padded = nn.functional.pad(wave, (self.block - self.hop, 0))
        frames = padded.unfold(1, self.block, self.hop)
        x = self.analysis(frames)
        x = x * self.stage(self.norm(x))
        y = self.basis(self.inner(x))
        y = y * self.stage2(self.norm2(y))
        out: torch.Tensor = self.synthesis(y.transpose(1, 2))[..., : wave.shape[1]]
        return out


def entry() -> Entry:
    return Entry(Dtln(), (torch.randn(1, 64),), 1, hop_multiple=16)
