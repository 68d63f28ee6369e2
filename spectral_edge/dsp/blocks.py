"""Frames in, spectra out, and back: one channel of an STFT on the core or on NumPy, same bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spectral_edge._native import allocate, core, require_core, warn_once_of_absence
from spectral_edge.errors import SpecError

from .engine_c import stft_config
from .stft import analyse, frames_of, overlap_add
from .tables import StftTables

__all__ = ["BlockEngine", "BoundCalls", "block_engine"]

Mantissas = NDArray[np.int32]
# analyse one hop, returns its exponent; synthesise one hop from an exponent
BoundCalls = tuple[Callable[[], int], Callable[[int], None]]
MAX_HOPS = 1024  # of one vectorised pass, to bound memory


class BlockEngine(Protocol):
    """Memory of one channel: history of analysis, overlap of synthesis."""

    name: str

    def push(self, pcm: NDArray[np.int16]) -> tuple[Mantissas, Mantissas, Mantissas]:
        """int16[hops·hop] -> re, im int32[hops, bins], exponents int32[hops]."""

    def pull(self, re: Mantissas, im: Mantissas, e: Mantissas) -> NDArray[np.int16]:
        """The reverse."""

    def bound(
        self, block: NDArray[np.int16], re: Mantissas, im: Mantissas, out: NDArray[np.int16]
    ) -> BoundCalls:
        """Calls of one hop between buffers that stay where they are."""

    def reset(self) -> None:
        """Forget everything."""


class _Core:
    """``se_stft`` of the compiled core."""

    name = "c"

    def __init__(self, tables: StftTables) -> None:
        self._core = require_core()
        self._tables = tables
        config = stft_config(tables)
        size = self._core.se_stft_size(ctypes.byref(config))
        self._memory, self._object = allocate(size, self._core.se_stft_init, ctypes.byref(config))

    def push(self, pcm: NDArray[np.int16]) -> tuple[Mantissas, Mantissas, Mantissas]:
        pcm = np.ascontiguousarray(pcm)
        hops, bins = len(pcm) // self._tables.hop_length, self._tables.n_fft // 2 + 1
        re, im = np.empty((hops, bins), np.int32), np.empty((hops, bins), np.int32)
        e = np.empty(hops, np.int32)
        self._core.se_stft_push_clip(
            self._object, pcm.ctypes.data, hops, re.ctypes.data, im.ctypes.data, e.ctypes.data
        )
        return re, im, e

    def pull(self, re: Mantissas, im: Mantissas, e: Mantissas) -> NDArray[np.int16]:
        re, im, e = (np.ascontiguousarray(part, np.int32) for part in (re, im, e))
        pcm = np.empty(len(e) * self._tables.hop_length, np.int16)
        self._core.se_stft_pull_clip(
            self._object, re.ctypes.data, im.ctypes.data, e.ctypes.data, len(e), pcm.ctypes.data
        )
        return pcm

    def bound(
        self, block: NDArray[np.int16], re: Mantissas, im: Mantissas, out: NDArray[np.int16]
    ) -> BoundCalls:
        p_block, p_re, p_im, p_out = (
            ctypes.c_void_p(array.ctypes.data) for array in (block, re, im, out)
        )
        push, pull, stft = self._core.se_stft_push, self._core.se_stft_pull, self._object
        kept = self, block, re, im, out  # alive as long as the calls are

        def analyze(_kept: object = kept) -> int:
            return push(stft, p_block, p_re, p_im)  # type: ignore[no-any-return]

        def synthesize(e: int, _kept: object = kept) -> None:
            pull(stft, p_re, p_im, e, p_out)

        return analyze, synthesize

    def reset(self) -> None:
        self._core.se_stft_reset(self._object)


class _Golden:
    """The NumPy model."""

    name = "numpy"

    def __init__(self, tables: StftTables) -> None:
        self._tables = tables
        self._history = np.zeros(len(tables.window), np.int16)
        self._overlap = np.zeros(len(tables.window), np.int64)

    def push(self, pcm: NDArray[np.int16]) -> tuple[Mantissas, Mantissas, Mantissas]:
        hop = self._tables.hop_length
        parts = []
        for at in range(0, max(len(pcm), 1), MAX_HOPS * hop):
            part = pcm[at : at + MAX_HOPS * hop]
            frames = frames_of(part, self._history, hop)
            parts.append(analyse(frames, self._tables))
            self._history = np.concatenate([self._history, part])[-len(self._history) :]
        re, im, e = (np.concatenate(p).astype(np.int32) for p in zip(*parts, strict=True))
        return re, im, e

    def pull(self, re: Mantissas, im: Mantissas, e: Mantissas) -> NDArray[np.int16]:
        wide = re.astype(np.int64), im.astype(np.int64), e.astype(np.int64)
        return overlap_add(*wide, self._tables, self._overlap)

    def bound(
        self, block: NDArray[np.int16], re: Mantissas, im: Mantissas, out: NDArray[np.int16]
    ) -> BoundCalls:
        def analyze() -> int:
            new_re, new_im, e = self.push(block)
            re[:], im[:] = new_re[0], new_im[0]
            return int(e[0])

        def synthesize(e: int) -> None:
            out[:] = self.pull(re[None], im[None], np.array([e], np.int32))

        return analyze, synthesize

    def reset(self) -> None:
        self._history[:] = 0
        self._overlap[:] = 0


def block_engine(tables: StftTables, backend: str) -> BlockEngine:
    """Make an engine: ``c``, ``numpy``, or ``auto`` (C when built).

    Raises:
        SpecError: another name.
        RuntimeUnavailable: ``c`` without the compiled core.
    """
    if backend not in ("auto", "c", "numpy"):
        raise SpecError(f"backend is {backend!r}, must be 'auto', 'c' or 'numpy'")
    if backend == "auto" and core() is None:
        warn_once_of_absence()
    if backend == "c" or (backend == "auto" and core() is not None):
        return _Core(tables)
    return _Golden(tables)
