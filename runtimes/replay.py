"""A resampler whose memory can be saved, though soxr keeps its own hidden.

What a resampler remembers is the last stretch of its input. That stretch is kept here, and a
restored resampler is a fresh one that hears it again: what comes after is aligned to the sample,
and equal to float32 rounding (soxr adds in blocks whose places depend on where a stream began; 1e-7
of full scale, measured). A stream shorter than the stretch is repeated whole and gives the same
bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectral_edge.audio import Resampler
from spectral_edge.errors import StreamError

__all__ = ["ReplayResampler", "ResamplerState"]

_SECONDS = 0.5  # more than any of soxr's filters remembers from 8 kHz up; its HQ lag is 75 ms
_LARGEST_LAG = 1.0  # seconds by which a resampler's output may run behind its input


@dataclass(frozen=True)
class ResamplerState:
    """The input that a resampler may still need, and how far it has come.

    Attributes:
        history: float32[samples], the last of its input.
        taken: samples taken in since the start.
        given: samples given out since the start.
    """

    history: NDArray[np.float32]
    taken: int
    given: int


class ReplayResampler:
    """Streaming sample rate conversion of one channel, as :class:`~spectral_edge.audio.Resampler`.

    Raises:
        SpecError, RuntimeUnavailable: as for :class:`~spectral_edge.audio.Resampler`.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._stream = Resampler(rate_in, rate_out)
        common = math.gcd(rate_in, rate_out)
        # every `period_in` samples of input the same phase of the output comes round
        self._period_in, self._period_out = rate_in // common, rate_out // common
        self._rate_in = rate_in
        # what is older than a whole number of periods is not needed; one more for the rounding
        wanted = math.ceil(_SECONDS * rate_in / self._period_in) + 1
        self._ring = np.zeros(wanted * self._period_in, np.float32)
        self._clear()

    def _clear(self) -> None:
        self._taken = self._given = 0
        self._early = np.zeros(0, np.float32)  # given out before its turn by a replay
        self._late = 0  # samples of a replay still to come that were given out before

    def reset(self) -> None:
        """Forget all input."""
        self._stream.reset()
        self._clear()

    def push(self, block: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Take in float32[samples] and return what is ready; ``last`` returns all that is left."""
        self._keep(block)
        out = self._in_turn(self._stream.push(block, last=last))
        self._given += len(out)
        return out

    def state(self) -> ResamplerState:
        """Return a copy of what the resampler remembers."""
        start = self._start(self._taken)
        places = np.arange(start, self._taken) % len(self._ring)
        return ResamplerState(self._ring[places], self._taken, self._given)

    def check(self, state: ResamplerState) -> None:
        """Say whether :meth:`load_state` takes ``state``.

        Raises:
            StreamError: a state that no resampler of these rates can have.
        """
        history, taken, given = state.history, state.taken, state.given
        kept = taken - self._start(taken)
        lag = taken / self._period_in - given / self._period_out  # in periods
        limit = _LARGEST_LAG * self._rate_in / self._period_in
        if history.dtype != np.float32 or history.shape != (kept,) or taken < 0:
            raise StreamError(
                f"the saved resampler holds {history.dtype}{list(history.shape)} of {taken} "
                f"samples, must be float32[{kept}]; save the state again"
            )
        if not -1 <= lag <= limit or not np.isfinite(history).all():
            raise StreamError(
                f"the saved resampler took {taken} samples and gave {given}, or holds NaN; "
                "save the state again"
            )

    def load_state(self, state: ResamplerState) -> None:
        """Return to what :meth:`state` gave.

        Raises:
            StreamError: see :meth:`check`; nothing has changed then.
        """
        self.check(state)
        start = self._start(state.taken)
        self.reset()
        self._taken, self._given = start, state.given
        self._keep(state.history)
        replayed = self._stream.push(state.history)
        ahead = start // self._period_in * self._period_out + len(replayed) - state.given
        self._early = replayed[len(replayed) - ahead :] if ahead > 0 else replayed[:0]
        self._late = max(-ahead, 0)

    def _start(self, taken: int) -> int:
        """Return where the history of ``taken`` samples begins: at a whole period."""
        oldest = max(taken - len(self._ring), 0)
        return -(-oldest // self._period_in) * self._period_in

    def _keep(self, block: NDArray[np.float32]) -> None:
        size = len(self._ring)
        kept = block[-size:]
        at = (self._taken + len(block) - len(kept)) % size
        first = min(size - at, len(kept))
        self._ring[at : at + first] = kept[:first]
        self._ring[: len(kept) - first] = kept[first:]
        self._taken += len(block)

    def _in_turn(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put what a replay gave too early in front, leave out what had been given before."""
        if self._late:
            again = min(self._late, len(out))
            self._late -= again
            out = out[again:]
        if len(self._early):
            out = np.concatenate([self._early, out])
            self._early = self._early[:0]
        return out
