"""Clean-up passes on the step graph; both writers run them before they spell anything.

Every pass is a function ``pass(module) -> bool`` that edits a ``torch.fx.GraphModule`` in place and
says whether it changed something. Each states its pre- and post-condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .concrete import concrete
from .duplicates import merge_duplicates
from .movement import crop_after_cat, drop_noops, merge_padding
from .qdq import drop_repeated_qdq

__all__ = [
    "clean",
    "concrete",
    "crop_after_cat",
    "drop_noops",
    "drop_repeated_qdq",
    "merge_duplicates",
    "merge_padding",
]


def clean(module: torch.fx.GraphModule, example: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """Return a cleaned copy of ``module`` with static shapes, for the shapes of ``example``.

    Pre: ``module(*example)`` runs. Post: same outputs for inputs of these shapes, bit for bit;
    ``node.meta["val"]`` holds a meta tensor (or tuple of them) for every node; no node computes
    constants; the passes of this package find nothing left to do.
    """
    cleaned = concrete(module, example)
    passes = (drop_noops, drop_repeated_qdq, crop_after_cat, merge_padding, merge_duplicates)
    changed = True
    while changed:
        changed = False
        for run in passes:
            changed |= run(cleaned)
        cleaned.graph.eliminate_dead_code()
    cleaned.graph.lint()
    cleaned.recompile()
    return cleaned
