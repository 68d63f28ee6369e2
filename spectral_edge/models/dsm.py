"""DSM (dynamic spectrum mixer) for images and log-mel windows: our reconstruction.

Idea: Hu and Yu, arXiv 2309.06721: token mixing by a DCT of the token grid, weights that depend on
the content, and the inverse DCT. Sizes, depths and the weight generator are not published; those
here are ours, and no table of the paper is reproduced.

Block: ``x += γ1·W_out(mix(W_in(norm x)))``; ``x += γ2·MLP(norm x)``. With ``norm="ln"`` the norms
stand where written (LayerNorm over channels). With ``norm="bn"``, for integer engines, BatchNorm
stands behind W_in and behind the MLP's first layer, where it folds; it has the same number of
parameters there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spectral_edge.errors import SpecError
from spectral_edge.layers.rival_mixers import RIVALS, rival_mixer
from spectral_edge.layers.spectrum import DC_IS_MEAN, SpectrumMixing

__all__ = ["SIZES", "Dsm", "DsmSize", "dsm_model", "prepare_integer_spectrum"]

LAYER_SCALE = 1e-5  # initial γ of the deep sizes
EDGE_LAYER_SCALE = 1.0  # few layers need no identity start; 0.1 learned slower on keywords


@dataclass(frozen=True)
class DsmSize:
    """One row of the size table.

    Attributes:
        widths: channels of each stage.
        depths: blocks of each stage.
        ratio: hidden width of the MLP as a multiple of the channels.
        spec_pool: bands per axis of the weight generator, one per stage.
        input: (channels, height, width) it was sized for; for audio (1, frames, mels).
        classes: outputs of the counted head.
        stem: side of the stem kernel; its stride is 4.
        norm: ``ln`` or ``bn``.
        activation: ``gelu`` or ``relu6``.
        scale: initial γ.
        mixer: ``dsm`` or a name of :data:`spectral_edge.layers.rival_mixers.RIVALS`.
        knobs: of :class:`spectral_edge.layers.spectrum.SpectrumMixing`.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    ratio: float
    spec_pool: tuple[int, ...]
    input: tuple[int, int, int]
    classes: int
    stem: int = 4
    norm: str = "bn"
    activation: str = "relu6"
    scale: float = EDGE_LAYER_SCALE
    mixer: str = "dsm"
    knobs: dict[str, Any] = field(default_factory=dict)


def _paper(widths: tuple[int, ...], depths: tuple[int, ...]) -> DsmSize:
    return DsmSize(
        widths, depths, 4, (8, 8, 7, 7), (3, 224, 224), 1000,
        stem=7, norm="ln", activation="gelu", scale=LAYER_SCALE,
    )  # fmt: skip


SIZES = {
    "dsm_s": _paper((64, 128, 320, 512), (4, 6, 12, 3)),
    "dsm_m": _paper((72, 144, 320, 576), (3, 4, 26, 3)),
    "dsm_l": _paper((96, 192, 384, 768), (4, 6, 30, 3)),
    "dsm_kws_s": DsmSize((16, 32, 64), (1, 2, 3), 2, (4, 4, 4), (1, 96, 64), 35),
    "dsm_kws_m": DsmSize((24, 48, 96), (2, 2, 4), 2, (4, 4, 4), (1, 96, 64), 35),
    "dsm_tag": DsmSize((32, 64, 128), (2, 2, 4), 2, (4, 4, 4), (1, 256, 64), 50),
    "dsm_img96": DsmSize((24, 48, 96), (2, 2, 4), 2, (4, 4, 4), (3, 96, 96), 100),
    "dsm_img128": DsmSize((32, 64, 128, 192), (2, 2, 6, 2), 2, (4,) * 4, (3, 128, 128), 100),
}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over axis 1 of float32[batch, channels, height, width]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DsmBlock(nn.Module):
    """Spectrum mixing and MLP, both residual.

    ``forward``: float32[batch, channels, height, width] -> the same shape.
    """

    def __init__(self, channels: int, grid: tuple[int, int], pool: int, size: DsmSize) -> None:
        super().__init__()
        hidden = int(size.ratio * channels)
        before = size.norm == "ln"
        self.norm1 = ChannelNorm(channels) if before else nn.Identity()
        self.enter = _conv(channels, channels, before)
        if size.mixer == "dsm":
            knobs = {"spec_pool": pool, "activation": size.activation, **size.knobs}
            if knobs.get("weights", "dynamic") != "dynamic":
                knobs = {k: v for k, v in knobs.items() if k in _STATIC_KNOBS}
            self.mix: nn.Module = SpectrumMixing(channels, grid, **knobs)
        else:
            self.mix = rival_mixer(size.mixer, channels, grid)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.full((channels, 1, 1), size.scale))
        self.norm2 = ChannelNorm(channels) if before else nn.Identity()
        self.widen = _conv(channels, hidden, before)
        self.act: nn.Module = nn.GELU() if size.activation == "gelu" else nn.ReLU6()
        self.narrow = nn.Conv2d(hidden, channels, 1)
        self.scale2 = nn.Parameter(torch.full((channels, 1, 1), size.scale))
        self.drop: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(self.mix(self.enter(self.norm1(x))))
        x = x + self.drop(y if self.scale1 is None else self.scale1 * y)
        y = self.narrow(self.act(self.widen(self.norm2(x))))
        result: Tensor = x + self.drop(y if self.scale2 is None else self.scale2 * y)
        return result


