"""Orthonormal transforms written as linear layers with constant weights.

A DCT of at most a few dozen points is an ordinary matrix product: integer engines run it as a fully
connected op, and no FFT op (which none of them has in int8) is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError

__all__ = ["TRANSFORMS", "AxisTransform", "dct_matrix", "transform_matrix"]

TRANSFORMS = ("dct", "fourier", "haar", "random", "identity")


def dct_matrix(n: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, float64[n, n]; row k has frequency k.

    ``D[0, i] = 1/√n``, ``D[k, i] = √(2/n)·cos(π(i + ½)k/n)``.
    """
    k = torch.arange(n, dtype=torch.float64)[:, None]
    i = torch.arange(n, dtype=torch.float64)[None, :]
    matrix = math.sqrt(2.0 / n) * torch.cos(math.pi * (i + 0.5) * k / n)
    matrix[0] = 1.0 / math.sqrt(n)
    return matrix


def _fourier_matrix(n: int) -> Tensor:
    """Real Fourier basis, rows ordered DC, cos 1, sin 1, cos 2, sin 2, …."""
    i = torch.arange(n, dtype=torch.float64)
    rows = [torch.full((n,), 1.0 / math.sqrt(n), dtype=torch.float64)]
    for k in range(1, n // 2 + 1):
        angle = 2.0 * math.pi * k * i / n
        if 2 * k == n:
            rows.append(torch.cos(angle) / math.sqrt(n))
        else:
            rows += [math.sqrt(2.0 / n) * torch.cos(angle), math.sqrt(2.0 / n) * torch.sin(angle)]
    return torch.stack(rows[:n])


def _haar_matrix(n: int) -> Tensor:
    """Haar basis of any length: interval [lo, hi) splits at its middle, coarse rows first."""
    rows = [torch.full((n,), 1.0 / math.sqrt(n), dtype=torch.float64)]
    intervals = [(0, n)]
    while intervals:
        following = []
        for low, high in intervals:
            if high - low < 2:
                continue
            middle = (low + high) // 2
            left, right = middle - low, high - middle
            row = torch.zeros(n, dtype=torch.float64)
            scale = math.sqrt(left * right / (left + right))
            row[low:middle], row[middle:high] = scale / left, -scale / right
            rows.append(row)
            following += [(low, middle), (middle, high)]
        intervals = following
    return torch.stack(rows)


def transform_matrix(name: str, n: int) -> Tensor:
    """Return an orthonormal matrix, float64[n, n], rows ordered from smooth to detailed.

    Args:
        name: ``dct``, ``fourier`` (real, Hartley-like), ``haar``, ``random`` (fixed seed) or
            ``identity``.
        n: length of the axis.

    Raises:
        SpecError: an unknown name.
    """
    if name == "dct":
        return dct_matrix(n)
    if name == "fourier":
        return _fourier_matrix(n)
    if name == "haar":
        return _haar_matrix(n)
    if name == "random":
        generator = torch.Generator().manual_seed(n)
        gauss = torch.randn(n, n, generator=generator, dtype=torch.float64)
        result: Tensor = torch.linalg.qr(gauss)[0].T.contiguous()
        return result
    if name == "identity":
        return torch.eye(n, dtype=torch.float64)
    raise SpecError(f"transform is {name!r}, must be one of {', '.join(TRANSFORMS)}")


class AxisTransform(nn.Module):
    """Constant (or learned) matrix along the last axis, and its inverse.

    With band scales g the forward matrix is ``diag(g)·D`` and the inverse ``Dᵀ·diag(1/g)``: the
    product is the same, but every coefficient of an integer spectrum uses the whole range.

    ``forward``: float32[..., length] -> float32[..., kept]; ``inverse``: the other way.

    Args:
        name: see :func:`transform_matrix`.
        length: size of the axis.
        keep: coefficients kept, from the smooth end; None keeps all.
        learned: train the matrix (it starts as ``name``); the inverse is then its transpose.
    """

    analysis: Tensor
    synthesis: Tensor
    scale: Tensor

    def __init__(
        self, name: str, length: int, keep: int | None = None, *, learned: bool = False
    ) -> None:
        super().__init__()
        self.name, self.length = name, length
        self.kept = length if keep is None else keep
        if not 1 <= self.kept <= length:
            raise SpecError(f"keep is {keep}, must be 1…{length} coefficients")
        matrix = self._exact()
        self.learned = learned
        if learned:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("analysis", matrix, persistent=False)
            self.register_buffer("synthesis", matrix.T.contiguous(), persistent=False)
        self.register_buffer("scale", torch.ones(self.kept))

    def _exact(self) -> Tensor:
        return transform_matrix(self.name, self.length)[: self.kept].float().contiguous()

    def set_scale(self, scale: Tensor) -> None:
        """Fold per-coefficient gains, float32[kept] > 0, into both constant matrices.

        Raises:
            SpecError: the transform is learned, or a gain is not positive.
        """
        if self.learned:
            raise SpecError("a learned transform has no band scales: train it without them")
        if scale.shape != (self.kept,) or bool((scale <= 0).any()):
            raise SpecError(f"scale must be {self.kept} positive gains, got shape {scale.shape}")
        exact = self._exact().to(scale.device)  # not the present one: gains would pile up rounding
        with torch.no_grad():
            self.analysis.copy_(exact * scale[:, None])
            self.synthesis.copy_(exact.T * (1.0 / scale)[None, :])
            self.scale.copy_(scale)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if not self.learned:
            self.set_scale(self.scale.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix if self.learned else self.analysis)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return to the original axis: float32[..., kept] -> float32[..., length]."""
        return F.linear(spectrum, self.matrix.T if self.learned else self.synthesis)
