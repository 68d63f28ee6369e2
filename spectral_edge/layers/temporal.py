"""Temporal convolution blocks."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import BRANCH_GAMMA
from .conv import conv_norm

__all__ = ["TemporalBlock"]


class TemporalBlock(nn.Module):
    """1×1 to a wider space, dilated causal depth-wise 3×1 over frames, 1×1 back; residual.

    The block of Conv-TasNet with BatchNorm and ReLU6. Its state is 2·dilation frames of the wide
    space.

    ``forward``: float32[batch, channels, frames, bands] -> the same shape.
    """

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.widen = conv_norm(channels, hidden)
        self.temporal = conv_norm(hidden, hidden, (3, 1), dilation=dilation, groups=hidden)
        self.narrow = conv_norm(hidden, channels, relu=False, gamma=BRANCH_GAMMA)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.narrow(self.temporal(self.widen(x)))
        return x + branch
