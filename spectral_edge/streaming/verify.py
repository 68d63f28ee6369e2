"""The law of streaming, checked: hop by hop equals the clip."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from spectral_edge.errors import ParityError
from spectral_edge.program import StepProgram

__all__ = ["RELATIVE_TOLERANCE", "verify"]

RELATIVE_TOLERANCE = 1e-5  # of the peak of the clip's output
CHECK_LENGTHS = (1, 2, 3, 17, 40)  # in steps


def verify(
    program: StepProgram,
    model: Callable[..., Any],
    example: Sequence[torch.Tensor],
    lengths: Sequence[int] = CHECK_LENGTHS,
    seed: int = 0,
) -> float:
    """Compare ``program.run`` with ``model`` on random clips.

    Where the plain tolerance fails, the model is also run in float64: a difference of up to twice
    the model's own rounding error is no defect (cumulative norms, long recurrences).

    Args:
        program: a float step program of ``model``.
        model: the module in eval mode.
        example: tensors that give rank, dtype and the sizes other than batch and time.
        lengths: clip lengths in steps.
        seed: seed of the random clips.

    Returns:
        The largest difference relative to the clip's peak.

    Raises:
        ParityError: first differing frame, both values and the largest difference.
    """
    worst = 0.0
    generator = torch.Generator().manual_seed(seed)
    for steps in lengths:
        clips = [
            _random_clip(x, spec.time_dim, steps * program.hop_multiple, generator)
            for x, spec in zip(example, program.inputs, strict=True)
        ]
        with torch.no_grad():
            expected = _leaves(model(*clips))
        streamed = _leaves(program.run(*clips))
        exact: list[torch.Tensor] | None = None
        for i, spec in enumerate(program.outputs):
            want, got = expected[i], streamed[i]
            if want.shape != got.shape:
                raise ParityError(
                    f"output {spec.name!r}: the stream gives shape {tuple(got.shape)}, "
                    f"the clip {tuple(want.shape)}"
                )
            relative = _relative(want, got)
            allowed = RELATIVE_TOLERANCE
            if relative > allowed:
                exact = exact or _in_float64(model, clips)
                allowed = max(allowed, 2 * _relative(exact[i].to(want.dtype), want))
            if not relative <= allowed:
                raise _difference(spec.name, spec.time_dim or 0, want, got, allowed)
            worst = max(worst, relative)
    return worst


def _relative(want: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest difference relative to the peak; NaN where only one side has it."""
    if want.numel() == 0:
        return 0.0
    peak = float(want.abs().max()) or 1.0
    return float((want - got).abs().double().max()) / peak


def _in_float64(model: Callable[..., Any], clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Run the model in double precision; float tensors that it creates become double too."""
    exact = copy.deepcopy(model)
    if isinstance(exact, torch.nn.Module):
        exact.double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return _leaves(exact(*(x.double() if x.is_floating_point() else x for x in clips)))
    finally:
        torch.set_default_dtype(before)


def _difference(
    name: str, axis: int, want: torch.Tensor, got: torch.Tensor, allowed: float
) -> ParityError:
    peak = float(want.abs().max()) or 1.0
    difference = (want - got).abs().double().movedim(axis, 0).flatten(1)
    wrong = ~(difference.amax(dim=1) <= allowed * peak)
    first = int(wrong.nonzero()[0])
    index = int(difference[first].argmax())
    a = float(want.movedim(axis, 0)[first].flatten()[index])
    b = float(got.movedim(axis, 0)[first].flatten()[index])
    return ParityError(
        f"output {name!r}: stream and clip differ first at frame {first} of {len(difference)} "
        f"(clip {a:.6g}, stream {b:.6g}; largest difference {_relative(want, got):.2e} of the "
        f"peak, allowed {allowed:.0e}). The derived program is wrong for this model; "
        "it was not returned"
    )


def _leaves(result: Any) -> list[torch.Tensor]:
    leaves: list[torch.Tensor] = torch.utils._pytree.tree_leaves(result)
    return leaves


def _random_clip(
    like: torch.Tensor, axis: int | None, frames: int, generator: torch.Generator
) -> torch.Tensor:
    shape = list(like.shape)
    shape[0] = 2
    if axis is not None:
        shape[axis] = frames
    if like.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(like.dtype)
    return torch.zeros(shape, dtype=like.dtype)
