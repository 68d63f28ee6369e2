"""Checkpoints of weights and plain data, safe to load from strangers."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend, frontend_from_dict

from .registry import build

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "spectral-edge checkpoint"
KEYS = {"format", "version", "model", "frontend", "weights", "info"}
OPTIONS = "options"  # only in files of networks that were built with some


def save_checkpoint(
    path: str | Path,
    name: str,
    frontend: StftFrontend,
    weights: Mapping[str, torch.Tensor],
    info: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint that ``torch.load(weights_only=True)`` reads; atomic.

    Args:
        path: the file, usually ``*.pt``.
        name: a key of :data:`spectral_edge.models.MODELS`.
        frontend: the front end the weights belong to.
        weights: state dict.
        info: plain data (numbers, strings, lists, dicts) about the training.
        options: what :func:`spectral_edge.models.build` was given besides name and front end.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "format": FORMAT,
        "version": 1,
        "model": name,
        "frontend": frontend.to_dict(),
        "weights": {key: value.detach().cpu().clone() for key, value in weights.items()},
        "info": dict(info),
    }
    if options:
        data[OPTIONS] = dict(options)
    partial = path.with_name(path.name + ".partial")
    torch.save(data, partial)
    os.replace(partial, path)
    return path


def load_checkpoint(path: str | Path) -> tuple[nn.Module, StftFrontend, dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        The model in evaluation mode (float32), its front end, and the plain data stored with it.

    Raises:
        SpecError: the file is missing or is no checkpoint of this release.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"checkpoint {path} does not exist: pass a .pt file written by training")
    try:
        if not zipfile.is_zipfile(path):
            raise pickle.UnpicklingError("it is not a zip file")
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise SpecError(
            f"checkpoint {path} cannot be read ({str(error).splitlines()[0]}): "
            "pass a .pt file written by training"
        ) from None
    known = isinstance(data, dict) and data.get("format") == FORMAT
    if not known or set(data) - {OPTIONS} != KEYS:
        raise SpecError(f"{path} is not a {FORMAT}: pass a .pt file written by training")
    if data["version"] != 1:
        raise SpecError(f"checkpoint {path} has version {data['version']}, this release reads 1")
    frontend = frontend_from_dict(data["frontend"])
    model = build(data["model"], frontend, **data.get(OPTIONS, {}))
    weights = {
        key: value.float() if value.is_floating_point() else value
        for key, value in data["weights"].items()
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise SpecError(
            f"checkpoint {path} does not fit {data['model']}: {str(error).splitlines()[-1].strip()}"
        ) from None
    return model.eval(), frontend, data["info"]
