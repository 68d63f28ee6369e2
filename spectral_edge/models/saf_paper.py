"""SAF at the size of its paper, every reading of it a knob: our reconstruction.

Idea and block list: Long et al., arXiv 2308.02263 (two spectrum encoders, local attention over
three bands, large-kernel convolutional attention, temporal blocks, mask and bias decoders, 0.58 M
parameters). Widths, depths, STFT and dilations are not published; this layout has 0.577 M
parameters, which does not prove it, and reproduces no table of the paper. It is a float model for
offline use and for ablations; :mod:`spectral_edge.models.saf` holds the networks that ship.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from spectral_edge.layers.cells import (
    CELL_NORMS,
    PHASES,
    AxisAttention,
    BandAttention,
    PhaseInput,
    cell_norm,
)

__all__ = [
    "CORES",
    "RECONSTRUCTIONS",
    "SafPaper",
    "SafPaperOptions",
    "paper_frontend",
    "reconstruct",
    "saf_paper",
]

CORES = ("conv", "attention_bins", "attention_frames", "attention_both")
RECONSTRUCTIONS = ("mask", "bias", "mask_bias", "complex_mask")
BIAS_DOMAINS = ("complex", "magnitude")


@dataclass(frozen=True)
class SafPaperOptions:
    """Every knob of the paper-size SAF.

    Attributes:
        channels: C.
        layers: N.
        heads: of the attentions.
        phase: second input of the magnitude encoder, one of ``none atan2 cossin gated ifgd``.
        real_imag: with the encoder of the real and imaginary parts.
        window: bands of the local attention (odd); 0 is all bands, -1 a depth-wise 1×3 convolution.
        kernel: (frames, bands) of the convolutional attention.
        separable: large kernel as frames×1 then 1×bands.
        share_heads: the attention map has C/heads channels, shared by all heads.
        core: ``conv``, or softmax attention along bins, frames or both in its place.
        dilations: of the temporal blocks.
        expansion: width of a temporal block as a multiple of C.
        norm: one of ``ln_c ln_f bn gn rms none``.
        fusion: ``concat``, or ``cross`` (attention map from one encoder, values from the other).
        reconstruction: ``mask``, ``bias``, ``mask_bias`` or ``complex_mask``.
        bias_domain: ``complex`` (two channels) or ``magnitude`` (one, along the noisy phase).
        causal: pad frames on the left only.
        lookahead: future frames that the first large kernel sees when causal.
        dense_edges: residual depth-wise-separable blocks per encoder and decoder.
    """

    channels: int = 64
    layers: int = 5
    heads: int = 4
    phase: str = "atan2"
    real_imag: bool = True
    window: int = 3
    kernel: tuple[int, int] = (11, 11)
    separable: bool = False
    share_heads: bool = False
    core: str = "conv"
    dilations: tuple[int, ...] = (1, 2, 4)
    expansion: int = 2
    norm: str = "ln_c"
    fusion: str = "concat"
    reconstruction: str = "mask_bias"
    bias_domain: str = "complex"
    causal: bool = False
    lookahead: int = 0
    dense_edges: int = 4

    def __post_init__(self) -> None:
        checks = (
            ("phase", PHASES), ("core", CORES), ("norm", CELL_NORMS), ("fusion", ("concat",
            "cross")), ("reconstruction", RECONSTRUCTIONS), ("bias_domain", BIAS_DOMAINS),
        )  # fmt: skip
        for name, allowed in checks:
            if getattr(self, name) not in allowed:
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, must be one of {', '.join(allowed)}"
                )
        if self.channels % self.heads:
            raise SpecError(f"channels {self.channels} is not a multiple of {self.heads} heads")
        if any(k % 2 == 0 for k in self.kernel):
            raise SpecError(f"kernel is {self.kernel}, must be odd in frames and bands")
        if self.fusion == "cross" and not self.real_imag:
            raise SpecError("fusion 'cross' needs both encoders: set real_imag=True")
        if not 0 <= self.lookahead < self.kernel[0]:
            raise SpecError(f"lookahead is {self.lookahead}, must be 0…{self.kernel[0] - 1} frames")


def paper_frontend() -> StftFrontend:
    """Return the front end of the paper preset: 320/160 Hann, exponent 0.5 (our choice)."""
    return StftFrontend(n_fft=320, hop_length=160, window="hann", compression=0.5)


class TimeConv(nn.Module):
    """Convolution with explicit padding in time: symmetric, or past with some future frames."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: tuple[int, int],
        options: SafPaperOptions,
        *,
        dilation: int = 1,
        stride: int = 1,
        groups: int = 1,
        lookahead: int = 0,
    ) -> None:
        super().__init__()
        reach = (kernel[0] - 1) * dilation
        future = min(lookahead, reach) if options.causal else reach // 2
        self.pads = (0, 0, reach - future, future)
        self.conv = nn.Conv2d(
            channels, out, kernel, stride=(1, stride), padding=(0, kernel[1] // 2),
            dilation=(dilation, 1), groups=groups,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, self.pads) if any(self.pads) else x)
        return result


