"""A bounded buffer between two threads: one writes, one reads, neither ever waits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SampleRing"]

Block = NDArray[np.float32]


class SampleRing:
    """float32[capacity, channels] of audio, first in, first out.

    Each thread changes one of the two counters only, and reads the other.

    Attributes:
        written: samples ever written.
        taken: samples ever read.
    """

    def __init__(self, capacity: int, channels: int) -> None:
        self._data = np.zeros((capacity, channels), np.float32)
        self.written = self.taken = 0

    @property
    def available(self) -> int:
        """Samples that can be read now."""
        return self.written - self.taken

    @property
    def free(self) -> int:
        """Samples that can be written now."""
        return len(self._data) - self.available

    def write(self, block: Block) -> int:
        """Copy in as much of ``block`` as there is room for, and return how much that was."""
        n = min(len(block), self.free)
        at = self.written % len(self._data)
        first = min(n, len(self._data) - at)
        self._data[at : at + first] = block[:first]
        self._data[: n - first] = block[first:n]
        self.written += n
        return n

    def read(self, out: Block) -> int:
        """Fill the beginning of ``out`` with what there is, and return how much that was."""
        n = min(len(out), self.available)
        at = self.taken % len(self._data)
        first = min(n, len(self._data) - at)
        out[:first] = self._data[at : at + first]
        out[first:n] = self._data[: n - first]
        self.taken += n
        return n
