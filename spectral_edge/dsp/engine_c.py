"""The front end on the compiled core."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge._native import (
    ISA,
    Binding,
    Codes,
    FrontendConfig,
    StftConfig,
    View,
    allocate,
    require_core,
)
from spectral_edge.errors import SpecError

from .tables import StftTables, exp2_table, log2_table

if TYPE_CHECKING:
    from .fixed import Buffers
    from .plan import FrontendPlan

__all__ = ["CoreEngine", "stft_config"]

HEAD = {"logits": 0, "mask": 1, "mask_bias": 2, "complex_mask": 3}


def stft_config(tables: StftTables, isa: str = "auto") -> StftConfig:
    """Fill ``se_stft_config``; the arrays of ``tables`` must outlive the call that uses it."""
    return StftConfig(
        tables.n_fft,
        tables.hop_length,
        ISA[isa],
        tables.dual_exponent,
        tables.cosine.ctypes.data,
        tables.sine.ctypes.data,
        tables.window.ctypes.data,
        tables.dual.ctypes.data,
        len(tables.window),
    )


def _view(array: NDArray[Any] | None) -> View:
    """[channels, bins] array, any strides, as ``se_view``."""
    if array is None:
        return View()
    size = array.itemsize
    return View(array.ctypes.data, array.strides[0] // size, array.strides[1] // size)


class CoreEngine:
    """One ``se_frontend`` of the compiled core, with its memory and tables."""

    name = "c"

    def __init__(self, plan: FrontendPlan, isa: str = "auto") -> None:
        self._core = require_core()
        self._plan = plan
        self._tables = (plan.tables, log2_table(), exp2_table())  # referenced by the core
        config = self._config(plan, isa)
        codes = Codes(
            plan.codes.multiplier, plan.codes.shift, plan.codes.limit, plan.codes.zero_point
        )
        codes.mask[:] = plan.mask_table.tolist()
        codes.bias[:] = plan.bias_table.tolist()
        size = self._core.se_frontend_size(ctypes.byref(config))
        self._memory, self._object = allocate(
            size, self._core.se_frontend_init, ctypes.byref(config), ctypes.byref(codes)
        )
        self.isa = self._core.se_frontend_isa(self._object).decode()
        self._buffers: Buffers | None = None
        # bound once: a call then costs one pointer
        self.analyze = partial(self._core.se_frontend_analyze, self._object)
        self.synthesize = partial(self._core.se_frontend_synthesize, self._object)

    @staticmethod
    def _config(plan: FrontendPlan, isa: str) -> FrontendConfig:
        config = FrontendConfig(
            stft=stft_config(plan.tables, isa),
            log2_table=log2_table().ctypes.data,
            exp2_table=exp2_table().ctypes.data,
            channels=plan.channels,
            compression=plan.exponent,
            inverse_whole=plan.inverse_whole,
            inverse_fraction=plan.inverse_fraction,
            reference_log2=plan.tables.reference_log2,
            running_level=plan.level.running,
            alpha_mantissa=plan.level.alpha_mantissa,
            alpha_shift=plan.level.alpha_shift,
            level_start=plan.level.start,
            level_floor=plan.level.floor,
            delay=plan.delay,
            head=HEAD[plan.head],
        )
        config.feature[: plan.channels] = plan.feature_index
        return config

    def reset(self) -> None:
        """Forget everything."""
        self._core.se_frontend_reset(self._object)

    def clip(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]:
        """int16[hops·hop] -> int32[channels, hops, bins]."""
        hops = len(pcm) // self._plan.hop_length
        out = np.empty((self._plan.channels, hops, self._plan.bins), np.int32)
        self._core.se_frontend_clip(self._object, pcm.ctypes.data, hops, out.ctypes.data)
        return out

    def bind(self, buffers: Buffers) -> None:
        """Keep the buffers and hand their addresses to the core."""
        binding = Binding(
            buffers.pcm_in.ctypes.data,
            buffers.pcm_out.ctypes.data,
            _view(buffers.features),
            _view(buffers.mask),
            _view(buffers.bias),
            buffers.as_float,
        )
        if self._core.se_frontend_bind(self._object, ctypes.byref(binding)):
            raise SpecError("the compiled core refuses these buffers")
        self._buffers = buffers

    def state(self) -> bytes:
        """All memory as bytes."""
        out = ctypes.create_string_buffer(self._core.se_frontend_state_size(self._object))
        self._core.se_frontend_save(self._object, out)
        return out.raw

    def load_state(self, state: bytes) -> bool:
        """Return False when the bytes do not belong here."""
        return bool(self._core.se_frontend_load(self._object, state, len(state)) == 0)