class SeparableBlock(nn.Sequential):
    """Depth-wise convolution, 1×1, norm, PReLU."""

    def __init__(self, kernel: tuple[int, int], options: SafPaperOptions, **more: Any) -> None:
        c = options.channels
        super().__init__(
            TimeConv(c, c, kernel, options, groups=c, **more),
            nn.Conv2d(c, c, 1),
            cell_norm(options.norm, c),
            nn.PReLU(c),
        )


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.branch(x)
        return result


def _edge_blocks(options: SafPaperOptions) -> list[nn.Module]:
    return [
        Residual(SeparableBlock((3, 3), options, dilation=2**i)) for i in range(options.dense_edges)
    ]


class SpectrumEncoder(nn.Sequential):
    """1×1 to C channels, dilated separable blocks, halving of the bins."""

    def __init__(self, inputs: int, options: SafPaperOptions) -> None:
        c = options.channels
        super().__init__(
            nn.Conv2d(inputs, c, 1),
            cell_norm(options.norm, c),
            nn.PReLU(c),
            *_edge_blocks(options),
            SeparableBlock((1, 3), options, stride=2),
        )


class Decoder(nn.Sequential):
    """Separable blocks, transposed convolution back to all bins, 1×1 to the head's channels."""

    def __init__(self, outputs: int, options: SafPaperOptions) -> None:
        c = options.channels
        super().__init__(
            *_edge_blocks(options),
            nn.ConvTranspose2d(c, c, (1, 3), stride=(1, 2), padding=(0, 1)),
            cell_norm(options.norm, c),
            nn.PReLU(c),
            nn.Conv2d(c, outputs, 1),
        )


class LargeKernelAttention(nn.Module):
    """``out(A ⊙ V)``: A a large-kernel depth-wise convolution of GELU(1×1), V a 1×1."""

    def __init__(self, options: SafPaperOptions, *, lookahead: int = 0) -> None:
        super().__init__()
        c, (frames, bands) = options.channels, options.kernel
        wide = c // options.heads if options.share_heads else c
        self.repeat = options.heads if options.share_heads else 1
        self.enter, self.act = nn.Conv2d(c, wide, 1), nn.GELU()
        shapes = [(frames, 1), (1, bands)] if options.separable else [(frames, bands)]
        self.large = nn.Sequential(
            *(
                TimeConv(
                    wide, wide, s, options, groups=wide, lookahead=lookahead if s[0] > 1 else 0
                )
                for s in shapes
            )
        )
        self.value, self.out = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor, values: Tensor | None = None) -> Tensor:
        attention = self.large(self.act(self.enter(x)))
        if self.repeat > 1:
            attention = torch.cat([attention] * self.repeat, dim=1)
        result: Tensor = self.out(attention * self.value(x if values is None else values))
        return result


def _temporal(dilation: int, options: SafPaperOptions) -> Residual:
    c, hidden = options.channels, options.expansion * options.channels
    past = replace(options, causal=True)  # temporal blocks are causal by construction
    return Residual(
        nn.Conv2d(c, hidden, 1),
        nn.PReLU(hidden),
        cell_norm(options.norm, hidden),
        TimeConv(hidden, hidden, (3, 1), past, dilation=dilation, groups=hidden),
        nn.PReLU(hidden),
        cell_norm(options.norm, hidden),
        nn.Conv2d(hidden, c, 1),
    )


def _local(options: SafPaperOptions) -> nn.Module:
    c = options.channels
    if options.window == 0:
        return AxisAttention(c, options.heads, "bins")
    if options.window < 0:
        return nn.Sequential(nn.Conv2d(c, c, (1, 3), padding=(0, 1), groups=c), nn.Conv2d(c, c, 1))
    return BandAttention(c, options.heads, options.window)


def _core(options: SafPaperOptions, lookahead: int) -> list[nn.Module]:
    if options.core == "conv":
        return [LargeKernelAttention(options, lookahead=lookahead)]
    axes = {"attention_bins": ["bins"], "attention_frames": ["frames"]}.get(
        options.core, ["bins", "frames"]
    )
    return [
        AxisAttention(options.channels, options.heads, axis, causal=options.causal) for axis in axes
    ]


