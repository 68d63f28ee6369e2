"""RandAugment on pictures whose strength only grows: m 9, std 0.5, two changes each.

After Cubuk et al., arXiv 1909.13719, with the list and ranges that vision training scripts call
``rand-m9-mstd0.5-inc1``. Needs Pillow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import RuntimeUnavailable

__all__ = ["CHANGES", "rand_augment"]

MOST = 10.0
MAGNITUDE, SPREAD = 9.0, 0.5
PER_IMAGE, PROBABILITY = 2, 0.5
GREY = (124, 116, 104)  # of ImageNet's mean, for pixels from outside

Picture = Any  # PIL.Image.Image
Change = Callable[[Picture, float, int], Picture]  # picture, strength 0…1, sign


def _affine(picture: Picture, matrix: tuple[float, ...]) -> Picture:
    from PIL import Image

    fill = GREY if picture.mode == "RGB" else GREY[1]
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(picture: Picture, strength: float, sign: int) -> Picture:
    fill = GREY if picture.mode == "RGB" else GREY[1]
    return picture.rotate(sign * 30.0 * strength, fillcolor=fill)


def _shear(along: int) -> Change:
    def change(picture: Picture, strength: float, sign: int) -> Picture:
        s = sign * 0.3 * strength
        return _affine(picture, (1, s, 0, 0, 1, 0) if along == 0 else (1, 0, 0, s, 1, 0))

    return change


def _translate(along: int) -> Change:
    def change(picture: Picture, strength: float, sign: int) -> Picture:
        pixels = sign * 0.45 * strength * picture.size[along]
        return _affine(picture, (1, 0, pixels, 0, 1, 0) if along == 0 else (1, 0, 0, 0, 1, pixels))

    return change


def _enhance(kind: str) -> Change:
    def change(picture: Picture, strength: float, sign: int) -> Picture:
        from PIL import ImageEnhance

        factor = max(0.1, 1.0 + sign * 0.9 * strength)
        return getattr(ImageEnhance, kind)(picture).enhance(factor)

    return change


def _ops(kind: str) -> Change:
    def change(picture: Picture, strength: float, sign: int) -> Picture:
        from PIL import ImageOps

        arguments = {"posterize": (4 - int(4 * strength) or 1,)}
        arguments["solarize"] = (256 - int(256 * strength),)
        return getattr(ImageOps, kind)(picture, *arguments.get(kind, ()))

    return change


def _solarize_add(picture: Picture, strength: float, sign: int) -> Picture:
    add = int(110 * strength)
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return picture.point(table * len(picture.getbands()))


CHANGES: dict[str, Change] = {
    **{kind: _ops(kind) for kind in ("autocontrast", "equalize", "invert", "posterize")},
    "solarize": _ops("solarize"), "solarize add": _solarize_add, "rotate": _rotate,
    **{kind.lower(): _enhance(kind) for kind in ("Color", "Contrast", "Brightness", "Sharpness")},
    "shear x": _shear(0), "shear y": _shear(1),
    "translate x": _translate(0), "translate y": _translate(1),
}  # fmt: skip


def rand_augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a changed picture: two draws out of :data:`CHANGES`, each done with probability 0.5.

    Args:
        image: uint8[height, width, 1 or 3].
        rng: decides what and how strongly.

    Raises:
        RuntimeUnavailable: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeUnavailable("augment.rand needs Pillow: pip install pillow") from None
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    for name in rng.choice(list(CHANGES), PER_IMAGE):
        strength = float(np.clip(rng.normal(MAGNITUDE, SPREAD), 0.0, MOST)) / MOST
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < PROBABILITY:
            picture = CHANGES[str(name)](picture, strength, sign)
    return np.asarray(picture, dtype=np.uint8).reshape(image.shape)
