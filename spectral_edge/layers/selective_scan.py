"""Linear recurrences over time: parallel in training, one step at a time in a stream.

``h[t] = a[t]·h[t-1] + b[t]`` is associative, so all frames can be had in log2(T) rounds of
whole-array operations (Blelloch's scan) instead of T small ones. The gradient is the same
recurrence backwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scan import scan

__all__ = [
    "ExponentialMean",
    "SelectiveScan",
    "doubling_scan",
    "initial_step_bias",
    "inverse_softplus",
    "linear_scan",
    "selective_step",
]


def _blelloch(a: Tensor, b: Tensor) -> Tensor:
    """Inclusive scan over axis 0, h[-1] = 0; work O(T), depth O(log T)."""
    frames = b.shape[0]
    if frames == 1:
        return b
    if frames == 2:
        return torch.cat((b[:1], torch.addcmul(b[1:], a[1:], b[:1])))
    even = frames - frames % 2
    a_first, a_second = a[0:even:2], a[1:even:2]
    b_first, b_second = b[0:even:2], b[1:even:2]
    odd = _blelloch(a_first * a_second, torch.addcmul(b_second, a_second, b_first))
    h = torch.empty_like(b)
    h[1::2] = odd
    h[0] = b[0]
    later = b[2::2]
    h[2::2] = torch.addcmul(later, a[2::2], odd[: later.shape[0]])
    return h


class _LinearScan(torch.autograd.Function):
    """Autograd of the recurrence: dL/db is the reversed scan of dL/dh, dL/da = dL/db · h[t-1]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _blelloch(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        grad = grads[0].contiguous()
        reversed_a = torch.cat((torch.ones_like(a[:1]), a[1:].flip(0)))
        grad_b = _blelloch(reversed_a, grad.flip(0)).flip(0)
        grad_a = torch.zeros_like(a)
        torch.mul(grad_b[1:], h[:-1], out=grad_a[1:])
        return grad_a, grad_b


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return all h[t] = a[t]·h[t-1] + b[t] with h[-1] = 0, without a loop over time.

    Args:
        a: float[frames, ...], decay of every frame.
        b: float[frames, ...], input of every frame, same shape.

    Returns:
        h, the same shape.
    """
    result: Tensor = _LinearScan.apply(a, b)  # type: ignore[no-untyped-call]
    return result


def doubling_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return the same as :func:`linear_scan` in ⌈log2(frames)⌉ rounds of pad, slice, multiply, add.

    For export of windows with few tokens: no loop op and no step per token is left in the graph. It
    does more work than :func:`linear_scan`.
    """
    frames, reach = b.shape[0], 1
    while reach < frames:
        pad = [0, 0] * (b.ndim - 1) + [reach, 0]
        b = b + a * F.pad(b[: frames - reach], pad)
        a = a * F.pad(a[: frames - reach], pad)
        reach *= 2
    return b


def selective_step(
    u: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One frame of the selective scan, as a device computes it.

    Args:
        u: input float[batch, width].
        delta: positive step size float[batch, width].
        b: input vector float[batch, order].
        c: output vector float[batch, order].
        a: negative decay rates float[width, order].
        state: h float[batch, width, order].

    Returns:
        (y float[batch, width], new state).
    """
    decay = torch.exp(delta.unsqueeze(-1) * a)
    state = decay * state + (delta * u).unsqueeze(-1) * b.unsqueeze(1)
    return (state * c.unsqueeze(1)).sum(dim=-1), state


class SelectiveScan(nn.Module):
    """State-space core of Mamba: decay, input and output vectors depend on the frame.

    ``h ← exp(Δ·A)·h + Δ·B·u``; ``y = C·h + D·u``; ``A = -exp(log_decay)``, initially -1 … -order.

    ``forward``: u, delta float32[batch, frames, width], b, c float32[batch, frames, order] -> y
    float32[batch, frames, width]. While a stream is exported the recurrence is written with
    :func:`spectral_edge.layers.scan.scan`, which streamify follows; otherwise all frames are
    computed at once. Both are the same function.

    Args:
        width: channels, each with a state of ``order`` values.
        order: state values per channel.
        reverse: run from the last frame to the first (windows only).
        skip: with D·u.
        stream: exported as a recurrence over time; False: as a window of a fixed number of frames.
    """

    def __init__(
        self,
        width: int,
        order: int = 16,
        *,
        reverse: bool = False,
        skip: bool = True,
        stream: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.order, self.reverse, self.stream = width, order, reverse, stream
        rates = torch.arange(1, order + 1, dtype=torch.float32)
        self.log_decay = nn.Parameter(torch.log(rates).repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width)) if skip else None

    def forward(self, u: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if self.reverse:
            u, delta, b, c = u.flip(1), delta.flip(1), b.flip(1), c.flip(1)
        a = -torch.exp(self.log_decay)
        if torch.compiler.is_exporting() and self.stream:
            y = self._recurrent(u, delta, b, c, a)
        else:
            y = self._parallel(u, delta, b, c, a)
        if self.skip is not None:
            y = y + self.skip * u
        return y.flip(1) if self.reverse else y

    def _parallel(self, u: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
        u, delta, b, c = (x.transpose(0, 1) for x in (u, delta, b, c))  # time first
        decay = torch.exp(delta.unsqueeze(-1) * a)
        drive = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
        if torch.compiler.is_exporting():
            h = doubling_scan(decay, drive)
            return (h * c.unsqueeze(2)).sum(dim=-1).transpose(0, 1)
        h = linear_scan(decay, drive)
        return torch.einsum("tbdn,tbn->btd", h, c)

    def _recurrent(self, u: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
        sizes = [self.width, self.width, self.order, self.order]

        def cell(frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            u_t, delta_t, b_t, c_t = frame.split(sizes, dim=1)  # type: ignore[no-untyped-call]
            return selective_step(u_t, delta_t, b_t, c_t, a, state)

        start = u.new_zeros(u.shape[0], self.width, self.order)
        return scan(cell, torch.cat((u, delta, b, c), dim=2), start, dim=1)[0]


class ExponentialMean(nn.Module):
    """Running mean ``y ← y + α·(x - y)`` over frames, α = 1 - exp(-1/frames); starts at 0.

    ``forward``: float32[batch, frames, width] -> the same shape.

    Args:
        frames: time constant in frames.
    """

    def __init__(self, frames: float) -> None:
        super().__init__()
        self.alpha = 1.0 - math.exp(-1.0 / frames)

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha
        if torch.compiler.is_exporting():

            def cell(frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                state = state + alpha * (frame - state)
                return state, state

            return scan(cell, x, x.new_zeros(x.shape[0], x.shape[2]), dim=1)[0]
        drive = alpha * x.transpose(0, 1)
        return linear_scan(torch.full_like(drive, 1.0 - alpha), drive).transpose(0, 1)


def inverse_softplus(x: Tensor) -> Tensor:
    """Return y with softplus(y) = x for x > 0."""
    return x + torch.log(-torch.expm1(-x))


def initial_step_bias(width: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """Return biases whose softplus is log-uniform between ``low`` and ``high``, float32[width]."""
    spread = torch.rand(width) * (math.log(high) - math.log(low)) + math.log(low)
    return inverse_softplus(torch.exp(spread).clamp_min(1e-4))
