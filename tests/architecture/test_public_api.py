"""The public names exist, are complete, and say what they are."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import spectral_edge as se

ROOT = Path(__file__).resolve().parents[2]

# Design, section 5: tools outside the project call these.
PROMISED = {
    "StftFrontend", "StepProgram", "Bundle", "Session", "LatencyReport", "streamify", "quantize",
    "prepare", "freeze", "QatConfig", "export", "check", "open", "bench", "models", "layers",
    "metrics", "errors",
}  # fmt: skip

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("spectral_edge", "calibration", "converters", "runtimes")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__main__.py"
)


def load(name: str) -> ModuleType:
    prefix = "" if name.startswith("spectral_edge") else "spectral_edge."
    return importlib.import_module(prefix + name)


def test_promised_names_are_public() -> None:
    assert set(se.__all__) >= PROMISED


@pytest.mark.parametrize("name", se.__all__)
def test_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(se, name)
    assert name in dir(se)
    if name != "__version__":
        assert_documented(name, value)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = se.nonsense


@pytest.mark.parametrize("name", MODULES)
def test_module_all_is_what_exists(name: str) -> None:
    module = load(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ names {public}, which does not exist"


@pytest.mark.parametrize("name", MODULES)
def test_exported_functions_and_classes_are_documented(name: str) -> None:
    module = load(name)
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert_documented(f"{name}.{public}", value)


def assert_documented(name: str, value: object) -> None:
    """A docstring with content: a sentence, and not the one a dataclass makes of its fields."""
    text = inspect.getdoc(value) or ""
    assert len(text.split()) >= 3, f"{name} has no docstring worth reading: {text!r}"
    assert not text.startswith(f"{name.rsplit('.', 1)[-1]}("), f"{name}: generated docstring"
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function):
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"
