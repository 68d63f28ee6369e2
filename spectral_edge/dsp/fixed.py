"""One stream of the integer front end: PCM hop in, codes out; mask codes in, PCM hop out.

``FrontendStream`` runs on the compiled core or, when that is missing, on the NumPy golden model,
with the same bits and the same saved state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spectral_edge._native import core, require_core, warn_once_of_absence
from spectral_edge.errors import SpecError, StreamError
from spectral_edge.frontend import StftFrontend

from .engine_c import CoreEngine
from .engine_numpy import GoldenEngine
from .plan import FrontendPlan

if TYPE_CHECKING:
    from spectral_edge.program import QParams

__all__ = ["FrontendStream"]


class Engine(Protocol):
    """What a backend does; every method has the same bits in every backend."""

    name: str

    def reset(self) -> None: ...
    def clip(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]: ...
    def bind(self, buffers: Buffers) -> None: ...
    def analyze(self) -> None: ...
    def synthesize(self) -> None: ...
    def state(self) -> bytes: ...
    def load_state(self, state: bytes) -> bool: ...


class Buffers:
    """Checked buffers of one stream, network tensors viewed as [channels, bins]."""

    def __init__(
        self,
        plan: FrontendPlan,
        pcm_in: NDArray[np.int16],
        features: NDArray[Any],
        mask: NDArray[Any] | None,
        bias: NDArray[Any] | None,
        pcm_out: NDArray[np.int16],
        layout: str,
    ) -> None:
        if layout not in ("nhwc", "nchw"):
            raise StreamError(f"layout is {layout!r}, must be 'nhwc' or 'nchw'")
        self.pcm_in = _hop(pcm_in, plan.hop_length, "pcm_in")
        self.pcm_out = _hop(pcm_out, plan.hop_length, "pcm_out")
        self.as_float = features.dtype == np.float32
        dtype = features.dtype
        if dtype not in (np.int8, np.float32):
            raise StreamError(f"codes are {dtype}, must be int8 (or float32 for a float program)")
        if not self.as_float and not plan.has_codes:
            raise StreamError("codes are int8 but no qparams were given; pass them or bind float32")
        self.features = _view(features, plan.channels, plan.bins, layout, "codes", dtype)
        self.mask = self.bias = None
        masks, biases = plan.head_channels
        if masks:
            self.mask = _view(mask, masks, plan.bins, layout, "mask", dtype)
        if biases:
            self.bias = _view(bias, biases, plan.bins, layout, "bias", dtype)


def _hop(pcm: NDArray[np.int16], hop: int, name: str) -> NDArray[np.int16]:
    if pcm.dtype != np.int16 or pcm.shape != (hop,) or not pcm.flags.c_contiguous:
        seen = f"{pcm.dtype}{list(pcm.shape)}"
        raise StreamError(f"{name} is {seen}, must be contiguous int16[{hop}]")
    return pcm


def _view(
    array: NDArray[Any] | None, channels: int, bins: int, layout: str, name: str, dtype: Any
) -> NDArray[Any]:
    """View a network tensor as [channels, bins] without copying."""
    if array is None:
        raise StreamError(f"{name} is missing, the head of this front end needs it")
    if array.dtype != dtype or array.size != channels * bins or not array.flags.c_contiguous:
        raise StreamError(
            f"{name} is {array.dtype}{list(array.shape)}, must be contiguous {np.dtype(dtype)} of "
            f"{channels} channels and {bins} bins ({layout})"
        )
    flat = array.reshape(-1)
    return flat.reshape(bins, channels).T if layout == "nhwc" else flat.reshape(channels, bins)


class FrontendStream:
    """One channel of audio through the integer front end.

    Args:
        frontend: what to compute.
        input_qparams: of the network's input; None when it takes float32.
        mask_qparams, bias_qparams: of the network's outputs; None when float32 or not there.
        backend: ``c``, ``numpy`` or ``auto`` (C when built, otherwise NumPy and one warning).
        delay: frames by which the network's output lags; the mask of frame t - delay then meets the
            spectrum and level of frame t - delay.

    Raises:
        SpecError: a front end that cannot be inverted, a bad backend, delay or qparams.
        RuntimeUnavailable: ``backend="c"`` and the core is not built.
    """

    def __init__(
        self,
        frontend: StftFrontend,
        input_qparams: QParams | None = None,
        mask_qparams: QParams | None = None,
        bias_qparams: QParams | None = None,
        backend: str = "auto",
        delay: int = 0,
    ) -> None:
        if backend not in ("auto", "c", "numpy"):
            raise SpecError(f"backend is {backend!r}, must be 'auto', 'c' or 'numpy'")
        if not 0 <= delay <= 4096:
            raise SpecError(f"delay is {delay} frames, must be 0…4096")
        self.frontend = frontend
        self._plan = FrontendPlan(frontend, input_qparams, mask_qparams, bias_qparams, delay)
        if backend == "c":
            require_core()
        elif backend == "auto" and core() is None:
            warn_once_of_absence()
        use_core = backend == "c" or (backend == "auto" and core() is not None)
        self._engine: Engine = CoreEngine(self._plan) if use_core else GoldenEngine(self._plan)
        self._bound = False
        self.analyze = self._unbound
        self.synthesize = self._unbound

    @property
    def backend(self) -> str:
        """``c`` or ``numpy``."""
        return self._engine.name

    @property
    def delay(self) -> int:
        """Frames between analysis and synthesis."""
        return self._plan.delay

    def _unbound(self) -> None:
        raise StreamError("no buffers are bound; call bind(...) first")

    def bind(
        self,
        pcm_in: NDArray[np.int16],
        codes: NDArray[Any],
        mask: NDArray[Any] | None,
        bias: NDArray[Any] | None,
        pcm_out: NDArray[np.int16],
        layout: str = "nhwc",
    ) -> None:
        """Fix the buffers that ``analyze()`` and ``synthesize()`` read and write.

        Args:
            pcm_in: int16[hop_length], contiguous.
            codes: the network's input, int8 or float32, channels × bins values.
            mask: the network's output of the same dtype; None where the head has none.
            bias: the same, two channels.
            pcm_out: int16[hop_length], contiguous.
            layout: order of the last axes: ``nhwc`` (bins, channels) or ``nchw`` (channels, bins).

        Raises:
            StreamError: a buffer of another size, dtype or layout.
        """
        self._engine.bind(Buffers(self._plan, pcm_in, codes, mask, bias, pcm_out, layout))
        self.analyze = self._engine.analyze
        self.synthesize = self._engine.synthesize

    def clip(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]:
        """Push whole hops at once, return Q16 features int32[channels, hops, bins]."""
        hop = self._plan.hop_length
        if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) % hop:
            raise StreamError(f"clip is {pcm.dtype}{list(pcm.shape)}, must be int16[hops · {hop}]")
        return self._engine.clip(np.ascontiguousarray(pcm))

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._engine.reset()

    def state(self) -> bytes:
        """All memory of the stream; the same bytes from every backend."""
        return self._engine.state()

    def load_state(self, state: bytes) -> None:
        """Continue where :meth:`state` was taken.

        Raises:
            StreamError: bytes of another front end or delay.
        """
        if not self._engine.load_state(bytes(state)):
            raise StreamError(
                f"state of {len(state)} bytes does not belong to this front end and delay"
            )
