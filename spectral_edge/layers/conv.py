"""Causal convolutions over (batch, channels, frames, bins), with BatchNorm where it folds."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CausalConv2d", "DepthwiseSeparable", "conv_norm"]


class CausalConv2d(nn.Conv2d):
    """Convolution that sees past frames (and ``lookahead`` later ones); bins are padded evenly.

    The past is made by explicit left padding, so that the convolution itself has no padding along
    time: a stream then replaces exactly one op (the padding) by a state.

    ``forward``: float32[batch, in_channels, frames, bins] -> float32[batch, out_channels, frames,
    ceil(bins / stride)].

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel: (frames, bins); the kernel along bins is odd.
        stride: stride along bins.
        dilation: dilation along frames.
        groups: as in ``nn.Conv2d``.
        bias: False when BatchNorm follows.
        lookahead: frames of the kernel that lie after the frame of the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        lookahead: int = 0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride=(1, stride),
            padding=(0, kernel[1] // 2),
            dilation=(dilation, 1),
            groups=groups,
            bias=bias,
        )
        self.past_frames = (kernel[0] - 1) * dilation - lookahead
        self.lookahead = lookahead

    def forward(self, x: Tensor) -> Tensor:
        if self.past_frames or self.lookahead:
            x = F.pad(x, (0, 0, self.past_frames, self.lookahead))
        return super().forward(x)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int] = (1, 1),
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
    gamma: float = 1.0,
    lookahead: int = 0,
) -> nn.Sequential:
    """Return convolution, BatchNorm and (with ``relu``) ReLU6: one integer op after folding.

    ``gamma`` is the initial BatchNorm gain; residual branches start small so that a fresh network
    is close to its skip path.
    """
    conv = CausalConv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        bias=False,
        lookahead=lookahead,
    )
    norm = nn.BatchNorm2d(out_channels)
    nn.init.constant_(norm.weight, gamma)
    return nn.Sequential(conv, norm, nn.ReLU6()) if relu else nn.Sequential(conv, norm)


class DepthwiseSeparable(nn.Sequential):
    """Depth-wise convolution and BatchNorm, then 1×1 convolution, BatchNorm and ReLU6.

    ``forward``: float32[batch, channels, frames, bins] -> float32[batch, channels, frames,
    ceil(bins / stride)].
    """

    def __init__(self, channels: int, kernel: tuple[int, int], *, stride: int = 1) -> None:
        super().__init__(
            conv_norm(channels, channels, kernel, stride=stride, groups=channels, relu=False),
            conv_norm(channels, channels),
        )
