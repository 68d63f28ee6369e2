"""Compiles and runs generated C in tests: one step, logical shapes at the boundary."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral_edge.converters.c import CSource, compile_step
from spectral_edge.runtimes.engines.compiler import compiler, library_for

Arrays = dict[str, NDArray[Any]]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror")


def command() -> tuple[str, ...]:
    """The C compiler, or a skip."""
    found = compiler()
    if found is None:
        pytest.skip("cc is not installed")
    return found


class CStep:
    """A TFLite file compiled from C; call it with arrays by tensor name."""

    def __init__(self, data: bytes, layout: Mapping[str, Sequence[int]]) -> None:
        command()
        self.made, self.layout = compile_step(data), layout
        path, _ = library_for(self.made.source)
        self.library = ctypes.CDLL(str(path))
        self.memory = np.zeros(self.library.step_size() + 64, np.uint8)
        self.struct = ctypes.c_void_p(-(-self.memory.ctypes.data // 64) * 64)
        self.library.step_init(self.struct)

    def __call__(self, feeds: Arrays) -> Arrays:
        """One step; states move on."""
        for name, value in feeds.items():
            self._array(self.made.inputs[name])[...] = value.transpose(self._perm(name, value))
        self.library.step_step(self.struct)
        results = {}
        for name, port in self.made.outputs.items():
            stored = self._array(port)
            results[name] = stored.transpose(np.argsort(self._perm(name, stored))).copy()
        return results

    def _perm(self, name: str, array: NDArray[Any]) -> Sequence[int]:
        return self.layout.get(name, list(range(array.ndim)))

    def _array(self, port: Any) -> NDArray[Any]:
        function = self.library[port.function]
        function.restype = ctypes.c_void_p
        size = int(np.prod(port.shape)) * np.dtype(port.dtype).itemsize
        memory = (ctypes.c_char * size).from_address(function(self.struct))
        return np.frombuffer(memory, port.dtype).reshape(port.shape)


def built(source: str, folder: Path, *flags: str, main: str = "") -> Path:
    """Compile a source file, with a ``main`` into a program, else into an object file."""
    text, out = folder / "step.c", folder / "step.out"
    text.write_text(source + main)
    last = ["-o", str(out), str(text), "-lm"] if main else ["-c", "-o", str(out), str(text)]
    done = subprocess.run(
        [*command(), *STRICT, *flags, *last], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]
    return out


def driver(made: CSource, hops: int = 30) -> str:
    """A ``main`` that feeds noise and runs hops."""
    fills, sums = [], []
    for name, port in made.inputs.items():
        if not name.startswith("state."):
            count = int(np.prod(port.shape))
            scale = "" if port.dtype.startswith("int") else " / 64.0f"
            fills.append(
                f"for (int i = 0; i < {count}; i++) {{ seed = seed * 1664525u + 1013904223u;"
                f" {port.function}(&s)[i] = (int8_t)(seed >> 24){scale}; }}"
            )
    for port in made.outputs.values():
        sums.append(
            f"for (int i = 0; i < {int(np.prod(port.shape))}; i++)"
            f" total += (double){port.function}(&s)[i];"
        )
    lines = "\n".join([f"for (int hop = 0; hop < {hops}; hop++) {{", *fills, "step_step(&s);"])
    return (
        f"\n#include <stdio.h>\nint main(void)\n{{\nstatic step_state s;\nuint32_t seed = 1;\n"
        f"double total = 0;\nstep_init(&s);\n{lines}\n{chr(10).join(sums)}\n}}\n"
        'printf("%.6g\\n", total);\nreturn 0;\n}\n'
    )


def sanitizers() -> tuple[str, ...]:
    """Flags for the address and undefined-behaviour sanitizers, or a skip."""
    if shutil.which(command()[0]) is None:
        pytest.skip("cc is not installed")
    return ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
