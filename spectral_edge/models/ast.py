"""Audio Spectrogram Transformer with square or full-frequency patches (FFTP).

Backbone: Gong et al., "AST" (ViT with class and distillation token), counted against its published
sizes. Full-frequency patches: Makineni et al., arXiv 2508.21243; the patch width is a knob here,
and results are our reconstruction. The edge sizes and the causal form are ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.layers.patch import (
    PatchEmbedding,
    resize_kernel,
    resize_positions,
    token_grid,
)
from spectral_edge.layers.selective_scan import ExponentialMean
from spectral_edge.layers.tokens import (
    RecentAttention,
    SelfAttention,
    TokenMlp,
    fold_norm,
    token_norm,
)

__all__ = ["SIZES", "Ast", "AstBlock", "AstSize", "ast_model", "resized_from_square"]

POSITION_STD = 0.02


@dataclass(frozen=True)
class AstSize:
    """One row of the size table.

    Attributes:
        width: d.
        layers: transformer blocks.
        heads: attention heads.
        ratio: MLP width as a multiple of d.
        window: (frames, mels) of a window.
        patch: (frames, mels); mels equal to the window's makes it full-frequency.
        stride: (frames, mels).
        classes: outputs.
        prefix: 2 (class and distillation token, as in AST), 1 (class token) or 0 (mean pooling).
        recent: causal form: every token sees this many newest ones; 0 is the window form.
        mean_frames: causal form: time constant of the running mean before the head, in tokens.
        norm: ``ln`` or ``bn`` (integer engines; folds in :meth:`Ast.deployable`).
        activation: of the MLP.
    """

    width: int
    layers: int
    heads: int
    ratio: int = 4
    window: tuple[int, int] = (1024, 128)
    patch: tuple[int, int] = (16, 16)
    stride: tuple[int, int] = (16, 16)
    classes: int = 527
    prefix: int = 2
    recent: int = 0
    mean_frames: float = 12.5
    norm: str = "ln"
    activation: str = "gelu"

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along (time, mel)."""
        return token_grid(self.window, self.patch, self.stride)

    @property
    def tokens(self) -> int:
        """Tokens of a window, without prefix."""
        return self.grid[0] * self.grid[1]

    def full_frequency(self, frames: int, stride: int | None = None) -> AstSize:
        """Return the size with patches of all mels × ``frames`` (stride: the same if not given)."""
        mels = self.window[1]
        return replace(self, patch=(frames, mels), stride=(stride or frames, mels))


def _edge(width: int, layers: int, heads: int, mels: int, patch: int, **more: Any) -> AstSize:
    settings: dict[str, Any] = {
        "ratio": 2, "window": (100, mels), "patch": (patch, mels), "stride": (patch, mels),
        "classes": 35, "prefix": 0,
    }  # fmt: skip
    return AstSize(width, layers, heads, **{**settings, **more})


_KWS = {"window": (128, 128), "classes": 35}

SIZES = {
    "ast_base": AstSize(768, 12, 12),
    "ast_small": AstSize(384, 12, 6),
    "ast_tiny": AstSize(192, 12, 3),
    "fftp_ast_base": AstSize(768, 12, 12).full_frequency(4),
    "fftp_ast_small": AstSize(384, 12, 6).full_frequency(4),
    "fftp_ast_tiny": AstSize(192, 12, 3).full_frequency(4),
    "ast_base_kws": AstSize(768, 12, 12, **_KWS),  # type: ignore[arg-type]
    "fftp_ast_base_kws": AstSize(768, 12, 12, **_KWS).full_frequency(4),  # type: ignore[arg-type]
    "fftp_ast_xs": _edge(64, 4, 2, 40, 5),
    "fftp_ast_s": _edge(96, 4, 4, 64, 4),
    "fftp_ast_m": _edge(128, 6, 4, 64, 4),
    "fftp_ast_tag": _edge(144, 6, 4, 64, 8, window=(1000, 64), classes=50),
    "fftp_ast_stream": _edge(96, 4, 4, 64, 4, recent=25, norm="bn", activation="relu6"),
}


