"""Changes of training batches: masks, mixing, noise, rolling, image shifts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectral_edge.errors import SpecError
from spectral_edge.layers.spec_mask import Masking, SpecAugment, SpecMask

from .classify_recipe import AugmentRecipe, FeatureRecipe
from .rand_augment import rand_augment

__all__ = ["Augment", "as_vectors", "make_mask"]


def make_mask(name: str, options: dict[str, Any]) -> Masking | None:
    """Return the masker ``name``: ``none``, ``spec_augment`` or ``spec_mask``.

    Raises:
        SpecError: an option that the masker lacks.
    """
    if name == "none":
        return None
    kind = SpecAugment if name == "spec_augment" else SpecMask
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SpecError(f"mask {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return kind(**options)


def as_vectors(targets: Tensor, classes: int) -> Tensor:
    """Return targets as float32[batch, classes]."""
    if targets.ndim == 2:
        return targets.float()
    return F.one_hot(targets, classes).float()


class Augment:
    """Batch augmentation with a generator of its own.

    Args:
        recipe: what to do.
        features: gives the scale of log-mel, for mixing in the power domain.
        classes: number of classes.
        seed: of the generator.
    """

    def __init__(
        self, recipe: AugmentRecipe, features: FeatureRecipe, classes: int, seed: int
    ) -> None:
        self.recipe, self.classes = recipe, classes
        self.scale, self.offset = 2.0 * features.std, features.mean
        self.lazy = features.lazy
        self.mask = make_mask(recipe.mask, recipe.mask_options)
        self.rng = np.random.default_rng(seed)

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return changed inputs and soft targets, float32[batch, classes]."""
        recipe = self.recipe
        targets = as_vectors(targets, self.classes)
        if recipe.rand and not self.lazy:  # lazy images are changed in loader workers
            inputs = self._rand(inputs)
        if recipe.flip or recipe.shift:
            inputs = self._moved(inputs)
        if recipe.roll:
            steps = self.rng.integers(-recipe.roll, recipe.roll + 1, len(inputs))
            inputs = torch.stack(
                [x.roll(int(n), dims=1) for x, n in zip(inputs, steps, strict=True)]
            )
        if recipe.gain:
            shift = self._uniform(-recipe.gain, recipe.gain, inputs)
            inputs = inputs + shift
        if recipe.mixup and len(inputs) > 1:
            inputs, targets = self._mixed(inputs, targets)
        if recipe.cutmix and len(inputs) > 1 and self.rng.random() < recipe.cutmix:
            inputs, targets = self._cut(inputs, targets)
        if recipe.erase:
            inputs = self._erased(inputs)
        if recipe.noise:
            level = self._uniform(0.0, recipe.noise, inputs)
            uniform = torch.from_numpy(self.rng.random(inputs.shape, dtype=np.float32))
            inputs = inputs + level * uniform.to(inputs.device)
        if self.mask is not None:
            inputs = self.mask.apply(inputs, self.rng)
        return inputs, targets

    def _uniform(self, low: float, high: float, like: Tensor) -> Tensor:
        values = self.rng.uniform(low, high, (len(like), 1, 1, 1)).astype(np.float32)
        return torch.from_numpy(values).to(like.device)

    def _rand(self, images: Tensor) -> Tensor:
        pixels = ((images.cpu() + 1.0) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        changed = np.stack([rand_augment(image, self.rng) for image in pixels.numpy()])
        result = torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return result.to(images.device)

    def _moved(self, images: Tensor) -> Tensor:
        rows = []
        n = self.recipe.shift
        for image in images:
            if self.recipe.flip and self.rng.random() < 0.5:
                image = image.flip(2)
            if n:
                dy, dx = (int(v) for v in self.rng.integers(-n, n + 1, 2))
                padded = F.pad(image, (n, n, n, n))
                height, width = image.shape[1:]
                image = padded[:, n + dy : n + dy + height, n + dx : n + dx + width]
            rows.append(image)
        return torch.stack(rows)

    def _mixed(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.recipe.mixup_beta
        share = self.rng.beta(beta, beta, len(inputs)).astype(np.float32)
        share[self.rng.random(len(inputs)) >= self.recipe.mixup] = 1.0
        keep = torch.from_numpy(share).to(inputs.device)[:, None]
        order = torch.from_numpy(self.rng.permutation(len(inputs))).to(inputs.device)
        wide = keep[..., None, None]
        mixed = wide * inputs + (1 - wide) * inputs[order]
        if self.recipe.mixup_power and inputs.shape[1] == 1:
            # powers of independent waveforms add: log(λ²·e^a + (1-λ)²·e^b)
            a = inputs * self.scale + self.offset + 2 * torch.log(wide)
            b = inputs[order] * self.scale + self.offset + 2 * torch.log1p(-wide)
            both = torch.where(wide < 1, torch.logaddexp(a, b), a)
            mixed = (both - self.offset) / self.scale
        return mixed, keep * targets + (1 - keep) * targets[order]

    def _erased(self, images: Tensor) -> Tensor:
        images = images.clone()
        height, width = images.shape[2:]
        for image in images:
            if self.rng.random() >= self.recipe.erase:
                continue
            area = float(self.rng.uniform(0.02, 1 / 3)) * height * width
            ratio = float(np.exp(self.rng.uniform(np.log(0.3), np.log(1 / 0.3))))
            h = min(height, max(1, round(np.sqrt(area * ratio))))
            w = min(width, max(1, round(np.sqrt(area / ratio))))
            y = int(self.rng.integers(0, height - h + 1))
            x = int(self.rng.integers(0, width - w + 1))
            noise = self.rng.standard_normal((image.shape[0], h, w)).astype(np.float32)
            image[:, y : y + h, x : x + w] = torch.from_numpy(noise).to(image.device)
        return images

    def _cut(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        height, width = inputs.shape[2:]
        side = float(np.sqrt(1.0 - self.rng.random()))
        h, w = max(1, round(height * side)), max(1, round(width * side))
        y, x = int(self.rng.integers(0, height - h + 1)), int(self.rng.integers(0, width - w + 1))
        order = torch.from_numpy(self.rng.permutation(len(inputs))).to(inputs.device)
        inputs = inputs.clone()
        inputs[:, :, y : y + h, x : x + w] = inputs[order, :, y : y + h, x : x + w]
        share = h * w / (height * width)
        return inputs, (1 - share) * targets + share * targets[order]
