"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend

from .saf import saf_edge_l, saf_edge_m, saf_edge_nano, saf_edge_s, saf_edge_xs
from .saf_paper import saf_paper

__all__ = ["MODELS", "build"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "saf_edge_nano": saf_edge_nano,
    "saf_edge_xs": saf_edge_xs,
    "saf_edge_s": saf_edge_s,
    "saf_edge_m": saf_edge_m,
    "saf_edge_l": saf_edge_l,
    "saf_paper": saf_paper,
}


def build(name: str, frontend: StftFrontend, **options: Any) -> nn.Module:
    """Return a freshly initialised enhancement network.

    Args:
        name: a key of :data:`MODELS`.
        frontend: gives channels and bins.
        options: ``lookahead`` of the edge sizes; every field of ``SafPaperOptions`` of
            ``saf_paper``.

    Raises:
        SpecError: no network has that name, or an option it lacks or that is out of range.
    """
    if name not in MODELS:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(MODELS)}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        return MODELS[name](frontend, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        word = str(error).split("'")[-2]
        raise SpecError(f"model {name} has no option {word!r}") from None
