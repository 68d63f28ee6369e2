"""The law of streaming, checked: hop by hop equals the clip."""

from __future__ import annotations

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
        for spec, want, got in zip(program.outputs, expected, streamed, strict=True):
            worst = max(worst, _compare(spec.name, spec.time_dim, want, got, clips, model))
    return worst


def _compare(
    name: str,
    axis: int | None,
    want: torch.Tensor,
    got: torch.Tensor,
    clips: Sequence[torch.Tensor],
    model: Callable[..., Any],
) -> float:
    if want.shape != got.shape:
        raise ParityError(
            f"output {name!r}: the stream gives shape {tuple(got.shape)}, "
            f"the clip {tuple(want.shape)}"
        )
    if want.numel() == 0:
        return 0.0
    difference = (want - got).abs().double()
    peak = float(want.abs().max()) or 1.0
    relative = float(difference.max()) / peak
    if relative <= RELATIVE_TOLERANCE:
        return relative
    frames = difference.movedim(axis or 0, 0).flatten(1).amax(dim=1)
    first = int((frames > RELATIVE_TOLERANCE * peak).nonzero()[0])
    index = int(difference.movedim(axis or 0, 0)[first].argmax())
    a = float(want.movedim(axis or 0, 0)[first].flatten()[index])
    b = float(got.movedim(axis or 0, 0)[first].flatten()[index])
    raise ParityError(
        f"output {name!r}: stream and clip differ first at frame {first} of {frames.numel()} "
        f"(clip {a:.6g}, stream {b:.6g}; largest difference {relative:.2e} of the peak, "
        f"allowed {RELATIVE_TOLERANCE:.0e}). The derived program is wrong for this model; "
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
