"""Up-sampling along bins without transposed convolutions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["repeat_bins"]


def repeat_bins(x: Tensor, bins: int) -> Tensor:
    """Repeat every bin twice and cut to ``bins``: float32[..., frames, b] -> [..., frames, bins].

    Nearest-neighbour up-sampling is exact in integers; grouped transposed convolutions do not
    exist in TFLite.
    """
    return F.interpolate(x, size=(x.shape[2], 2 * x.shape[3]), mode="nearest")[..., :bins]
