"""Parts of the paper-size SAF: norms per time-frequency cell, phase inputs, band attention.

All tensors are float32[batch, channels, frames, bins]. Nothing here looks at future frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError

from .tokens import SelfAttention

__all__ = [
    "CELL_NORMS",
    "PHASES",
    "AxisAttention",
    "BandAttention",
    "CellNorm",
    "PhaseInput",
    "cell_norm",
]

CELL_NORMS = ("ln_c", "ln_f", "bn", "gn", "rms", "none")
PHASES = ("none", "atan2", "cossin", "gated", "ifgd")
GROUPS = 8
EPSILON = 1e-5
GATE = 0.1  # bins below this share of the level fade out of a gated phase


class CellNorm(nn.Module):
    """Normalisation whose statistics never leave the frame, with gain and shift per channel.

    ``ln_c``: over channels of one cell; ``ln_f``: over bins of one channel and frame; ``gn``: over
    bins and the channels of one of 8 groups; ``rms``: root mean square over channels, gain only.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.groups = math.gcd(GROUPS, channels)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = None if kind == "rms" else nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            power = (x * x).mean(dim=1, keepdim=True)
            return x * torch.rsqrt(power + EPSILON) * self.gain
        if self.kind == "gn":
            parts: Tensor = x.unflatten(1, (self.groups, -1))  # type: ignore[no-untyped-call]
            y = _standardised(parts, (2, 4)).flatten(1, 2)
        else:
            y = _standardised(x, (1,) if self.kind == "ln_c" else (3,))
        return y * self.gain + (0.0 if self.shift is None else self.shift)


def _standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    centred = x - x.mean(dim=dims, keepdim=True)
    variance = (centred * centred).mean(dim=dims, keepdim=True)
    return centred * torch.rsqrt(variance + EPSILON)


def cell_norm(kind: str, channels: int) -> nn.Module:
    """Return the normalisation ``kind`` of :data:`CELL_NORMS`.

    Raises:
        SpecError: an unknown kind.
    """
    if kind not in CELL_NORMS:
        raise SpecError(f"norm is {kind!r}, must be one of {', '.join(CELL_NORMS)}")
    if kind == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if kind == "bn" else CellNorm(kind, channels)


class PhaseInput(nn.Module):
    """What the magnitude-phase encoder sees, from compressed features (mag, re, im).

    ``none``: |X|^c; ``atan2``: and φ/π (float only: it jumps by 2); ``cossin``: and Re/|X|, Im/|X|;
    ``gated``: the same, faded out in bins far below the level; ``ifgd``: gated phasors of the phase
    advance in time and of the phase step in frequency, robust against level and delay.

    ``forward``: float32[batch, 3, frames, bins] -> float32[batch, channels, frames, bins].

    Args:
        kind: one of :data:`PHASES`.
        bins: of the front end.
        hop_share: hop_length / n_fft, which sets the phase advance of a steady tone.
        compression: exponent c of the features.
    """

    turn: Tensor

    def __init__(self, kind: str, bins: int, hop_share: float, compression: float) -> None:
        super().__init__()
        if kind not in PHASES:
            raise SpecError(f"phase_repr is {kind!r}, must be one of {', '.join(PHASES)}")
        self.kind, self.compression = kind, compression
        self.channels = {"none": 1, "atan2": 2, "cossin": 3, "gated": 3, "ifgd": 5}[kind]
        angle = -2.0 * math.pi * hop_share * torch.arange(bins, dtype=torch.float64)
        turn = torch.stack((torch.cos(angle), torch.sin(angle))).float()
        self.register_buffer("turn", turn, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        mag, re, im = features[:, :1], features[:, 1:2], features[:, 2:3]
        if self.kind == "none":
            return mag
        if self.kind == "atan2":
            return torch.cat((mag, torch.atan2(im, re) / math.pi), dim=1)
        cos, sin = re / (mag + EPSILON), im / (mag + EPSILON)
        if self.kind == "cossin":
            return torch.cat((mag, cos, sin), dim=1)
        level = mag.clamp_min(EPSILON) ** (1.0 / self.compression)
        gate = level / (level + GATE)
        cos, sin = cos * gate, sin * gate
        if self.kind == "gated":
            return torch.cat((mag, cos, sin), dim=1)
        before = F.pad(torch.cat((cos, sin), dim=1), (0, 0, 1, 0))[:, :, :-1]
        advance = _turned(*_product(cos, sin, before), self.turn[0], self.turn[1])
        below = F.pad(torch.cat((cos, sin), dim=1), (1, 0))[..., :-1]
        return torch.cat((mag, *advance, *_product(cos, sin, below)), dim=1)


def _product(cos: Tensor, sin: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Phasor times the conjugate of ``other``."""
    a, b = other[:, :1], other[:, 1:]
    return cos * a + sin * b, sin * a - cos * b


def _turned(cos: Tensor, sin: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return cos * a - sin * b, cos * b + sin * a


class BandAttention(nn.Module):
    """Softmax attention of every band over the ``window`` bands around it.

    Logits are q·k/√d plus a learned bias per head and distance; bands outside are zeros and take
    part. ``forward`` keeps the shape.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise SpecError(f"window is {window}, must be odd and at least 1 band")
        self.heads, self.window = heads, window
        self.scale = 1.0 / math.sqrt(channels // heads)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.bias = nn.Parameter(torch.zeros(heads, 1, 1, window))
        self.out = nn.Conv2d(channels, channels, 1)

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return parts

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=1)
        side = self.window // 2
        keys = self._split(F.pad(key, (side, side)).unfold(3, self.window, 1))
        values = self._split(F.pad(value, (side, side)).unfold(3, self.window, 1))
        logits = (self._split(query).unsqueeze(-1) * keys).sum(dim=2) * self.scale
        weights = torch.softmax(logits + self.bias, dim=-1)
        mixed = (weights.unsqueeze(2) * values).sum(dim=-1).flatten(1, 2)
        result: Tensor = self.out(mixed)
        return result


class AxisAttention(nn.Module):
    """Softmax self-attention along ``bins`` of each frame or along ``frames`` of each bin.

    Along frames it is causal where asked; it is a rival for ablations, not a streaming block.
    """

    def __init__(self, channels: int, heads: int, axis: str, *, causal: bool = False) -> None:
        super().__init__()
        self.axis, self.causal = axis, causal
        self.attention = SelfAttention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        order = (0, 2, 3, 1) if self.axis == "bins" else (0, 3, 2, 1)
        tokens = x.permute(order).flatten(0, 1)
        if self.causal and self.axis == "frames":
            mixed = self._causal(tokens)
        else:
            mixed = self.attention(tokens)
        grid = mixed.reshape(batch, -1, *mixed.shape[1:])
        return grid.permute((0, 3, 1, 2) if self.axis == "bins" else (0, 3, 2, 1))

    def _causal(self, x: Tensor) -> Tensor:
        part = self.attention
        q, k, v = (
            t.unflatten(2, (part.heads, -1)).transpose(1, 2) for t in part.qkv(x).chunk(3, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = part.out(y.transpose(1, 2).flatten(2))
        return result