class AstBlock(nn.Module):
    """Pre-norm transformer block: attention and MLP, both residual."""

    def __init__(self, size: AstSize) -> None:
        super().__init__()
        width = size.width
        self.norm1 = token_norm(size.norm, width)
        self.attention: nn.Module = (
            RecentAttention(width, size.heads, size.recent)
            if size.recent
            else SelfAttention(width, size.heads)
        )
        self.norm2 = token_norm(size.norm, width)
        self.mlp = TokenMlp(width, size.ratio * width, size.activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result

    def fold(self) -> None:
        """Fold BatchNorm into the linear layers behind it, in place (eval mode)."""
        attention = self.attention
        if isinstance(attention, SelfAttention):
            self.norm1 = fold_norm(self.norm1, attention.qkv)
        elif isinstance(attention, RecentAttention):
            fold_norm(self.norm1, attention.query)
            fold_norm(self.norm1, attention.key)
            self.norm1 = fold_norm(self.norm1, attention.value)
        self.norm2 = fold_norm(self.norm2, self.mlp.widen)


class Ast(nn.Module):
    """Transformer over patches of a log-mel window.

    ``forward``: features float32[batch, 1, frames, mels] -> logits float32[batch, classes]; in the
    causal form (``recent`` > 0) float32[batch, tokens, classes], one row per patch, time axis 1.

    Args:
        size: a row of :data:`SIZES`, or your own.

    Raises:
        SpecError: a size that contradicts itself.
    """

    def __init__(self, size: AstSize) -> None:
        super().__init__()
        _check(size)
        self.size = size
        past = size.patch[0] - size.stride[0] if size.recent else 0
        self.patch = PatchEmbedding(size.width, size.patch, size.stride, past)
        self.prefix = nn.Parameter(torch.zeros(1, size.prefix, size.width)) if size.prefix else None
        self.positions = None
        if not size.recent:
            self.positions = nn.Parameter(torch.zeros(1, size.prefix + size.tokens, size.width))
            nn.init.trunc_normal_(self.positions, std=POSITION_STD)
        if self.prefix is not None:
            nn.init.trunc_normal_(self.prefix, std=POSITION_STD)
        self.blocks = nn.Sequential(*(AstBlock(size) for _ in range(size.layers)))
        self.norm = token_norm(size.norm, size.width)
        self.mean = ExponentialMean(size.mean_frames) if size.recent else None
        self.head_norm = token_norm(size.norm, size.width)
        self.head = nn.Linear(size.width, size.classes)

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks over embedded patches, before the last norm."""
        result: Tensor = self.blocks(tokens)
        return result

    def classify(self, patches: Tensor) -> Tensor:
        """Return the logits of embedded patches, float32[batch, tokens, width]."""
        x = patches
        if self.positions is not None:
            x = F.pad(x, (0, 0, self.size.prefix, 0)) + self._table()
        x = self.encode(x)
        if self.mean is not None:
            x = self.norm(self.mean(x))
        elif self.size.prefix:
            x = self.norm(x)[:, : self.size.prefix].mean(dim=1)
        else:
            x = self.norm(x).mean(dim=1)
        result: Tensor = self.head(self.head_norm(x))
        return result

    def _table(self) -> Tensor:
        """Positions, with the class tokens added in front: what is added to the padded patches."""
        assert self.positions is not None
        if self.prefix is None:
            return self.positions
        return self.positions + F.pad(self.prefix, (0, 0, 0, self.size.tokens))

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.patch(features))

    def deployable(self) -> Ast:
        """Return an equivalent eval-mode copy: BatchNorm folded, class tokens in the table."""
        model = copy.deepcopy(self).eval()
        if model.prefix is not None:
            model.positions = nn.Parameter(self._table().detach().clone())
            model.prefix = None
        if self.size.norm == "bn":
            for block in model.blocks:
                assert isinstance(block, AstBlock)
                block.fold()
            # an affine map commutes with the mean over tokens, so both norms go into the head
            model.head_norm = fold_norm(model.head_norm, model.head)
            model.norm = fold_norm(model.norm, model.head)
        return model


def _check(size: AstSize) -> None:
    if size.recent and (size.prefix or size.patch[1] != size.window[1]):
        raise SpecError("the causal form takes full-frequency patches and no prefix tokens")
    if size.norm not in ("ln", "bn"):
        raise SpecError(f"norm is {size.norm!r}, must be ln or bn")
    if size.patch[0] < size.stride[0]:
        raise SpecError(f"stride {size.stride} leaves gaps between patches of {size.patch}")


def ast_model(name: str, **changes: Any) -> Ast:
    """Return a freshly initialised transformer.

    Args:
        name: key of :data:`SIZES`.
        changes: fields of :class:`AstSize` to replace; ``window``, ``classes`` are the usual ones.

    Raises:
        SpecError: an unknown name.
    """
    if name not in SIZES:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(SIZES)}")
    return Ast(replace(SIZES[name], **changes))


def resized_from_square(model: Ast, patch: int, stride: int | None = None) -> Ast:
    """Return a full-frequency model that starts from a square-patch one.

    The kernel is resized by the pseudo-inverse method, the position table is averaged over mel and
    interpolated over time; everything else is copied.

    Args:
        model: window form with square (or other) patches.
        patch: frames of the new patches.
        stride: frames between them; None: no overlap.
    """
    size = model.size.full_frequency(patch, stride)
    result = Ast(size)
    weights = dict(model.state_dict())
    weights["patch.conv.weight"] = resize_kernel(weights["patch.conv.weight"], size.patch)
    weights["positions"] = resize_positions(
        weights["positions"], model.size.grid, size.grid, size.prefix
    )
    result.load_state_dict(weights)
    return result
