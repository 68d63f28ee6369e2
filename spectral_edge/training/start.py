"""One door to both trainers: a recipe of an enhancer or of a classifier."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from spectral_edge.console import progress_bar
from spectral_edge.errors import SpecError

from .labelled import Progress
from .recipe import _read_yaml, recipe_names

__all__ = ["Trained", "all_recipe_names", "progress_bars", "train_recipe"]

VARIABLE = re.compile(r"^\$\{?\w+\}?")


@dataclass(frozen=True)
class Trained:
    """What a training left behind.

    Attributes:
        checkpoint: file with the best weights.
        scores: of a classifier on its test split; an enhancer is scored by its validation loss.
        examples_per_second: training speed of a classifier, augmentation included.
    """

    checkpoint: Path
    scores: dict[str, float]
    examples_per_second: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "checkpoint": str(self.checkpoint)}

    def table(self) -> str:
        """Return lines for a terminal."""
        lines = [f"best weights: {self.checkpoint}"]
        lines += [f"{name} on the test split: {value:.4f}" for name, value in self.scores.items()]
        if self.examples_per_second is not None:
            lines.append(f"training speed: {self.examples_per_second:.0f} examples per second")
        return "\n".join(lines)


@contextmanager
def progress_bars(stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a progress function that shows one bar per stage: features of each split, epochs.

    Args:
        stream: where to; standard error when not given.
    """
    with ExitStack() as bars:
        title = ""
        tell: Callable[[float], None] | None = None

        def show(done: int, total: int, what: str) -> None:
            nonlocal title, tell
            stage = what.split(":")[0]
            if tell is None or stage != title:
                bars.close()
                title, tell = stage, bars.enter_context(progress_bar(stage, stream))
            tell(done / max(1, total))

        yield show


def all_recipe_names() -> list[str]:
    """Return the names of all shipped recipes, enhancers first."""
    from .classify_recipe import classify_recipe_names

    return [*recipe_names(), *classify_recipe_names()]


def train_recipe(
    recipe: str | Path,
    *,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    overrides: dict[str, Any] | None = None,
) -> Trained:
    """Train by a shipped name or a YAML file of either kind.

    Args:
        recipe: name or file; a classifier's recipe has ``data.kind``.
        out: parent of the run's folder.
        data_root: takes the place of ``data.root``, of a classifier only of the variable that it
            begins with.
        resume: go on where the run was stopped.
        progress: called as (done, total, what); an enhancer shows Lightning's bar on a terminal.
        overrides: dotted keys, such as ``{"run.epochs": 2}``.

    Raises:
        SpecError: what is wrong with the recipe, the data or the model.
        AudioError: a clip that cannot be used.
    """
    changes = dict(overrides or {})
    data = _content(recipe)
    settings = data.get("data")
    if not isinstance(settings, dict) or "kind" not in settings:
        from .loop import train

        keys = {key.replace(".", "__"): value for key, value in changes.items()}
        show = sys.stderr.isatty()
        return Trained(
            train(data, out=out, data_root=data_root, resume=resume, progress=show, **keys), {}
        )
    from .classify import train_classifier

    if data_root is not None:
        place = str(settings.get("root") or ".")
        variable = VARIABLE.match(place)
        rest = place[variable.end() :].lstrip("/") if variable else ""
        changes["data.root"] = str(Path(data_root, rest)) if rest else str(data_root)
    result = train_classifier(data, out=out, resume=resume, progress=progress, overrides=changes)
    assert result.checkpoint is not None
    return Trained(result.checkpoint, result.scores, result.examples_per_second)


def _content(recipe: str | Path) -> dict[str, Any]:
    from .classify_recipe import classify_recipe_names

    name = str(recipe)
    if Path(recipe).suffix not in (".yaml", ".yml") and name in classify_recipe_names():
        return _read_yaml(Path(__file__).parent / "recipes" / "classify" / f"{name}.yaml")
    try:
        return _read_yaml(recipe)
    except SpecError as error:
        if "must be a .yaml file or one of" not in str(error):
            raise
        names = ", ".join(all_recipe_names())
        raise SpecError(f"recipe is {name!r}, must be a .yaml file or one of {names}") from None
