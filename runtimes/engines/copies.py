"""Moves state outputs to state inputs: a list of memory copies, planned once, done in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial

__all__ = ["Copy", "plan_copies"]

Copy = tuple[int, int, int]
"""(destination address, source address, bytes)"""


def plan_copies(copies: Sequence[Copy]) -> Callable[[], object]:
    """Return a function that does all ``copies`` as if at once.

    A source that overlaps another copy's destination (an engine may return an input as an output)
    is read into a buffer of its own before anything is written.
    """
    before: list[Copy] = []
    moves: list[Copy] = []
    keep = []
    for i, (target, source, size) in enumerate(copies):
        if any(_overlap(source, size, t, n) for j, (t, _, n) in enumerate(copies) if j != i):
            buffer = ctypes.create_string_buffer(size)
            keep.append(buffer)
            before.append((ctypes.addressof(buffer), source, size))
            source = ctypes.addressof(buffer)
        moves.append((target, source, size))
    return partial(_copy_all, before + moves, keep)


def _copy_all(copies: Sequence[Copy], keep: object) -> None:
    """Do the copies in order; ``keep`` holds what the addresses point into."""
    move = ctypes.memmove
    for target, source, size in copies:
        move(target, source, size)


def _overlap(a: int, size_a: int, b: int, size_b: int) -> bool:
    return a < b + size_b and b < a + size_a
