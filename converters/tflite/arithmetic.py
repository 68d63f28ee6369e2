"""Broadcasting operators and what they need: common layouts, common dtypes, scalars, casts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spectral_edge.qparams import QParams

from .builder import Quantization
from .layout import Perm, Shape, identity
from .lowering import Lowering
from .schema import schema
from .values import Const, Value

__all__ = ["MAX_RATIO", "MIN_PRODUCT_RATIO", "MIN_RATIO", "binary", "cast", "common_dtype", "unary"]

MIN_RATIO, MAX_RATIO = 2.0**-10, 2.0**8 - 1  # of a summand's scale to the sum's
MIN_PRODUCT_RATIO = 2.0**-16  # of the product of two scales to the result's
_OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "POW": "PowOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
}


_FUSING = ("ADD", "SUB", "MUL", "DIV")
_COMPARES = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")


def _extended(operand: Value | Const, rank: int) -> Value | Const:
    """Give the operand leading axes of size 1 up to ``rank``."""
    missing = rank - len(operand.shape)
    shape = (1,) * missing + operand.shape
    if isinstance(operand, Const):
        return operand.reshaped(shape)
    perm = (*range(missing), *(p + missing for p in operand.perm))
    return Value(operand.tensor, shape, perm, operand.dtype, operand.qparams)


def _common_perm(operands: list[Value | Const], rank: int) -> Perm:
    """Layout of the largest activation that has all axes."""
    values = [o for o in operands if isinstance(o, Value)]
    if not values:
        return identity(rank)
    return max(values, key=lambda v: (len(v.shape), math.prod(v.shape))).perm


def scalar_codes(value: float, step: float | None) -> Const:
    """A scalar as one code, its scale within the ratios to ``step`` that XNNPACK accepts.

    One code of scale |value| is exact. Sums restrict the scale to ``step``·2^-10 … ``step``·2^8
    (``step`` is the scale of the result; None for products, which take any scale).
    """
    code, scale = int(np.sign(value)), abs(value) or 1.0
    if step is not None and scale / step > MAX_RATIO:
        code, scale = code * 127, scale / 127
    if step is not None and (value == 0.0 or scale / step < MIN_RATIO):
        code, scale = 0, step
    return Const(np.array([code], np.int8), np.asarray(scale, np.float32))


def _scalar_index(
    low: Lowering,
    operand: Const,
    name: str,
    qparams: QParams | None,
    step: float | None,
    dtype: str,
) -> int:
    value = operand.scalar
    assert value is not None
    if qparams is None:
        return low.builder.constant(name, np.array([value], dtype))
    ratio = None if operand.scales is None or step is None else float(operand.scales) / step
    if operand.scales is None or (ratio is not None and not MIN_RATIO <= ratio <= MAX_RATIO):
        operand = scalar_codes(value, step)
    scale = float(np.ravel(np.asarray(operand.scales))[0])
    quantization = Quantization((scale,), (operand.zero_point,))
    return low.builder.constant(name, operand.array.flatten()[:1], quantization)


def binary(
    low: Lowering,
    code: str,
    a: Value | Const,
    b: Value | Const,
    name: str,
    shape: Shape,
    qparams: QParams | None = None,
    activation: int = 0,
) -> Value:
    """Write a broadcasting operator of two operands; the result keeps the larger one's layout.

    Without ``qparams`` the operands are cast to float32, or stay integers where both are.
    """
    dtype = common_dtype(a, b)
    operands = [
        _extended(cast(low, o, dtype) if qparams is None else o, len(shape))
        if isinstance(o, Value)
        else o
        for o in (a, b)
    ]
    perm = _common_perm(operands, len(shape))
    step = qparams.scale if qparams is not None and code in ("ADD", "SUB") else None
    inputs = []
    for o in operands:
        if isinstance(o, Const) and o.scalar is not None:
            inputs.append(_scalar_index(low, o, f"{name}.constant", qparams, step, dtype))
        else:
            if isinstance(o, Const) and qparams is None:
                o = Const(o.array.astype(dtype))
            inputs.append(low.index(_extended(o, len(shape)), perm, f"{name}.constant"))
    made = low.new(name, shape, perm, "bool" if code in _COMPARES else dtype, qparams)
    fields: dict[str, Any] = {}
    if code in _FUSING:
        fields["fusedActivationFunction"] = activation
    low.emit(code, inputs, [made.tensor], _OPTIONS.get(code), **fields)
    return made


def common_dtype(a: Value | Const, b: Value | Const) -> str:
    """Dtype in which two unquantised operands meet, as torch promotes them."""
    dtypes = {o.dtype for o in (a, b) if isinstance(o, Value)}
    constants = {o.array.dtype.name for o in (a, b) if isinstance(o, Const)}
    if "float32" in dtypes or any(c.startswith("float") for c in constants):
        return "float32"
    ordered = ("int64", "int32", "int16", "int8", "bool")
    return next((d for d in ordered if d in dtypes), "float32")


def cast(low: Lowering, value: Value, dtype: str) -> Value:
    """Return the value in another dtype without quantisation (CAST when it has not)."""
    if value.dtype == dtype:
        return value
    types = schema().TensorType
    made = low.new(
        f"{low.builder.tensors[value.tensor].name}.{dtype}", value.shape, value.perm, dtype, None
    )
    low.emit(
        "CAST",
        [low.index(value)],
        [made.tensor],
        "CastOptions",
        inDataType=getattr(types, value.dtype.upper()),
        outDataType=getattr(types, dtype.upper()),
    )
    return made


def unary(low: Lowering, code: str, x: Value, name: str, **options: Any) -> Value:
    """Write a float operator of one operand."""
    made = low.new(name, x.shape, x.perm, "float32", None)
    low.emit(code, [low.index(x)], [made.tensor], options.pop("options", None), **options)
    return made
