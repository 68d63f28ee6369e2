"""``ImageFrontend``: 8-bit pixels to the network's input, exact in integers.

The middle of the picture is cut to the target's shape, resized by a triangle filter that widens
when pixels are merged (what Pillow calls bilinear), and mapped to codes by one table per channel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError, StreamError
from spectral_edge.logmel_frontend import number, whole

if TYPE_CHECKING:
    import torch

    from spectral_edge.qparams import QParams

__all__ = ["ImageFrontend", "resize_pixels"]

MAX_SIDE = 4096  # of the network's input
MAX_PIXELS = 1 << 26  # of a picture that is taken in
WEIGHT_BITS = 14
GREY = (77, 150, 29)  # luma of ITU-R BT.601 in 1/256


@dataclass(frozen=True)
class ImageFrontend:
    """Front end of an image classifier: uint8 picture in, normalised pixels out.

    The network sees ``(pixel/255 - mean) / std`` as ``(batch, channels, height, width)``.

    Attributes:
        height: of the network's input, 1…4096.
        width: of the network's input, 1…4096.
        channels: 3 (RGB) or 1 (grey); pictures are converted.
        mean: per channel, 0…1; one number counts for all.
        std: per channel, what the difference is divided by; one number counts for all.
        crop: share of the largest centred rectangle of the target's shape that is kept, 0.1…1.

    Raises:
        SpecError: a value outside its range.
    """

    height: int = 224
    width: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    crop: float = 1.0

    kind: ClassVar[str] = "image"
    head: ClassVar[str] = "logits"
    invertible: ClassVar[bool] = False
    hops_per_second: ClassVar[float] = 0.0
    algorithmic_latency: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        whole(self, "height", 1, MAX_SIDE)
        whole(self, "width", 1, MAX_SIDE)
        if whole(self, "channels", 1, 3) == 2:
            raise SpecError("channels is 2, must be 1 (grey) or 3 (RGB)")
        for name, low, high in (("mean", 0.0, 1.0), ("std", 1e-3, 1e3)):
            object.__setattr__(self, name, self._per_channel(name, low, high))
        object.__setattr__(self, "crop", number(self, "crop", 0.1, 1.0))

    def _per_channel(self, name: str, low: float, high: float) -> tuple[float, ...]:
        value: Any = getattr(self, name)
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        if len(values) == 1:
            values *= self.channels
        good = all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high
            for v in values
        )
        if len(values) != self.channels or not good:
            raise SpecError(
                f"{name} is {value!r}, must be {self.channels} number(s) in {low:g}…{high:g}"
            )
        return tuple(float(v) for v in values)

    @property
    def bins(self) -> int:
        """Values of one row of pixels: width."""
        return self.width

    @property
    def fingerprint(self) -> str:
        """Hash of the value; a bundle refuses a front end with another fingerprint."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        lists = {"mean": list(self.mean), "std": list(self.std)}
        return {"kind": self.kind, **asdict(self), **lists}

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return uint8[height, width, channels]: converted, cut to the middle, resized.

        Args:
            image: uint8[height, width] or uint8[height, width, 1, 3 or 4]; alpha is ignored.

        Raises:
            StreamError: another dtype or shape, no pixels, or more than 2^26.
        """
        return resize_pixels(
            self._cut(_as_channels(_checked(image), self.channels)), self.height, self.width
        )

    def features(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the network sees: float32[channels, height, width]; see :meth:`pixels`."""
        return self._mapped(image, _float_table(self))

    def codes(self, image: NDArray[np.uint8], qparams: QParams) -> NDArray[np.int8]:
        """Return int8[channels, height, width], rounded half away from zero; see :meth:`pixels`.

        Raises:
            SpecError: qparams that are not int8.
        """
        if qparams.dtype != "int8":
            raise SpecError(f"the network's input is {qparams.dtype}, pictures make int8 codes")
        return self._mapped(image, _code_table(self, qparams.scale, qparams.zero_point))

    def sequences(
        self, files: Iterable[str | Path], max_seconds: float | None = None
    ) -> Iterator[tuple[torch.Tensor]]:
        """Turn picture files into calibration sequences.

        Args:
            files: pictures that :func:`spectral_edge.image.read` takes.
            max_seconds: not used; it is there so that all front ends have one signature.

        Yields:
            One tuple per picture: ``(float32[1, channels, height, width],)``.

        Raises:
            ImageError: a file is not a picture.
        """
        from spectral_edge.feature_sequences import image_sequences

        return image_sequences(self, files)

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rows, columns = image.shape[:2]
        unit = min(Fraction(rows, self.height), Fraction(columns, self.width))
        unit *= Fraction(self.crop)
        high = min(rows, max(1, round(self.height * unit)))
        wide = min(columns, max(1, round(self.width * unit)))
        top, left = (rows - high) // 2, (columns - wide) // 2
        return image[top : top + high, left : left + wide]

    def _mapped(self, image: NDArray[np.uint8], table: NDArray[Any]) -> NDArray[Any]:
        pixels = self.pixels(image)
        return np.stack([table[c][pixels[:, :, c]] for c in range(self.channels)])


