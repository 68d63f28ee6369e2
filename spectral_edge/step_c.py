"""The step of a bundle as C source: what the engine ``native`` compiles and ``compile`` writes.

Engines may not import converters, so the core puts the two together here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .errors import RuntimeUnfit, SpecError

if TYPE_CHECKING:
    from spectral_edge.converters.c import CSource

__all__ = ["bundle_source", "write_source"]


def bundle_source(bundle: Bundle, prefix: str = "step") -> CSource:
    """Return the step of a bundle as C, its states starting as the bundle says.

    Raises:
        RuntimeUnfit: the bundle has no TFLite file.
        ConversionError: the file has no C form; the message names the operator.
        RuntimeUnavailable: no package that brings the schema of TFLite files is installed.
    """
    from spectral_edge.converters.c import compile_step

    formats = bundle.manifest["formats"]
    if "tflite" not in formats:
        raise RuntimeUnfit(
            f"{bundle.path.name} has {sorted(formats) or 'no files'}, C is written from tflite; "
            "export it with formats=('tflite',)"
        )
    content = bundle.member(formats["tflite"]["member"])
    return compile_step(content, prefix, _initial(bundle))


def _initial(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Initial states by tensor name, in the file's layout."""
    values = {}
    for name, value in bundle.initial_states().items():
        tensor = f"state.{name}"
        axes = bundle.layout("tflite", tensor, value.ndim)
        values[tensor] = np.ascontiguousarray(value.transpose(axes))
    return values


def write_source(bundle: Bundle, path: Path, prefix: str | None = None) -> dict[str, Any]:
    """Write ``path`` (a .c file) and the header beside it; returns what was written.

    Args:
        bundle: with a TFLite file.
        path: of the C file.
        prefix: what the names of functions start with; the name of the file without one.

    Raises:
        SpecError: ``path`` does not end in .c or cannot be written.
        RuntimeUnfit, ConversionError, RuntimeUnavailable: see :func:`bundle_source`.
    """
    if path.suffix != ".c":
        raise SpecError(f"output is {path.name!r}, must end in .c (a .h is put beside it)")
    letters = (c if c.isascii() and c.isalnum() else "_" for c in path.stem)
    plain = "".join(letters).lstrip("_0123456789")[:40]
    made = bundle_source(bundle, prefix or plain or "step")
    header = path.with_suffix(".h")
    try:
        path.write_text(made.source, "utf-8")
        header.write_text(made.header, "utf-8")
    except OSError as error:
        raise SpecError(f"cannot write {path} ({error.strerror})") from error
    return {
        "source": str(path),
        "header": str(header),
        "kernels": made.kernels,
        "memory_bytes": made.memory_bytes,
        "state_bytes": made.state_bytes,
        "inputs": {p.name: p.function for p in made.inputs.values()},
        "outputs": {p.name: p.function for p in made.outputs.values()},
        "call": _how_to_call(made),
    }


def _how_to_call(made: CSource) -> str:
    """A few lines of C that run one hop."""
    p = made.prefix
    first_in = next(q for n, q in made.inputs.items() if not n.startswith("state."))
    first_out = next(q for n, q in made.outputs.items() if not n.startswith("state."))
    return (
        f"static {p}_state s;            /* {made.memory_bytes} bytes, nothing is allocated */\n"
        f"{p}_init(&s);\n"
        f"for (;;) {{\n"
        f"    fill({first_in.function}(&s));\n"
        f"    {p}_step(&s);\n"
        f"    use({first_out.function}(&s));\n"
        f"}}"
    )
