"""C text of numbers and constant arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["C_TYPES", "Constants", "float_text", "number_text"]

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}


def float_text(value: float) -> str:
    """A float literal that reads back as the same float32."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = _shortest(value)
    return f"({text}f)" if text.startswith("-") else f"{text}f"


def _shortest(value: float) -> str:
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    plain = np.format_float_positional(np.float32(value), unique=True, trim="0")
    return plain if len(plain) <= len(text) else text


def array_text(name: str, values: NDArray[Any]) -> str:
    """A static constant array."""
    ctype = C_TYPES[values.dtype.name]
    flat = values.reshape(-1)
    if values.dtype == np.float32:
        items = [float_text(float(v)) for v in flat]
    elif values.dtype == np.float64:
        items = [repr(float(v)) if np.isfinite(v) else "NAN" for v in flat]
    else:
        items = [str(int(v)) for v in flat]
    rows = [", ".join(items[i : i + 12]) for i in range(0, len(items), 12)]
    body = ",\n    ".join(rows)
    align = " __attribute__((aligned(64)))"
    return f"static const {ctype} {name}[{len(flat)}]{align} = {{\n    {body}}};\n"


@dataclass
class Constants:
    """Constant arrays of the file by content; equal ones are written once."""

    texts: list[str] = field(default_factory=list)
    _names: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def name(self, values: NDArray[Any]) -> str:
        """Name of the array with these values."""
        key = values.dtype.name, np.ascontiguousarray(values).tobytes()
        if key not in self._names:
            self._names[key] = f"c{len(self._names)}"
            self.texts.append(array_text(self._names[key], values))
        return self._names[key]


def number_text(value: Any, dtype: str) -> str:
    """A literal of the type that ``dtype`` has in C."""
    if dtype == "float32":
        return float_text(float(value))
    if dtype == "int32" and int(value) == -(1 << 31):
        return "INT32_MIN"
    if dtype == "int64":
        return "INT64_MIN" if int(value) == -(1 << 63) else f"INT64_C({int(value)})"
    return f"({int(value)})"
