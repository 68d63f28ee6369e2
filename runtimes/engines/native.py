"""The engine ``native``: the step as C, compiled for this very machine and called directly.

The compiled library is kept in a private cache folder under the hash of everything it depends on,
so a bundle is compiled once per machine and compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import ConversionError, RuntimeUnavailable, RuntimeUnfit
from spectral_edge.step_c import bundle_source

from .base import Port, StepEngine

__all__ = ["FLAGS", "NativeEngine", "compiler", "compiler_version", "library_for"]

# IEEE results are part of the contract: no -ffast-math, no contraction of products and sums
FLAGS = (
    "-std=c99",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)
INSTALL = "apt install gcc (or set CC to a C compiler)"
TIMEOUT_S = 300
ALIGNMENT = 64


def compiler() -> tuple[str, ...] | None:
    """Command of the C compiler, $CC before cc, gcc and clang; None when there is none."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        parts = shlex.split(command)
        if parts and shutil.which(parts[0]):
            return tuple(parts)
    return None


@cache
def compiler_version(command: tuple[str, ...]) -> str:
    """First line that the compiler says about itself."""
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stdout.splitlines() or ["unknown"])[0]


def library_for(source: str) -> tuple[Path, tuple[str, ...]]:
    """Compile C source unless it was compiled before; returns the library and the compiler.

    Raises:
        RuntimeUnavailable: there is no compiler, or no private folder to keep libraries in.
        RuntimeUnfit: the compiler refuses the source.
    """
    command = compiler()
    if command is None:
        raise RuntimeUnavailable(f"engine native needs a C compiler, none was found: {INSTALL}")
    # -march=native means this processor: a home folder may be shared between machines
    parts = (source, *command, compiler_version(command), *FLAGS, platform.machine(), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = _cache_folder()
    library = folder / f"{key}.so"
    if not library.exists():
        _compile(command, source, library)
    return library, command


def _processor() -> str:
    """What -march=native depends on, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def _cache_folder() -> Path:
    """The private folder for libraries; what lies there is executed, so nobody else may write."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    folder = root / "spectral-edge" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RuntimeUnavailable(
            f"engine native cannot make {folder} ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RuntimeUnavailable(f"{folder} is not a folder of your own; set XDG_CACHE_HOME")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _compile(command: tuple[str, ...], source: str, library: Path) -> None:
    """Compile into a file of its own and move it into place: other processes do the same."""
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        text, made = Path(work) / "step.c", Path(work) / "step.so"
        text.write_text(source, "utf-8")
        try:
            done = subprocess.run(
                [*command, *FLAGS, "-o", str(made), str(text), "-lm"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeUnfit(f"{command[0]} took more than {TIMEOUT_S} s for a step") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
            raise RuntimeUnfit(f"{command[0]} does not compile the step ({said[:200]}); {INSTALL}")
        made.replace(library)


class NativeEngine(StepEngine):
    """A step compiled from C.

    :attr:`hand_over` only notes that the next states count; the next call of :attr:`invoke` moves
    them first, so that a hop is one call into C.
    """

    name = "native"
    kind = "tflite"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle, threads)
        try:
            made = bundle_source(bundle)
        except ConversionError as error:
            raise RuntimeUnfit(f"engine native cannot run {bundle.path.name}: {error}") from error
        library, command = library_for(made.source)
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise RuntimeUnavailable(f"engine native cannot load {library} ({error})") from error
        self.version = compiler_version(command)
        self._made = made
        self._memory, self._struct = self._allocate()
        self.inputs = {n: self._array(p, "input") for n, p in self.ports.inputs.items()}
        self.outputs = {n: self._array(p, "output") for n, p in self.ports.outputs.items()}
        self._states = {
            n: self._array(entry, "input") for n, (entry, _) in self.ports.states.items()
        }
        for _, (_, leave) in self.ports.states.items():
            self._array(leave, "output")  # checks shape and dtype
        waiting = self._waiting()
        self._move = self._function("hand_over")
        self.invoke = self._function("run")
        self.hand_over = partial(waiting.__setitem__, 0, 1)
        self.reset()

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": self.version,
            "threads": 1,
            "delegate": None,
            "kernels": self._made.kernels,
            "memory_bytes": self._made.memory_bytes,
            "state_bytes": self._made.state_bytes,
        }

    def _state_arrays(self) -> dict[str, NDArray[Any]]:
        if self._flag[0]:
            self._move()
        return self._states

    def _allocate(self) -> tuple[NDArray[np.uint8], ctypes.c_void_p]:
        """Memory for the struct, and its address as the functions take it."""
        size = int(self._library.step_size())
        memory = np.zeros(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        memory = memory[start : start + size]
        address = ctypes.c_void_p(memory.ctypes.data)
        self._library.step_init(address)
        return memory, address

    def _function(self, name: str) -> Any:
        function = self._library[f"step_{name}"]
        function.restype = None
        return partial(function, self._struct)

    def _waiting(self) -> memoryview:
        """The flag of a hand-over that the next call does first."""
        function = self._library.step_waiting
        function.restype = ctypes.c_void_p
        self._flag = (ctypes.c_int32 * 1).from_address(int(function(self._struct)))
        return memoryview(self._flag).cast("B").cast("i")

    def _array(self, port: Port, side: str) -> NDArray[Any]:
        """The array over the memory of a boundary tensor; checks it against the manifest."""
        tensors = self._made.inputs if side == "input" else self._made.outputs
        found = tensors.get(port.name)
        if found is None:
            raise RuntimeUnfit(
                f"the TFLite file has no tensor {port.name!r}; it has {sorted(tensors)}; "
                "export the bundle again"
            )
        if (found.shape, found.dtype) != (port.stored_shape, port.dtype):
            raise RuntimeUnfit(
                f"tensor {port.name!r} is {found.dtype}{list(found.shape)} in the file and "
                f"{port.dtype}{list(port.stored_shape)} in the manifest; export the bundle again"
            )
        function = self._library[found.function]
        function.restype = ctypes.c_void_p
        at = int(function(self._struct)) - self._memory.ctypes.data
        assert 0 <= at <= self._memory.size - port.nbytes
        part = self._memory[at : at + port.nbytes]
        return part.view(port.dtype).reshape(port.stored_shape)

