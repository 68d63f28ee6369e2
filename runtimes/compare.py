"""Compares two bundles on the same audio, in one run: how different they sound, which is faster."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.classifier import DetectionPolicy
from spectral_edge.errors import SpecError

from .bench import WARM_UP_HOPS, load_clip, speech_like_noise
from .classify import ClassifySession
from .decisions import Result
from .pictures import measurable, sample_picture
from .session import Session
from .timing import time_hops

__all__ = ["Comparison", "compare", "compare_labels", "si_sdr_db"]

MAX_SECONDS = 10.0  # of timing
SMOOTH_NOTHING = DetectionPolicy(smoothing="none")
ROUNDS = 10  # turns each bundle gets, alternately, so that both see the same machine


@dataclass(frozen=True)
class Comparison:
    """Two bundles on the same audio.

    Attributes:
        si_sdr_db: SI-SDR of the second output against the first in dB; None when they are equal.
        equal_samples: share of equal output samples; of classifiers, of steps with equal labels.
        score_difference: of classifiers, the largest difference of a label's score; else None.
        hop_us, model_us: name -> median µs per hop, whole and engine's invoke.
        hop_ratio: first over second; above 1 the second is faster.
    """

    first: str
    second: str
    engine: str
    seconds: float
    si_sdr_db: float | None
    equal_samples: float
    hop_us: tuple[float, float]
    model_us: tuple[float, float]
    model_bytes: tuple[int, int]
    score_difference: float | None = None

    @property
    def hop_ratio(self) -> float:
        """Time of the first over time of the second, whole hop."""
        return self.hop_us[0] / self.hop_us[1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"hop_ratio": self.hop_ratio}


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    audio: str | os.PathLike[str] | None = None,
    engine: str | None = None,
    threads: int = 1,
    hops: int = 2000,
) -> Comparison:
    """Compare two bundles of the same front end, such as the float32 and the w8a8 one.

    Args:
        first: path of the bundle taken as reference.
        second: path of the other.
        audio: file to feed (first channel); None makes a speech-like noise.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        threads: threads of the engine.
        hops: hops to time per bundle.

    Raises:
        SpecError: the bundles have different sample rates or hops.
        BundleError, AudioError, RuntimeUnavailable, RuntimeUnfit: see :func:`spectral_edge.open`.
    """
    bundles = [Bundle.load(path) for path in (first, second)]
    if any(b.classifier is not None for b in bundles):
        return compare_labels(bundles[0], bundles[1], audio, engine, threads, hops)
    with Session(bundles[0], engine, threads) as a, Session(bundles[1], engine, threads) as b:
        if (a.sample_rate, a.hop_length) != (b.sample_rate, b.hop_length):
            raise SpecError(
                f"bundles have hops of {a.hop_length} at {a.sample_rate} Hz and {b.hop_length} at "
                f"{b.sample_rate} Hz; only equal front ends can be compared"
            )
        clip = load_clip(audio, a) if audio else speech_like_noise(a.sample_rate)
        outputs = [session.process(clip) for session in (a, b)]
        return _compared(
            (a, b),
            clip,
            hops,
            {
                "seconds": len(clip) / a.sample_rate,
                "si_sdr_db": si_sdr_db(outputs[0], outputs[1]),
                "equal_samples": float(np.mean(outputs[0] == outputs[1])),
            },
        )


def compare_labels(
    first: Bundle,
    second: Bundle,
    audio: str | os.PathLike[str] | None,
    engine: str | None,
    threads: int,
    hops: int,
) -> Comparison:
    """Compare two classifiers of the same labels and step; see :func:`compare`."""
    every_score = 10_000
    sessions = [
        ClassifySession(b, engine, threads, policy=SMOOTH_NOTHING, top=every_score)
        for b in (first, second)
    ]
    a, b = sessions
    if (a.labels, a.hop_length, a.bundle_rate) != (b.labels, b.hop_length, b.bundle_rate):
        raise SpecError("bundles have other labels, steps or sample rates; make them of one model")
    results: list[list[Result]]
    if a.takes_pictures:
        if audio is not None:
            raise SpecError("the bundles classify pictures; compare them without audio")
        clip = np.zeros(2, np.int16)
        results = [[s.classify(sample_picture())] for s in sessions]
    else:
        clip = load_clip(audio, a) if audio else speech_like_noise(a.sample_rate)
        results = [s.process(clip) for s in sessions]
    pairs = list(zip(*results, strict=True))
    scores = [[dict(r.top) for r in pair] for pair in pairs]
    return _compared(
        (a, b),
        clip,
        hops,
        {
            "seconds": len(clip) / a.sample_rate if a.sample_rate else 0.0,
            "si_sdr_db": None,
            "equal_samples": float(np.mean([x.label == y.label for x, y in pairs])),
            "score_difference": max(abs(x[n] - y[n]) for x, y in scores for n in a.labels),
        },
    )


def _compared(
    sessions: tuple[Any, Any], clip: NDArray[np.int16], hops: int, outputs: dict[str, Any]
) -> Comparison:
    """Time both in turn and put everything together."""
    hop: list[list[float]] = [[], []]
    model: list[list[float]] = [[], []]
    feeds = [measurable(session) for session in sessions]
    share = max(1, hops // ROUNDS)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for i, feed in enumerate(feeds):
            time_hops(feed, clip, max(1, min(share, WARM_UP_HOPS // ROUNDS)), time.perf_counter_ns)
            times = time_hops(feed, clip, share, time.perf_counter_ns)
            hop[i] += times.hop.tolist()
            model[i] += times.model.tolist()
        if time.perf_counter() - started > MAX_SECONDS:
            break
    bundles = [session.bundle for session in sessions]
    kinds = [session.streams[0].engine.kind for session in sessions]
    members = [x.manifest["formats"][k]["member"] for x, k in zip(bundles, kinds, strict=True)]
    return Comparison(
        first=f"{bundles[0].name} ({bundles[0].precision})",
        second=f"{bundles[1].name} ({bundles[1].precision})",
        engine=sessions[0].engine,
        hop_us=(float(np.median(hop[0])), float(np.median(hop[1]))),
        model_us=(float(np.median(model[0])), float(np.median(model[1]))),
        model_bytes=(len(bundles[0].member(members[0])), len(bundles[1].member(members[1]))),
        **outputs,
    )


def si_sdr_db(reference: NDArray[Any], estimate: NDArray[Any]) -> float | None:
    """Return the scale-invariant signal-to-distortion ratio in dB, None when both are equal."""
    if np.array_equal(reference, estimate):
        return None
    r, e = reference.astype(np.float64), estimate.astype(np.float64)
    energy = float(r @ r)
    if energy == 0:
        return float("-inf")
    target = (float(e @ r) / energy) * r
    error = e - target
    kept, lost = float(target @ target), float(error @ error)
    return 10 * math.log10(max(kept, 1e-30) / max(lost, 1e-30))
