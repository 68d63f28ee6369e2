"""Reads ``.npz`` members without trusting them: no pickles, no sizes beyond what is there."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from spectral_edge.errors import BundleError
from spectral_edge.storage import DAMAGE

__all__ = ["read_npz"]

_KINDS = "biuf"  # bool, integers, floats: no objects, no strings, no records


def read_npz(data: bytes, name: str, limit: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file.

    Args:
        data: content of the file.
        name: what to call it in errors.
        limit: bytes that all arrays together may take.

    Raises:
        BundleError: not an npz file, too large, or an array whose header does not match its data.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > limit:
                raise BundleError(f"{name} unpacks to {total} bytes, the limit is {limit}")
            raw = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries}
    except DAMAGE as error:
        raise BundleError(f"{name} is not a NumPy archive ({error})") from error
    return {key: _read_npy(value, f"{key} in {name}") for key, value in raw.items()}


def _read_npy(data: bytes, name: str) -> NDArray[Any]:
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)  # type: ignore[no-untyped-call]
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)  # type: ignore[no-untyped-call]
    except (ValueError, SyntaxError, TypeError) as error:
        raise BundleError(f"{name} is not an array ({error})") from error
    content = data[stream.tell() :]
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(content):
        raise BundleError(
            f"{name} says {dtype}{list(shape)} and holds {len(content)} bytes; export it again"
        )
    array = np.frombuffer(content, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
