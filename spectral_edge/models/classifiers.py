"""Classifiers by name: DSM, AST and Audio Mamba in every size."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from spectral_edge.errors import SpecError

from . import ast, aum, dsm, dsm_stream

__all__ = ["CLASSIFIERS", "build_classifier"]

CLASSIFIERS = (*dsm.SIZES, *dsm_stream.SIZES, *ast.SIZES, *aum.SIZES)


def build_classifier(
    name: str, classes: int, input_shape: tuple[int, int, int], **options: Any
) -> nn.Module:
    """Return a freshly initialised classifier for inputs of one shape.

    Args:
        name: one of :data:`CLASSIFIERS`.
        classes: outputs.
        input_shape: (channels, frames or height, mels or width).
        options: fields of the family's size to replace. ``patch`` and ``stride`` may be given as
            one
            number of frames, which makes the patches full-frequency.

    Raises:
        SpecError: an unknown name or option, or an input that the family does not take.
    """
    if name not in CLASSIFIERS:
        raise SpecError(f"model is {name!r}, must be one of {', '.join(CLASSIFIERS)}")
    _check_options(name, options)
    if name in dsm.SIZES:
        drop = options.pop("drop_path", 0.0)
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return dsm.dsm_model(name, classes, input_shape, drop, **options)
    if input_shape[0] != 1:
        raise SpecError(f"model {name} takes one channel, the input has {input_shape[0]}")
    frames, mels = input_shape[1:]
    if name in dsm_stream.SIZES:
        return dsm_stream.dsm_stream_model(name, classes=classes, mels=mels, **options)
    size = (ast.SIZES if name in ast.SIZES else aum.SIZES)[name]
    full = size.patch[1] == size.window[1]
    for key in ("patch", "stride"):
        value = options.get(key)
        if isinstance(value, int):
            options[key] = (value, mels)
        elif isinstance(value, list | tuple):
            options[key] = (int(value[0]), int(value[1]))
        elif full:
            options[key] = (getattr(size, key)[0], mels)
    if isinstance(options.get("patch"), tuple) and options["patch"][1] == mels:
        options["stride"] = (min(options["stride"][0], options["patch"][0]), mels)
    build = ast.ast_model if name in ast.SIZES else aum.aum_model
    return build(name, classes=classes, window=(frames, mels), **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    kind: Any = ast.AstSize
    if name in dsm.SIZES:
        kind = dsm.DsmSize
    elif name in dsm_stream.SIZES:
        kind = dsm_stream.DsmStreamSize
    elif name in aum.SIZES:
        kind = aum.AumSize
    known = {f.name for f in fields(kind)} - {"window", "classes", "input", "mels"}
    if name in dsm.SIZES:
        known |= {"drop_path"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SpecError(
            f"model {name} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
