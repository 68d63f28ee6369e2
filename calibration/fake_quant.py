"""Quantisers that live in a prepared step graph: learned step size (LSQ), per tensor or channel.

A prepared graph is the float graph plus calls of these modules. Each of them first *observes*
(returns its input unchanged and collects statistics), then *quantises*, with gradients for value,
scale and zero point. Scales are ``start * exp(shift)`` with ``shift`` learned from 0, so a
step of the optimiser is relative to the scale, and a scale cannot become negative; before training
they are exactly the start.

Gradients follow "Learned Step Size Quantization" (Esser et al., 2020) and, for the zero point,
"LSQ+" (Bhalgat et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from spectral_edge.program import QParams

from .observers import Observer

__all__ = [
    "ACTIVATION_RANGE",
    "BIAS_RANGE",
    "WEIGHT_RANGE",
    "ActivationQuantizer",
    "BiasQuantizer",
    "Mode",
    "WeightQuantizer",
    "quantizers_cached",
    "set_mode",
]

ACTIVATION_RANGE = (-128, 127)
WEIGHT_RANGE = (-127, 127)  # narrow, so that zero_point 0 is symmetric
BIAS_RANGE = (-(2**31), 2**31 - 1)
BIAS_LIMIT = 2**30  # a weight scale grows until its bias needs no larger code
MASK_MARGIN = 10.0  # a masked score is this far below every other one: exp(-10) of its weight
SMALLEST_SCALE = 2.0**-40  # of tensors that are always zero


class Mode(Enum):
    """What an activation quantiser does with the values that pass through it."""

    FLOAT = "float"
    OBSERVE = "observe"
    QUANTIZE = "quantize"


class _FakeQuantize(torch.autograd.Function):
    """Round to the grid; gradient 1 inside the range, LSQ gradients for scale and zero point."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: int,
        high: int,
        gradient_scale: float,
    ) -> Tensor:
        zero = zero_point.round().clamp(low, high)
        codes = (x * scale.reciprocal()).round_().add_(zero)
        y = codes.clamp(low, high)
        inside = codes == y
        y.sub_(zero).mul_(scale)
        ctx.save_for_backward(x, scale, inside, y)
        ctx.gradient_scale = gradient_scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, scale, inside, y = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad * inside
        grad_scale = grad_zero = None
        if ctx.needs_input_grad[1]:
            total = _inner(grad, y, scale) - _inner(grad_x, x, scale)
            grad_scale = total * (ctx.gradient_scale / scale)
        if ctx.needs_input_grad[2]:
            grad_zero = (grad_x.sum() - grad.sum()) * (ctx.gradient_scale * scale)
        return grad_x, grad_scale, grad_zero, None, None, None


class _RoundBias(torch.autograd.Function):
    """Round to the int32 grid of a bias; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, scale: Tensor) -> Tensor:
        # float64: int32 codes do not fit a float32 mantissa
        return (_bias_codes(bias, scale) * scale.double()).float()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def _bias_codes(bias: Tensor, scale: Tensor) -> Tensor:
    return (bias.double() / scale.double()).round().clamp(*BIAS_RANGE)


def _inner(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Sum ``a * b`` over every axis on which ``like`` has one element."""
    if like.ndim == 0:
        return torch.dot(a.flatten(), b.flatten())
    return (a * b).sum_to_size(like.shape)


