"""Turns blocks of any size into hops of one size, with a constant delay of one hop.

This is the one place that decides when a hop runs. It never waits and never allocates: a sample
that goes in at position i of the hop being filled takes out the sample at position i of the hop
before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import StreamError

__all__ = ["HopFifo"]


class HopFifo:
    """Exchanges samples hop by hop for one channel.

    Attributes:
        hop_in: int16[hop_length]; complete when ``run`` is called.
        hop_out: int16[hop_length]; ``run`` fills it. Zeros before the first hop.
        fill: samples in the hop being filled, 0…hop_length-1.
    """

    def __init__(self, hop_length: int, run: Callable[[], object]) -> None:
        self.hop_in = np.zeros(hop_length, np.int16)
        self.hop_out = np.zeros(hop_length, np.int16)
        self.fill = 0
        self.run = run

    @property
    def latency(self) -> int:
        """Samples between a sample and the output of the hop it belongs to."""
        return len(self.hop_in)

    def reset(self) -> None:
        """Return to the state before the first sample."""
        self.hop_in.fill(0)
        self.hop_out.fill(0)
        self.fill = 0

    def exchange(self, block: NDArray[np.int16], out: NDArray[np.int16]) -> None:
        """Take in ``block`` and write as many samples to ``out``, running every hop that fills up.

        Args:
            block: int16[samples].
            out: int16[samples], must not overlap ``block``.
        """
        hop = len(self.hop_in)
        done, total, fill = 0, len(block), self.fill
        while done < total:
            n = min(hop - fill, total - done)
            out[done : done + n] = self.hop_out[fill : fill + n]
            self.hop_in[fill : fill + n] = block[done : done + n]
            done += n
            fill += n
            if fill == hop:
                self.run()
                fill = 0
        self.fill = fill

    def state(self) -> dict[str, Any]:
        """Return a copy of what is held between blocks."""
        return {"hop_in": self.hop_in.copy(), "hop_out": self.hop_out.copy(), "fill": self.fill}

    def load_state(self, state: dict[str, Any]) -> None:
        """Return to what :meth:`state` gave.

        Raises:
            StreamError: hops of another length or dtype, or a fill that is no place in a hop.
        """
        hop = len(self.hop_in)
        for name in ("hop_in", "hop_out"):
            value = state[name]
            if value.shape != (hop,) or value.dtype != np.int16:
                raise StreamError(
                    f"{name} of the state is {value.dtype}{list(value.shape)}, must be int16[{hop}]"
                )
        if not 0 <= int(state["fill"]) < hop:
            raise StreamError(f"fill of the state is {state['fill']}, must be 0…{hop - 1}")
        self.hop_in[...] = state["hop_in"]
        self.hop_out[...] = state["hop_out"]
        self.fill = int(state["fill"])
