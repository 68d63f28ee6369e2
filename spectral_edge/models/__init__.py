"""Networks, each a plain ``nn.Module`` with one ``forward`` over a clip."""

from __future__ import annotations

from .checkpoint import load_checkpoint, save_checkpoint
from .registry import MODELS, build
from .saf import SafEdge, saf_edge_l, saf_edge_m, saf_edge_nano, saf_edge_s, saf_edge_xs

__all__ = [
    "MODELS",
    "SafEdge",
    "build",
    "load_checkpoint",
    "saf_edge_l",
    "saf_edge_m",
    "saf_edge_nano",
    "saf_edge_s",
    "saf_edge_xs",
    "save_checkpoint",
]
