"""What a classifier's outputs mean and when they count: labels, smoothing, detection policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from spectral_edge.errors import SpecError

__all__ = ["Classifier", "DetectionPolicy"]

MAX_LABELS = 10_000
MAX_LABEL_LENGTH = 100
MAX_SECONDS = 3600.0
SMOOTHINGS = ("none", "average", "exponential")
ACTIVATIONS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class DetectionPolicy:
    """When a smoothed score becomes a detection.

    Attributes:
        threshold: least score, 0…1.
        thresholds: label -> its own threshold.
        refractory: seconds without another detection: of any label under softmax, of the same label
            under sigmoid.
        hysteresis: a label that was detected is armed again when its score has fallen this far
            below its threshold; None arms it at once.
        ignore: labels that are never detected, such as ``_silence_``.
        smoothing: ``average`` of the scores of the last ``smoothing_seconds``, ``exponential`` with
            that time constant, or ``none``.
        smoothing_seconds: see ``smoothing``; with ``average`` nothing is detected earlier.

    Raises:
        SpecError: a value outside its range.
    """

    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    refractory: float = 1.0
    hysteresis: float | None = None
    ignore: tuple[str, ...] = ()
    smoothing: str = "average"
    smoothing_seconds: float = 0.5

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "threshold", _share(self.threshold, "threshold"))
        if not isinstance(self.thresholds, Mapping):
            raise SpecError(f"thresholds is {self.thresholds!r}, must map labels to 0…1")
        own = {check_label(k): _share(v, f"threshold of {k!r}") for k, v in self.thresholds.items()}
        put(self, "thresholds", own)
        if self.hysteresis is not None:
            put(self, "hysteresis", _share(self.hysteresis, "hysteresis"))
        put(self, "ignore", tuple(check_label(v) for v in _listed(self.ignore, "ignore")))
        if self.smoothing not in SMOOTHINGS:
            raise SpecError(
                f"smoothing is {self.smoothing!r}, must be one of {', '.join(SMOOTHINGS)}"
            )
        for name in ("refractory", "smoothing_seconds"):
            put(self, name, _number(getattr(self, name), name, MAX_SECONDS))

    def __hash__(self) -> int:
        return hash((self.threshold, self.refractory, self.smoothing, self.smoothing_seconds))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {**asdict(self), "thresholds": dict(self.thresholds), "ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectionPolicy:
        """Build from plain data; keys that are missing keep their defaults.

        Raises:
            SpecError: an unknown key or a value out of range.
        """
        _check_keys(cls, data, "policy")
        return cls(**data)


@dataclass(frozen=True)
class Classifier:
    """Labels of a network's outputs, and how a session uses them.

    Attributes:
        labels: one per output, distinct, 1…100 printable characters each.
        activation: ``softmax`` (one label at a time) or ``sigmoid`` (several).
        window_hop: frames from one window to the next, for a windowed network on audio; None for
            networks that stream and for pictures, and a quarter of the window where it is not
            given.
        policy: what a session detects by default.

    Raises:
        SpecError: a value outside its range, or a policy that names other labels.
    """

    labels: tuple[str, ...]
    activation: str = "softmax"
    window_hop: int | None = None
    policy: DetectionPolicy = field(default_factory=DetectionPolicy)

    def __post_init__(self) -> None:
        listed = _listed(self.labels, "labels")
        if not 1 <= len(listed) <= MAX_LABELS:
            raise SpecError(f"there are {len(listed)} labels, must be 1…{MAX_LABELS}")
        labels = tuple(check_label(label) for label in listed)
        object.__setattr__(self, "labels", labels)
        known = set(labels)
        if len(known) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise SpecError(f"label {twice!r} is there twice; labels must be distinct")
        if self.activation not in ACTIVATIONS:
            raise SpecError(
                f"activation is {self.activation!r}, must be one of {', '.join(ACTIVATIONS)}"
            )
        hop = self.window_hop
        if hop is not None and (
            isinstance(hop, bool) or not isinstance(hop, int) or not 1 <= hop <= 100_000
        ):
            raise SpecError(f"window_hop is {hop!r}, must be 1…100000 frames or None")
        if not isinstance(self.policy, DetectionPolicy):
            raise SpecError(f"policy is {self.policy!r}, must be a DetectionPolicy")
        check_policy(self.policy, labels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {
            "labels": list(self.labels),
            "activation": self.activation,
            "window_hop": self.window_hop,
            "policy": self.policy.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Classifier:
        """Build from plain data.

        Raises:
            SpecError: an unknown key or a value out of range.
        """
        _check_keys(cls, data, "classifier")
        return cls(**{**data, "policy": DetectionPolicy.from_dict(data.get("policy", {}))})


def check_policy(policy: DetectionPolicy, labels: Sequence[str]) -> None:
    """Raise SpecError when a policy names a label that is not there."""
    unknown = sorted({*policy.ignore, *policy.thresholds} - set(labels))
    if unknown:
        shown = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
        raise SpecError(f"policy names {unknown[0]!r}, the labels are {shown}")


def check_label(label: Any) -> str:
    """Return a label that is fit to print.

    Raises:
        SpecError: no string, empty, longer than 100 characters, or with control characters.
    """
    if not isinstance(label, str) or not 1 <= len(label) <= MAX_LABEL_LENGTH:
        raise SpecError(f"label is {label!r:.60}, must be a string of 1…{MAX_LABEL_LENGTH}")
    if not label.isprintable():
        raise SpecError(f"label {label!r:.60} has characters that cannot be printed")
    return label


def _listed(values: Any, name: str) -> Sequence[Any]:
    """Return a list or tuple; a single string is none."""
    if not isinstance(values, (list, tuple)):
        raise SpecError(f"{name} is {values!r:.60}, must be a list of strings")
    return values


def _check_keys(kind: type[Any], data: Any, what: str) -> None:
    if not isinstance(data, Mapping):
        raise SpecError(f"{what} is {data!r:.60}, must be an object")
    unknown = sorted(set(data) - {f.name for f in fields(kind)})
    if unknown:
        raise SpecError(f"{what} has unknown key {unknown[0]!r}")


def _share(value: Any, name: str) -> float:
    return _number(value, name, 1.0)


def _number(value: Any, name: str, high: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not 0 <= value <= high:
        raise SpecError(f"{name} is {value!r}, must be a number in 0…{high:g}")
    return float(value)
