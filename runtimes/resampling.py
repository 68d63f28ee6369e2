"""Lets a session work on audio of another sample rate without losing its laws.

Resamplers deliver in bursts, but what they have delivered after N samples depends on N alone. The
worst by which each of the two ever lags is therefore a constant, measured once; their sum is the
latency, so that a bridge returns as many samples as it gets and any split of the same audio gives
the same bytes. (Their bursts drift against each other for minutes, so the pair cannot be measured.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectral_edge.audio import Resampler, to_int16
from spectral_edge.errors import StreamError

from .replay import ReplayResampler, ResamplerState
from .scheduler.fifo import HopFifo

__all__ = ["BridgeState", "RateBridge", "worst_lag"]

_PROBE_BLOCK = 16  # samples; the lag between two probes is at most this larger
_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class BridgeState:
    """Everything a bridge remembers between two blocks.

    Attributes:
        down, up: the resamplers to the bundle's rate and back.
        ready: float32[samples] that are due, at the caller's rate.
        to_drop: samples of the bundle's own latency still to come, at its rate.
    """

    down: ResamplerState
    up: ResamplerState
    ready: NDArray[np.float32]
    to_drop: int


class RateBridge:
    """One channel: the caller's rate outside, the bundle's rate inside.

    Attributes:
        latency: samples at the caller's rate by which :meth:`push` is late.
    """

    def __init__(self, rate: int, native_rate: int, fifo: HopFifo, native_latency: int) -> None:
        self._down = ReplayResampler(rate, native_rate)
        self._up = ReplayResampler(native_rate, rate)
        self._fifo = fifo
        self._native_latency = native_latency
        self._to_drop = native_latency
        ratio = rate / native_rate
        lag = worst_lag(rate, native_rate) + ratio * worst_lag(native_rate, rate)
        self.latency = math.ceil(native_latency * ratio + lag) + 2  # each way rounds
        self._ready = np.zeros(self.latency, np.float32)

    def reset(self) -> None:
        """Return to the state before the first sample; the FIFO has its own reset."""
        self._down.reset()
        self._up.reset()
        self._to_drop = self._native_latency
        self._ready = np.zeros(self.latency, np.float32)

    def state(self) -> BridgeState:
        """Return a copy of everything remembered, but for the FIFO."""
        return BridgeState(self._down.state(), self._up.state(), self._ready.copy(), self._to_drop)

    def check(self, state: BridgeState) -> None:
        """Say whether :meth:`load_state` takes ``state``.

        Raises:
            StreamError: a state that no bridge between these rates can have.
        """
        down, up = state.down, state.up
        dropped = self._native_latency - state.to_drop
        due = self.latency + up.given - down.taken
        if not 0 <= state.to_drop <= self._native_latency or up.taken != down.given - dropped:
            raise StreamError(
                f"the saved resamplers gave {down.given} and took {up.taken} samples with "
                f"{state.to_drop} to drop, which does not add up; save the state again"
            )
        if state.ready.dtype != np.float32 or state.ready.shape != (due,):
            raise StreamError(
                f"the saved stream holds {state.ready.dtype}{list(state.ready.shape)} samples, "
                f"must be float32[{due}]; save the state again"
            )
        self._down.check(down)
        self._up.check(up)

    def load_state(self, state: BridgeState) -> None:
        """Return to what :meth:`state` gave.

        Raises:
            StreamError: see :meth:`check`; nothing has changed then.
        """
        self.check(state)
        self._down.load_state(state.down)
        self._up.load_state(state.up)
        self._ready, self._to_drop = state.ready.copy(), state.to_drop

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take in float32[samples] at the caller's rate and return as many, late."""
        pcm = to_int16(self._down.push(block))
        enhanced = np.empty(len(pcm), np.int16)
        self._fifo.exchange(pcm, enhanced)
        again = self._resample_back(enhanced)
        ready: NDArray[np.float32] = np.concatenate([self._ready, again])
        assert len(ready) >= len(block), "the measured latency is a bound"
        self._ready = ready[len(block) :]
        return ready[: len(block)]

    def finish(self, end_clip: Callable[[], object]) -> NDArray[np.float32]:
        """Return the tail, float32[latency]; the stream has ended, :meth:`reset` begins another.

        Args:
            end_clip: called when the last sample has gone into the FIFO.
        """
        last = to_int16(self._down.push(np.zeros(0, np.float32), last=True))
        parts = [np.empty(len(last), np.int16), np.empty(self._native_latency, np.int16)]
        self._fifo.exchange(last, parts[0])
        end_clip()
        self._fifo.exchange(np.zeros(self._native_latency, np.int16), parts[1])
        again = [self._resample_back(part) for part in parts]
        again.append(self._up.push(np.zeros(0, np.float32), last=True))
        tail: NDArray[np.float32] = np.zeros(self.latency, np.float32)
        ready = np.concatenate([self._ready, *again])[: self.latency]
        tail[: len(ready)] = ready  # one sample may be missing: rates are rounded twice
        return tail

    def _resample_back(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Drop the bundle's own latency, so that what follows is aligned, and change the rate."""
        dropped = min(self._to_drop, len(pcm))
        self._to_drop -= dropped
        real: NDArray[np.float32] = pcm[dropped:].astype(np.float32) * np.float32(1 / 32768)
        return self._up.push(real)


@lru_cache(maxsize=64)
def worst_lag(rate_in: int, rate_out: int) -> float:
    """Return the most samples, at ``rate_in``, by which a resampler's output lags its input."""
    resampler, block = Resampler(rate_in, rate_out), np.zeros(_PROBE_BLOCK, np.float32)
    taken = given = 0
    worst = 0.0
    while taken < rate_in * _PROBE_SECONDS:
        taken += len(block)
        given += len(resampler.push(block))
        worst = max(worst, taken - given * rate_in / rate_out)
    return worst + _PROBE_BLOCK
