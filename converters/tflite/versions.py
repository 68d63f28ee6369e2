"""Operator versions: as low as the tensors allow, never above the oldest runtime promised.

A version is a promise about the kernel's interface; runtimes refuse a higher one than they know.
``FLOOR`` is what tflite-runtime 2.14 registers, found by probing it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .builder import TensorInfo

__all__ = ["FLOOR", "RUNTIME_FLOOR", "op_version"]

RUNTIME_FLOOR = {"tflite-runtime": "2.14.0", "ai-edge-litert": "1.0.1"}

FLOOR = {
    "ABS": 5,
    "ADD": 5,
    "AVERAGE_POOL_2D": 3,
    "BATCH_MATMUL": 4,
    "CONCATENATION": 4,
    "CONV_2D": 7,
    "DEPTHWISE_CONV_2D": 7,
    "DEQUANTIZE": 5,
    "FULLY_CONNECTED": 10,
    "GELU": 2,
    "LOG": 1,
    "LOGISTIC": 3,
    "MEAN": 3,
    "MUL": 7,
    "PAD": 4,
    "QUANTIZE": 3,
    "RSQRT": 2,
    "SLICE": 6,
    "SOFTMAX": 3,
    "SQRT": 1,
    "STRIDED_SLICE": 8,
    "SUB": 5,
    "SUM": 2,
    "TANH": 3,
    "TRANSPOSE": 6,
}

# version for int8 tensors; float32 is version 1 everywhere unless a rule below says otherwise
_INT8 = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 5,
    "RESHAPE": 1,
    "GATHER": 2,
    "REVERSE_V2": 3,
}
_HIGH_RANK = {"SLICE": 5, "TRANSPOSE": 4, "STRIDED_SLICE": 4, "PAD": 4, "PADV2": 4}


def op_version(code: str, tensors: Sequence[TensorInfo]) -> int:
    """Version of operator ``code`` that reads and writes ``tensors`` (inputs first)."""
    dtypes = [t.dtype for t in tensors]
    rank = max((len(t.shape) for t in tensors), default=0)
    if code == "QUANTIZE":
        return 2 if dtypes[0] == "int8" else 1
    if code == "FULLY_CONNECTED":
        return 5  # keep_num_dims, and per-channel int8 weights
    if rank > 4 and code in _HIGH_RANK:
        return 6 if code == "TRANSPOSE" and rank > 5 else _HIGH_RANK[code]
    if code == "CONV_2D" and tensors[0].shape[-1] != tensors[1].shape[-1]:
        return 6  # grouped
    if code == "DEPTHWISE_CONV_2D" and "int8" not in dtypes:
        return 2  # dilation
    return _INT8.get(code, 2) if "int8" in dtypes else 1
