"""Dynamic spectrum mixing: transform, weigh every band by its content, transform back.

Idea: Hu and Yu, arXiv 2309.06721 (DSM). Its weight generator is not published in detail; what
stands here is our reconstruction, and every choice is a knob.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError

from .dct import AxisTransform

__all__ = ["BANDS", "GATES", "SpectrumMixing", "SpectrumWeights", "band_edges"]

BANDS = ("linear", "dyadic")
GATES = ("sigmoid", "softmax", "tanh1p")
GENERATORS = ("channel_mlp", "band_mlp")
DC_IS_MEAN = ("dct", "fourier", "haar")  # transforms whose first row is constant


def band_edges(kind: str, coefficients: int, bands: int) -> list[int]:
    """Return the first coefficient of every band and the end, at most ``bands`` + 1 numbers.

    ``linear`` bands are equally wide to rounding; ``dyadic`` ones start at 0, 1, 2, 4, 8, … so that
    DC is not mixed with its neighbours, the last one reaching to the end.

    Raises:
        SpecError: an unknown kind or no band.
    """
    if bands < 1:
        raise SpecError(f"spec_pool is {bands}, must be at least 1 band")
    bands = min(bands, coefficients)
    if kind == "linear":
        return [round(i * coefficients / bands) for i in range(bands + 1)]
    if kind == "dyadic":
        starts = [0, 1]
        while 2 * starts[-1] < coefficients:
            starts.append(2 * starts[-1])
        starts = [s for s in starts if s < coefficients][:bands]
        return [*starts, coefficients]
    raise SpecError(f"bands is {kind!r}, must be one of {', '.join(BANDS)}")


def _pooling(edges: list[int]) -> tuple[Tensor, Tensor]:
    """Return (average[bands, coefficients], membership[coefficients, bands])."""
    member = torch.zeros(edges[-1], len(edges) - 1)
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        member[low:high, band] = 1.0
    return (member / member.sum(dim=0)).T.contiguous(), member


class SpectrumWeights(nn.Module):
    """Dynamic spectrum weight generator (DSWG): band means of |S|, a two-layer MLP, a gate.

    Last layer and static term start at zero, so that every weight starts at exactly 1 and the mixer
    is an all-pass.

    ``forward``: spectrum float32[batch, channels, kw, kh] (and the magnitude of DC when it was
    split off, float32[batch, channels, 1, 1]) -> band weights float32[batch, channels, bw, bh];
    ``spread``: band weights -> float32[batch, channels, kw, kh].

    Args:
        channels: C.
        kept: coefficients (kw, kh).
        spec_pool: bands per axis (at most the coefficients).
        bands: ``linear`` or ``dyadic``, see :func:`band_edges`.
        gate: ``sigmoid`` (2·sigmoid), ``softmax`` (over bands, times their number) or ``tanh1p``.
        reduction: ρ; hidden width of the channel MLP is C/ρ.
        generator: ``channel_mlp`` (C→C/ρ→C, shared over bands) or ``band_mlp``
            (bands→4·bands→bands,
            shared over channels).
        activation: of the hidden layer: ``gelu`` or ``relu6``.
    """

    average_w: Tensor
    average_h: Tensor
    member_w: Tensor
    member_h: Tensor
    dc_share: Tensor

    def __init__(
        self,
        channels: int,
        kept: tuple[int, int],
        *,
        spec_pool: int = 8,
        bands: str = "linear",
        gate: str = "sigmoid",
        reduction: int = 4,
        generator: str = "channel_mlp",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise SpecError(f"gate is {gate!r}, must be one of {', '.join(GATES)}")
        if generator not in GENERATORS:
            raise SpecError(f"dswg is {generator!r}, must be one of {', '.join(GENERATORS)}")
        self.gate, self.generator = gate, generator
        for axis, count in zip("wh", kept, strict=True):
            average, member = _pooling(band_edges(bands, count, spec_pool))
            self.register_buffer(f"average_{axis}", average, persistent=False)
            self.register_buffer(f"member_{axis}", member, persistent=False)
        share = self.average_w[:, :1] * self.average_h[:, :1].T
        self.register_buffer("dc_share", share, persistent=False)
        self.shape = (self.average_w.shape[0], self.average_h.shape[0])
        count = self.shape[0] * self.shape[1]
        self.act: nn.Module = nn.GELU() if activation == "gelu" else nn.ReLU6()
        if generator == "channel_mlp":
            hidden = max(1, channels // reduction)
            self.first: nn.Module = nn.Conv2d(channels, hidden, 1)
            self.second: nn.Module = nn.Conv2d(hidden, channels, 1)
        else:
            self.first = nn.Linear(count, 4 * count)
            self.second = nn.Linear(4 * count, count)
        self.static = nn.Parameter(torch.zeros(channels, *self.shape))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def set_scale(self, scale_w: Tensor, scale_h: Tensor) -> None:
        """Undo the band scales of the transforms inside the pooling matrices (exact)."""
        for average, member, scale in (
            (self.average_w, self.member_w, scale_w),
            (self.average_h, self.member_h, scale_h),
        ):
            average.copy_((member / member.sum(dim=0)).T / scale)

    def forward(self, spectrum: Tensor, dc: Tensor | None = None) -> Tensor:
        pooled = F.linear(spectrum.abs(), self.average_h)
        pooled = F.linear(pooled.transpose(2, 3), self.average_w).transpose(2, 3)
        if dc is not None:
            pooled = pooled + dc * self.dc_share
        if self.generator == "band_mlp":
            pooled = pooled.flatten(2)
        z = self.second(self.act(self.first(pooled)))
        if self.generator == "band_mlp":
            z = z.unflatten(2, self.shape)
        z = z + self.static
        if self.gate == "sigmoid":
            return 2.0 * torch.sigmoid(z)
        if self.gate == "tanh1p":
            return 1.0 + torch.tanh(z)
        count = self.shape[0] * self.shape[1]
        result: Tensor = count * torch.softmax(z.flatten(2), dim=2).unflatten(2, self.shape)  # type: ignore[no-untyped-call]
        return result

    def spread(self, weights: Tensor) -> Tensor:
        """Repeat every band's weight over its coefficients."""
        wide = F.linear(weights, self.member_h)
        return F.linear(wide.transpose(2, 3), self.member_w).transpose(2, 3)