@lru_cache(maxsize=16)
def _float_table(frontend: ImageFrontend) -> NDArray[np.float32]:
    """float32[channels, 256]: what each pixel value becomes."""
    table: NDArray[np.float32] = np.array(
        [
            [float(v) for v in _values(m, s)]
            for m, s in zip(frontend.mean, frontend.std, strict=True)
        ],
        np.float32,
    )
    table.setflags(write=False)
    return table


@lru_cache(maxsize=16)
def _code_table(frontend: ImageFrontend, scale: float, zero_point: int) -> NDArray[np.int8]:
    """int8[channels, 256]: the code of each pixel value, computed in fractions."""
    rows = []
    for mean, std in zip(frontend.mean, frontend.std, strict=True):
        exact = [v / Fraction(scale) for v in _values(mean, std)]
        away = [int(abs(v) + Fraction(1, 2)) * (1 if v >= 0 else -1) for v in exact]
        rows.append([max(-128, min(127, v + zero_point)) for v in away])
    table: NDArray[np.int8] = np.array(rows, np.int8)
    table.setflags(write=False)
    return table


def _values(mean: float, std: float) -> list[Fraction]:
    return [(Fraction(v, 255) - Fraction(mean)) / Fraction(std) for v in range(256)]


def _checked(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        seen = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise StreamError(f"picture is {seen}, must be a NumPy array of uint8")
    picture: NDArray[np.uint8] = image[:, :, None] if image.ndim == 2 else image
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or not picture.size:
        raise StreamError(
            f"picture has shape {image.shape}, must be [height, width] or [height, width, channels]"
        )
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        raise StreamError(f"picture has shape {image.shape}, the limit is {MAX_PIXELS} pixels")
    return picture


def _as_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    image = image[:, :, :3]
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    grey: NDArray[np.uint8] = (
        (image.astype(np.uint16) * np.array(GREY, np.uint16)).sum(axis=2, dtype=np.uint16) + 128
    ) >> 8
    return grey.astype(np.uint8)[:, :, None]


def resize_pixels(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8[rows, columns, channels] by a triangle filter in integers.

    Columns first, then rows, each rounded to 8 bits; weights in Q14 add up to exactly 1.
    """
    result = image
    if image.shape[1] != width:
        result = _along(result.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if image.shape[0] != height:
        result = _along(result, height)
    return np.ascontiguousarray(result)


def _along(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    first, weights = _filter(image.shape[0], size)
    total = np.full((size, *image.shape[1:]), 1 << (WEIGHT_BITS - 1), np.int32)
    for tap in range(weights.shape[1]):
        rows = np.minimum(first + tap, image.shape[0] - 1)
        total += image[rows].astype(np.int32) * weights[:, tap, None, None]
    return (total >> WEIGHT_BITS).astype(np.uint8)


@lru_cache(maxsize=32)
def _filter(before: int, after: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """First source row int64[after] and weights int32[after, taps] of each target row."""
    # in units of 1/(2·after) source rows: row k has its middle at (2k+1)·after, target i at
    # (2i+1)·before, and the triangle reaches 2·max(before, after) to both sides
    reach = 2 * max(before, after)
    firsts, rows = [], []
    for i in range(after):
        middle = (2 * i + 1) * before
        low = max(0, (middle - reach) // (2 * after))
        high = min(before, (middle + reach) // (2 * after) + 1)
        heights = [max(0, reach - abs((2 * k + 1) * after - middle)) for k in range(low, high)]
        firsts.append(low)
        rows.append(_shares(heights))
    weights = np.zeros((after, max(len(row) for row in rows)), np.int32)
    for i, row in enumerate(rows):
        weights[i, : len(row)] = row
    return np.array(firsts, np.int64), weights


def _shares(heights: list[int]) -> list[int]:
    """Heights as integers that add up to 2^WEIGHT_BITS; what rounding leaves goes to the peak."""
    total, one = sum(heights), 1 << WEIGHT_BITS
    shares = [(2 * h * one + total) // (2 * total) for h in heights]
    shares[heights.index(max(heights))] += one - sum(shares)
    return shares
