"""What the lowering passes around: tensors of the file with their layout, and constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.qparams import QParams

from .builder import Quantization
from .layout import Perm, Shape, physical

__all__ = ["Const", "Value", "real_scalar"]


def real_scalar(value: float) -> Const:
    """A constant of one real value."""
    return Const(np.array(value, np.float32))


@dataclass(frozen=True)
class Value:
    """A tensor of the file seen as a logical (torch) tensor.

    ``tensor`` may have another physical shape with the same element order; a RESHAPE is written
    only when an operator needs the other shape.
    """

    tensor: int
    shape: Shape
    perm: Perm
    dtype: str
    qparams: QParams | None = None

    @property
    def physical(self) -> Shape:
        """Physical shape that this view of the tensor has."""
        return physical(self.shape, self.perm)


@dataclass(frozen=True, eq=False)
class Const:
    """A constant in logical order: real values, or codes with scales (zero points all equal).

    ``axis`` is the logical axis of per-channel scales, None for one scale.
    """

    array: NDArray[Any]
    scales: NDArray[np.float32] | None = None
    zero_point: int = 0
    axis: int | None = None

    @property
    def shape(self) -> Shape:
        """Logical shape."""
        return tuple(self.array.shape)

    @property
    def real(self) -> NDArray[Any]:
        """Real values, float32 when quantised."""
        if self.scales is None:
            return self.array
        scales = (
            self.scales.reshape(())
            if self.axis is None
            else self.scales.reshape([-1 if i == self.axis else 1 for i in range(self.array.ndim)])
        )
        codes = self.array.astype(np.int64) - self.zero_point
        return (codes.astype(np.float32) * scales).astype(np.float32)

    @property
    def scalar(self) -> float | None:
        """The value when all elements are equal, else None."""
        real = self.real
        return float(real.flat[0]) if real.size and np.all(real == real.flat[0]) else None

    def transposed(self, order: tuple[int, ...]) -> Const:
        """Axes reordered, scales following their axis."""
        axis = None if self.axis is None else order.index(self.axis)
        return Const(np.transpose(self.array, order), self.scales, self.zero_point, axis)

    def reshaped(self, shape: Shape) -> Const:
        """Another shape; per-channel scales allow only axes of size 1 to come and go."""
        axis = None if self.axis is None or self.shape[self.axis] == 1 else self.axis
        if axis is not None:
            position = [i for i, n in enumerate(self.shape) if n != 1].index(axis)
            axis = [i for i, n in enumerate(shape) if n != 1][position]
        return Const(self.array.reshape(shape), self.scales, self.zero_point, axis)

    def quantization(self, axis: int | None = None) -> Quantization | None:
        """Parameters for the file; ``axis`` is the physical axis of per-channel scales."""
        if self.scales is None:
            return None
        scales = tuple(float(s) for s in np.atleast_1d(self.scales))
        return Quantization(scales, (self.zero_point,) * len(scales), axis or 0)
