"""Patches of a log-mel window as tokens: full-frequency (FFTP) or square; resizing of checkpoints.

FFTP: a patch spans all mel bands and a few frames, so tokens are a sequence in time alone (idea:
Makineni et al., arXiv 2508.21243; the patch width is a knob, the paper's is not known to us).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError

__all__ = ["PatchEmbedding", "resize_kernel", "resize_positions", "token_grid"]


def token_grid(
    size: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int]:
    """Return (tokens along time, tokens along mel), ⌊(n - patch)/stride⌋ + 1 each.

    Raises:
        SpecError: a patch larger than the window.
    """
    for name, n, p in zip(("frames", "mels"), size, patch, strict=True):
        if p > n:
            raise SpecError(f"patch has {p} {name}, the window only {n}: use a smaller patch")
    return (
        (size[0] - patch[0]) // stride[0] + 1,
        (size[1] - patch[1]) // stride[1] + 1,
    )


class PatchEmbedding(nn.Module):
    """Strided convolution from a window to tokens, ordered by time, mel index fastest.

    ``forward``: float32[batch, 1, frames, mels] -> float32[batch, tokens, width].

    Args:
        width: d.
        patch: (frames, mels) of a patch; mels equal to the window's makes it full-frequency.
        stride: (frames, mels).
        past: frames of zero padding on the left, so that a patch may start before the clip.
    """

    def __init__(
        self, width: int, patch: tuple[int, int], stride: tuple[int, int], past: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, patch, stride=stride)
        self.past = past

    def forward(self, features: Tensor) -> Tensor:
        if self.past:
            features = F.pad(features, (0, 0, self.past, 0))
        result: Tensor = self.conv(features).flatten(2).transpose(1, 2)
        return result


def resize_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize patch-embedding weights so that resized patches give the same tokens (FlexiViT).

    With R the bilinear resize of a patch as a matrix, the new kernel is the least-squares solution
    of
    ``<R x, w'> = <x, w>`` for all patches x: ``w' = pinv(Rᵀ)·w``. Plain interpolation of the kernel
    would change the size of the tokens. Exact when the patch grows.

    Args:
        kernel: float[width, channels, frames, mels].
        size: new (frames, mels).

    Returns:
        float[width, channels, *size].
    """
    old = (kernel.shape[2], kernel.shape[3])
    if old == size:
        return kernel.clone()
    count = old[0] * old[1]
    basis = torch.eye(count, dtype=torch.float64).reshape(count, 1, *old)
    resize = F.interpolate(basis, size, mode="bilinear", align_corners=False, antialias=False)
    inverse = torch.linalg.pinv(resize.reshape(count, -1))  # [new, old]
    flat = kernel.double().flatten(2) @ inverse.T
    result: Tensor = flat.reshape(*kernel.shape[:2], *size).to(kernel.dtype)
    return result


def resize_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 0
) -> Tensor:
    """Resize a learned table of a (time × mel) token grid; a new grid with one mel row averages.

    Args:
        table: float[1, prefix + old tokens, width], mel index fastest.
        old: tokens along (time, mel).
        new: tokens along (time, mel).
        prefix: class tokens in front, kept as they are.

    Raises:
        SpecError: the table does not have ``prefix`` + old tokens.
    """
    if table.shape[1] != prefix + old[0] * old[1]:
        raise SpecError(
            f"position table has {table.shape[1]} rows, expected {prefix} + {old[0]}·{old[1]}"
        )
    front, grid = table[:, :prefix], table[:, prefix:]
    image = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
    if new[1] == 1 and old[1] > 1:
        image = image.mean(dim=3, keepdim=True)
    image = F.interpolate(image, new, mode="bicubic", align_corners=False)
    return torch.cat((front, image.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
