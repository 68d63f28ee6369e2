"""Blocks over token sequences float32[batch, tokens, width]: norms, MLP, attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "RecentAttention",
    "RootMeanSquareNorm",
    "SelfAttention",
    "TokenBatchNorm",
    "TokenMlp",
    "activation",
    "fold_norm",
    "token_norm",
]

NORMS = ("ln", "rms", "bn")
ACTIVATIONS = ("gelu", "silu", "relu6", "hardswish")


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the last axis; in eval mode an affine map that folds into the next linear."""

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return (factor, shift) with eval output = factor·x + shift, float32[width] each."""
        assert self.running_var is not None
        assert self.running_mean is not None
        factor = self.weight * torch.rsqrt(self.running_var + self.eps)
        return factor, self.bias - self.running_mean * factor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        factor, shift = self.factor_and_shift()
        return x * factor + shift


class RootMeanSquareNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps)`` over the last axis, times a learned gain."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        power = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(power + self.eps) * self.weight


def token_norm(kind: str, width: int) -> nn.Module:
    """Return the norm ``kind`` (one of :data:`NORMS`) over the last axis.

    Raises:
        SpecError: an unknown kind.
    """
    if kind == "ln":
        return nn.LayerNorm(width, eps=1e-6)
    if kind == "rms":
        return RootMeanSquareNorm(width)
    if kind == "bn":
        return TokenBatchNorm(width)
    raise SpecError(f"norm is {kind!r}, must be one of {', '.join(NORMS)}")


def fold_norm(norm: nn.Module, linear: nn.Linear) -> nn.Module:
    """Fold an eval-mode :class:`TokenBatchNorm` into the linear layer behind it.

    Returns:
        What stands in the norm's place: identity, or the norm itself when it does not fold.
    """
    if not isinstance(norm, TokenBatchNorm):
        return norm
    factor, shift = norm.factor_and_shift()
    with torch.no_grad():
        offset = linear.weight @ shift
        bias: Tensor | None = getattr(linear, "bias", None)
        linear.bias = nn.Parameter(offset if bias is None else bias + offset)
        linear.weight.mul_(factor)
    return nn.Identity()


def activation(kind: str) -> nn.Module:
    """Return the non-linearity ``kind`` of :data:`ACTIVATIONS`.

    Raises:
        SpecError: an unknown kind.
    """
    modules: dict[str, nn.Module] = {
        "gelu": nn.GELU(), "silu": nn.SiLU(), "relu6": nn.ReLU6(), "hardswish": nn.Hardswish(),
    }  # fmt: skip
    if kind not in modules:
        raise SpecError(f"activation is {kind!r}, must be one of {', '.join(ACTIVATIONS)}")
    return modules[kind]


class TokenMlp(nn.Module):
    """Two linear layers with a non-linearity between."""

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.widen, self.act = nn.Linear(width, hidden), activation(kind)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrow(self.act(self.widen(x)))
        return result


class SelfAttention(nn.Module):
    """Multi-head softmax attention over all tokens of a window."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise SpecError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(width // heads)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) * self.scale, dim=-1)
        result: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return result


class RecentTokens(nn.Module):
    """The newest ``count`` values of every channel at every token, zeros before the first.

    ``forward``: float32[batch, tokens, width] -> float32[batch, tokens, width, count], oldest
    first.
    A view in training; a stream keeps ``count`` - 1 tokens.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        recent: Tensor = F.pad(x, (0, 0, self.count - 1, 0)).unfold(1, self.count, 1)
        return recent


class RecentAttention(nn.Module):
    """Causal attention to the newest ``window`` tokens, with a learned bias per head and distance.

    The bias starts as ALiBi's (−slope · distance) and replaces absolute positions, so the function
    is the same at every time: a key/value ring streams it. Before the first token stand zero keys
    and values; they take part, in a clip as in a stream.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        if width % heads:
            raise SpecError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(width // heads)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.recent = RecentTokens(window)
        slopes = torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)])
        distance = torch.arange(window - 1, -1, -1)
        self.bias = nn.Parameter((-slopes[:, None] * distance)[:, None, :])

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(2, (self.heads, 1, -1))
        k = self.recent(self.key(x)).unflatten(2, (self.heads, -1))
        v = self.recent(self.value(x)).unflatten(2, (self.heads, -1))
        weights = torch.softmax(q @ k * self.scale + self.bias, dim=-1)
        result: Tensor = self.out((weights @ v.transpose(3, 4)).flatten(2))
        return result
