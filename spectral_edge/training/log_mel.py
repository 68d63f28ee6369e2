"""Log-mel features for training, equal to the Kaldi filter bank that AST and AuM use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spectral_edge.errors import SpecError

__all__ = ["AUDIOSET", "SPEECH_COMMANDS", "LogMel", "mel_matrix"]

FLOOR = 1.1920929e-07  # float32 epsilon, the floor of Kaldi's logarithm
PRE_EMPHASIS = 0.97
DC_POLE = 0.995
INT16 = 32768.0


@lru_cache
def mel_matrix(mels: int, n_fft: int, sample_rate: int, low: float, high: float) -> Tensor:
    """Return triangular filters on the scale 1127·ln(1 + f/700), float32[n_fft/2, mels].

    As in Kaldi the triangles are linear in mel, and the Nyquist bin is not used.

    Raises:
        SpecError: a frequency range outside 0…Nyquist.
    """
    if not 0 <= low < high <= sample_rate / 2:
        raise SpecError(f"mel range is {low}…{high} Hz, must lie in 0…{sample_rate / 2:g} Hz")

    def to_mel(f: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(f, dtype=np.float64) / 700.0))

    edges = np.linspace(to_mel(low), to_mel(high), mels + 2)
    bins = to_mel(np.arange(n_fft // 2) * sample_rate / n_fft)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(up, down))).float()


@dataclass(frozen=True)
class LogMel:
    """Waveform to normalised log-mel, as a frozen value.

    Attributes:
        mels: bands.
        sample_rate: Hz.
        frame: samples of a frame (25 ms).
        shift: samples between frames (10 ms).
        low: lowest frequency in Hz.
        frames: length of a window in frames: shorter clips are padded, longer ones are cut; 0
            keeps every length.
        fill: padding: ``mean`` (0 after normalisation), or ``raw_zero`` as the reference pipeline
            does, which pads before it normalises.
        mean: subtracted from the logarithm.
        std: features are divided by twice this.
        centring: ``utterance`` subtracts the mean of the clip (reference), ``blocker`` filters DC
            with one pole, which a stream can do.
    """

    mels: int = 128
    sample_rate: int = 16_000
    frame: int = 400
    shift: int = 160
    low: float = 20.0
    frames: int = 0
    mean: float = -6.845978
    std: float = 5.5654526
    centring: str = "utterance"
    fill: str = "mean"

    def __post_init__(self) -> None:
        if self.centring not in ("utterance", "blocker"):
            raise SpecError(f"centring is {self.centring!r}, must be utterance or blocker")
        if self.fill not in ("mean", "raw_zero"):
            raise SpecError(f"fill is {self.fill!r}, must be mean or raw_zero")
        if self.mels < 1 or self.frame < 2 or self.shift < 1 or self.std <= 0:
            raise SpecError("mels, frame, shift and std must be positive")

    @property
    def n_fft(self) -> int:
        """FFT length: the next power of two above the frame."""
        return 1 << (self.frame - 1).bit_length()

    def samples_for(self, frames: int) -> int:
        """Return the samples of a clip that gives exactly ``frames`` frames."""
        return self.frame + (frames - 1) * self.shift

    def raw(self, wave: Tensor) -> Tensor:
        """Return the natural log of mel power, float32[batch, frames, mels].

        Args:
            wave: float32[batch, samples] in [-1, 1], or int16.

        Raises:
            SpecError: clips shorter than one frame.
        """
        if wave.dtype == torch.int16:
            wave = wave.float() / INT16
        if wave.shape[-1] < self.frame:
            raise SpecError(f"clip has {wave.shape[-1]} samples, one frame takes {self.frame}")
        frames = self._centred(wave).unfold(-1, self.frame, self.shift)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
        window = torch.hann_window(self.frame, periodic=False)
        spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        filters = mel_matrix(
            self.mels, self.n_fft, self.sample_rate, self.low, self.sample_rate / 2
        )
        result: Tensor = (power[..., :-1] @ filters).clamp_min(FLOOR).log()
        return result

    def _centred(self, wave: Tensor) -> Tensor:
        if self.centring == "utterance":
            return wave - wave.mean(dim=-1, keepdim=True)
        # y[n] = x[n] - x[n-1] + pole·y[n-1]; its impulse response is below 1e-6 after 2800 samples
        taps = torch.arange(2800, dtype=torch.float64)
        response = -(1 - DC_POLE) * DC_POLE ** (taps - 1)
        response[0] = 1.0
        size = 1 << (wave.shape[-1] + len(taps)).bit_length()
        product = torch.fft.rfft(wave, size) * torch.fft.rfft(response.float(), size)
        result: Tensor = torch.fft.irfft(product, size)[..., : wave.shape[-1]]
        return result

    def __call__(self, wave: Tensor) -> Tensor:
        """Return normalised features, float32[batch, 1, frames, mels]."""
        features = (self.raw(wave) - self.mean) / (2.0 * self.std)
        if self.frames:
            missing = self.frames - features.shape[1]
            value = 0.0 if self.fill == "mean" else -self.mean / (2.0 * self.std)
            features = F.pad(features, (0, 0, 0, max(0, missing)), value=value)[:, : self.frames]
        return features.unsqueeze(1)


SPEECH_COMMANDS = LogMel(frames=128)
AUDIOSET = LogMel(frames=1024, mean=-4.2677393, std=4.5689974)
