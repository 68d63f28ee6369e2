"""Ablations F1 … F10: full-frequency patches, SpecMask, backbones, streaming, int8."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.models import ast, aum
from spectral_edge.models.ast import Ast, AstSize
from spectral_edge.models.aum import Aum, AumSize

from .ablation_common import Splits, classify_once, splits_for, training, window_frames
from .ablations import Context, Outcome, Variant
from .classify import fit_classifier

__all__ = ["variants"]

MELS = 64
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "SpecAugment": {"augment__mask": "spec_augment"},
    "SpecMask": {"augment__mask": "spec_mask"},
}


def variants(experiment: str, context: Context) -> Iterator[Variant]:
    """Yield the variants of one F experiment."""
    makers = {
        "F1": _patch_shapes, "F2": _equal_tokens, "F3": _mask_parts, "F4": _budgets,
        "F5": _alignment, "F6": _backbones, "F7": _overlap, "F8": _starts, "F9": _streams,
        "F10": _islands,
    }  # fmt: skip
    yield from makers[experiment](context)


def _ast(context: Context, **changes: Any) -> AstSize:
    size = ast.SIZES["fftp_ast_s"]
    classes = len(splits_for(context, "audio")[0].classes)
    small = {"width": 48, "layers": 2} if context.toy else {}
    return replace(
        size, **{"window": (window_frames(context), MELS), "classes": classes, **small, **changes}
    )


def _aum(context: Context, **changes: Any) -> AumSize:
    classes = len(splits_for(context, "audio")[0].classes)
    small = {"width": 48, "layers": 2} if context.toy else {}
    settings = {
        "window": (window_frames(context), MELS),
        "classes": classes,
        "readout": "mean",
        **small,
        **changes,
    }
    return replace(aum.SIZES["fftp_aum_s"], **settings)


def _stripes(context: Context) -> dict[str, Any]:
    """Options of SpecAugment that hide a quarter of a window on average."""
    return {"frequency": 18, "time": 28 * window_frames(context) // 96, "probability": 0.9}


def _build(size: AstSize | AumSize) -> nn.Module:
    return Ast(size) if isinstance(size, AstSize) else Aum(size)


def _trained(
    label: str, context: Context, size: AstSize | AumSize, kind: str = "audio", **changes: Any
) -> Variant:
    data = splits_for(context, kind)
    tokens = float(size.tokens)

    def run(seed: int) -> Outcome:
        return classify_once(
            context,
            lambda: _build(size),
            data,
            seed,
            extras=lambda _: {"tokens": tokens},
            **changes,
        )

    return Variant(label, run)


def _square(size: AstSize, patch: tuple[int, int], stride: tuple[int, int]) -> AstSize:
    return replace(size, patch=patch, stride=stride)


def _patch_shapes(context: Context) -> Iterator[Variant]:
    size = _ast(context)
    for mels, frames, stride in ((16, 16, 16), (16, 16, 10), (32, 8, 0)):
        step = (stride, stride) if stride else (frames, mels)
        label = f"{mels}x{frames}" + (f" s{stride}" if stride else "")
        yield _trained(label, context, _square(size, (frames, mels), step))
    for frames in (2, 4, 5, 8, 12, 16):
        yield _trained(f"{MELS}x{frames} (full)", context, size.full_frequency(frames))
    if not context.toy:
        return
    tags = replace(size, classes=len(splits_for(context, "tags")[0].classes))
    for label, patched in (
        ("16x16 s16", _square(tags, (16, 16), (16, 16))),
        (f"{MELS}x4 (full)", tags.full_frequency(4)),
        (f"{MELS}x8 (full)", tags.full_frequency(8)),
    ):
        yield _trained(f"tags: {label}", context, patched, "tags", run__loss="bce")


def _equal_tokens(context: Context) -> Iterator[Variant]:
    size = _ast(context)
    for mels, frames in ((8, 32), (16, 16), (32, 8), (64, 4)):
        patch = (frames, mels)
        yield _trained(f"{mels}x{frames}", context, _square(size, patch, patch))


def _mask_parts(context: Context) -> Iterator[Variant]:
    size = _ast(context)
    area = 0.25  # the expected area of SpecAugment below
    yield _trained("none", context, size)
    yield _trained(
        "SpecAugment", context, size, **MASKS["SpecAugment"],
        augment__mask_options=_stripes(context),
    )  # fmt: skip
    for label, share in (("full only", 1.0), ("local only", 0.0), ("SpecMask", 0.6)):
        mask = {"patch": 4, "budget": area, "full_share": share}
        yield _trained(label, context, size, **MASKS["SpecMask"], augment__mask_options=mask)


def _budgets(context: Context) -> Iterator[Variant]:
    size = _ast(context)
    cells = [(b, 0.6) for b in (0.1, 0.2, 0.3, 0.5)] + [(0.2, r) for r in (0.0, 0.3, 1.0)]
    for budget, share in cells:
        mask = {"patch": 4, "budget": budget, "full_share": share}
        label = f"budget {budget:g}, full share {share:g}"
        yield _trained(label, context, size, **MASKS["SpecMask"], augment__mask_options=mask)


def _alignment(context: Context) -> Iterator[Variant]:
    size = _ast(context).full_frequency(8)
    for aligned in (True, False):
        mask = {"patch": 8, "budget": 0.25, "aligned": aligned}
        label = "aligned" if aligned else "free"
        yield _trained(label, context, size, **MASKS["SpecMask"], augment__mask_options=mask)


def _backbones(context: Context) -> Iterator[Variant]:
    square = {"patch": (16, 16), "stride": (16, 16)}
    sizes: list[tuple[str, Any]] = [("AST", _ast(context))]
    sizes += [(f"AuM {d.replace('_', '-')}", _aum(context, directions=d)) for d in aum.DIRECTIONS]
    options: dict[str, dict[str, Any]] = {
        "SpecAugment": _stripes(context),
        "SpecMask": {"patch": 4, "budget": 0.25},
    }
    for name, size in sizes:
        for shape, patched in (("square", replace(size, **square)), ("full", size)):
            for mask, chosen in options.items():
                yield _trained(
                    f"{name}, {shape}, {mask}", context, patched, **MASKS[mask],
                    augment__mask_options=chosen,
                )  # fmt: skip


def _overlap(context: Context) -> Iterator[Variant]:
    size = _ast(context)
    for stride in (8, 4, 2):
        yield _trained(f"t 8, s {stride}", context, size.full_frequency(8, stride))


# -- starts ----------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _square_start(context: Context, seed: int) -> Ast:
    """A square-patch transformer trained on other words."""
    data = splits_for(context, "other_words")
    size = _ast(context, patch=(16, 16), stride=(16, 16), classes=len(data[0].classes))
    torch.manual_seed(seed)
    model = Ast(size)
    fit_classifier(model, data[0], data[1], training(context, seed))
    return model


def _starts(context: Context) -> Iterator[Variant]:
    data = splits_for(context, "audio")
    size = _ast(context)

    def resized(seed: int) -> Outcome:
        old = _square_start(context, seed)

        def make() -> nn.Module:
            model = ast.resized_from_square(old, 4)
            fresh = Ast(size)
            own = fresh.state_dict()
            kept = {k: v for k, v in model.state_dict().items() if own[k].shape == v.shape}
            fresh.load_state_dict({**own, **kept})
            return fresh

        return classify_once(context, make, data, seed)

    def distilled(seed: int) -> Outcome:
        torch.manual_seed(seed)
        teacher = Ast(_ast(context, width=96, layers=3))
        fit_classifier(teacher, data[0], data[1], training(context, seed))
        with torch.no_grad():
            soft = torch.softmax(teacher(data[0].inputs) / 2.0, dim=1)
        hard = torch.nn.functional.one_hot(data[0].targets, soft.shape[1])
        mixed: Splits = (replace(data[0], targets=0.5 * soft + 0.5 * hard), data[1], data[2])
        return classify_once(context, lambda: Ast(size), mixed, seed)

    yield _trained("scratch", context, size)
    yield Variant("resized from square patches", resized)
    yield Variant("distilled", distilled)


# -- streaming and int8 ----------------------------------------------------------------------------


def _stream_columns(model: nn.Module, test: Tensor, targets: Tensor) -> dict[str, float]:
    """Return time per token of the step program, and when the right class first leads for good."""
    assert isinstance(model, Ast | Aum)
    program = se.streamify(model.deployable(), test[:1], time_dim=2, check_lengths=())
    states = program.initial_states(1)
    hop = test[:1, :, : program.hop_multiple]
    times = []
    with torch.no_grad():
        for _ in range(20):
            started = time.perf_counter()
            program.step((hop,), states)
            times.append(time.perf_counter() - started)
        right = model(test).argmax(dim=2) == targets[:, None]
    settled = right.flip(1).long().cumprod(dim=1).flip(1)
    first = right.shape[1] - settled.sum(dim=1).float()
    hits = settled[:, -1] > 0
    delay = float((first[hits] * program.hop_multiple * 10).mean()) if bool(hits.any()) else 0.0
    return {"ms per token": 1000 * sorted(times)[10], "settled at (ms)": delay}


def _streams(context: Context) -> Iterator[Variant]:
    data = splits_for(context, "audio")
    test = data[2]
    yield _trained("windowed AST", context, _ast(context))
    sizes: list[tuple[str, AstSize | AumSize]] = [
        ("causal AST, 25 tokens", _ast(context, recent=25, norm="bn", activation="relu6")),
        ("AuM Fo-Fo, running mean", _aum(context, readout="running")),
    ]
    for label, size in sizes:

        def run(seed: int, size: AstSize | AumSize = size) -> Outcome:
            return classify_once(
                context, lambda: _build(size), data, seed,
                extras=lambda m: _stream_columns(m, test.inputs, test.targets),
            )  # fmt: skip

        yield Variant(label, run)


def _islands(context: Context) -> Iterator[Variant]:
    data = splits_for(context, "audio")
    sizes: list[tuple[str, AstSize | AumSize]] = [
        (f"AST {norm} {act}", _ast(context, norm=norm, activation=act))
        for norm in ("ln", "bn")
        for act in ("gelu", "relu6")
    ]
    sizes += [
        ("AuM rms silu", _aum(context, readout="running")),
        ("AuM bn hardswish", _aum(context, readout="running", norm="bn", activation="hardswish")),
    ]
    for label, size in sizes:

        def run(seed: int, size: AstSize | AumSize = size) -> Outcome:
            return classify_once(context, lambda: _build(size), data, seed, force_int8=True)

        yield Variant(label, run)
