"""Front ends as frozen values: what a hop of PCM becomes before a network sees it.

A front end is a specification. The arithmetic that carries it out lives in :mod:`spectral_edge.dsp`
(NumPy golden model and C core, the same bits) and is built from the value alone, so training,
calibration and device cannot disagree about it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError

if TYPE_CHECKING:
    import torch

    from spectral_edge.image_frontend import ImageFrontend
    from spectral_edge.logmel_frontend import LogMelFrontend

__all__ = [
    "Frontend",
    "StftFrontend",
    "any_frontend_from_dict",
    "frontend_from_dict",
    "is_smooth",
    "make_window",
]

WINDOWS = ("sqrt_hann", "hann", "hamming", "rect")
FEATURES = ("mag", "re", "im")
HEADS = ("mask", "complex_mask", "mask_bias", "logits")
LEVELS = ("none", "running_rms")
COMPRESSIONS = (0.3, 0.5, 1.0)

LEVEL_TAU_SECONDS = 2.0  # one-pole time constant of the running power
LEVEL_START_DBFS = -26.0  # level assumed before the first hop
LEVEL_FLOOR_DBFS = -60.0  # silence is not amplified beyond this
LEVEL_ATTACK_RATIO = 8  # one hop may count for at most 8x the running power (+9 dB)

Frontend: TypeAlias = "StftFrontend | LogMelFrontend | ImageFrontend"


def is_smooth(n: int) -> bool:
    """Return True when ``n`` is 2^a·3^b·5^c with a ≥ 1, the sizes the integer FFT takes."""
    if n < 2 or n % 2:
        return False
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


def make_window(name: str, length: int) -> NDArray[np.float64]:
    """Return the periodic taper ``name`` of ``length`` samples as float64[length]."""
    n = np.arange(length)
    hann: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * n / length)
    if name == "sqrt_hann":
        root: NDArray[np.float64] = np.sqrt(hann)
        return root
    if name == "hann":
        return hann
    if name == "hamming":
        hamming: NDArray[np.float64] = 0.54 - 0.46 * np.cos(2 * np.pi * n / length)
        return hamming
    if name == "rect":
        return np.ones(length)
    raise SpecError(f"window is {name!r}, must be one of {', '.join(WINDOWS)}")


@dataclass(frozen=True)
class StftFrontend:
    """Short-time Fourier front end of an enhancement network.

    The network sees ``features``, power-compressed and level-normalised, as
    ``(batch, channels, frames, bins)``; what it returns (``head``) is applied to the same spectrum
    and synthesised by overlap-add.

    Attributes:
        sample_rate: Hz.
        n_fft: samples seen by one FFT; even, 2^a·3^b·5^c, 64…4096.
        hop_length: new samples per frame, 1…n_fft.
        window: periodic taper, used for analysis; synthesis uses its canonical dual.
        features: channels in order, out of ``mag`` (|X|^c), ``re`` and ``im`` (|X|^(c-1)·Re, ·Im).
        compression: the exponent c, one of 0.3, 0.5, 1.0.
        head: what the network returns: ``mask``, ``complex_mask``, ``mask_bias`` or ``logits``.
        level: ``running_rms`` divides by a slow running RMS (see ``docs/numerics.md``), ``none``.

    Raises:
        SpecError: a value outside its range.
    """

    sample_rate: int = 16_000
    n_fft: int = 512
    hop_length: int = 256
    window: str = "sqrt_hann"
    features: tuple[str, ...] = ("mag", "re", "im")
    compression: float = 0.3
    head: str = "mask_bias"
    level: str = "running_rms"

    kind: ClassVar[str] = "stft"

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        for name in ("sample_rate", "n_fft", "hop_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise SpecError(f"{name} is {value!r}, must be an int")
        if not 4_000 <= self.sample_rate <= 192_000:
            raise SpecError(f"sample_rate is {self.sample_rate}, must be 4000…192000 Hz")
        if not 64 <= self.n_fft <= 4096 or not is_smooth(self.n_fft):
            raise SpecError(
                f"n_fft is {self.n_fft}, must be even, 64…4096, with no prime factor above 5"
            )
        if not 1 <= self.hop_length <= self.n_fft:
            raise SpecError(
                f"hop_length is {self.hop_length}, must be 1…n_fft ({self.n_fft}) samples"
            )
        for name, allowed in (("window", WINDOWS), ("head", HEADS), ("level", LEVELS)):
            if getattr(self, name) not in allowed:
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, must be one of {', '.join(allowed)}"
                )
        if not self.features or len(set(self.features)) != len(self.features):
            raise SpecError(f"features is {self.features!r}, must be distinct and not empty")
        for feature in self.features:
            if feature not in FEATURES:
                raise SpecError(f"feature {feature!r} is not one of {', '.join(FEATURES)}")
        if self.compression not in COMPRESSIONS:
            raise SpecError(f"compression is {self.compression}, must be one of {COMPRESSIONS}")

    @property
    def bins(self) -> int:
        """FFT coefficients of one frame: n_fft/2 + 1."""
        return self.n_fft // 2 + 1

    @property
    def channels(self) -> int:
        """Number of feature channels."""
        return len(self.features)

    @property
    def hops_per_second(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def algorithmic_latency(self) -> float:
        """Seconds from a sample to its enhanced copy, without compute: one window."""
        return self.n_fft / self.sample_rate

    @property
    def invertible(self) -> bool:
        """True when the window and hop satisfy NOLA, so that overlap-add can reconstruct."""
        overlap = self._window_overlap()
        return bool(overlap.min() > 1e-8 * overlap.max())

    @property
    def feature_reference_log2(self) -> float:
        """log2 of what a spectrum is divided by besides the level: sqrt(sum of squared window).

        White noise at the running level then has magnitude about 1 in every bin.
        """
        return 0.5 * math.log2(float(np.sum(make_window(self.window, self.n_fft) ** 2)))

    @property
    def fingerprint(self) -> str:
        """Hash of the value; a bundle refuses a front end with another fingerprint."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {"kind": self.kind, **asdict(self), "features": list(self.features)}

    def sequences(
        self, files: Iterable[str | Path], max_seconds: float | None = None
    ) -> Iterator[tuple[torch.Tensor]]:
        """Turn audio files into calibration sequences.

        Args:
            files: mono or multichannel audio that soundfile reads (each channel is a sequence).
            max_seconds: cut every file to this length.

        Yields:
            One tuple ``(features,)`` per channel: float32[1, channels, frames, bins], made by the
            integer front end that the device runs.

        Raises:
            AudioError: a file is not audio or is empty.
        """
        from spectral_edge.dsp.features import feature_sequences

        return feature_sequences(self, files, max_seconds)

    def _window_overlap(self) -> NDArray[np.float64]:
        squared = make_window(self.window, self.n_fft) ** 2
        padded = np.zeros(-(-self.n_fft // self.hop_length) * self.hop_length)
        padded[: self.n_fft] = squared
        overlap: NDArray[np.float64] = padded.reshape(-1, self.hop_length).sum(axis=0)
        return overlap


def frontend_from_dict(data: dict[str, Any]) -> StftFrontend:
    """Build the front end of an enhancement network from plain data.

    Raises:
        SpecError: another kind, an unknown or missing key, or a value out of range.
    """
    if data.get("kind") != StftFrontend.kind:
        raise SpecError(f"front end kind is {data.get('kind')!r}, must be {StftFrontend.kind!r}")
    frontend = any_frontend_from_dict(data)
    assert isinstance(frontend, StftFrontend)
    return frontend


def any_frontend_from_dict(data: dict[str, Any]) -> Frontend:
    """Build a front end of any kind from manifest data.

    Raises:
        SpecError: an unknown kind, an unknown or missing key, or a value out of range.
    """
    from spectral_edge.image_frontend import ImageFrontend
    from spectral_edge.logmel_frontend import LogMelFrontend, Pcen

    data = dict(data)
    name = data.pop("kind", None)
    kinds: dict[str, type[Any]]
    kinds = {kind.kind: kind for kind in (StftFrontend, LogMelFrontend, ImageFrontend)}
    if not isinstance(name, str) or name not in kinds:
        raise SpecError(f"front end kind is {name!r}, this release knows {', '.join(kinds)}")
    _check_keys(kinds[name], data, "front end")
    for field in fields(kinds[name]):
        if isinstance(field.default, tuple) and not isinstance(data[field.name], list):
            raise SpecError(f"front end {field.name} is {data[field.name]!r}, must be a list")
    if name == LogMelFrontend.kind and data["pcen"] is not None:
        if not isinstance(data["pcen"], dict):
            raise SpecError(f"front end pcen is {data['pcen']!r}, must be an object or null")
        _check_keys(Pcen, data["pcen"], "front end pcen")
        data["pcen"] = Pcen(**data["pcen"])
    frontend: Frontend = kinds[name](**data)
    return frontend


def _check_keys(kind: type[Any], data: dict[str, Any], what: str) -> None:
    known = {f.name for f in fields(kind)}
    unknown, missing = sorted(set(data) - known), sorted(known - set(data))
    if unknown or missing:
        raise SpecError(f"{what} has unknown keys {unknown} and lacks {missing}")
