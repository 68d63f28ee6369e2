"""Quantisation recipes: plain data, one YAML file each in ``recipes/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from spectral_edge.errors import SpecError

from .observers import Observer, make_observer

__all__ = ["Recipe", "load_recipe", "recipe_names"]

_FOLDER = Path(__file__).parent / "recipes"
_PRECISIONS = ("w8a8",)
_OBSERVERS = ("minmax", "mse", "percentile")


@dataclass(frozen=True)
class Recipe:
    """How to quantise.

    Attributes:
        name: stored in the program and the bundle.
        precision: ``w8a8``, the one that every engine runs.
        activations: ``minmax``, ``mse`` or ``percentile``.
        percentile: share in percent of the values that the range holds, for ``percentile``.
        streams: sequences calibrated side by side.
        float_states: patterns (``*``, ``?``) of state names that stay float32.

    Raises:
        SpecError: a value outside its range.
    """

    name: str
    precision: str = "w8a8"
    activations: str = "minmax"
    percentile: float = 99.999
    streams: int = 16
    float_states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "float_states", tuple(self.float_states))
        if not isinstance(self.name, str) or not self.name:
            raise SpecError(f"recipe name is {self.name!r}, must be a text")
        if self.precision not in _PRECISIONS:
            raise SpecError(
                f"recipe precision is {self.precision!r}, must be one of {', '.join(_PRECISIONS)}"
            )
        if self.activations not in _OBSERVERS:
            raise SpecError(
                f"recipe activations is {self.activations!r}, "
                f"must be one of {', '.join(_OBSERVERS)}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"recipe percentile is {self.percentile}, must be in (50, 100]")
        if not isinstance(self.streams, int) or self.streams < 1:
            raise SpecError(f"recipe streams is {self.streams!r}, must be an int of 1 or more")
        if not all(isinstance(pattern, str) for pattern in self.float_states):
            raise SpecError(f"recipe float_states is {self.float_states!r}, must be texts")

    def observer(self) -> Observer:
        """Return a new observer of activations."""
        return make_observer(self.activations, self.percentile)

    def keeps_float(self, state: str) -> bool:
        """Say whether the recipe leaves state ``state`` in float32."""
        return any(fnmatchcase(state, pattern) for pattern in self.float_states)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """Return a recipe by name, from a YAML file, or from plain data.

    Raises:
        SpecError: an unknown name or key, or a value outside its range.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return _from_data(recipe, "recipe")
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        if str(recipe) not in recipe_names():
            raise SpecError(
                f"recipe is {str(recipe)!r}, must be one of {', '.join(recipe_names())}, "
                "the path of a .yaml file, or a mapping"
            )
        path = _FOLDER / f"{recipe}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"recipe {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"recipe {path} holds {type(data).__name__}, must be a mapping")
    return _from_data(data, f"recipe {path.name}")


def _from_data(data: Mapping[str, Any], what: str) -> Recipe:
    known = {f.name for f in fields(Recipe)}
    unknown = sorted(str(key) for key in set(data) - known)
    if unknown:
        raise SpecError(f"{what} has unknown keys {unknown}, known are {sorted(known)}")
    if "name" not in data:
        raise SpecError(f"{what} has no name")
    try:
        return Recipe(**data)
    except TypeError as error:
        raise SpecError(f"{what} has a value of the wrong type: {error}") from error
