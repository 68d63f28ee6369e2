"""One channel of log-mel: hops of PCM in, normalised frames or int8 codes out, integers between.

value = log-mel or PCEN in Q16; feature = (value - mean)/std; code = round(feature/scale) + zero
point, half away from zero, computed from the Q16 value without passing through floating point.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.dsp.api import FixedSTFT
from spectral_edge.dsp.features import CodeRule
from spectral_edge.dsp.logmel import FixedLogMel
from spectral_edge.dsp.pcen import FixedPCEN
from spectral_edge.errors import SpecError, StreamError
from spectral_edge.logmel_frontend import FULL_SCALE, LogMelFrontend

if TYPE_CHECKING:
    from spectral_edge.qparams import QParams

__all__ = ["LogMelStream"]

Q16 = 65536
MAX_HOPS = 4096  # of one pass over a clip, to bound memory


class LogMelStream:
    """The front end at work on one channel of audio.

    Args:
        frontend: what to compute.
        qparams: of the network's int8 input; None when it takes float32.
        backend: ``c``, ``numpy`` or ``auto`` (C when built, otherwise NumPy), same bits.

    Raises:
        SpecError: a bad backend, or qparams that are not int8 or out of range.
        RuntimeUnavailable: ``backend="c"`` and the core is not built.
    """

    def __init__(
        self, frontend: LogMelFrontend, qparams: QParams | None = None, backend: str = "auto"
    ) -> None:
        self.frontend = frontend
        with warnings.catch_warnings():
            # nothing is synthesised here, so how well the window inverts does not matter
            warnings.filterwarnings("ignore", message="window and hop .* badly conditioned")
            stft = FixedSTFT(
                frontend.padded_window(), frontend.hop_length, frontend.sample_rate, backend=backend
            )
        self._stft = stft.stream()
        pcen = frontend.pcen
        assert frontend.floor is not None
        self._mel = FixedLogMel(
            stft,
            frontend.n_mels,
            frontend.fmin,
            frontend.fmax,
            mel=frontend.mel,
            norm=frontend.norm,
            power=frontend.power,
            log="log2" if pcen else frontend.log,
            floor=frontend.floor,
            full_scale=1.0 if pcen else FULL_SCALE,
            backend=backend,
        )
        self._pcen = None
        if pcen:
            self._pcen = FixedPCEN(
                frontend.n_mels, pcen.s, pcen.alpha, pcen.delta, pcen.r, pcen.eps, backend
            )
        self._mean = round(frontend.mean * Q16)
        self._rule = None
        if qparams is not None:
            if qparams.dtype != "int8":
                raise SpecError(f"the network's input is {qparams.dtype}, log-mel makes int8 codes")
            self._rule = CodeRule.of(qparams.scale * frontend.std, qparams.zero_point)

    @property
    def backend(self) -> str:
        """``c`` or ``numpy``."""
        return self._stft.backend

    @property
    def silence(self) -> NDArray[Any]:
        """A frame of digital silence: int8[n_mels] with qparams, else float32[n_mels]."""
        value = round(self.frontend.silence * Q16)
        return self._finish(np.full(self.frontend.n_mels, value, np.int32))

    def values(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]:
        """Push whole hops int16[hops · hop_length], return int32[hops, n_mels] in Q16."""
        hop = self.frontend.hop_length
        if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) % hop:
            raise StreamError(f"block is {pcm.dtype}{list(pcm.shape)}, must be int16[hops · {hop}]")
        if not len(pcm):
            return np.empty((0, self.frontend.n_mels), np.int32)
        values = self._mel.transform(self._stft.push(pcm))
        if self._pcen is not None:
            values = self._pcen.push(values)
        return values.T

    def push(self, pcm: NDArray[np.int16]) -> NDArray[Any]:
        """Push whole hops, return frames as the network takes them: int8 codes or float32."""
        return self._finish(self.values(pcm))

    def features(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Push a clip of any length, return float32[frames, n_mels]; an incomplete hop is dropped.

        Raises:
            StreamError: not int16[samples].
        """
        pcm = np.asarray(pcm)
        if pcm.dtype != np.int16 or pcm.ndim != 1:
            raise StreamError(f"clip is {pcm.dtype}{list(pcm.shape)}, must be int16[samples]")
        hop = self.frontend.hop_length
        pcm = pcm[: len(pcm) // hop * hop]
        parts = [
            self._normalised(self.values(pcm[at : at + MAX_HOPS * hop]))
            for at in range(0, len(pcm), MAX_HOPS * hop)
        ]
        empty = np.empty((0, self.frontend.n_mels), np.float32)
        return np.concatenate([empty, *parts])

    def reset(self) -> None:
        """Return to the state before the first sample."""
        self._stft.reset()
        if self._pcen is not None:
            self._pcen.reset()

    def _finish(self, values: NDArray[np.int32]) -> NDArray[Any]:
        if self._rule is None:
            return self._normalised(values)
        return self._rule.codes(values.astype(np.int64) - self._mean)

    def _normalised(self, values: NDArray[np.int32]) -> NDArray[np.float32]:
        centred = (values.astype(np.int64) - self._mean) / (Q16 * self.frontend.std)
        result: NDArray[np.float32] = centred.astype(np.float32)
        return result
