"""Who may import whom, read from the sources: the folders keep their one job each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIBLINGS = ("calibration", "converters", "runtimes")
FOLDERS = ("spectral_edge", *SIBLINGS)
SOURCES = sorted(
    path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
)

# The core composes the siblings in these modules, and only inside functions (or for type checkers).
COMPOSERS = (
    "spectral_edge/__init__.py",
    "spectral_edge/cli.py",
    "spectral_edge/parity.py",
    "spectral_edge/step_c.py",  # writes the C that the engine `native` compiles
)

# Where torch may be imported, at any level of a module.
TORCH_HOMES = (
    "calibration/",
    "converters/",
    "spectral_edge/dsp/exact.py",
    "spectral_edge/dsp/simulate.py",
    "spectral_edge/layers/",
    "spectral_edge/models/",
    "spectral_edge/program.py",
    "spectral_edge/streaming/",
    "spectral_edge/training/",
)
# Composers that may import it inside a function.
LAZY_TORCH = (
    "spectral_edge/parity.py",
    "spectral_edge/demo/",
    "spectral_edge/dsp/features.py",
    "spectral_edge/feature_sequences.py",
    "runtimes/engines/",
)
TRAINING_STACK = ("torch", "torchao", "lightning", "pytorch_lightning", "torchmetrics")

# Where a library other than NumPy may be imported; what a device needs imports none at the top.
ENGINE_HOMES = {
    "onnx": ("converters/",),
    "onnxscript": ("converters/",),
    "onnx_ir": ("converters/",),
    "onnxruntime": ("runtimes/engines/", "converters/"),
    "ai_edge_litert": ("runtimes/engines/", "converters/"),
    "tflite_runtime": ("runtimes/engines/",),
    "tensorflow": ("runtimes/engines/",),
}


def imports(path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Yield (absolute module name, statement, is it only for type checkers) of every import."""
    tree = ast.parse((ROOT / path).read_text(), filename=str(path))
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node, id(node) in checked
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node.module, node.level)
            yield base, node, id(node) in checked
            for alias in node.names:  # `from spectral_edge import runtimes` names a module too
                yield f"{base}.{alias.name}", node, id(node) in checked


def absolute(path: Path, module: str | None, level: int) -> str:
    """Spell a relative import from its name in the package."""
    if level == 0:
        return module or ""
    parts = list(path.parent.parts)
    if parts[0] != "spectral_edge":
        parts.insert(0, "spectral_edge")
    parts = parts[: len(parts) - (level - 1)]
    return ".".join([*parts, *([module] if module else [])])


def top_level(path: Path) -> set[int]:
    """Ids of the statements that run on import (not inside a function)."""
    tree = ast.parse((ROOT / path).read_text())
    inside = {
        inner.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in inside
    }


def test_there_are_sources() -> None:
    assert {path.parts[0] for path in SOURCES} == set(FOLDERS)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_siblings_do_not_import_each_other(path: Path) -> None:
    here = path.parts[0]
    others = [f"spectral_edge.{name}" for name in SIBLINGS if name != here]
    if here == "spectral_edge":
        return
    for name, node, _ in imports(path):
        assert not any(name == other or name.startswith(f"{other}.") for other in others), (
            f"{path}:{node.lineno} imports {name}; what siblings share belongs in spectral_edge/"
        )


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] == "spectral_edge"], ids=str)
def test_core_does_not_import_siblings(path: Path) -> None:
    at_import = top_level(path)
    for name, node, for_types in imports(path):
        sibling = any(
            name == f"spectral_edge.{folder}" or name.startswith(f"spectral_edge.{folder}.")
            for folder in SIBLINGS
        )
        if not sibling or for_types:
            continue
        assert path.as_posix() in COMPOSERS, f"{path}:{node.lineno} imports {name}"
        assert node.lineno not in at_import, f"{path}:{node.lineno} imports {name} at the top"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_bare_sibling_imports(path: Path) -> None:
    for name, node, _ in imports(path):
        assert name.split(".")[0] not in SIBLINGS, (
            f"{path}:{node.lineno} imports {name}; write spectral_edge.{name}"
        )


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(ROOT) for p in (ROOT / "tests").rglob("*.py")), ids=str
)
def test_tests_import_the_package_names(path: Path) -> None:
    for name, node, _ in imports(path):
        if getattr(node, "level", 0):
            continue
        assert name.split(".")[0] not in SIBLINGS, f"{path}:{node.lineno} imports {name}"
        assert not name.startswith("spectral_edge.tests"), f"{path}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_torch_stays_at_home(path: Path) -> None:
    home = path.as_posix().startswith(TORCH_HOMES)
    at_import = top_level(path)
    for name, node, for_types in imports(path):
        if name.split(".")[0] not in TRAINING_STACK or for_types or home:
            continue
        assert path.as_posix().startswith(LAZY_TORCH), f"{path}:{node.lineno} imports {name}"
        assert node.lineno not in at_import, f"{path}:{node.lineno} imports {name} at the top"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_engines_stay_at_home(path: Path) -> None:
    for name, node, for_types in imports(path):
        homes = ENGINE_HOMES.get(name.split(".")[0])
        if homes is None or for_types:
            continue
        assert path.as_posix().startswith(homes), f"{path}:{node.lineno} imports {name}"


def test_no_module_is_named_like_a_dependency() -> None:
    """A script run from its own folder would import our file in place of the library."""
    libraries = {"numpy", "torch", "yaml", "rich", *TRAINING_STACK, *ENGINE_HOMES}
    libraries |= {"scipy", "soundfile", "soxr", "pesq", "pystoi", "matplotlib", "jinja2"}
    for path in SOURCES:
        name = path.parent.name if path.name == "__init__.py" else path.stem
        assert name not in libraries, f"{path} shadows {name}"
