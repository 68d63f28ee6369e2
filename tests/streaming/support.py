"""Shared by the streaming tests: small models from functions, and the law of streaming."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import spectral_edge as se
from tests.tolerances import STEP_EQUALS_CLIP_RELATIVE

LENGTHS = (1, 4, 33)


class Net(nn.Module):
    """A model from a function ``body(self, x)`` and named submodules or tensors."""

    def __init__(self, body: Callable[[Any, torch.Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)

    def part(self, name: str) -> Any:
        """Return a submodule or tensor."""
        return getattr(self, name)


def randomised(model: nn.Module) -> nn.Module:
    """Give batch norms running statistics that matter, and return the model in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return model.eval()


def clip_like(example: torch.Tensor, axis: int | None, frames: int, batch: int) -> torch.Tensor:
    """Return random data shaped like ``example`` with another length and batch."""
    shape = list(example.shape)
    shape[0] = batch
    if axis is not None:
        shape[axis] = frames
    return torch.randn(shape)


def worst_error(want: Any, got: Any) -> float:
    """Return the largest difference relative to the peak, over all outputs."""
    a, b = (torch.utils._pytree.tree_flatten(v) for v in (want, got))
    assert str(a[1]) == str(b[1])
    worst = 0.0
    for x, y in zip(a[0], b[0], strict=True):
        assert x.shape == y.shape
        if x.numel():
            worst = max(worst, float((x - y).abs().max()) / (float(x.abs().max()) or 1.0))
    return worst


def float64_error(model: nn.Module, clips: Sequence[torch.Tensor], want: Any) -> float:
    """Return the error of the model itself against float64."""
    with default_float64(), torch.no_grad():
        exact = copy.deepcopy(model).double()(*(c.double() for c in clips))
    return worst_error(torch.utils._pytree.tree_map(lambda t: t.float(), exact), want)


@contextmanager
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def assert_law(
    model: nn.Module,
    program: se.StepProgram,
    examples: Sequence[torch.Tensor],
    lengths: Sequence[int],
    *,
    batch: int = 1,
    seed: int = 0,
) -> float:
    """Hop by hop equals the clip, for clips of ``lengths`` steps; returns the largest error."""
    torch.manual_seed(seed)
    worst = 0.0
    for steps in lengths:
        frames = steps * program.hop_multiple
        clips = [
            clip_like(x, spec.time_dim, frames, batch)
            for x, spec in zip(examples, program.inputs, strict=True)
        ]
        with torch.no_grad():
            want = model(*clips)
        error = worst_error(want, program.run(*clips))
        if error > STEP_EQUALS_CLIP_RELATIVE:
            assert error <= 2 * float64_error(model, clips, want), f"{frames} frames: {error:.2e}"
        worst = max(worst, error)
    return worst


def streams(
    model: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    time_dim: int | Sequence[int | None],
    *,
    lengths: Sequence[int] = LENGTHS,
    batch: int = 2,
) -> se.StepProgram:
    """Streamify a model, check the law on clips of our own, and return the program."""
    torch.manual_seed(1)
    randomised(model)
    program = se.streamify(model, example, time_dim)
    examples = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    assert_law(model, program, examples, lengths, batch=batch)
    return program