class _Quantizer(nn.Module):
    """Start scale, learned shift, and a cache for what does not change during one unroll."""

    start: Tensor
    _cached: Tensor | None

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("start", torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.caching = False
        self._cached = None

    def set_scale(self, scale: Tensor) -> None:
        """Start from ``scale`` (float32) and forget what was learned."""
        with torch.no_grad():
            self.start.copy_(scale)
            self.shift.zero_()

    def scale(self) -> Tensor:
        """Return the present scale, float32, shaped to broadcast over the tensor."""
        return self.start * self.shift.exp()

    def _remember(self, value: Tensor) -> Tensor:
        if self.caching:
            self._cached = value
        return value


class ActivationQuantizer(_Quantizer):
    """int8 per-tensor asymmetric quantiser of one group of tensors that share qparams.

    Attributes:
        fixed: qparams that the kernels prescribe (sigmoid, softmax, tanh) or that represent a
            constant exactly; never learned.
        observer: statistics of every tensor of the group.
    """

    def __init__(self, fixed: QParams | None, observer: Observer) -> None:
        super().__init__(())
        self.zero_point = nn.Parameter(torch.zeros(()))
        self.fixed = fixed
        self.observer = observer
        self.mode = Mode.FLOAT
        if fixed is not None:
            self.set_qparams(fixed)
            self.requires_grad_(False)

    def set_qparams(self, qparams: QParams) -> None:
        """Start from ``qparams``."""
        self.set_scale(torch.tensor(qparams.scale))
        with torch.no_grad():
            self.zero_point.fill_(qparams.zero_point)

    def start_from_observer(self, mask_margin: float = MASK_MARGIN) -> None:
        """Take the range that the observer recommends, unless the qparams are fixed.

        The lowest code of a tensor with masked scores stands ``mask_margin`` below the others.
        """
        if self.fixed is None:
            low, high = self.observer.range()
            if self.observer.masked:
                low -= mask_margin
            self.set_qparams(qparams_of_range(low, high))
            # one-sided ranges (after a clamp) keep their zero at the end of the codes
            self.zero_point.requires_grad_(self.qparams().zero_point not in ACTIVATION_RANGE)

    def qparams(self) -> QParams:
        """Return the present qparams; the scale is exactly representable in float32."""
        zero_point = int(self.zero_point.detach().round().clamp(*ACTIVATION_RANGE))
        return QParams(float(self.scale().detach()), zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Observe or fake-quantise ``x``, by :attr:`mode`."""
        if self.mode is Mode.OBSERVE:
            self.observer.observe(x.detach())
            return x
        if self.mode is Mode.FLOAT:
            return x
        scale = self._remember(self.scale()) if self._cached is None else self._cached
        per_stream = max(x.numel() // max(x.shape[0] if x.ndim else 1, 1), 1)
        gradient_scale = 1.0 / math.sqrt(per_stream * ACTIVATION_RANGE[1])
        return _fake_quantize(x, scale, self.zero_point, *ACTIVATION_RANGE, gradient_scale)


class WeightQuantizer(_Quantizer):
    """int8 per-channel symmetric quantiser of a weight; scales are learned too."""

    zero: Tensor

    def __init__(self, shape: torch.Size, axis: int) -> None:
        super().__init__(tuple(n if i == axis else 1 for i, n in enumerate(shape)))
        self.axis = axis
        self.register_buffer("zero", torch.zeros(self.start.shape))
        self.mode = Mode.FLOAT

    def start_from(self, weight: Tensor, bias: Tensor | None, input_scale: float) -> None:
        """Cover the largest weight of each channel, and leave the bias representable in int32."""
        other = [i for i in range(weight.ndim) if i != self.axis]
        largest = weight.detach().abs().amax(dim=other, keepdim=True)
        scale = (largest / WEIGHT_RANGE[1]).clamp_min(SMALLEST_SCALE)
        if bias is not None and bias.numel() == scale.numel():
            needed = bias.detach().abs().reshape(scale.shape) / (BIAS_LIMIT * input_scale)
            scale = torch.maximum(scale, needed)
        self.set_scale(scale)

    def channel_scales(self) -> Tensor:
        """Return the present scales, float32[channels]."""
        return self.scale().detach().flatten()

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantise ``weight`` (once per unroll inside :func:`quantizers_cached`)."""
        if self.mode is not Mode.QUANTIZE:
            return weight
        if self._cached is not None:
            return self._cached
        per_channel = weight.numel() // self.start.numel()
        gradient_scale = 1.0 / math.sqrt(per_channel * WEIGHT_RANGE[1])
        return self._remember(
            _fake_quantize(weight, self.scale(), self.zero, *WEIGHT_RANGE, gradient_scale)
        )

    def codes(self, weight: Tensor) -> Tensor:
        """Return int8 codes of ``weight``."""
        scaled = weight.detach() * (1.0 / self.scale().detach())
        return scaled.round().clamp(*WEIGHT_RANGE).to(torch.int8)


class BiasQuantizer(nn.Module):
    """int32 quantiser of a bias with the scale that every integer kernel uses: s_x · s_w."""

    def __init__(self, source: ActivationQuantizer, weight: WeightQuantizer) -> None:
        super().__init__()
        self.sources = (source, weight)  # in a tuple: not registered a second time
        self.mode = Mode.FLOAT
        self.caching = False
        self._cached: Tensor | None = None

    def scales(self, channels: int) -> Tensor:
        """Return s_x · s_w as a float32 product, float32[channels]."""
        source, weight = self.sources
        scales = source.scale().detach() * weight.channel_scales()
        return scales.repeat(channels // scales.numel())  # groups of a transposed convolution

    def codes(self, bias: Tensor) -> Tensor:
        """Return int32 codes of ``bias``."""
        return _bias_codes(bias.detach(), self.scales(bias.numel())).to(torch.int32)

    def forward(self, bias: Tensor) -> Tensor:
        """Round ``bias`` to its grid (once per unroll inside :func:`quantizers_cached`)."""
        if self.mode is not Mode.QUANTIZE:
            return bias
        if self._cached is None:
            rounded: Tensor = _RoundBias.apply(  # type: ignore[no-untyped-call]
                bias, self.scales(bias.numel())
            )
            if not self.caching:
                return rounded
            self._cached = rounded
        return self._cached


def _fake_quantize(x: Tensor, *args: Any) -> Tensor:
    result: Tensor = _FakeQuantize.apply(x, *args)  # type: ignore[no-untyped-call]
    return result


def qparams_of_range(low: float, high: float) -> QParams:
    """Return asymmetric int8 qparams that cover [low, high] and represent 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    smallest, largest = ACTIVATION_RANGE
    scale = torch.tensor((high - low) / (largest - smallest), dtype=torch.float32)
    step = max(float(scale), SMALLEST_SCALE)
    zero_point = min(max(round(smallest - low / step), smallest), largest)
    return QParams(step, zero_point)


def set_mode(module: nn.Module, mode: Mode) -> None:
    """Switch every quantiser of a prepared graph; weights stay float while observing."""
    for part in module.modules():
        if isinstance(part, (ActivationQuantizer, WeightQuantizer, BiasQuantizer)):
            part.mode = mode


@contextmanager
def quantizers_cached(module: nn.Module) -> Iterator[None]:
    """Quantise weights, biases and scales once for all hops inside the block.

    Wrap one forward and backward pass, not an optimiser step: parameters must not change inside.
    """
    parts = [m for m in module.modules() if isinstance(m, (_Quantizer, BiasQuantizer))]
    for part in parts:
        part.caching = True
    try:
        yield
    finally:
        for part in parts:
            part.caching = False
            part._cached = None
