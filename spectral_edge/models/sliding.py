"""A window model as a stream: patch embeddings are kept, the window is computed every step."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from spectral_edge.errors import SpecError
from spectral_edge.layers.tokens import RecentTokens

from .ast import Ast
from .aum import Aum

__all__ = ["SlidingWindow"]


class SlidingWindow(nn.Module):
    """AST or Audio Mamba over the newest window at every patch.

    A step embeds one new patch; the embeddings of the others are the stream's only state. Before
    the first patch stand zero embeddings (not embeddings of silence), which fade out of the window.

    ``forward``: features float32[batch, 1, frames, mels] -> logits float32[batch, patches,
    classes], time axis 1. The row of patch n equals the model on the window that ends with it, from
    the first full window on.

    Args:
        model: window form with full-frequency patches that do not overlap.

    Raises:
        SpecError: a causal model (it streams by itself), square or overlapping patches.
    """

    def __init__(self, model: Ast | Aum) -> None:
        super().__init__()
        size = model.size
        if size.patch != size.stride or size.patch[1] != size.window[1]:
            raise SpecError("a sliding window takes full-frequency patches without overlap")
        if getattr(size, "recent", 0) or getattr(size, "readout", "") == "running":
            raise SpecError("this model streams by itself: pass it to streamify directly")
        self.model = model
        self.recent = RecentTokens(size.tokens)

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.model.patch(features)
        windows = self.recent(tokens).transpose(2, 3)
        logits = self.model.classify(windows.flatten(0, 1))
        return logits.reshape(features.shape[0], -1, logits.shape[-1])

    def deployable(self) -> SlidingWindow:
        """Return an equivalent copy in eval mode with every BatchNorm folded away."""
        result = copy.deepcopy(self).eval()
        result.model = self.model.deployable()
        return result
