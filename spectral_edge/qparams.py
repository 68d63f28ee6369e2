"""Quantisation parameters of one tensor, as a frozen value that needs NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

__all__ = ["QParams"]


@dataclass(frozen=True)
class QParams:
    """Affine quantisation of one tensor: real = scale · (code - zero_point).

    ``scale`` is a Python float that is exactly representable in float32.
    """

    scale: float
    zero_point: int
    dtype: str = "int8"

    def __post_init__(self) -> None:
        scale = float(np.float32(self.scale))
        if not np.isfinite(scale) or scale <= 0:
            raise SpecError(f"scale is {self.scale!r}, must be finite and positive")
        object.__setattr__(self, "scale", scale)
        low, high = self.code_range
        if not low <= self.zero_point <= high:
            raise SpecError(f"zero_point is {self.zero_point}, must be {low}…{high}")

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code of the dtype."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def quantize(self, x: NDArray[Any]) -> NDArray[Any]:
        """Quantise real values: round half to even like torch fake-quant and ONNX, saturate."""
        inverse = np.float32(1.0) / np.float32(self.scale)
        codes = np.rint(np.asarray(x, np.float32) * inverse) + self.zero_point
        saturated: NDArray[Any] = np.clip(codes, *self.code_range).astype(self.dtype)
        return saturated

    def dequantize(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Return real values of ``codes`` as float32."""
        shifted = np.asarray(codes).astype(np.int32) - self.zero_point
        return shifted.astype(np.float32) * np.float32(self.scale)
