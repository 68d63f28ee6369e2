"""``ImageFrontend``: pixels, exact codes, files."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spectral_edge as se
from spectral_edge import image
from spectral_edge.errors import ImageError, SpecError, StreamError
from spectral_edge.frontend import any_frontend_from_dict
from spectral_edge.image_frontend import resize_pixels
from spectral_edge.qparams import QParams

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), np.uint8)
    pixels: NDArray[np.uint8] = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
    return pixels


@pytest.mark.parametrize("size", [(30, 40), (64, 64), (31, 17), (200, 90), (1, 1), (61, 80)])
def test_resizing_is_that_of_pillow(size: tuple[int, int]) -> None:
    pixels = picture(61, 80)
    ours = resize_pixels(pixels, *size).astype(int)
    theirs = np.asarray(
        Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR), np.int64
    )
    assert ours.shape == (*size, 3)
    assert np.abs(ours - theirs).max() <= 1


def test_flat_pictures_stay_flat() -> None:
    for value in (0, 1, 127, 255):
        flat = np.full((37, 53, 3), value, np.uint8)
        assert (resize_pixels(flat, 16, 200) == value).all()


def test_the_middle_is_kept() -> None:
    pixels = np.zeros((40, 100, 1), np.uint8)
    pixels[:, 30:70] = 200
    frontend = se.ImageFrontend(20, 20, channels=1)
    assert (frontend.pixels(pixels) == 200).all()
    assert (se.ImageFrontend(20, 20, 1, crop=0.5).pixels(pixels[:, 20:80]) == 200).all()
    tall = pixels.transpose(1, 0, 2)
    assert (frontend.pixels(tall) == 200).all()


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    pixels = picture(24, 32)
    assert np.array_equal(se.ImageFrontend(24, 32).pixels(pixels), pixels)


def test_features_and_codes() -> None:
    frontend = se.ImageFrontend(12, 16, **IMAGENET)  # type: ignore[arg-type]
    pixels = picture(40, 60)
    kept = frontend.pixels(pixels)
    features = frontend.features(pixels)
    assert features.shape == (3, 12, 16)
    assert features.dtype == np.float32
    want = (kept / 255 - IMAGENET["mean"]) / IMAGENET["std"]
    assert np.abs(features - want.transpose(2, 0, 1)).max() < 1e-6
    qparams = QParams(float(np.float32(0.0187)), -14, "int8")
    codes = frontend.codes(pixels, qparams)
    assert codes.dtype == np.int8
    for c, y, x in np.ndindex(3, 12, 16):
        exact = Fraction(int(kept[y, x, c]), 255) - Fraction(frontend.mean[c])
        exact = exact / Fraction(frontend.std[c]) / Fraction(qparams.scale)
        rounded = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
        assert codes[c, y, x] == max(-128, min(127, rounded - 14))
    assert (codes == qparams.quantize(features)).mean() > 0.999


def test_channels_are_converted() -> None:
    pixels = picture(10, 10)
    grey = se.ImageFrontend(10, 10, 1).pixels(pixels)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[:, :, 0] - luma).max() < 1.0
    assert (se.ImageFrontend(10, 10, 1).pixels(np.full((10, 10, 3), 255, np.uint8)) == 255).all()
    coloured = se.ImageFrontend(10, 10, 3).pixels(grey[:, :, 0])
    assert np.array_equal(coloured, grey.repeat(3, 2))
    with_alpha = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
    assert np.array_equal(se.ImageFrontend(10, 10).pixels(with_alpha), pixels)


def test_derived_values_and_plain_data() -> None:
    frontend = se.ImageFrontend(96, 128, **IMAGENET, crop=0.875)  # type: ignore[arg-type]
    assert (frontend.bins, frontend.channels, frontend.head) == (128, 3, "logits")
    assert not frontend.invertible
    again = any_frontend_from_dict(frontend.to_dict())
    assert again == frontend
    assert again.fingerprint == frontend.fingerprint == "6ee3d281f08bbf4c"
    assert se.ImageFrontend(mean=0.5, std=[0.25]).std == (0.25,) * 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0}, "height is 0"),
        ({"width": 4097}, "width is 4097"),
        ({"width": 96.0}, "width is 96.0"),
        ({"channels": 2}, "channels is 2"),
        ({"channels": 4}, "channels is 4"),
        ({"mean": (0.5, 0.5)}, "must be 3 number"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean is"),
        ({"mean": "abc"}, "mean is 'abc'"),
        ({"std": 0}, "std is 0"),
        ({"std": (1, 1, True)}, "std is"),
        ({"crop": 0}, "crop is 0"),
        ({"crop": 1.5}, "crop is 1.5"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        se.ImageFrontend(**changes)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        [[1, 2], [3, 4]],
        np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1 << 14, 1 << 13, 3)),
    ],
)
def test_other_pictures_are_refused(pixels: Any) -> None:
    with pytest.raises(StreamError, match="picture"):
        se.ImageFrontend(8, 8).features(pixels)
    with pytest.raises(SpecError, match="pictures make int8 codes"):
        se.ImageFrontend(8, 8).codes(picture(8, 8), QParams(0.1, 0, "int16"))


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp"])
def test_files_are_read(tmp_path: Path, suffix: str) -> None:
    pixels = picture(20, 30)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(image.read(path), pixels)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    assert image.read(tmp_path / "grey.png").shape == (20, 30, 1)
    (sequence,) = se.ImageFrontend(16, 16).sequences([path])
    assert np.array_equal(sequence[0][0], se.ImageFrontend(16, 16).features(pixels))


def test_hostile_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no picture at"):
        image.read(tmp_path / "gone.png")
    path = tmp_path / "a.png"
    Image.fromarray(picture(50, 50)).save(path)
    data = path.read_bytes()
    for bad in (b"", b"nonsense", data[: len(data) // 2], data[:40]):
        path.write_bytes(bad)
        with pytest.raises(ImageError, match="is not a picture"):
            image.read(path)
    # a header that says 100000 x 100000
    huge = tmp_path / "huge.ppm"
    huge.write_bytes(b"P6 100000 100000 255\n")
    with pytest.raises(ImageError, match=r"100000×100000|too large"):
        image.read(huge)
    gif = tmp_path / "a.gif"
    Image.fromarray(picture(5, 5)).save(gif)
    with pytest.raises(ImageError, match="give PNG, JPEG or PPM"):
        image.read(gif)
