"""tflite-runtime 2.14: the old runtime, and the only one with wheels for 32-bit Raspberry Pi OS."""

from __future__ import annotations

import sys

import numpy as np

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit

from .tflite import TfliteEngine

__all__ = ["TfliteRuntimeEngine"]


class TfliteRuntimeEngine(TfliteEngine):
    """A step on tflite-runtime.

    Raises:
        RuntimeUnavailable: NumPy 2 is installed; the wheel was built for NumPy 1.
        RuntimeUnfit: TensorFlow is loaded in this process; their symbols clash.
    """

    name = "tflite-runtime"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeUnavailable(
                f"tflite-runtime needs NumPy 1, this is {np.__version__}; "
                "pip install 'spectral-edge[tflite]' in an environment of its own"
            )
        if "tensorflow" in sys.modules:
            raise RuntimeUnfit(
                "tflite-runtime cannot run in a process that has loaded TensorFlow; "
                "start a process of its own or use engine='litert'"
            )
        from importlib.metadata import version

        from tflite_runtime.interpreter import Interpreter

        super().__init__(bundle, threads, Interpreter, version("tflite-runtime"))
