"""Waveform U-Net: strided convolutions down, LSTM, transposed convolutions up, skips."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry


class WaveUNet(nn.Module):
    def __init__(self, width: int = 8, depth: int = 3, kernel: int = 8, stride: int = 4) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        sizes = [1, *(width * 2**i for i in range(depth))]
        pairs = list(pairwise(sizes))
        self.down = nn.ModuleList(nn.Conv1d(a, b, kernel, stride) for a, b in pairs)
        self.mix = nn.ModuleList(nn.Conv1d(b, 2 * b, 1) for _, b in pairs)
        self.unmix = nn.ModuleList(nn.Conv1d(b, 2 * b, 1) for _, b in reversed(pairs))
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(b, a, kernel, stride) for a, b in reversed(pairs)
        )
        self.time = nn.LSTM(sizes[-1], sizes[-1], batch_first=True)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:  # [batch, 1, samples]
        x, skips = wave, []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = F.relu(down(F.pad(x, (self.kernel - self.stride, 0))))
            x = F.glu(mix(x), dim=1)
            skips.append(x)
        x = self.time(x.transpose(1, 2))[0].transpose(1, 2)
        for unmix, up in zip(self.unmix, self.up, strict=True):
            skip = skips.pop()
            x = F.glu(unmix(x + skip), dim=1)
            x = up(x)[..., : -(self.kernel - self.stride)]
            if skips:
                x = F.relu(x)
        return x


def entry() -> Entry:
    return Entry(WaveUNet(), (torch.randn(1, 1, 64),), 2, hop_multiple=64)
