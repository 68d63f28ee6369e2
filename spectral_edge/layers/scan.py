"""Recurrence over time written by hand, in a form that streamify can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from spectral_edge.errors import SpecError

__all__ = ["scan"]


def scan(
    cell: Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]],
    x: torch.Tensor,
    state: Any,
    dim: int = 1,
) -> tuple[torch.Tensor, Any]:
    """Apply ``y_t, state = cell(x_t, state)`` to every frame of ``x``.

    A bare Python loop over frames is unrolled by tracing and cannot become a stream; this function
    is a loop in eager mode and one op with a symbolic length while a model is being traced.

    Args:
        cell: ``(x_t, state) -> (y_t, state)``; x_t is ``x`` without axis ``dim``. It must be pure:
            no in-place change of its arguments.
        x: float tensor with time on ``dim``.
        state: tensor or nested tuple/list/dict of tensors, batch on axis 0.
        dim: time axis of ``x`` and of the result.

    Returns:
        (y, state): outputs stacked along ``dim``, and the last state (not available to a stream).

    Raises:
        SpecError: ``x`` has no frames.
    """
    dim = dim % x.ndim
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan as scan_op

        def combine(carry: Any, frame: torch.Tensor) -> tuple[Any, torch.Tensor]:
            y, carry = cell(frame, carry)
            # the op forbids an output that is also the carry
            return torch.utils._pytree.tree_map(torch.clone, carry), y.clone()

        state = torch.utils._pytree.tree_map(_own, state)
        final, stacked = scan_op(combine, state, x, dim=dim)
        return stacked, final
    if x.shape[dim] == 0:
        raise SpecError(f"x has no frames on axis {dim}, scan needs at least one")
    outputs = []
    for frame in x.unbind(dim):
        y, state = cell(frame, state)
        outputs.append(y)
    return torch.stack(outputs, dim=dim), state


def _own(state: torch.Tensor) -> torch.Tensor:
    """Return a state with memory of its own: the op wants it like what the cell returns."""
    return state.clone(memory_format=torch.contiguous_format)
