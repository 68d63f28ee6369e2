"""Ancestors and rivals of spectrum mixing, with the same inputs and outputs, for fair ablations.

Every mixer maps float32[batch, channels, height, width] to the same shape and stands between the
same two 1×1 convolutions. Definitions re-derived from the papers' formulas: GFNet (Rao et al.
2021), DFFormer (Tatsunami and Taki 2023), AFNO (Guibas et al. 2021), FcaNet (Qin et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dct import dct_matrix

__all__ = [
    "RIVALS",
    "AttentionMixer",
    "DepthwiseMixer",
    "DynamicFilterMixer",
    "FourierNeuralMixer",
    "FrequencyChannelAttention",
    "GlobalFilterMixer",
    "StarReLU",
    "rival_mixer",
]

# FcaNet's best 16 two-dimensional DCT indices on a 7×7 grid.
FCA_GRID = 7
FCA_INDICES = (
    (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0),
    (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2),
)  # fmt: skip


class StarReLU(nn.Module):
    """``s·relu(x)² + b`` with learned scalars (MetaFormer baselines)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8944))
        self.shift = nn.Parameter(torch.tensor(-0.4472))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x) ** 2 + self.shift


class GlobalFilterMixer(nn.Module):
    """GFNet: one learned complex weight per channel and FFT coefficient, for every input."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        weight = torch.zeros(channels, size[0], size[1] // 2 + 1, 2)
        weight[..., 0] = 1.0
        self.weight = nn.Parameter(weight + 0.02 * torch.randn_like(weight))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.weight)
        result: Tensor = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return result


class DynamicFilterMixer(nn.Module):
    """DFFormer: the FFT weight is an input-dependent softmax mixture of four learned filters."""

    def __init__(
        self, channels: int, size: tuple[int, int], filters: int = 4, ratio: float = 0.25
    ) -> None:
        super().__init__()
        self.size, self.filters = size, filters
        wide = 2 * channels
        self.widen, self.act = nn.Conv2d(channels, wide, 1), StarReLU()
        hidden = max(1, int(ratio * channels))
        self.route = nn.Sequential(
            nn.Linear(channels, hidden), StarReLU(), nn.Linear(hidden, filters * wide)
        )
        self.bank = nn.Parameter(0.02 * torch.randn(filters, size[0], size[1] // 2 + 1, 2))
        with torch.no_grad():
            self.bank[..., 0] += 1.0
        self.narrow = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        route = self.route(x.mean(dim=(2, 3))).unflatten(1, (self.filters, -1)).softmax(dim=1)
        bank = torch.view_as_complex(self.bank)
        weight = torch.einsum("bfc,fhw->bchw", route.to(bank.dtype), bank)
        spectrum = torch.fft.rfft2(self.act(self.widen(x)), norm="ortho")
        result: Tensor = self.narrow(torch.fft.irfft2(spectrum * weight, s=self.size, norm="ortho"))
        return result


class FourierNeuralMixer(nn.Module):
    """AFNO: a block-diagonal complex two-layer MLP on every FFT coefficient, soft-shrunk."""

    def __init__(
        self, channels: int, size: tuple[int, int], blocks: int = 4, shrink: float = 0.01
    ) -> None:
        super().__init__()
        self.size, self.shrink = size, shrink
        self.blocks = blocks if channels % blocks == 0 else 1
        width = channels // self.blocks
        self.first = nn.Parameter(0.02 * torch.randn(2, self.blocks, width, width))
        self.second = nn.Parameter(0.02 * torch.randn(2, self.blocks, width, width))
        self.first_bias = nn.Parameter(torch.zeros(2, self.blocks, width))
        self.second_bias = nn.Parameter(torch.zeros(2, self.blocks, width))

    @staticmethod
    def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        real = torch.einsum("bhwnc,ncd->bhwnd", x.real, weight[0])
        real = real - torch.einsum("bhwnc,ncd->bhwnd", x.imag, weight[1]) + bias[0]
        imag = torch.einsum("bhwnc,ncd->bhwnd", x.imag, weight[0])
        imag = imag + torch.einsum("bhwnc,ncd->bhwnd", x.real, weight[1]) + bias[1]
        return torch.stack((real, imag), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho").permute(0, 2, 3, 1)
        z = self._layer(spectrum.unflatten(3, (self.blocks, -1)), self.first, self.first_bias)
        z = torch.view_as_complex(torch.relu(z))
        z = F.softshrink(self._layer(z, self.second, self.second_bias), self.shrink)
        mixed = torch.view_as_complex(z.contiguous()).flatten(3).permute(0, 3, 1, 2)
        result: Tensor = x + torch.fft.irfft2(mixed, s=self.size, norm="ortho")
        return result


class FrequencyChannelAttention(nn.Module):
    """FcaNet: squeeze a channel group with one DCT basis function, excite channels; no mixing."""

    basis: Tensor

    def __init__(self, channels: int, size: tuple[int, int], reduction: int = 16) -> None:
        super().__init__()
        grid = dct_matrix(FCA_GRID)
        groups = min(len(FCA_INDICES), channels)
        owner = torch.arange(channels) * groups // channels
        small = torch.stack([grid[y][:, None] * grid[x][None, :] for y, x in FCA_INDICES])
        resized = F.interpolate(small[None].float(), size, mode="bilinear", align_corners=False)[0]
        self.register_buffer("basis", resized[owner], persistent=False)
        hidden = max(1, channels // reduction)
        self.excite = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        squeezed = (x * self.basis).sum(dim=(2, 3))
        result: Tensor = x * self.excite(squeezed)[:, :, None, None]
        return result


class DepthwiseMixer(nn.Module):
    """Depth-wise 7×7 convolution (the ConvNeXt mixer)."""

    def __init__(self, channels: int, size: tuple[int, int], kernel: int = 7) -> None:
        super().__init__()
        del size
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class AttentionMixer(nn.Module):
    """Softmax self-attention over all tokens of the grid."""

    def __init__(self, channels: int, size: tuple[int, int], head_width: int = 16) -> None:
        super().__init__()
        del size
        self.heads = max(1, channels // head_width)
        if channels % self.heads:
            self.heads = 1
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = tokens.unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(-1, -2).reshape(x.shape)


RIVALS: dict[str, type[nn.Module]] = {
    "gfnet": GlobalFilterMixer,
    "dfformer": DynamicFilterMixer,
    "afno": FourierNeuralMixer,
    "fcanet": FrequencyChannelAttention,
    "dwconv": DepthwiseMixer,
    "attention": AttentionMixer,
}


def rival_mixer(name: str, channels: int, size: tuple[int, int]) -> nn.Module:
    """Return the mixer ``name`` of :data:`RIVALS` for ``channels`` on a token grid of ``size``."""
    return RIVALS[name](channels, size)
