"""Integer front ends: NumPy golden models, the C core behind the same names, torch simulation.

For a user who only wants the fixed-point transforms::

    from spectral_edge.dsp import FixedSTFT
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import BlockSpectrum, FixedSTFT, StftStream
    from .dct import FixedDCT
    from .logmel import FixedLogMel
    from .pcen import FixedPCEN

_LAZY = {
    "BlockSpectrum": "api",
    "FixedSTFT": "api",
    "StftStream": "api",
    "FixedLogMel": "logmel",
    "FixedPCEN": "pcen",
    "FixedDCT": "dct",
}

__all__ = ["BlockSpectrum", "FixedDCT", "FixedLogMel", "FixedPCEN", "FixedSTFT", "StftStream"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'spectral_edge.dsp' has no attribute {name!r}")
    value = getattr(import_module(f"spectral_edge.dsp.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