_STATIC_KNOBS = ("transform", "spec_keep", "weights", "dc_split")


def _conv(channels: int, out: int, norm_before: bool) -> nn.Module:
    conv = nn.Conv2d(channels, out, 1)
    return conv if norm_before else nn.Sequential(conv, nn.BatchNorm2d(out))


class DropPath(nn.Module):
    """Drop a residual branch of whole examples while training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *([1] * (x.ndim - 1)), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Dsm(nn.Module):
    """Pyramid of spectrum-mixing blocks with a classifier.

    ``forward``: features float32[batch, channels, height, width] (log-mel: [batch, 1, frames,
    mels]) -> logits float32[batch, classes].

    Args:
        size: a row of :data:`SIZES`, or your own.
        classes: outputs; None takes the size's.
        input_shape: (channels, height, width); None takes the size's. The grid is fixed by it.
        drop_path: highest stochastic-depth rate, reached linearly at the last block.

    Raises:
        SpecError: an input that the stem and stages do not divide, or an unknown knob.
    """

    def __init__(
        self,
        size: DsmSize,
        classes: int | None = None,
        input_shape: tuple[int, int, int] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _check(size)
        self.size = size
        self.input_shape = input_shape or size.input
        channels, height, width = self.input_shape
        stages = len(size.widths)
        unit = 4 * 2 ** (stages - 1)
        if height % unit or width % unit:
            raise SpecError(
                f"input is {height}×{width}, {stages} stages need multiples of {unit}: "
                "pad or resize"
            )
        pad = (size.stem - 4 + 1) // 2
        self.stem = nn.Conv2d(channels, size.widths[0], size.stem, stride=4, padding=pad)
        grid = (height // 4, width // 4)
        blocks_in_all = sum(size.depths)
        rates = [drop_path * i / max(1, blocks_in_all - 1) for i in range(blocks_in_all)]
        self.stages = nn.ModuleList()
        for i, (wide, depth) in enumerate(zip(size.widths, size.depths, strict=True)):
            blocks: list[nn.Module] = []
            if i:
                blocks.append(_down(size.widths[i - 1], wide, size.norm == "ln"))
                grid = (grid[0] // 2, grid[1] // 2)
            for _ in range(depth):
                block = DsmBlock(wide, grid, size.spec_pool[i], size)
                rate = rates.pop(0)
                block.drop = DropPath(rate) if rate else nn.Identity()
                blocks.append(block)
            self.stages.append(nn.Sequential(*blocks))
        last = size.widths[-1]
        self.norm: nn.Module = ChannelNorm(last) if size.norm == "ln" else nn.BatchNorm2d(last)
        self.head = nn.Linear(last, size.classes if classes is None else classes)

    def encode(self, features: Tensor) -> Tensor:
        """Return the token grid before the head: float32[batch, channels, height', width']."""
        x = self.stem(features)
        for stage in self.stages:
            x = stage(x)
        result: Tensor = self.norm(x)
        return result

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.encode(features).mean(dim=(2, 3)))
        return result

    def deployable(self) -> Dsm:
        """Return an equivalent copy in eval mode with γ and the last BatchNorm folded away."""
        model = copy.deepcopy(self).eval()
        with torch.no_grad():
            for block in model.modules():
                if isinstance(block, DsmBlock) and block.scale1 is not None:
                    for conv, scale in ((block.leave, block.scale1), (block.narrow, block.scale2)):
                        conv.weight.mul_(scale[..., None])
                        assert conv.bias is not None
                        conv.bias.mul_(scale.flatten())
                    block.scale1 = block.scale2 = None  # type: ignore[assignment]
            if isinstance(model.norm, nn.BatchNorm2d):
                _fold_before_linear(model.norm, model.head)
                model.norm = nn.Identity()
        return model


def _fold_before_linear(norm: nn.BatchNorm2d, head: nn.Linear) -> None:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * factor
    head.bias.add_(head.weight @ shift)
    head.weight.mul_(factor)


def _down(channels: int, out: int, norm_before: bool) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 2, stride=2)
    if norm_before:
        return nn.Sequential(ChannelNorm(channels), conv)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def _check(size: DsmSize) -> None:
    if size.norm not in ("ln", "bn"):
        raise SpecError(f"norm is {size.norm!r}, must be ln or bn")
    if size.activation not in ("gelu", "relu6"):
        raise SpecError(f"activation is {size.activation!r}, must be gelu or relu6")
    if size.mixer != "dsm" and size.mixer not in RIVALS:
        raise SpecError(f"mixer is {size.mixer!r}, must be dsm or one of {', '.join(RIVALS)}")
    if not len(size.widths) == len(size.depths) == len(size.spec_pool):
        raise SpecError("widths, depths and spec_pool must have one entry per stage")


def dsm_model(
    name: str,
    classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    drop_path: float = 0.0,
    **changes: Any,
) -> Dsm:
    """Return a freshly initialised DSM.

    Args:
        name: key of :data:`SIZES`.
        classes: outputs.
        input_shape: (channels, height, width).
        drop_path: highest stochastic-depth rate.
        changes: fields of :class:`DsmSize` to replace; ``knobs`` for the mixer.

    Raises:
        SpecError: an unknown name or knob.
    """
    if name not in SIZES:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(SIZES)}")
    return Dsm(replace(SIZES[name], **changes), classes, input_shape, drop_path)


def prepare_integer_spectrum(
    model: Dsm, batches: Iterable[Tensor], *, dc_split: bool = True, band_scale: bool = True
) -> Dsm:
    """Return an equivalent copy whose spectra survive int8: DC apart, bands at equal RMS.

    The DC coefficient of a 2-D DCT is √(HW) times the mean and rules the range of the whole
    spectrum; high bands are then lost in 8 bits. Both changes are exact re-parametrisations.

    Args:
        model: trained DSM.
        batches: features for measuring the RMS of every coefficient row.
        dc_split: carry the mean past the transform, where its basis has a constant row.
        band_scale: equalise rows by gains folded into the matrices, where those are constant.
    """
    model = model.deployable()
    mixers = [m for m in model.modules() if isinstance(m, SpectrumMixing)]
    for mixer in mixers:
        if dc_split and mixer.weights != "allpass" and mixer.transform in DC_IS_MEAN:
            mixer.split_dc()
    if not band_scale:
        return model
    power: dict[SpectrumMixing, list[Tensor]] = {m: [] for m in mixers}

    def watch(mixer: SpectrumMixing, args: tuple[Tensor], _: Tensor) -> None:
        x = args[0]
        if mixer.dc_split:
            x = x - x.mean(dim=(2, 3), keepdim=True)
        power[mixer].append(mixer.spectrum(x).square().mean(dim=(0, 1)))

    hooks = [m.register_forward_hook(watch) for m in mixers]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    for mixer, seen in power.items():
        if mixer.transform == "learned":  # its matrices are weights, not constants to scale
            continue
        if not seen:
            raise SpecError("batches is empty, band scales need at least one batch of features")
        mean = torch.stack(seen).mean(dim=0)  # [kept along width, kept along height]
        mixer.set_band_scales(_gains(mean.mean(dim=0)), _gains(mean.mean(dim=1)))
    return model


def _gains(power: Tensor, limit: float = 64.0) -> Tensor:
    """Gains that bring every row to the RMS of the strongest, at most ``limit``."""
    rms = power.clamp_min(1e-20).sqrt()
    return (rms.max() / rms).clamp(max=limit)
