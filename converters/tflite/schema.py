"""The TFLite schema classes, taken from an installed runtime package instead of a copy of ours."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from spectral_edge.errors import RuntimeUnavailable

__all__ = ["schema"]

_MODULES = ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated")


@cache
def schema() -> Any:
    """Return the generated schema module.

    Raises:
        RuntimeUnavailable: neither ai-edge-litert nor tensorflow is installed.
    """
    for name in _MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise RuntimeUnavailable(
        "writing .tflite needs the schema classes of ai-edge-litert or tensorflow, none is "
        "installed: pip install 'spectral-edge[litert]'"
    )
