"""What the gallery tests know of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Entry", "causal1d", "causal2d"]


@dataclass(frozen=True)
class Entry:
    """A network and how to stream it.

    Attributes:
        model: the network, untrained.
        example: one tensor per input of ``forward``.
        time_dim: time axis per input.
        delay: frames of lookahead that streamify must find.
        hop_multiple: frames per step that it must find.
    """

    model: nn.Module
    example: tuple[torch.Tensor, ...]
    time_dim: int | tuple[int | None, ...]
    delay: int = 0
    hop_multiple: int = 1


def causal1d(x: torch.Tensor, kernel: int, dilation: int = 1) -> torch.Tensor:
    """Zero-pad [batch, channels, frames] on the left for a causal convolution."""
    return nn.functional.pad(x, ((kernel - 1) * dilation, 0))


def causal2d(x: torch.Tensor, kernel: int, dilation: int = 1) -> torch.Tensor:
    """Zero-pad [batch, channels, frames, bands] in time for a causal convolution."""
    return nn.functional.pad(x, (0, 0, (kernel - 1) * dilation, 0))
