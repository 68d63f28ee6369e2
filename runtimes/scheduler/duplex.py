"""Between a sound device and a session: the callback only copies, a thread of ours does the hops.

What goes in at sample n of the device comes out at sample n + latency, always: silence that had to
be played because a block was not ready is taken off that block when it comes, and input that was
lost goes through the session as silence of the same length.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from .deadline import Clock
from .realtime import RealtimeSession
from .ring import Block, SampleRing

__all__ = ["Duplex"]

IDLE_SECONDS = 0.1  # how often the worker looks whether it should end
SILENCE_DB = -120.0


class Duplex:
    """One duplex stream of audio through a session.

    Args:
        live: runs the hops; its budget should be the duration of ``cushion``.
        channels: channels of the input; the output has as many or, for one, any number.
        cushion: samples played before the first processed one.
        piece: most samples that are pushed at a time, one hop.
        capacity: samples that the input may wait before it is lost.
        clock: what time it is, for tests; the one that ``live`` has.

    Attributes:
        cushion: samples by which the output is later than the session makes it.
        frames: samples that the device has delivered.
        callbacks: times that the device has called.
        error: what ended the worker, if anything did.
    """

    def __init__(
        self,
        live: RealtimeSession,
        channels: int,
        cushion: int,
        piece: int,
        capacity: int,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.live, self.cushion, self._clock = live, cushion, clock
        self.incoming = SampleRing(capacity, channels)
        self.outgoing = SampleRing(capacity + cushion, channels)
        self.outgoing.write(np.zeros((cushion, channels), np.float32))
        self.frames = self.callbacks = 0
        self.error: Exception | None = None
        self._block = np.zeros((piece, channels), np.float32)
        self._ns_per_sample = 1e9 / live.session.sample_rate
        self._arrived = (0, 0)  # samples written to the ring, and when
        self._lost = self._lost_done = 0  # input: by the callback, and made up for by the worker
        self._closed = False  # after a loss nothing is taken in until the worker has caught up
        self._short = self._short_done = 0  # output: played as silence, and made up for
        self._levels = (0.0, 0.0)
        self._ready, self._stop = threading.Event(), threading.Event()

    # ---- the device's thread ------------------------------------------------------------------

    def callback(self, indata: Block, outdata: Block, frames: int, _: Any, status: Any) -> None:
        """Take in and give out one block; the form that sounddevice calls."""
        self.callbacks += 1
        if status:
            counters = self.live.counters
            counters.xruns_in += bool(status.input_overflow or status.input_underflow)
            counters.xruns_out += bool(status.output_underflow or status.output_overflow)
        self._take_in(indata)
        self._give_out(outdata, frames)
        self.frames += frames
        self._ready.set()

    def _take_in(self, block: Block) -> None:
        taken = 0 if self._closed else self.incoming.write(block)
        if taken < len(block):
            if not self._closed:
                self.live.counters.xruns_in += 1
            self._closed = True
            self._lost += len(block) - taken
        self._arrived = (self.incoming.written, self._clock())

    def _give_out(self, out: Block, frames: int) -> None:
        width = self._block.shape[1]
        ready = self.outgoing.read(out[:, :width])
        if out.shape[1] > width:
            out[:ready, width:] = out[:ready, :1]
        if ready == frames:
            return
        out[ready:] = 0
        self.live.counters.xruns_out += 1
        # a block larger than the cushion can never be ready: the cushion grows instead
        grown = min(frames - ready, max(0, frames - self.cushion))
        self.cushion += grown
        self.live.budget_ns += round(grown * self._ns_per_sample)
        self._short += frames - ready - grown

    # ---- our thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Work until :meth:`stop`; the body of the worker thread."""
        try:
            while not self._stop.is_set():
                self._ready.wait(IDLE_SECONDS)
                self._ready.clear()
                self.work()
        except Exception as error:  # the thread that waits for it raises it
            self.error = error

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stop.set()
        self._ready.set()

    def work(self) -> None:
        """Push everything that has arrived."""
        while True:
            while self.incoming.available:
                n = min(self.incoming.available, len(self._block))
                block = self._block[:n]
                self.incoming.read(block)
                written, when = self._arrived
                waited = round((written - self.incoming.taken) * self._ns_per_sample)
                out = self.live.push(block, when - waited)
                self._levels = (_power(block), _power(out))
                self._play(out)
            if self._lost == self._lost_done:
                return
            lost = self._lost - self._lost_done
            self._lost_done += lost
            self._play(self.live.skip(lost, self._block))
            self._closed = False

    def _play(self, out: Block) -> None:
        late = min(self._short - self._short_done, len(out))
        self._short_done += late
        self.outgoing.write(out[late:])

    def levels_db(self) -> tuple[float, float]:
        """Return the level of the last block, in and out, in dB of full scale."""
        before, after = self._levels
        return _decibels(before), _decibels(after)


def _power(block: Block) -> float:
    flat = block.reshape(-1)
    return float(flat @ flat) / max(len(flat), 1)


def _decibels(power: float) -> float:
    if not power > 1e-12:  # NaN, too
        return SILENCE_DB
    return float(10 * np.log10(power))
