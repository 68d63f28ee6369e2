"""TensorFlow's own interpreter, for comparison on a workstation.

XNNPACK is off: TensorFlow 2.21 computes int8 BATCH_MATMUL wrongly with it.
"""

from __future__ import annotations

from functools import partial

from spectral_edge.bundle import Bundle

from .tflite import TfliteEngine

__all__ = ["TensorflowEngine"]


class TensorflowEngine(TfliteEngine):
    """A step on ``tf.lite.Interpreter`` with its builtin kernels."""

    name = "tensorflow"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import tensorflow as tf

        resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = partial(tf.lite.Interpreter, experimental_op_resolver_type=resolver)
        super().__init__(bundle, threads, interpreter, tf.__version__)
