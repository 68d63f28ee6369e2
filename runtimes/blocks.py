"""Blocks of audio as sessions take them in."""

from __future__ import annotations

from typing import Any

import numpy as np

from spectral_edge.errors import StreamError

__all__ = ["MAX_CHANNELS", "check_block"]

MAX_CHANNELS = 64


def check_block(block: Any) -> None:
    """Check dtype, shape and values of a block.

    Raises:
        StreamError: neither int16 nor float32, not [samples] or [samples, channels], too many
            channels, NaN or infinity.
    """
    if not isinstance(block, np.ndarray) or block.dtype not in (np.int16, np.float32):
        seen = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
        raise StreamError(f"block is {seen}, must be a NumPy array of int16 or float32")
    if block.ndim not in (1, 2):
        raise StreamError(
            f"block has shape {block.shape}, must be [samples] or [samples, channels]"
        )
    if block.ndim == 2 and not 1 <= block.shape[1] <= MAX_CHANNELS:
        raise StreamError(
            f"block has {block.shape[1]} channels, must be 1…{MAX_CHANNELS}; "
            "audio is [samples, channels]"
        )
    if block.dtype == np.float32 and not np.isfinite(block).all():
        first = int(np.argwhere(~np.isfinite(block))[0][0])
        raise StreamError(f"block holds {block[first]} at sample {first}, must be finite")
