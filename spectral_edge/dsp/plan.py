"""Everything the backends need to know about one stream, as integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend

from .features import CodeRule, exponent_q31
from .level import LevelRule
from .mask import bias_table, mask_table
from .tables import stft_tables

if TYPE_CHECKING:
    from spectral_edge.program import QParams

__all__ = ["FrontendPlan"]

HEAD_CHANNELS = {"mask": (1, 0), "mask_bias": (1, 2), "complex_mask": (2, 0), "logits": (0, 0)}


class FrontendPlan:
    """Integers derived from a front end, the qparams of a network, and its delay."""

    def __init__(
        self,
        frontend: StftFrontend,
        input_qparams: QParams | None,
        mask_qparams: QParams | None,
        bias_qparams: QParams | None,
        delay: int,
    ) -> None:
        for name, qparams in (
            ("input", input_qparams),
            ("mask", mask_qparams),
            ("bias", bias_qparams),
        ):
            if qparams is not None and qparams.dtype != "int8":
                raise SpecError(f"{name} codes are {qparams.dtype}, the front end knows int8")
        self.frontend = frontend
        self.n_fft, self.hop_length = frontend.n_fft, frontend.hop_length
        self.bins, self.channels = frontend.bins, frontend.channels
        self.delay = delay
        self.head = frontend.head
        self.head_channels = HEAD_CHANNELS[frontend.head]
        self.tables = stft_tables(frontend.n_fft, frontend.hop_length, frontend.window)
        self.level = LevelRule.of(frontend)
        self.exponent, self.inverse_whole, self.inverse_fraction = exponent_q31(
            frontend.compression
        )
        self.feature_index = [("mag", "re", "im").index(f) for f in frontend.features]
        self.has_codes = input_qparams is not None
        self.codes = self._rule(input_qparams)
        self.mask_table = (
            mask_table(mask_qparams.scale, mask_qparams.zero_point)
            if mask_qparams
            else np.zeros(256, np.int32)
        )
        self.bias_table = (
            bias_table(bias_qparams.scale, bias_qparams.zero_point)
            if bias_qparams
            else np.zeros(256, np.int32)
        )

    @staticmethod
    def _rule(qparams: QParams | None) -> CodeRule:
        if qparams is None:
            return CodeRule(1 << 30, 31, 0, 0)
        return CodeRule.of(qparams.scale, qparams.zero_point)
