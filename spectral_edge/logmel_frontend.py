"""``LogMelFrontend``: PCM to normalised log-mel or PCEN frames, for classifiers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import SpecError
from spectral_edge.frontend import WINDOWS, is_smooth, make_window

if TYPE_CHECKING:
    import torch

__all__ = ["LogMelFrontend", "Pcen"]

MELS = ("kaldi", "htk", "slaney")
LOGS = ("ln", "dB", "log2", "pcen")
FULL_SCALE = 32768.0  # int16 amplitude that counts as 1
FLOOR_POWER = 2.0**-23  # float32 epsilon, the floor of Kaldi's logarithm
PCEN_FLOOR = -30.0  # log2 of squared int16 units, what PCEN starts from
MAX_MELS = 256
LIMIT = 10_000.0  # of floor and mean: they are Q16 in int32 inside


@dataclass(frozen=True)
class Pcen:
    """Per-channel energy normalisation: (E/(eps + M)^alpha + delta)^r - delta^r, M smoothed E.

    Attributes:
        s: smoothing coefficient per frame, 2^-15…1.
        alpha: gain exponent in (0, 1].
        delta: bias, above 2^-16 and below 2^14.
        r: root in (0, 1].
        eps: floor of the smoothed energy in squared int16 units, 2^-16…2^30.

    Raises:
        SpecError: a value outside its range.
    """

    s: float = 0.025
    alpha: float = 0.98
    delta: float = 2.0
    r: float = 0.5
    eps: float = 2048.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("s", 2.0**-15, 1.0),
            ("alpha", 1e-6, 1.0),
            ("delta", 1.01 * 2.0**-16, 2.0**14 - 1),
            ("r", 1e-6, 1.0),
            ("eps", 2.0**-16, 2.0**30 - 1),
        ):
            object.__setattr__(self, name, number(self, name, low, high))


def number(owner: object, name: str, low: float, high: float) -> float:
    """Return field ``name`` as a float.

    Raises:
        SpecError: no number, or outside ``low``…``high``.
    """
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SpecError(f"{name} is {value!r}, must be a number in {low:g}…{high:g}")
    return float(value)


def whole(owner: object, name: str, low: int, high: int) -> int:
    """Return field ``name`` as an int.

    Raises:
        SpecError: no int, or outside ``low``…``high``.
    """
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{name} is {value!r}, must be an int in {low}…{high}")
    return value


@dataclass(frozen=True)
class LogMelFrontend:
    """Log-mel (or PCEN) front end of a classifier, in integers from PCM to int8 codes.

    A frame ends with the newest sample and a stream begins after silence, so ``n`` hops of audio
    give ``n`` frames: one second at the default hop is 100 frames. The network sees ``(value -
    mean) / std`` as ``(batch, 1, frames, n_mels)``.

    Attributes:
        sample_rate: Hz, 4000…192000.
        n_fft: samples of one FFT; even, 2^a·3^b·5^c, 64…4096.
        hop_length: new samples per frame, 1…win_length.
        win_length: samples that the window covers, 16…n_fft; zeros stand in front of them. 0 takes
            n_fft.
        window: periodic taper: ``hann``, ``sqrt_hann``, ``hamming`` or ``rect``.
        n_mels: bands, 1…256.
        fmin: lower edge of the lowest band in Hz.
        fmax: upper edge of the highest band in Hz; 0 takes half the sample rate.
        mel: ``kaldi`` (triangles in mel), ``htk`` or ``slaney`` (triangles in Hz).
        norm: ``slaney`` divides each filter by its width, None leaves a peak of 1.
        power: 2 sums |X|², 1 sums |X|.
        log: ``ln``, ``dB``, ``log2``, or ``pcen`` instead of a logarithm.
        floor: least value, in the unit of ``log``; None takes that of 2^-23 (for samples in
            [-1, 1)), which silence gives exactly.
        mean: subtracted.
        std: what the difference is divided by (AST's convention is twice its published number).
        pcen: constants of ``log="pcen"``, None elsewhere.

    Raises:
        SpecError: a value outside its range, or a band that holds no FFT bin.
    """

    sample_rate: int = 16_000
    n_fft: int = 512
    hop_length: int = 160
    win_length: int = 400
    window: str = "hann"
    n_mels: int = 64
    fmin: float = 20.0
    fmax: float = 0.0
    mel: str = "kaldi"
    norm: str | None = None
    power: int = 2
    log: str = "ln"
    floor: float | None = None
    mean: float = -7.0
    std: float = 5.0
    pcen: Pcen | None = None

    kind: ClassVar[str] = "log_mel"
    head: ClassVar[str] = "logits"
    channels: ClassVar[int] = 1
    invertible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        whole(self, "sample_rate", 4_000, 192_000)
        whole(self, "n_fft", 64, 4096)
        if not is_smooth(self.n_fft):
            raise SpecError(f"n_fft is {self.n_fft}, must be even with no prime factor above 5")
        if self.win_length == 0:
            put(self, "win_length", self.n_fft)
        whole(self, "win_length", 16, self.n_fft)
        whole(self, "hop_length", 1, self.win_length)
        whole(self, "n_mels", 1, MAX_MELS)
        whole(self, "power", 1, 2)
        choices: tuple[tuple[str, tuple[Any, ...]], ...] = (
            ("window", WINDOWS), ("mel", MELS), ("log", LOGS), ("norm", (None, "slaney")),
        )  # fmt: skip
        for name, allowed in choices:
            value = getattr(self, name)
            if not isinstance(value, (str, type(None))) or value not in allowed:
                names = ", ".join(str(a) for a in allowed)
                raise SpecError(f"{name} is {value!r}, must be one of {names}")
        nyquist = self.sample_rate / 2
        put(self, "fmin", number(self, "fmin", 0, nyquist))
        put(self, "fmax", number(self, "fmax", 0, nyquist) or nyquist)
        if not self.fmin < self.fmax:
            raise SpecError(f"fmin is {self.fmin:g} Hz, must be below fmax ({self.fmax:g} Hz)")
        self._settle_pcen()
        put(self, "floor", number(self, "floor", -LIMIT, LIMIT))
        put(self, "mean", number(self, "mean", -LIMIT, LIMIT))
        put(self, "std", number(self, "std", 1e-3, LIMIT))
        self._check_bank()

    def _settle_pcen(self) -> None:
        """Fill in what depends on ``log``: its floor and the constants of PCEN."""
        put = object.__setattr__
        if self.log == "pcen":
            if self.power != 2 or self.floor not in (None, PCEN_FLOOR):
                raise SpecError(f"log 'pcen' needs power 2 and floor {PCEN_FLOOR:g} (or None)")
            put(self, "floor", PCEN_FLOOR)
            put(self, "pcen", Pcen() if self.pcen is None else self.pcen)
            if not isinstance(self.pcen, Pcen):
                raise SpecError(f"pcen is {self.pcen!r}, must be a Pcen")
            return
        if self.pcen is not None:
            raise SpecError(f"pcen is given, but log is {self.log!r}: set log='pcen'")
        if self.floor is None:
            units = {"ln": math.log(2), "dB": 10 * math.log10(2), "log2": 1.0}
            decibels_of_amplitude = self.log == "dB" and self.power == 1
            per_octave = units[self.log] * (2 if decibels_of_amplitude else 1)
            floor = -23 / (3 - self.power) * per_octave
            put(self, "floor", round(floor, 4))

    def _check_bank(self) -> None:
        from spectral_edge.dsp.melbank import mel_bank

        mel_bank(
            self.sample_rate, self.n_fft, self.n_mels, self.fmin, self.fmax, self.mel, self.norm
        )

    @property
    def bins(self) -> int:
        """Values of one frame: n_mels."""
        return self.n_mels

    @property
    def hops_per_second(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def algorithmic_latency(self) -> float:
        """Seconds of audio that a frame waits for: one window."""
        return self.win_length / self.sample_rate

    @property
    def silence(self) -> float:
        """What every value of a frame of digital silence is, before normalisation."""
        assert self.floor is not None
        return 0.0 if self.log == "pcen" else self.floor

    @property
    def fingerprint(self) -> str:
        """Hash of the value; a bundle refuses a front end with another fingerprint."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {"kind": self.kind, **asdict(self)}

    def padded_window(self) -> NDArray[np.float64]:
        """Return the taper as float64[n_fft], zeros in front of its ``win_length`` samples."""
        padded = np.zeros(self.n_fft)
        padded[self.n_fft - self.win_length :] = make_window(self.window, self.win_length)
        return padded

    def features(self, pcm: NDArray[np.int16], backend: str = "auto") -> NDArray[np.float32]:
        """Return float32[frames, n_mels] of a clip, as a stream computes them hop by hop.

        Args:
            pcm: int16[samples]; a last incomplete hop is left out.
            backend: ``auto``, ``c`` or ``numpy``; same bits.

        Raises:
            StreamError: not int16[samples].
        """
        from spectral_edge.logmel_stream import LogMelStream

        return LogMelStream(self, backend=backend).features(pcm)

    def sequences(
        self,
        files: Iterable[str | Path],
        max_seconds: float | None = None,
        window: int = 0,
        window_hop: int = 0,
    ) -> Iterator[tuple[torch.Tensor]]:
        """Turn audio files into calibration sequences, by the integers that the device runs.

        Args:
            files: mono or multichannel audio that soundfile reads (each channel is a sequence).
            max_seconds: cut every file to this length.
            window: frames of a windowed network; 0 gives whole streams.
            window_hop: frames between windows; 0 takes ``window``.

        Yields:
            One tuple per channel: ``(float32[1, 1, frames, n_mels],)``, or with ``window``
            ``(float32[windows, 1, window, n_mels],)``, silence in front of a short file.

        Raises:
            AudioError: a file is not audio or is empty.
            SpecError: a negative window.
        """
        from spectral_edge.feature_sequences import log_mel_sequences

        return log_mel_sequences(self, files, max_seconds, window, window_hop)