class SpectrumMixing(nn.Module):
    """Token mixing in the spectrum of the token grid, between the mixer's two 1×1 convolutions.

    ``S = D_H·v·D_Wᵀ``; ``v' = D_Hᵀ·(S ⊙ w)·D_W`` with ``w`` from :class:`SpectrumWeights` (dynamic)
    or a learned constant (static). The spectrum lies transposed in memory (width axis before
    height), which saves one transposition each way.

    ``forward``: float32[batch, channels, height, width] -> the same shape.

    Args:
        channels: C.
        size: (height, width) of the token grid.
        transform: orthonormal basis, see :func:`spectral_edge.layers.dct.transform_matrix`, or
            ``learned`` (starts as the DCT).
        spec_keep: share of the coefficients kept per axis, 0…1, from the low end.
        weights: ``dynamic``, ``learned`` (static) or ``allpass``.
        dc_split: take the mean out before the transform and weigh it on its own: the same function,
            but the spectrum's range is not ruled by DC, which an integer spectrum needs.
        knobs: of :class:`SpectrumWeights`.

    Raises:
        SpecError: a knob out of range, or ``dc_split`` with a basis that has no DC.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        transform: str = "dct",
        spec_keep: float = 1.0,
        weights: str = "dynamic",
        dc_split: bool = False,
        **knobs: object,
    ) -> None:
        super().__init__()
        if not 0 < spec_keep <= 1:
            raise SpecError(f"spec_keep is {spec_keep}, must be above 0 and at most 1")
        learned = transform == "learned"
        name = "dct" if learned else transform
        self.along_h, self.along_w = (
            AxisTransform(name, n, max(1, round(spec_keep * n)), learned=learned) for n in size
        )
        kept = (self.along_w.kept, self.along_h.kept)
        self.weights = weights
        self.grid = size[0] * size[1]
        if weights == "dynamic":
            self.generator = SpectrumWeights(channels, kept, **knobs)  # type: ignore[arg-type]
        elif weights == "learned":
            self.fixed = nn.Parameter(torch.ones(channels, *kept))
        elif weights != "allpass":
            raise SpecError(f"weights is {weights!r}, must be dynamic, learned or allpass")
        self.transform = transform
        self.dc_split = False
        if dc_split:
            self.split_dc()

    def split_dc(self) -> None:
        """Switch to the form that carries the mean past the transform; the function is the same.

        Raises:
            SpecError: the basis has no constant row, so its spectrum has no DC.
        """
        if self.transform not in DC_IS_MEAN:
            raise SpecError(
                f"dc_split needs a basis with a constant row ({', '.join(DC_IS_MEAN)}), "
                f"transform is {self.transform!r}"
            )
        self.dc_split = True

    def set_band_scales(self, scale_h: Tensor, scale_w: Tensor) -> None:
        """Fold gains per coefficient into the constant matrices; the function is the same.

        Args:
            scale_h: float32[kept along height] > 0.
            scale_w: float32[kept along width] > 0.

        Raises:
            SpecError: the weights are a learned constant per coefficient only in plain form, or the
                transform is learned.
        """
        self.along_h.set_scale(scale_h)
        self.along_w.set_scale(scale_w)
        if self.weights == "dynamic":
            self.generator.set_scale(scale_w, scale_h)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        scales = [state_dict.get(f"{prefix}along_{axis}.scale") for axis in "wh"]
        if self.weights == "dynamic" and scales[0] is not None and scales[1] is not None:
            self.generator.set_scale(scales[0], scales[1])

    def spectrum(self, x: Tensor) -> Tensor:
        """Return coefficients, float32[batch, channels, kept along width, kept along height]."""
        result: Tensor = self.along_h(self.along_w(x).transpose(2, 3))
        return result

    def from_spectrum(self, spectrum: Tensor) -> Tensor:
        """Return the token grid of a spectrum as :meth:`spectrum` lays it out."""
        return self.along_w.inverse(self.along_h.inverse(spectrum).transpose(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True) if self.dc_split else None
        if mean is not None:
            x = x - mean
        spectrum = self.spectrum(x)
        if self.weights == "allpass":
            weighted, at_dc = spectrum, None
        elif self.weights == "learned":
            weighted, at_dc = spectrum * self.fixed, self.fixed[:, :1, :1]
        else:
            dc = None if mean is None else mean.abs() * math.sqrt(self.grid)
            bands = self.generator(spectrum, dc)
            weighted, at_dc = spectrum * self.generator.spread(bands), bands[:, :, :1, :1]
        y = self.from_spectrum(weighted)
        if mean is None:
            return y
        return y + (mean if at_dc is None else mean * at_dc)
