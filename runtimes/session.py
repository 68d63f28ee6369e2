"""Sessions: an open bundle with its state, from PCM to PCM in blocks of any size."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.audio import to_int16
from spectral_edge.bundle import Bundle
from spectral_edge.errors import SpecError, StreamError

from .blocks import MAX_CHANNELS, check_block
from .engines.registry import load_engine, pick_engine
from .resampling import RateBridge
from .saved_state import SessionState
from .scheduler.shared import SharedEngine
from .stream import ChannelStream, check_streamable, latency_frames

__all__ = ["Session", "SessionState", "open"]

_STEP = np.float32(1 / 32768)  # float 1.0 is one step above the largest int16


def open(
    path: str | os.PathLike[str] | Bundle,
    engine: str | SharedEngine | None = None,
    threads: int = 1,
    sample_rate: int | None = None,
    backend: str = "auto",
) -> Session:
    """Open a bundle for streaming audio.

    Args:
        path: a ``.seb`` file, a bundle directory, or a loaded bundle.
        engine: ``litert``, ``tflite-runtime``, ``onnxruntime`` or ``tensorflow``; None takes the
            first of the first three that is installed and that the bundle has a file for. A
            :class:`~spectral_edge.runtimes.scheduler.SharedEngine` runs the streams of any number
            of sessions; otherwise every channel gets an engine, which is faster and larger.
        threads: threads of the engine; small streaming networks are fastest with one.
        sample_rate: Hz of the audio that will be pushed; when it is not the bundle's, audio is
            resampled on the way in and out, which needs soxr.
        backend: front end arithmetic: ``c``, ``numpy`` (same bits, slower) or ``auto``.

    Raises:
        BundleError: the bundle cannot be trusted or read.
        RuntimeUnavailable: an engine or soxr is not installed.
        RuntimeUnfit: the engine cannot run the bundle, or the bundle does not make audio.
        SpecError: an argument out of range.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.load(path)
    return Session(bundle, engine, threads, sample_rate, backend)


