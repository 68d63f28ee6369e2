"""``make demo``: the whole way from a checkpoint to enhanced audio, once, with a report.

:func:`run_demo` composes the public functions of the package in the order in which a user would;
:mod:`.samples` has the speech that ships and the noise to mix it with, :mod:`.picture` and
:mod:`.page` draw the report, :mod:`.console` shows the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .console import ConsoleProgress

if TYPE_CHECKING:
    from .pipeline import DemoResult, DemoStep, run_demo

__all__ = ["ConsoleProgress", "DemoResult", "DemoStep", "run_demo"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'spectral_edge.demo' has no attribute {name!r}")
    from . import pipeline

    return getattr(pipeline, name)
