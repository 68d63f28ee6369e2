"""From a network's outputs to labels: probabilities, smoothing, detections. No audio, no engine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.classifier import Classifier, DetectionPolicy, check_policy
from spectral_edge.errors import SpecError

__all__ = ["Decider", "Detection", "Result", "probabilities"]

MAX_SMOOTHED = 1 << 22  # scores that an average may keep


@dataclass(frozen=True)
class Detection:
    """A label that the policy let through.

    Attributes:
        time: seconds of the stream.
        label: what was detected.
        score: smoothed, 0…1.
        channel: of the audio.
    """

    time: float
    label: str
    score: float
    channel: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """What a classifier says at one moment.

    Attributes:
        time: seconds of the stream, the end of the newest frame that it is about.
        label: with the highest score.
        score: smoothed, 0…1.
        top: the highest (label, score), best first.
        detections: labels that the policy lets through just now; usually none.
        channel: of the audio.
    """

    time: float
    label: str
    score: float
    top: tuple[tuple[str, float], ...]
    detections: tuple[Detection, ...] = ()
    channel: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "time": self.time,
            "label": self.label,
            "score": self.score,
            "top": [list(pair) for pair in self.top],
            "detections": [d.to_dict() for d in self.detections],
            "channel": self.channel,
        }


def probabilities(logits: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """Return scores float64[labels] of real-valued outputs: ``softmax`` or ``sigmoid``."""
    if activation == "sigmoid":
        small = np.exp(-np.abs(logits))
        sigmoid: NDArray[np.float64] = np.where(logits >= 0, 1.0, small) / (1.0 + small)
        return sigmoid
    shares = np.exp(logits - logits.max())
    softmax: NDArray[np.float64] = shares / shares.sum()
    return softmax


class Decider:
    """Smooths scores and decides what is detected, one step after the other, in constant memory.

    Args:
        classifier: labels and activation.
        policy: when a score counts.
        step_seconds: from one step to the next; 0 for pictures, where nothing is smoothed.
        top: labels in :attr:`Result.top`.
        channel: written into results.

    Raises:
        SpecError: a policy that names other labels, an average that is too long, or a bad ``top``.
    """

    def __init__(
        self,
        classifier: Classifier,
        policy: DetectionPolicy,
        step_seconds: float,
        top: int = 5,
        channel: int = 0,
    ) -> None:
        if top < 1:
            raise SpecError(f"top is {top}, must be at least 1")
        check_policy(policy, classifier.labels)
        self.labels, self.activation = classifier.labels, classifier.activation
        self._channel, self._top = channel, min(top, len(self.labels))
        single = step_seconds <= 0
        steps = 1 if single else max(1, round(policy.smoothing_seconds / step_seconds))
        smoothing = "none" if single else policy.smoothing
        self._warm_up = 1 if smoothing == "none" else steps  # steps before the first detection
        rows = steps if smoothing == "average" else 1
        if rows * len(self.labels) > MAX_SMOOTHED:
            raise SpecError(
                f"averaging {rows} steps of {len(self.labels)} labels takes too much memory; "
                "use smoothing 'exponential'"
            )
        self._weight = 1.0
        if smoothing == "exponential" and policy.smoothing_seconds > 0:
            self._weight = -math.expm1(-step_seconds / policy.smoothing_seconds)
        self._rows = np.zeros((rows, len(self.labels)))
        self._refractory = 1
        if not single:
            self._refractory = max(1, math.ceil(policy.refractory / step_seconds - 1e-9))
        own = [policy.thresholds.get(label, policy.threshold) for label in self.labels]
        self._thresholds = np.array(own)
        self._release: NDArray[np.float64] | None = None
        if policy.hysteresis is not None and not single:
            self._release = self._thresholds - policy.hysteresis
        self._allowed = np.array([label not in policy.ignore for label in self.labels])
        self.reset()

    def reset(self) -> None:
        """Return to the state before the first step."""
        self._rows.fill(0.0)
        self._count = 0
        self._armed = np.ones(len(self.labels), bool)
        # steps are counted from 1, and what was never detected was so long ago
        self._last = np.full(len(self.labels), -(1 << 40), np.int64)

    def update(self, logits: NDArray[np.float64], time: float) -> Result:
        """Take in real-valued outputs float64[labels] of the next step."""
        scores = self._smooth(probabilities(logits, self.activation))
        order = np.argsort(-scores, kind="stable")[: self._top]
        found = self._detect(scores, int(order[0]))
        top = tuple((self.labels[i], float(scores[i])) for i in order)
        detections = tuple(
            Detection(time, self.labels[i], float(scores[i]), self._channel) for i in found
        )
        return Result(time, top[0][0], top[0][1], top, detections, self._channel)

    def _smooth(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, count = self._rows, self._count
        self._count += 1
        if len(rows) > 1:
            rows[count % len(rows)] = scores
            mean: NDArray[np.float64] = rows.sum(axis=0) / min(count + 1, len(rows))
            return mean
        rows[0] += (scores - rows[0]) * (self._weight if count else 1.0)
        smoothed: NDArray[np.float64] = rows[0].copy()
        return smoothed

    def _detect(self, scores: NDArray[np.float64], best: int) -> list[int]:
        if self._release is not None:
            self._armed |= scores < self._release
        if self._count < self._warm_up:
            return []
        ready = (scores >= self._thresholds) & self._allowed & self._armed
        if self.activation == "softmax":
            rested = self._count - int(self._last.max()) >= self._refractory
            found = [best] if rested and ready[best] else []
        else:
            rested_each = self._count - self._last >= self._refractory
            found = [int(i) for i in np.flatnonzero(ready & rested_each)]
        for i in found:
            self._last[i] = self._count
            self._armed[i] = self._release is None
        return found
