"""The complete rule table: importing this module registers every rule."""

from __future__ import annotations

from spectral_edge.streaming import (
    recurrent,
    rules_running,
    rules_shape,
    rules_shift,
    rules_window,
    scan,
)
from spectral_edge.streaming.attention import on_pairs as ON_PAIRS
from spectral_edge.streaming.rules import KINDS, RULES

__all__ = ["KINDS", "MODULES", "ON_PAIRS", "RULES"]

MODULES = (recurrent, rules_running, rules_shape, rules_shift, rules_window, scan)
