"""Self-supervised tasks: masked patches for token models, masked frequencies for DSM.

Masked patches follow Audio-MAE's idea, in the simple form with mask tokens in the encoder and a
linear decoder (with full-frequency patches there are few tokens, so dropping them saves little).
Masked frequencies follow the definition of MFM: keep either low or high frequencies of the input
and predict what was removed.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from spectral_edge.errors import SpecError
from spectral_edge.models.ast import Ast
from spectral_edge.models.aum import Aum
from spectral_edge.models.dsm import Dsm

from .classify_recipe import PretrainRecipe

__all__ = ["MaskedFrequencyTask", "MaskedPatchTask", "pretraining_task"]


class MaskedPatchTask(nn.Module):
    """Restore hidden patches of AST or Audio Mamba; the loss is over hidden patches only.

    ``forward``: features float32[batch, 1, frames, mels] -> loss. Patches must not overlap.
    """

    def __init__(self, model: Ast | Aum, share: float) -> None:
        super().__init__()
        size = model.size
        if size.patch != size.stride:
            raise SpecError("masked patches need patches without overlap: set stride to patch")
        if not 0 < share < 1:
            raise SpecError(f"pretrain.share is {share}, must be between 0 and 1")
        self.model, self.share = model, share
        self.hidden = nn.Parameter(torch.zeros(size.width))
        self.decoder = nn.Linear(size.width, size.patch[0] * size.patch[1])

    def forward(self, features: Tensor) -> Tensor:
        size = self.model.size
        columns = size.grid[0] * size.patch[0]
        patches = features[:, 0, :columns, : size.grid[1] * size.patch[1]]
        patches = patches.unfold(1, size.patch[0], size.patch[0])
        patches = patches.unfold(2, size.patch[1], size.patch[1]).flatten(3).flatten(1, 2)
        count = patches.shape[1]
        order = torch.rand(len(features), count, device=features.device).argsort(dim=1)
        gone = order < max(1, round(self.share * count))
        tokens = torch.where(gone[..., None], self.hidden, self.model.patch(features))
        restored = self.decoder(self._encoded(tokens))
        error = (restored - patches).square().mean(dim=2)
        result: Tensor = (error * gone).sum() / gone.sum()
        return result

    def _encoded(self, tokens: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, Ast):
            extra = model.size.prefix
            if model.prefix is not None:
                tokens = torch.cat((model.prefix.expand(len(tokens), -1, -1), tokens), dim=1)
            if model.positions is not None:
                tokens = tokens + model.positions
            return model.norm(model.encode(tokens))[:, extra:]  # type: ignore[no-any-return]
        if model.token is None or model.positions is None:
            return model.norm(model.encode(tokens))  # type: ignore[no-any-return]
        middle = tokens.shape[1] // 2
        token = model.token.expand(len(tokens), -1, -1)
        whole = torch.cat((tokens[:, :middle], token, tokens[:, middle:]), dim=1) + model.positions
        y = model.norm(model.encode(whole))
        return torch.cat((y[:, :middle], y[:, middle + 1 :]), dim=1)


class MaskedFrequencyTask(nn.Module):
    """MFM for DSM: remove low or high frequencies of the input, predict them.

    A disc of ``radius`` (share of the half sampling rate) around DC is either all that is kept or
    all that is removed, with equal probability; the loss is the mean squared error over removed
    coefficients of the 2-D spectrum.

    ``forward``: features float32[batch, channels, height, width] -> loss.
    """

    def __init__(self, model: Dsm, radius: float) -> None:
        super().__init__()
        if not 0 < radius < 1:
            raise SpecError(f"pretrain.radius is {radius}, must be between 0 and 1")
        self.model, self.radius = model, radius
        channels, _, _ = model.input_shape
        last = model.size.widths[-1]
        self.factor = 4 * 2 ** (len(model.size.widths) - 1)
        self.decoder = nn.Conv2d(last, channels * self.factor**2, 1)
        self.unfold = nn.PixelShuffle(self.factor)

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        fy = torch.fft.fftfreq(height, device=features.device)[:, None] * 2
        fx = torch.fft.rfftfreq(width, device=features.device)[None, :] * 2
        low = (fy.square() + fx.square()).sqrt() <= self.radius
        keep_low = torch.rand(len(features), 1, 1, 1, device=features.device) < 0.5
        kept = torch.where(keep_low, low, ~low)
        spectrum = torch.fft.rfft2(features, norm="ortho")
        seen = torch.fft.irfft2(spectrum * kept, s=(height, width), norm="ortho")
        restored = self.unfold(self.decoder(self.model.encode(seen)))
        error = torch.view_as_real(torch.fft.rfft2(restored, norm="ortho") - spectrum)
        gone = (~kept).expand_as(spectrum).unsqueeze(-1)
        return (error.square() * gone).sum() / gone.sum() / 2


def pretraining_task(model: nn.Module, recipe: PretrainRecipe) -> nn.Module:
    """Return the task of a recipe around ``model`` (which it trains in place).

    Raises:
        SpecError: a task that the model's family cannot do.
    """
    if recipe.task == "patches":
        if isinstance(model, Ast | Aum):
            return MaskedPatchTask(model, recipe.share)
        raise SpecError("pretrain.task 'patches' is for AST and Audio Mamba; DSM takes 'frequency'")
    if isinstance(model, Dsm):
        return MaskedFrequencyTask(model, recipe.radius)
    raise SpecError("pretrain.task 'frequency' is for DSM; token models take 'patches'")


def run_pretraining(
    task: nn.Module, batches: Any, epochs: int, lr: float, seed: int
) -> list[float]:
    """Train a task for some epochs and return the mean loss of each.

    Args:
        task: from :func:`pretraining_task`.
        batches: callable that returns an iterable of (inputs, targets) for one epoch.
        epochs: number of epochs.
        lr: learning rate (AdamW).
        seed: of masks.
    """
    optimizer = torch.optim.AdamW(task.parameters(), lr=lr, weight_decay=0.05)
    torch.manual_seed(seed)
    losses = []
    task.train()
    for _ in range(epochs):
        total = []
        for inputs, _ in batches():
            loss = cast("Tensor", task(inputs))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total.append(float(loss.detach()))
        losses.append(sum(total) / max(1, len(total)))
    return losses
