"""LiteRT (``ai-edge-litert``): the default engine; int8 runs in XNNPACK."""

from __future__ import annotations

from spectral_edge.bundle import Bundle

from .tflite import TfliteEngine

__all__ = ["LitertEngine"]


class LitertEngine(TfliteEngine):
    """A step on LiteRT."""

    name = "litert"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter

        super().__init__(bundle, threads, Interpreter, version("ai-edge-litert"))
