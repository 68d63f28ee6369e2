"""Transposed convolutions spelled as convolutions: every engine has those in int8, grouped or not.

Along an axis of stride s, outputs i·s + r (r = 0 … s-1) are s ordinary convolutions with every s-th
tap. They run as one convolution with s times the channels, whose outputs are then interleaved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import fx

from spectral_edge.streaming.rewrite import Rewriter

__all__ = ["Geometry", "spell"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Geometry:
    """Transposed convolution on one spatial axis.

    Attributes:
        size: input length; None on the time axis, whose older frames stand before the new ones and
            whose output is the part that the new ones complete.
    """

    kernel: int
    stride: int
    padding: int
    output_padding: int
    dilation: int
    size: int | None

    @property
    def taps(self) -> int:
        """Taps of each of the interleaved convolutions."""
        return ceil(self.kernel / self.stride)

    @property
    def length(self) -> int:
        """Output length of an axis other than time."""
        assert self.size is not None
        reach = (self.kernel - 1) * self.dilation
        return (self.size - 1) * self.stride - 2 * self.padding + reach + self.output_padding + 1

    def pads(self) -> tuple[int, int]:
        """Zeros before and after the input."""
        if self.size is None:
            return 0, 0
        if self.stride == 1:
            left = (self.kernel - 1) * self.dilation - self.padding
            return left, left + self.output_padding
        last = ceil((self.padding + self.length) / self.stride) - 1
        return self.taps - 1 - self.padding // self.stride, last - (self.size - 1)


def spell(
    ctx: Rewriter,
    x: fx.Node,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    axes: Sequence[Geometry],
    groups: int,
    shape: Sequence[int],
) -> fx.Node | None:
    """Emit convolution and interleaving; None when more than one axis is strided.

    Args:
        ctx: the rewriting.
        x: input node, time axis with its history.
        weight: float[inputs, outputs / groups, *kernel].
        bias: float[outputs] or None.
        axes: geometry per spatial axis.
        groups: groups of the convolution.
        shape: output shape with -1 for the batch, before cropping to the length of a strided axis.
    """
    strided = [i for i, a in enumerate(axes) if a.stride > 1]
    if len(strided) > 1 or any(axes[i].dilation > 1 for i in strided):
        return None
    depthwise = groups == weight.shape[0] and weight.shape[1] == 1
    kernel, many = _forward_weight(weight, groups, depthwise=depthwise)
    along = strided[0] if strided else None
    phases = axes[along].stride if along is not None else 1
    if along is not None:
        kernel = _phases(kernel, along, axes[along], depthwise=depthwise)
        if bias is not None:
            bias = bias.repeat_interleave(phases) if depthwise else bias.repeat(phases)
    pads = [a.pads() for a in axes]
    if any(a != b or a < 0 for a, b in pads):
        flat = [p for pair in reversed(pads) for p in pair]
        x = ctx.emit(_aten.constant_pad_nd.default, (x, flat, 0.0))
        pads = [(0, 0)] * len(axes)
    name = ctx.name_here()
    w = ctx.constant(kernel.contiguous(), f"{name}_spelled_weight")
    b = None if bias is None else ctx.constant(bias, f"{name}_spelled_bias")
    op = _aten.conv1d.default if len(axes) == 1 else _aten.conv2d.default
    ones, dilation = [1] * len(axes), [a.dilation for a in axes]
    out = ctx.emit(op, (x, w, b, ones, [p[0] for p in pads], dilation, many))
    if along is None:
        return out
    return _interleaved(ctx, out, axes[along], along, shape, depthwise=depthwise)


def _forward_weight(
    weight: torch.Tensor, groups: int, *, depthwise: bool
) -> tuple[torch.Tensor, int]:
    """Return the kernel [outputs, inputs / groups, ...] of the equal convolution, and groups."""
    spatial = list(range(2, weight.ndim))
    if depthwise:
        return weight.flip(spatial), groups
    if groups > 1:  # a dense kernel: few engines have grouped convolutions
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        dense = weight.new_zeros(weight.shape[0], outputs * groups, *weight.shape[2:])
        for g in range(groups):
            rows, columns = (
                slice(g * inputs, (g + 1) * inputs),
                slice(g * outputs, (g + 1) * outputs),
            )
            dense[rows, columns] = weight[rows]
        weight = dense
    return weight.transpose(0, 1).flip(spatial), 1


def _phases(kernel: torch.Tensor, along: int, axis: Geometry, *, depthwise: bool) -> torch.Tensor:
    """Return kernels of every s-th tap, channels phase-major (channel-major when depth-wise)."""
    dim, s = along + 2, axis.stride
    missing = axis.taps * s - axis.kernel
    pad = [0, 0] * (kernel.ndim - 1 - dim) + [missing, 0]  # flipped: the last taps come first
    padded = torch.nn.functional.pad(kernel, pad)
    # padded[t·s + (s-1-r)] is tap r + (taps-1-t)·s
    phases = [padded.index_select(dim, torch.arange(s - 1 - r, axis.taps * s, s)) for r in range(s)]
    return torch.stack(phases, dim=1 if depthwise else 0).flatten(0, 1)


def _interleaved(
    ctx: Rewriter,
    out: fx.Node,
    axis: Geometry,
    along: int,
    shape: Sequence[int],
    *,
    depthwise: bool,
) -> fx.Node:
    """Move phases from the channels to ``along`` and crop."""
    s, ndim = axis.stride, len(shape)
    left, right = axis.pads()
    size = shape[along + 2] // s if axis.size is None else axis.size + left + right - axis.taps + 1
    spatial = list(shape[2:])
    spatial[along] = size
    split = [shape[1], s] if depthwise else [s, shape[1]]
    channel, phase = (1, 2) if depthwise else (2, 1)
    y = ctx.emit(_aten.reshape.default, (out, [-1, *split, *spatial]))
    order = [0, channel, *range(3, 3 + along + 1), phase, *range(3 + along + 1, ndim + 1)]
    y = ctx.emit(_aten.permute.default, (y, order))
    spatial[along] = size * s
    y = ctx.emit(_aten.reshape.default, (y, [-1, shape[1], *spatial]))
    if axis.size is None or size * s == axis.length:
        return y
    start = axis.padding % s
    return ctx.emit(_aten.slice.Tensor, (y, along + 2, start, start + axis.length))
