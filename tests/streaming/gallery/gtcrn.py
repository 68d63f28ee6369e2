"""Grouped temporal convolutional recurrent network of 24 K parameters (GTCRN style).

ERB bands, sub-band features, dilated depth-wise convolutions with temporal attention (a GRU over
frame energy), channel shuffle, and dual-path grouped GRUs: bidirectional over 33 bands inside the
frame, one-directional over time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d

LOW, BANDS = 65, 129  # bins kept as they are; bands after the filter bank


class Erb(nn.Module):
    """Triangular bands above the lowest bins, as fixed linear layers there and back."""

    bank: torch.Tensor
    back: torch.Tensor

    def __init__(self, bins: int = 257) -> None:
        super().__init__()
        high = bins - LOW
        edges = torch.linspace(0, high - 1, BANDS - LOW + 2)
        at = torch.arange(high).float()[None]
        rising = (at - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
        falling = (edges[2:, None] - at) / (edges[2:, None] - edges[1:-1, None])
        bank = torch.minimum(rising, falling).clamp_min(0)
        self.register_buffer("bank", bank)
        self.register_buffer("back", bank.t() / bank.sum(0).clamp_min(1e-3)[:, None])

    def narrow(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :LOW], F.linear(x[..., LOW:], self.bank)], dim=-1)

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :LOW], F.linear(x[..., LOW:], self.back)], dim=-1)


class SubBands(nn.Module):
    """Each band beside its neighbours: nn.Unfold over bands."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold = nn.Unfold((1, 3), padding=(0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, f = x.shape
        return self.unfold(x).reshape(b, c * 3, t, f)  # type: ignore[no-any-return]


class TemporalAttention(nn.Module):
    """Gate per channel and frame from a GRU over the mean energy of bands."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, 2 * channels, batch_first=True)
        self.out = nn.Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = x.square().mean(dim=-1)  # [batch, channels, frames]
        gate = torch.sigmoid(self.out(self.gru(energy.transpose(1, 2))[0]))
        return x * gate.transpose(1, 2).unsqueeze(-1)


class ConvBlock(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, groups: int, *, up: bool = False, last: bool = False
    ) -> None:
        super().__init__()
        make = nn.ConvTranspose2d if up else nn.Conv2d
        self.conv = make(inputs, outputs, (1, 5), (1, 2), padding=(0, 2), groups=groups)
        self.norm = nn.BatchNorm2d(outputs)
        self.act: nn.Module = nn.Tanh() if last else nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.norm(self.conv(x)))
        return y


class ShuffleBlock(nn.Module):
    """Half of the channels goes through a dilated separable convolution; then halves interleave."""

    def __init__(self, width: int, hidden: int, dilation: int) -> None:
        super().__init__()
        half = width // 2
        self.dilation, self.sub = dilation, SubBands()
        self.point, self.norm = nn.Conv2d(3 * half, hidden, 1), nn.BatchNorm2d(hidden)
        self.act = nn.PReLU()
        self.depth = nn.Conv2d(
            hidden, hidden, 3, padding=(0, 1), dilation=(dilation, 1), groups=hidden
        )
        self.norm2, self.act2 = nn.BatchNorm2d(hidden), nn.PReLU()
        self.point2, self.norm3 = nn.Conv2d(hidden, half, 1), nn.BatchNorm2d(half)
        self.attention = TemporalAttention(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=1)
        y = self.act(self.norm(self.point(self.sub(a))))
        y = self.act2(self.norm2(self.depth(causal2d(y, 3, self.dilation))))
        y = self.attention(self.norm3(self.point2(y)))
        return torch.stack([y, b], dim=2).flatten(1, 2)


class GroupedGru(nn.Module):
    def __init__(self, inputs: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.first = nn.GRU(inputs // 2, hidden // 2, batch_first=True, bidirectional=bidirectional)
        self.second = nn.GRU(
            inputs // 2, hidden // 2, batch_first=True, bidirectional=bidirectional
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([self.first(a)[0], self.second(b)[0]], dim=-1)


class DualPath(nn.Module):
    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        self.intra, self.intra_out = GroupedGru(width, width // 2, True), nn.Linear(width, width)
        self.inter, self.inter_out = GroupedGru(width, width, False), nn.Linear(width, width)
        self.intra_norm = nn.LayerNorm((bands, width), eps=1e-8)
        self.inter_norm = nn.LayerNorm((bands, width), eps=1e-8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, channels, frames, bands]
        x = x.permute(0, 2, 3, 1)
        b, t, f, c = x.shape
        y = self.intra_out(self.intra(x.reshape(b * t, f, c))).reshape(b, t, f, c)
        x = x + self.intra_norm(y)
        y = self.inter(x.permute(0, 2, 1, 3).reshape(b * f, t, c))
        y = self.inter_out(y).reshape(b, f, t, c).permute(0, 2, 1, 3)
        out: torch.Tensor = x + self.inter_norm(y)
        return out.permute(0, 3, 1, 2)


class Gtcrn(nn.Module):
    def __init__(self, width: int = 16, dual_path: bool = True) -> None:
        super().__init__()
        self.erb, self.sub = Erb(), SubBands()
        self.encoder = nn.ModuleList(
            [
                ConvBlock(9, width, 1),
                ConvBlock(width, width, 2),
                *(ShuffleBlock(width, width, d) for d in (1, 2, 5)),
            ]
        )
        self.middle = nn.Sequential(*(DualPath(width, 33) for _ in range(2 if dual_path else 0)))
        self.decoder = nn.ModuleList(
            [
                *(ShuffleBlock(width, width, d) for d in (5, 2, 1)),
                ConvBlock(width, width, 2, up=True),
                ConvBlock(width, 2, 1, up=True, last=True),
            ]
        )

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:  # [batch, 2, frames, 257]
        power = (spectrum.square().sum(1, keepdim=True) + 1e-12).sqrt()
        x = self.sub(self.erb.narrow(torch.cat([power, spectrum], dim=1)))
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        for layer, skip in zip(self.decoder, reversed(skips), strict=True):
            x = layer(x + skip)
        mask = self.erb.widen(x)
        re = spectrum[:, 0] * mask[:, 0] - spectrum[:, 1] * mask[:, 1]
        im = spectrum[:, 1] * mask[:, 0] + spectrum[:, 0] * mask[:, 1]
        return torch.stack([re, im], dim=1)


def entry() -> Entry:
    return Entry(Gtcrn(), (torch.randn(1, 2, 8, 257),), 2)


def without_band_recurrence() -> Entry:
    return Entry(Gtcrn(dual_path=False), (torch.randn(1, 2, 8, 257),), 2)
