"""Complex U-Net with symmetric kernels in time (lookahead at every level), gates on the skips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry


class ComplexConv(nn.Module):
    """Complex convolution as two real ones on real and imaginary channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.re = nn.Conv2d(inputs, outputs, 3, (1, stride), padding=1)
        self.im = nn.Conv2d(inputs, outputs, 3, (1, stride), padding=1)
        self.norm = nn.BatchNorm2d(2 * outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=1)
        y = torch.cat([self.re(a) - self.im(b), self.re(b) + self.im(a)], dim=1)
        return F.leaky_relu(self.norm(y), 0.1)


class AttentionUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ComplexConv(1, 4), ComplexConv(4, 6, 2)
        self.gate_skip, self.gate_up = nn.Conv2d(8, 4, 1), nn.Conv2d(12, 4, 1)
        self.gate = nn.Conv2d(4, 1, 1)
        self.up = nn.ConvTranspose2d(12, 8, (1, 4), (1, 2), padding=(0, 1))
        self.last = ComplexConv(8, 2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, 2, frames, bands]
        a = self.first(spectrum)
        b = self.second(a)
        wide = F.interpolate(b, scale_factor=(1.0, 2.0))
        gate = torch.sigmoid(self.gate(F.relu(self.gate_skip(a) + self.gate_up(wide))))
        x = self.last(torch.cat([self.up(b), a * gate], dim=1))
        mask = torch.tanh(self.head(x))
        return spectrum * mask


def entry() -> Entry:
    return Entry(AttentionUNet(), (torch.randn(1, 2, 8, 16),), 2, delay=3)
