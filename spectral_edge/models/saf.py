"""SAF (spectrum attention fusion) denoisers in five edge sizes: our reconstruction.

Layout (257 bins): stem to 129 bands, two down stages to 65 and 33, one 3×3 block, N layers of
{local band attention, convolutional attention, temporal blocks}, the 33-band skip, two up stages
with skips to 65 and 129, an output stage to 257 with a mask head and a bias head.
Idea: Long et al., arXiv 2308.02263; the edge layout is ours and reproduces no table of the paper.

Decisions for integer kernels (every op must have one, or the engine falls out of its fast path):

- BatchNorm always follows a convolution directly and folds into it; there is no pre-norm, because a
  BatchNorm before a convolution with padding does not fold.
- ReLU6 is the only non-linearity besides sigmoid: it is a clamp that fuses into the convolution.
- Sigmoid gates instead of softmax over three bands: softmax over an axis of three has no delegated
  integer kernel.
- Up-sampling repeats bins; see :func:`spectral_edge.layers.repeat_bins`.
- Mask and bias leave through two convolutions, so that the small bias has a scale of its own.
- Past frames come from explicit padding, which a stream replaces by a state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from spectral_edge.layers import (
    BandMixing,
    ConvAttention,
    DepthwiseSeparable,
    LocalBandAttention,
    TemporalBlock,
    conv_norm,
    repeat_bins,
)

__all__ = [
    "SIZES",
    "SafEdge",
    "SafSize",
    "saf_edge_l",
    "saf_edge_m",
    "saf_edge_nano",
    "saf_edge_s",
    "saf_edge_xs",
]


# A fresh network passes most of the spectrum and adds little.
MASK_START = 1.0
BIAS_START_STD = 0.02


@dataclass(frozen=True)
class SafSize:
    """One row of the size table.

    Attributes:
        channels: width C of every stage.
        layers: number N of SAF layers.
        kernel: (frames, bands) of the convolutional attention.
        dilations: dilation of each temporal block.
        expansion: hidden width of a temporal block as a multiple of C.
        heads: heads of the local band attention; 0 replaces it by a depth-wise 1×3 convolution.
        lookahead: later frames that the first large kernel sees; the output is late by as many.
    """

    channels: int
    layers: int
    kernel: tuple[int, int]
    expansion: float
    heads: int
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    lookahead: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead < self.kernel[0]:
            raise SpecError(f"lookahead is {self.lookahead}, must be 0…{self.kernel[0] - 1} frames")


SIZES = {
    "saf_edge_nano": SafSize(channels=16, layers=2, kernel=(5, 7), expansion=1, heads=0),
    "saf_edge_xs": SafSize(channels=24, layers=2, kernel=(5, 7), expansion=1.5, heads=4),
    "saf_edge_s": SafSize(channels=32, layers=2, kernel=(7, 11), expansion=2, heads=4),
    "saf_edge_m": SafSize(channels=48, layers=2, kernel=(11, 11), expansion=2, heads=4),
    "saf_edge_l": SafSize(channels=64, layers=3, kernel=(11, 11), expansion=2, heads=4),
}


class SafLayer(nn.Sequential):
    """Local band attention, convolutional attention, temporal blocks; all residual."""

    def __init__(self, size: SafSize, bands: int, lookahead: int = 0) -> None:
        channels = size.channels
        hidden = int(channels * size.expansion)
        local = (
            LocalBandAttention(channels, bands, size.heads) if size.heads else BandMixing(channels)
        )
        super().__init__(
            local,
            ConvAttention(channels, size.kernel, lookahead),
            *(TemporalBlock(channels, hidden, dilation) for dilation in size.dilations),
        )


class UpStage(nn.Module):
    """Repeat bins to the size of the skip, depth-wise 1×3, 1×1, and add the skip."""

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.refine = DepthwiseSeparable(channels, (1, 3))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        refined: Tensor = self.refine(repeat_bins(x, self.bins))
        return refined + skip


class SafEdge(nn.Module):
    """Mask-and-bias denoiser on compressed spectra.

    ``forward``: features float32[batch, channels, frames, bins] (channels and bins of the front
    end) -> ``{"mask": float32[batch, 1, frames, bins] in (0, 1), "bias": float32[batch, 2, frames,
    bins]}``. A frame of the output depends on no frame later than ``size.lookahead`` after it.

    Args:
        frontend: gives channels and bins; its head must be ``mask_bias``.
        size: widths and depths.

    Raises:
        SpecError: the front end has another head.
    """

    def __init__(self, frontend: StftFrontend, size: SafSize) -> None:
        super().__init__()
        if frontend.head != "mask_bias":
            raise SpecError(
                f"front end head is {frontend.head!r}, SAF returns mask and bias: "
                "use StftFrontend(head='mask_bias')"
            )
        channels = size.channels
        self.frontend = frontend
        self.bins = frontend.bins
        half = (self.bins + 1) // 2
        quarter = (half + 1) // 2
        bands = (quarter + 1) // 2
        self.stem = conv_norm(frontend.channels, channels, (2, 5), stride=2)
        self.down1 = DepthwiseSeparable(channels, (1, 3), stride=2)
        self.down2 = DepthwiseSeparable(channels, (1, 3), stride=2)
        self.block = DepthwiseSeparable(channels, (3, 3))
        self.layers = nn.Sequential(
            *(SafLayer(size, bands, 0 if i else size.lookahead) for i in range(size.layers))
        )
        self.up1 = UpStage(channels, quarter)
        self.up2 = UpStage(channels, half)
        self.smooth = conv_norm(channels, channels, (1, 3), groups=channels)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.bias = nn.Conv2d(channels, 2, 1)
        assert self.mask.bias is not None
        assert self.bias.bias is not None
        nn.init.constant_(self.mask.bias, MASK_START)
        nn.init.normal_(self.bias.weight, std=BIAS_START_STD)
        nn.init.zeros_(self.bias.bias)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        half = self.stem(features)
        quarter = self.down1(half)
        bands = self.down2(quarter)
        x = bands + self.block(bands)
        x = self.layers(x) + bands
        x = self.up2(self.up1(x, quarter), half)
        x = self.smooth(repeat_bins(x, self.bins))
        return {"mask": torch.sigmoid(self.mask(x)), "bias": self.bias(x)}


def _edge(name: str, frontend: StftFrontend, lookahead: int) -> SafEdge:
    return SafEdge(frontend, replace(SIZES[name], lookahead=lookahead))


def saf_edge_nano(frontend: StftFrontend, *, lookahead: int = 0) -> SafEdge:
    """Return the 11 K-parameter size, for microcontroller-class devices."""
    return _edge("saf_edge_nano", frontend, lookahead)


def saf_edge_xs(frontend: StftFrontend, *, lookahead: int = 0) -> SafEdge:
    """Return the 32 K-parameter size, for a Pi Zero 2 W."""
    return _edge("saf_edge_xs", frontend, lookahead)


def saf_edge_s(frontend: StftFrontend, *, lookahead: int = 0) -> SafEdge:
    """Return the 63 K-parameter size, the default."""
    return _edge("saf_edge_s", frontend, lookahead)


def saf_edge_m(frontend: StftFrontend, *, lookahead: int = 0) -> SafEdge:
    """Return the 134 K-parameter size."""
    return _edge("saf_edge_m", frontend, lookahead)


def saf_edge_l(frontend: StftFrontend, *, lookahead: int = 0) -> SafEdge:
    """Return the 334 K-parameter size, for a Pi 5."""
    return _edge("saf_edge_l", frontend, lookahead)
