"""Which engines there are, which are installed, and which one a bundle gets."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit, SpecError

from .base import StepEngine
from .compiler import INSTALL as COMPILER_LINE, compiler, compiler_version

__all__ = [
    "ENGINES",
    "EngineInfo",
    "engines_for",
    "installed_engines",
    "load_engine",
    "pick_engine",
]


@dataclass(frozen=True)
class EngineInfo:
    """An engine: the module that drives it, the library it needs, the format it runs.

    ``compiles``: it needs a C compiler too, and takes seconds for a new bundle, so it is never
    chosen unless it is asked for by name.
    """

    name: str
    module: str
    class_name: str
    library: str
    distributions: tuple[str, ...]
    kind: str
    extra: str
    compiles: bool = False

    @property
    def installed(self) -> bool:
        """True when what it needs is there; nothing is imported to find out."""
        found = find_spec(self.library) is not None
        return found and (compiler() is not None or not self.compiles)

    @property
    def version(self) -> str | None:
        """Installed version, or None."""
        if self.compiles:
            command = compiler()
            return None if command is None else compiler_version(command)
        from importlib.metadata import PackageNotFoundError, version  # 10 ms, seldom needed

        for distribution in self.distributions:
            try:
                return version(distribution)
            except PackageNotFoundError:
                continue
        return None

    @property
    def install_line(self) -> str:
        """What to type to get it."""
        if self.compiles and find_spec(self.library) is not None:
            return COMPILER_LINE
        return f"pip install 'spectral-edge[{self.extra}]'"


# in the order in which a bundle without an explicit engine tries them
ENGINES = {
    info.name: info
    for info in (
        EngineInfo(
            "litert",
            "litert",
            "LitertEngine",
            "ai_edge_litert",
            ("ai-edge-litert",),
            "tflite",
            "litert",
        ),
        EngineInfo(
            "tflite-runtime",
            "tflite_runtime_engine",
            "TfliteRuntimeEngine",
            "tflite_runtime",
            ("tflite-runtime",),
            "tflite",
            "tflite",
        ),
        EngineInfo(
            "onnxruntime",
            "onnxruntime_engine",
            "OnnxruntimeEngine",
            "onnxruntime",
            ("onnxruntime", "onnxruntime-gpu"),
            "onnx",
            "onnx",
        ),
        EngineInfo(
            "tensorflow",
            "tensorflow_engine",
            "TensorflowEngine",
            "tensorflow",
            ("tensorflow-cpu", "tensorflow"),
            "tflite",
            "tensorflow",
        ),
        EngineInfo(
            "native",
            "native",
            "NativeEngine",
            "ai_edge_litert",  # brings the schema of TFLite files
            (),
            "tflite",
            "litert",
            compiles=True,
        ),
    )
}
DEFAULT_ORDER = ("litert", "tflite-runtime", "onnxruntime")


def installed_engines() -> list[EngineInfo]:
    """Return the engines whose library is installed."""
    return [info for info in ENGINES.values() if info.installed]


def engines_for(bundle: Bundle) -> list[EngineInfo]:
    """Return the engines, installed or not, whose format the bundle has."""
    return [info for info in ENGINES.values() if info.kind in bundle.manifest["formats"]]


def pick_engine(bundle: Bundle, name: str | None = None) -> EngineInfo:
    """Return the engine ``name``, or the first installed one that the bundle has a file for.

    Raises:
        SpecError: no engine has that name.
        RuntimeUnfit: the bundle has no file for it.
        RuntimeUnavailable: it, or every engine that would do, is not installed.
    """
    formats = sorted(bundle.manifest["formats"])
    if name is None:
        fitting = [ENGINES[n] for n in DEFAULT_ORDER if ENGINES[n].kind in formats]
        for info in fitting:
            if info.installed:
                return info
        if not fitting:
            raise RuntimeUnfit(f"{bundle.path.name} has no model file; export it with formats=…")
        raise RuntimeUnavailable(
            f"{bundle.path.name} needs {' or '.join(i.name for i in fitting)}, none is installed; "
            f"{fitting[0].install_line}"
        )
    if name not in ENGINES:
        raise SpecError(f"engine is {name!r}, must be one of {', '.join(ENGINES)}")
    info = ENGINES[name]
    if info.kind not in formats:
        raise RuntimeUnfit(
            f"{bundle.path.name} has {formats or 'no files'}, engine {name} runs {info.kind}; "
            f"export it with formats=({info.kind!r},)"
        )
    if not info.installed:
        raise RuntimeUnavailable(f"engine {name} is not installed; {info.install_line}")
    return info


def load_engine(bundle: Bundle, name: str | None = None, threads: int = 1) -> StepEngine:
    """Open the step program of ``bundle`` on an engine; see :func:`pick_engine` for the choice.

    Raises:
        SpecError, RuntimeUnfit, RuntimeUnavailable: see :func:`pick_engine`; also RuntimeUnfit when
            the engine does not accept the file, RuntimeUnavailable when its library does not load.
    """
    if threads < 1:
        raise SpecError(f"threads is {threads}, must be at least 1")
    info = pick_engine(bundle, name)
    module = import_module(f"spectral_edge.runtimes.engines.{info.module}")
    try:
        engine: StepEngine = getattr(module, info.class_name)(bundle, threads)
    except RuntimeUnavailable:
        raise
    except ImportError as error:
        raise RuntimeUnavailable(
            f"engine {info.name} is installed but does not load ({error}); {info.install_line}"
        ) from error
    return engine
