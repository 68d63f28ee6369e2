"""A complex spectrum as two real tensors, for models that are written with complex numbers.

Engines have no complex dtype. While a model is traced, :class:`Spectrum` stands where its code
expects the tensor of ``torch.stft``: it answers to the names that such code uses and remembers a
mask that the model multiplies it by, so that the front end can apply the mask outside the network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral_edge.errors import NotStreamable

__all__ = ["Phase", "Spectrum"]

TINY = 1e-20
Part = Callable[[], Tensor]


class Spectrum:
    """Real and imaginary part, computed when asked for.

    Args:
        re: returns the real part.
        im: returns the imaginary part.
        like: any real tensor of the same shape.
        magnitude: returns the magnitude; computed from re and im when None.
        raw: True for the spectrum that the transform gave, whatever mask it carries.
        mask: what a raw spectrum was multiplied by: (real,) or (real, imaginary).
    """

    def __init__(
        self,
        re: Part,
        im: Part,
        like: Tensor,
        magnitude: Part | None = None,
        *,
        raw: bool = False,
        mask: tuple[Tensor, ...] = (),
    ) -> None:
        self._re, self._im, self._magnitude, self.like = re, im, magnitude, like
        self.raw, self.mask = raw, mask

    @classmethod
    def of(cls, re: Tensor, im: Tensor) -> Spectrum:
        """Return the spectrum of two plain tensors."""
        return cls(lambda: re, lambda: im, re)

    # --- parts --------------------------------------------------------------------------------

    @property
    def real(self) -> Tensor:
        """Real part."""
        if len(self.mask) == 2:
            return self._re() * self.mask[0] - self._im() * self.mask[1]
        return self._re() * self.mask[0] if self.mask else self._re()

    @property
    def imag(self) -> Tensor:
        """Imaginary part."""
        if len(self.mask) == 2:
            return self._re() * self.mask[1] + self._im() * self.mask[0]
        return self._im() * self.mask[0] if self.mask else self._im()

    def abs(self) -> Tensor:
        """Return the magnitude."""
        if self.mask or self._magnitude is None:
            return (self.real.square() + self.imag.square() + TINY).sqrt()
        return self._magnitude()

    def angle(self) -> Phase:
        """Return the phase, of which only :func:`torch.polar`, ``cos`` and ``sin`` make sense."""
        return Phase(self)

    def view_as_real(self) -> Tensor:
        """Return float32[..., 2]."""
        return torch.stack((self.real, self.imag), dim=-1)

    def conj(self) -> Spectrum:
        """Return the complex conjugate."""
        return Spectrum.of(self.real, -self.imag)

    # --- arithmetic -----------------------------------------------------------------------------

    def __mul__(self, other: Any) -> Spectrum:
        if isinstance(other, Spectrum):
            if other.raw and not self.raw:
                return other.__mul__(self)
            if self.raw and not self.mask and not other.raw:
                return self._masked(other.real, other.imag)
            a, b, c, d = self.real, self.imag, other.real, other.imag
            return Spectrum.of(a * c - b * d, a * d + b * c)
        if isinstance(other, complex):
            raise NotStreamable("a product of the spectrum with a complex number: use a real one")
        if self.raw and self.mask:
            return self._masked(*(m * other for m in self.mask))
        if self.raw and isinstance(other, Tensor):
            return self._masked(other)
        return Spectrum.of(self.real * other, self.imag * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Spectrum:
        return self.__mul__(1.0 / other)

    def __add__(self, other: Spectrum) -> Spectrum:
        return Spectrum.of(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Spectrum) -> Spectrum:
        return Spectrum.of(self.real - other.real, self.imag - other.imag)

    def _masked(self, *mask: Tensor) -> Spectrum:
        whole = tuple(m.expand(self.like.shape) for m in mask)
        return Spectrum(self._re, self._im, self.like, self._magnitude, raw=self.raw, mask=whole)

    # --- shape ----------------------------------------------------------------------------------

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Spectrum:
        magnitude = self._magnitude
        return Spectrum(
            lambda: move(self._re()),
            lambda: move(self._im()),
            move(self.like),
            None if magnitude is None else lambda: move(magnitude()),
            raw=self.raw,
            mask=tuple(move(m) for m in self.mask),
        )

    def __getitem__(self, index: Any) -> Spectrum:
        return self._moved(lambda t: t[index])

    def __getattr__(self, name: str) -> Any:
        if name in _MOVES:
            return lambda *args, **kw: self._moved(lambda t: getattr(t, name)(*args, **kw))
        if name in _QUESTIONS:
            return getattr(self.like, name)
        if name in _NOTHING:
            return lambda *args, **kw: self
        raise NotStreamable(
            f"{name!r} of a complex spectrum inside the model has no real form: use abs(), .real, "
            ".imag, a product with a mask, or torch.polar(magnitude, phase)"
        )

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.strip("_")
        kwargs = kwargs or {}
        if name in ("mul", "multiply", "rmul"):
            a, b = args[:2]
            return a * b if isinstance(a, Spectrum) else b * a
        if name == "is_complex":
            return True
        found = getattr(args[0] if isinstance(args[0], Spectrum) else cls, _SPELLED.get(name, name))
        return found(*args[1:], **kwargs) if callable(found) else found


_MOVES = {
    "unsqueeze", "squeeze", "transpose", "permute", "movedim", "narrow", "flatten", "unflatten",
    "reshape", "view", "swapaxes", "swapdims", "select", "expand",
}  # fmt: skip
_QUESTIONS = {"shape", "ndim", "size", "dim", "device", "numel", "requires_grad"}
_NOTHING = {"contiguous", "clone", "detach", "to", "resolve_conj"}
_SPELLED = {"absolute": "abs", "add": "__add__", "sub": "__sub__", "div": "__truediv__",
            "truediv": "__truediv__", "getitem": "__getitem__"}  # fmt: skip


class Phase:
    """Angle of a spectrum."""

    def __init__(self, spectrum: Spectrum) -> None:
        self.spectrum = spectrum

    def cos(self) -> Tensor:
        """Return cos of the angle."""
        return self.spectrum.real / (self.spectrum.abs() + TINY)

    def sin(self) -> Tensor:
        """Return sin of the angle."""
        return self.spectrum.imag / (self.spectrum.abs() + TINY)

    def __mul__(self, other: Any) -> Phase:
        if other != 1j:
            raise NotStreamable("arithmetic on a phase inside the model: multiply the spectrum")
        return self  # torch.exp(1j * phase) is written next

    __rmul__ = __mul__

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.strip("_")
        if name in ("cos", "sin"):
            return getattr(args[0], name)()
        if name == "exp":
            return Spectrum.of(args[0].cos(), args[0].sin())
        raise NotStreamable(
            f"torch.{name} of a phase inside the model has no form that engines run: use "
            "torch.polar(magnitude, phase), or a mask times the spectrum"
        )