class Session:
    """A bundle at work on one audio stream of one or more channels.

    ``push`` returns as many samples as it got, late by ``latency_samples``, whatever the block
    sizes are: any split of the same audio gives the same bytes. Audio is int16 or float32 (1.0 is
    full scale), ``[samples]`` or ``[samples, channels]``; what comes out has the same dtype and
    channels.

    Attributes:
        bundle: the open bundle.
        sample_rate: Hz of the audio pushed and returned.
        latency_samples: samples by which ``push`` is late, at ``sample_rate``.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str | SharedEngine | None = None,
        threads: int = 1,
        sample_rate: int | None = None,
        backend: str = "auto",
    ) -> None:
        frontend = check_streamable(bundle)
        self.bundle = bundle
        self._shared = engine if isinstance(engine, SharedEngine) else None
        if self._shared is None:
            assert not isinstance(engine, SharedEngine)
            self.engine, self.threads = pick_engine(bundle, engine).name, threads
        else:
            _check_same(self._shared.bundle, bundle)
            self.engine, self.threads = self._shared.engine.name, self._shared.engine.threads
        self.sample_rate = frontend.sample_rate if sample_rate is None else sample_rate
        self._backend = backend
        self._frontend = frontend
        self._closed = False
        self._streams: list[ChannelStream] = []
        self._bridges: list[RateBridge] = []
        self._native_latency = frontend.n_fft + latency_frames(bundle) * frontend.hop_length
        self._format: tuple[np.dtype[Any], int | None] | None = None  # of the stream under way
        self._add_stream()
        self.latency_samples = self._bridges[0].latency if self._bridges else self._native_latency

    @property
    def hop_length(self) -> int:
        """Samples of one hop, at the bundle's own sample rate."""
        return self._frontend.hop_length

    @property
    def bundle_rate(self) -> int:
        """The bundle's own sample rate in Hz."""
        return self._frontend.sample_rate

    @property
    def streams(self) -> tuple[ChannelStream, ...]:
        """The channels, for those who measure."""
        return tuple(self._streams)

    def prepare(self, channels: int) -> None:
        """Open what ``channels`` need now rather than with the first block.

        Raises:
            StreamError: the session is closed.
            SpecError: channels out of range.
        """
        self._require_open()
        if not 1 <= channels <= MAX_CHANNELS:
            raise SpecError(f"channels is {channels}, must be 1…{MAX_CHANNELS}")
        while len(self._streams) < channels:
            self._add_stream()

    def push(self, block: NDArray[Any]) -> NDArray[Any]:
        """Take in a block and return one of the same length, dtype and channels, late.

        Args:
            block: int16 or float32, ``[samples]`` or ``[samples, channels]``; any length, also 0.

        Raises:
            StreamError: neither int16 nor float32, NaN or infinity, another dtype or number of
                channels than before in this stream, or a closed session. Nothing was taken in.
        """
        self._admit(block)
        if block.ndim == 1:
            return self._push_channel(0, block)
        out = np.empty_like(block)
        for channel in range(block.shape[1]):
            out[:, channel] = self._push_channel(channel, block[:, channel])
        return out

    def flush(self) -> NDArray[Any]:
        """Return the tail: the last ``latency_samples`` of the stream, and end it.

        A program with lookahead learns here that the clip has ended, so that the tail is what the
        model gives for the whole clip. The next block begins another stream, as after
        :meth:`reset`.

        Raises:
            StreamError: the session is closed.
        """
        self._require_open()
        dtype, channels = self._format or (np.dtype(np.int16), None)
        tails = [self._end_channel(c, dtype) for c in range(channels or 1)]
        self.reset()
        return tails[0] if channels is None else np.stack(tails, axis=1)

    def process(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Enhance a whole clip: same length, dtype and channels, aligned with it.

        The stream under way, if any, is given up.

        Args:
            clip: int16 or float32, ``[samples]`` or ``[samples, channels]``.

        Raises:
            StreamError: see :meth:`push`; a stream under way is then kept.
        """
        self._require_open()
        check_block(clip)
        self.reset()
        late: NDArray[Any] = np.concatenate([self.push(clip), self.flush()])
        return late[self.latency_samples :]

    def reset(self) -> None:
        """Return to the state before the first sample.

        Raises:
            StreamError: the session is closed.
        """
        self._require_open()
        self._format = None
        for stream in self._streams:
            stream.reset()
        for bridge in self._bridges:
            bridge.reset()

    def state(self) -> SessionState:
        """Return a copy of everything the session remembers between two blocks.

        Raises:
            StreamError: the session is closed.
        """
        self._require_open()
        dtype, axes = self._format or (None, None)
        return SessionState(
            self.bundle.sha256,
            tuple(s.state() for s in self._streams),
            dtype and dtype.name,
            axes,
            self.sample_rate,
            tuple(b.state() for b in self._bridges),
        )

    def load_state(self, state: SessionState) -> None:
        """Return to what :meth:`state` gave, here or in another session of this bundle and rate.

        What follows has the same bytes. Where the session resamples and has heard more than half a
        second, what the network hears then differs by 1e-7 of full scale (see :mod:`.replay`).

        Raises:
            StreamError: a state of another bundle or sample rate, one that does not fit, or a
                closed session. The session stays as it was.
        """
        self._require_open()
        if state.bundle_sha256 != self.bundle.sha256:
            raise StreamError(
                f"state is of bundle {state.bundle_sha256[:12]}…, "
                f"this session runs {self.bundle.sha256[:12]}…"
            )
        if state.sample_rate != self.sample_rate:
            raise StreamError(
                f"state is of audio at {state.sample_rate} Hz, this session takes "
                f"{self.sample_rate} Hz; open it with sample_rate={state.sample_rate}"
            )
        count = len(state.channels)
        self.prepare(count)
        if len(state.bridges) != (count if self._bridges else 0):
            raise StreamError(
                f"state has {len(state.bridges)} resamplers for {count} channels; save it again"
            )
        for bridge, memory in zip(self._bridges, state.bridges, strict=False):
            bridge.check(memory)  # a replay could not be taken back to the bit
        before = [stream.state() for stream in self._streams]
        try:
            for stream, channel in zip(self._streams, state.channels, strict=False):
                stream.load_state(channel)
        except StreamError:
            for stream, channel in zip(self._streams, before, strict=True):
                stream.load_state(channel)
            raise
        for bridge, memory in zip(self._bridges, state.bridges, strict=False):
            bridge.load_state(memory)
        for stream in self._streams[count:]:
            stream.reset()
        for bridge in self._bridges[count:]:
            bridge.reset()
        self._format = None if state.dtype is None else (np.dtype(state.dtype), state.axes)

    def describe(self) -> dict[str, Any]:
        """Return plain data: bundle, engine, front end backend, rates, latency, channels."""
        self._require_open()
        first = self._streams[0]
        return {
            "bundle": self.bundle.name,
            "bundle_sha256": self.bundle.sha256,
            "precision": self.bundle.precision,
            "engine": first.engine.describe(),
            "frontend_backend": first.frontend.backend,
            "sample_rate": self.sample_rate,
            "resampled_to": self._frontend.sample_rate if self._bridges else None,
            "hop_length": self.hop_length,
            "latency_samples": self.latency_samples,
            "channels": len(self._streams),
        }

    def close(self) -> None:
        """Give up engine and buffers; anything but another ``close`` is then an error."""
        self._closed, self._shared = True, None
        self._bridges.clear()
        self._streams.clear()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _push_channel(self, channel: int, block: NDArray[Any]) -> NDArray[Any]:
        """Take in one admitted channel [samples] and return as many samples of its dtype."""
        if block.dtype == np.int16 and not self._bridges:
            out = np.empty(len(block), np.int16)
            self._streams[channel].fifo.exchange(block, out)
            return out
        if self._bridges:
            real = block if block.dtype == np.float32 else block.astype(np.float32) * _STEP
            late = self._bridges[channel].push(np.ascontiguousarray(real))
            return late if block.dtype == np.float32 else to_int16(late)
        pcm = np.empty(len(block), np.int16)
        self._streams[channel].fifo.exchange(to_int16(block), pcm)
        return pcm.astype(np.float32) * _STEP

    def _end_channel(self, channel: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the tail of one channel [latency_samples] in ``dtype``."""
        if self._bridges:
            late = self._bridges[channel].finish(self._streams[channel].end_clip)
            return late if dtype == np.float32 else to_int16(late)
        self._streams[channel].end_clip()
        return self._push_channel(channel, np.zeros(self.latency_samples, dtype))

    def _admit(self, block: NDArray[Any]) -> None:
        """Check a block against the stream under way and make room for its channels."""
        self._require_open()
        check_block(block)
        form = (block.dtype, block.shape[1] if block.ndim == 2 else None)
        if form == self._format:
            return
        if self._format is not None:
            raise StreamError(
                f"block is {_form_text(form)}, this stream began with {_form_text(self._format)}; "
                "call reset() to begin another stream"
            )
        self.prepare(form[1] or 1)
        self._format = form

    def _add_stream(self) -> None:
        """Open one more stream: channels have engines of their own, unless they were given one."""
        if self._shared is None:
            engine = load_engine(self.bundle, self.engine, self.threads)
        else:
            engine = self._shared.lend()
        stream = ChannelStream(self.bundle, engine, self._backend)
        native = self._frontend.sample_rate
        if self.sample_rate != native:
            self._bridges.append(
                RateBridge(self.sample_rate, native, stream.fifo, self._native_latency)
            )
        self._streams.append(stream)

    def _require_open(self) -> None:
        if self._closed:
            raise StreamError("session is closed; open the bundle again")


def _check_same(shared: Bundle, bundle: Bundle) -> None:
    if shared.sha256 != bundle.sha256:
        raise SpecError(
            f"the shared engine runs {shared.path.name}, the session is of {bundle.path.name}; "
            "open the session with the bundle of the engine"
        )


def _form_text(form: tuple[np.dtype[Any], int | None]) -> str:
    return f"{form[0]}[samples]" if form[1] is None else f"{form[0]}[samples, {form[1]}]"