class SafPaperLayer(nn.Sequential):
    """Local band attention, convolutional attention, temporal blocks; pre-norm, residual."""

    def __init__(self, options: SafPaperOptions, lookahead: int) -> None:
        def normed(module: nn.Module) -> Residual:
            return Residual(cell_norm(options.norm, options.channels), module)

        super().__init__(
            normed(_local(options)),
            *(normed(core) for core in _core(options, lookahead)),
            *(_temporal(dilation, options) for dilation in options.dilations),
        )


class SafPaper(nn.Module):
    """Two encoders, fusion, N layers, one decoder per output.

    ``forward``: features float32[batch, 3, frames, bins] (mag, re, im; compressed) -> dict with
    ``mask`` float32[batch, 1, frames, bins] in (0, 1), ``bias`` float32[batch, 2, frames, bins]
    (one channel in the magnitude domain) or ``complex_mask`` float32[batch, 2, frames, bins], as
    the reconstruction needs; see :func:`reconstruct`.

    Args:
        frontend: needs features (mag, re, im) and an odd number of bins.
        options: see :class:`SafPaperOptions`.

    Raises:
        SpecError: a front end with other features, or bins that do not halve and double back.
    """

    def __init__(self, frontend: StftFrontend, options: SafPaperOptions) -> None:
        super().__init__()
        if frontend.features != ("mag", "re", "im"):
            raise SpecError(f"front end features are {frontend.features}, must be (mag, re, im)")
        if frontend.bins % 2 == 0:
            raise SpecError(f"front end has {frontend.bins} bins, must be odd: n_fft of 4·k")
        self.frontend, self.options = frontend, options
        share = frontend.hop_length / frontend.n_fft
        self.phase = PhaseInput(options.phase, frontend.bins, share, frontend.compression)
        self.magnitude = SpectrumEncoder(self.phase.channels, options)
        self.complex = SpectrumEncoder(2, options) if options.real_imag else None
        c = options.channels
        if options.fusion == "cross":
            self.fuse: nn.Module = LargeKernelAttention(options)
        else:
            self.fuse = nn.Conv2d(2 * c if options.real_imag else c, c, 1)
        first = options.lookahead if options.causal else 0
        self.layers = nn.Sequential(
            *(SafPaperLayer(options, first if i == 0 else 0) for i in range(options.layers))
        )
        self.heads = nn.ModuleDict(
            {name: Decoder(count, options) for name, count in _outputs(options).items()}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        x = self.magnitude(self.phase(features))
        if self.complex is not None:
            other = self.complex(features[:, 1:])
            if self.options.fusion == "cross":
                x = self.fuse(x, other)
            else:
                x = self.fuse(torch.cat((x, other), dim=1))
        else:
            x = self.fuse(x)
        x = self.layers(x)
        outputs = {name: head(x) for name, head in self.heads.items()}
        if "mask" in outputs:
            outputs["mask"] = torch.sigmoid(outputs["mask"])
        return outputs


def _outputs(options: SafPaperOptions) -> dict[str, int]:
    if options.reconstruction == "complex_mask":
        return {"complex_mask": 2}
    outputs = {}
    if "mask" in options.reconstruction:
        outputs["mask"] = 1
    if "bias" in options.reconstruction:
        outputs["bias"] = 2 if options.bias_domain == "complex" else 1
    return outputs


def reconstruct(features: Tensor, outputs: dict[str, Tensor]) -> Tensor:
    """Apply what the network returned to the compressed spectrum.

    Args:
        features: float32[batch, 3, frames, bins], channels mag, re, im.
        outputs: of :class:`SafPaper`.

    Returns:
        Enhanced compressed real and imaginary part, float32[batch, 2, frames, bins].
    """
    mag, noisy = features[:, :1], features[:, 1:]
    if "complex_mask" in outputs:
        m = outputs["complex_mask"]
        re = m[:, :1] * noisy[:, :1] - m[:, 1:] * noisy[:, 1:]
        return torch.cat((re, m[:, :1] * noisy[:, 1:] + m[:, 1:] * noisy[:, :1]), dim=1)
    result = outputs["mask"] * noisy if "mask" in outputs else torch.zeros_like(noisy)
    if "bias" in outputs:
        bias = outputs["bias"]
        result = result + (bias if bias.shape[1] == 2 else bias * noisy / (mag + 1e-5))
    return result


def saf_paper(frontend: StftFrontend | None = None, **changes: Any) -> SafPaper:
    """Return a freshly initialised paper-size SAF (0.577 M parameters).

    Args:
        frontend: None takes :func:`paper_frontend`.
        changes: fields of :class:`SafPaperOptions` to replace.

    Raises:
        SpecError: an option out of range.
    """
    return SafPaper(frontend or paper_frontend(), replace(SafPaperOptions(), **changes))
