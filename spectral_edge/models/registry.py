"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend

from .saf import saf_edge_l, saf_edge_m, saf_edge_nano, saf_edge_s, saf_edge_xs

__all__ = ["MODELS", "build"]

MODELS: dict[str, Callable[[StftFrontend], nn.Module]] = {
    "saf_edge_nano": saf_edge_nano,
    "saf_edge_xs": saf_edge_xs,
    "saf_edge_s": saf_edge_s,
    "saf_edge_m": saf_edge_m,
    "saf_edge_l": saf_edge_l,
}


def build(name: str, frontend: StftFrontend) -> nn.Module:
    """Return a freshly initialised network.

    Raises:
        SpecError: no network has that name.
    """
    if name not in MODELS:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(MODELS)}")
    return MODELS[name](frontend)
