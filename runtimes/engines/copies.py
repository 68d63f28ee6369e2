"""Moves state outputs to state inputs: a list of memory copies, planned once, done in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_size_t, c_void_p
from dataclasses import dataclass
from functools import partial

from spectral_edge._native import core

__all__ = ["Copy", "CopyPlan", "plan_copies"]

Copy = tuple[int, int, int]
"""(destination address, source address, bytes)"""


class _Entry(ctypes.Structure):
    """``se_copy`` of ``se_copy.h``."""

    _fields_ = (("target", c_void_p), ("source", c_void_p), ("size", c_size_t))


@dataclass(frozen=True)
class CopyPlan:
    """Copies ready to run; keep the plan as long as ``run`` is used.

    Attributes:
        run: does all of them, in one call of the compiled core when there is one.
        backend: ``c`` or ``python``.
        memory: what ``run`` holds addresses of.
    """

    run: Callable[[], object]
    backend: str
    memory: tuple[object, ...]


def plan_copies(copies: Sequence[Copy], backend: str = "auto") -> CopyPlan:
    """Plan ``copies`` to be done as if at once.

    A source that overlaps another copy's destination (an engine may return an input as an output)
    is read into a buffer of its own before anything is written.

    Args:
        copies: what to move; the memory must outlive the plan.
        backend: ``auto`` or ``python``. Twelve states take about 0.5 µs in C and 7 µs in Python.
    """
    before: list[Copy] = []
    moves: list[Copy] = []
    keep: list[object] = []
    for i, (target, source, size) in enumerate(copies):
        if any(_overlap(source, size, t, n) for j, (t, _, n) in enumerate(copies) if j != i):
            buffer = ctypes.create_string_buffer(size)
            keep.append(buffer)
            before.append((ctypes.addressof(buffer), source, size))
            source = ctypes.addressof(buffer)
        moves.append((target, source, size))
    ordered = before + moves
    native = getattr(core(), "se_copy_many", None) if backend == "auto" else None
    if native is None:
        return CopyPlan(partial(_copy_all, ordered), "python", tuple(keep))
    native.restype, native.argtypes = None, [c_void_p, c_size_t]
    entries = (_Entry * len(ordered))(*(_Entry(*copy) for copy in ordered))
    call = partial(native, c_void_p(ctypes.addressof(entries)), c_size_t(len(ordered)))
    return CopyPlan(call, "c", (entries, *keep))


def _copy_all(copies: Sequence[Copy]) -> None:
    move = ctypes.memmove
    for target, source, size in copies:
        move(target, source, size)


def _overlap(a: int, size_a: int, b: int, size_b: int) -> bool:
    return a < b + size_b and b < a + size_a
