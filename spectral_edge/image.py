"""Picture files in: PNG, JPEG, PPM and whatever else Pillow reads, as uint8 pixels."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import ImageError, RuntimeUnavailable
from spectral_edge.image_frontend import MAX_PIXELS

__all__ = ["SUFFIXES", "read"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "WEBP")  # others have no business on a device


def read(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture, turned upright where it says so.

    Returns:
        uint8[height, width, channels], one channel for grey pictures, else three.

    Raises:
        ImageError: missing, not a picture, damaged, or more than 2^26 pixels.
        RuntimeUnavailable: Pillow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"no picture at {path}; check the path")
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise RuntimeUnavailable(
            "reading pictures needs Pillow; pip install 'spectral-edge[image]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{path} has {width}×{height} pixels, the limit is {MAX_PIXELS}"
                    )
                upright = ImageOps.exif_transpose(picture)
                mode = "L" if upright.mode in ("1", "L", "LA", "I;16") else "RGB"
                pixels: NDArray[np.uint8] = np.array(upright.convert(mode), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            f"{path} is not a picture that Pillow reads ({error}); give PNG, JPEG or PPM"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large ({error})") from error
    return pixels.reshape(*pixels.shape[:2], -1)
