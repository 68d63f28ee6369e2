"""``se.open``: a bundle to the session that fits it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from spectral_edge.bundle import Bundle
from spectral_edge.classifier import DetectionPolicy
from spectral_edge.errors import SpecError

if TYPE_CHECKING:
    from .scheduler.shared import SharedEngine

__all__ = ["open"]


def open(
    path: str | os.PathLike[str] | Bundle,
    engine: str | SharedEngine | None = None,
    threads: int = 1,
    sample_rate: int | None = None,
    backend: str = "auto",
    policy: DetectionPolicy | None = None,
) -> Any:
    """Open a bundle: a :class:`Session` for audio out, a :class:`ClassifySession` for labels.

    Args:
        path: a ``.seb`` file, a bundle directory, or a loaded bundle.
        engine: ``litert``, ``tflite-runtime``, ``onnxruntime`` or ``tensorflow``; None takes the
            first of the first three that is installed and that the bundle has a file for. A
            :class:`~spectral_edge.runtimes.scheduler.SharedEngine` runs several sessions of audio.
        threads: threads of the engine; small streaming networks are fastest with one.
        sample_rate: Hz of the audio that will be pushed; when it is not the bundle's, audio is
            resampled, which needs soxr.
        backend: front end arithmetic: ``c``, ``numpy`` (same bits, slower) or ``auto``.
        policy: what a classifier detects, instead of what its bundle says.

    Raises:
        BundleError: the bundle cannot be trusted or read.
        RuntimeUnavailable: an engine or soxr is not installed.
        RuntimeUnfit: the engine cannot run the bundle, or no session takes it.
        SpecError: an argument out of range, or a policy for a bundle that gives no labels.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    if bundle.classifier is not None:
        from .classify import ClassifySession

        if engine is not None and not isinstance(engine, str):
            raise SpecError("a classifier opens its own engine; give its name")
        return ClassifySession(bundle, engine, threads, sample_rate, backend, policy)
    if policy is not None:
        raise SpecError(f"{bundle.path.name} has no labels, a detection policy is for classifiers")
    from .session import Session

    return Session(bundle, engine, threads, sample_rate, backend)
