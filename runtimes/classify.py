"""Sessions of classifiers: audio in blocks of any size, or pictures, to labels and detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.audio import Resampler, to_int16
from spectral_edge.bundle import Bundle
from spectral_edge.classifier import Classifier, DetectionPolicy
from spectral_edge.errors import RuntimeUnfit, StreamError
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.logmel_stream import LogMelStream
from spectral_edge.manifest import TensorEntry

from .blocks import check_block
from .decisions import Decider, Detection, Result
from .engines.base import StepEngine
from .engines.registry import load_engine, pick_engine
from .scheduler import HopFifo

__all__ = ["ClassifySession", "Detection", "Result", "detections", "is_classifier"]

MAX_STEP_FRAMES = 100_000
_STEP = np.float32(1 / 32768)  # float 1.0 is one step above the largest int16


def is_classifier(bundle: Bundle) -> bool:
    """Return True when a bundle answers with labels."""
    return bundle.classifier is not None


def detections(session: ClassifySession, blocks: Iterable[NDArray[Any]]) -> Iterator[Detection]:
    """Yield detections as they happen while blocks of audio come in.

    Args:
        session: an open classifier of audio.
        blocks: what :meth:`ClassifySession.push` takes, endless if you like.
    """
    for block in blocks:
        for result in session.push(block):
            yield from result.detections


@dataclass(frozen=True)
class _Plan:
    """What a bundle's step takes and gives.

    Attributes:
        rows: frames (or pixel rows) of the input.
        step: new frames per step; 0 for pictures.
        windowed: old frames are kept outside of the program.
        delay: frames.
    """

    frontend: LogMelFrontend | ImageFrontend
    classifier: Classifier
    source: TensorEntry
    logits: TensorEntry
    rows: int
    step: int
    windowed: bool
    delay: int

    @classmethod
    def of(cls, bundle: Bundle) -> _Plan:
        """Check that a session can run the bundle.

        Raises:
            RuntimeUnfit: no labels, or tensors that its front end does not make.
        """
        frontend, classifier, name = bundle.frontend, bundle.classifier, bundle.path.name
        if classifier is None:
            raise RuntimeUnfit(f"{name} has no labels; export it with labels=[…]")
        if not isinstance(frontend, (LogMelFrontend, ImageFrontend)):
            raise RuntimeUnfit(
                f"{name} has front end {getattr(frontend, 'kind', None)!r}; a classifier's session "
                "needs LogMelFrontend or ImageFrontend"
            )
        if len(bundle.inputs) != 1 or len(bundle.outputs) != 1:
            raise RuntimeUnfit(
                f"{name} has {len(bundle.inputs)} inputs and {len(bundle.outputs)} outputs; a "
                "classifier has one of each"
            )
        source, logits = bundle.inputs[0], bundle.outputs[0]
        rows = source.shape[2] if len(source.shape) == 4 else 0
        high = frontend.height if isinstance(frontend, ImageFrontend) else rows
        if source.shape != (1, frontend.channels, high, frontend.bins):
            raise RuntimeUnfit(
                f"{name} takes {list(source.shape)}, its front end makes "
                f"[1, {frontend.channels}, {high or 'frames'}, {frontend.bins}]"
            )
        if int(np.prod(logits.shape)) != len(classifier.labels):
            raise RuntimeUnfit(
                f"{name} gives {list(logits.shape)} a step; a session takes one row of "
                f"{len(classifier.labels)} labels"
            )
        windowed = isinstance(frontend, LogMelFrontend) and source.time_dim is None
        if windowed and bundle.states:
            raise RuntimeUnfit(f"{name} takes windows and keeps states; a session does either")
        step = 0
        if isinstance(frontend, LogMelFrontend):
            step = (classifier.window_hop or max(1, rows // 4)) if windowed else rows
            if step * frontend.hop_length > MAX_STEP_FRAMES * 160:
                raise RuntimeUnfit(f"{name} takes {step} frames a step, which is too long")
        return cls(frontend, classifier, source, logits, rows, step, windowed, bundle.delay)


class AudioStream:
    """One channel of audio: front end, engine and hop FIFO, bound to each other's buffers.

    One step is four calls, as in :class:`spectral_edge.runtimes.stream.ChannelStream`:
    ``frontend.analyze`` (PCM to codes), ``engine.invoke``, ``engine.hand_over`` and
    ``frontend.synthesize``, which here makes the result.
    """

    def __init__(
        self, plan: _Plan, engine: StepEngine, backend: str, decider: Decider, channel: int
    ) -> None:
        assert isinstance(plan.frontend, LogMelFrontend)
        self.engine, self.frontend = engine, _AudioEnds(plan, engine, backend, decider)
        self.fifo = HopFifo(plan.step * plan.frontend.hop_length, self.hop)
        self.frontend.pcm = self.fifo.hop_in
        self.channel = channel
        self._calls: tuple[Callable[[], object], ...] = (
            self.frontend.analyze,
            engine.invoke,
            engine.hand_over,
            self.frontend.synthesize,
        )

    def hop(self) -> None:
        """Run one step on ``fifo.hop_in``."""
        for call in self._calls:
            call()

    def push(self, pcm: NDArray[np.int16]) -> list[Result]:
        """Take in int16[samples], return the results of the steps that they complete."""
        self.fifo.exchange(pcm, np.empty(len(pcm), np.int16))
        return self.take()

    def take(self) -> list[Result]:
        """Return the results since the last call."""
        results, self.frontend.results = self.frontend.results, []
        return results

    def reset(self) -> None:
        """Return to the state before the first sample."""
        self.frontend.reset()
        self.engine.reset()
        self.fifo.reset()


class _Ends:
    """What stands before and behind the engine: its buffers, the real-valued outputs."""

    def __init__(self, plan: _Plan, engine: StepEngine, decider: Decider) -> None:
        port = engine.ports.inputs[plan.source.name]
        self._target = port.to_logical(engine.inputs[plan.source.name])
        self._codes = engine.outputs[plan.logits.name]
        self._qparams = plan.logits.qparams
        self.decider = decider
        self.results: list[Result] = []

    def logits(self) -> NDArray[np.float64]:
        """Return the outputs of the step that has just run, real-valued, float64[labels]."""
        # one row: every axis but one has size 1, so that the stored order does not matter
        flat = self._codes.reshape(-1)
        if self._qparams is None:
            return flat.astype(np.float64)
        return (flat.astype(np.float64) - self._qparams.zero_point) * self._qparams.scale


class _AudioEnds(_Ends):
    """Log-mel before the engine, decisions behind it."""

    def __init__(self, plan: _Plan, engine: StepEngine, backend: str, decider: Decider) -> None:
        super().__init__(plan, engine, decider)
        assert isinstance(plan.frontend, LogMelFrontend)
        self._mel = LogMelStream(plan.frontend, plan.source.qparams, backend)
        self._plan = plan
        self._frame_seconds = plan.frontend.hop_length / plan.frontend.sample_rate
        self.pcm = np.zeros(0, np.int16)
        silence = self._mel.silence
        self._silence = silence
        self._ring = np.tile(silence, (plan.rows if plan.windowed else 0, 1))
        self._steps = 0

    @property
    def backend(self) -> str:
        """``c`` or ``numpy``."""
        return self._mel.backend

    def analyze(self) -> None:
        """Turn ``pcm`` into the input of the engine."""
        frames = self._mel.push(self.pcm)
        if self._plan.windowed:
            ring, new = self._ring, min(len(frames), len(self._ring))
            ring[: len(ring) - new] = ring[new:].copy()
            ring[len(ring) - new :] = frames[len(frames) - new :]
            frames = ring
        self._target[0, 0] = frames

    def synthesize(self) -> None:
        """Turn the output of the engine into a result, once the program's delay is over."""
        self._steps += 1
        frames = self._steps * self._plan.step - self._plan.delay
        if frames > 0:
            time = frames * self._frame_seconds
            self.results.append(self.decider.update(self.logits(), time))

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._mel.reset()
        self._ring[...] = self._silence
        self._steps = 0
        self.results = []
        self.decider.reset()


class _PictureEnds(_Ends):
    """Pixels before the engine, decisions behind it."""

    backend = "numpy"

    def __init__(self, plan: _Plan, engine: StepEngine, decider: Decider) -> None:
        super().__init__(plan, engine, decider)
        assert isinstance(plan.frontend, ImageFrontend)
        self._frontend, self._source = plan.frontend, plan.source
        self.picture = np.zeros((plan.frontend.height, plan.frontend.width, 3), np.uint8)

    def analyze(self) -> None:
        """Turn ``picture`` into the input of the engine."""
        if self._source.qparams is None:
            self._target[0] = self._frontend.features(self.picture)
        else:
            self._target[0] = self._frontend.codes(self.picture, self._source.qparams)

    def synthesize(self) -> None:
        """Turn the output of the engine into a result."""
        self.decider.reset()
        self.results = [self.decider.update(self.logits(), 0.0)]


class PictureStream:
    """Pictures one by one through front end and engine; see :class:`AudioStream`."""

    def __init__(self, plan: _Plan, engine: StepEngine, decider: Decider) -> None:
        self.engine, self.frontend = engine, _PictureEnds(plan, engine, decider)
        self.fifo = HopFifo(1, self.hop)
        self._calls: tuple[Callable[[], object], ...] = (
            self.frontend.analyze,
            engine.invoke,
            engine.hand_over,
            self.frontend.synthesize,
        )

    def hop(self) -> None:
        """Classify ``frontend.picture``."""
        for call in self._calls:
            call()

    def reset(self) -> None:
        """Do nothing: a picture leaves no trace."""


class ClassifySession:
    """A classifier at work on one audio stream of one or more channels, or on pictures.

    Audio is int16 or float32 (1.0 is full scale), ``[samples]`` or ``[samples, channels]``; each
    channel is a stream of its own. Any split of the same audio gives the same results, and memory
    does not grow.

    Attributes:
        bundle: the open bundle.
        labels: names of the outputs.
        policy: what is detected.
        sample_rate: Hz of the audio pushed; 0 for pictures.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str | None = None,
        threads: int = 1,
        sample_rate: int | None = None,
        backend: str = "auto",
        policy: DetectionPolicy | None = None,
        top: int = 5,
    ) -> None:
        self._plan = plan = _Plan.of(bundle)
        self.bundle = bundle
        self.labels = plan.classifier.labels
        self.policy = plan.classifier.policy if policy is None else policy
        self.engine = pick_engine(bundle, engine).name
        self.threads = threads
        self._backend, self._top, self._closed = backend, top, False
        self._audio: list[AudioStream] = []
        self._pictures: list[PictureStream] = []
        self._resamplers: list[Resampler] = []
        self._format: tuple[np.dtype[Any], int | None] | None = None  # of the stream under way
        self._pushed = False
        if isinstance(plan.frontend, ImageFrontend):
            self._step_seconds, self.sample_rate = 0.0, 0
            made = load_engine(bundle, self.engine, threads)
            self._pictures.append(PictureStream(plan, made, self._decider(0)))
            return
        native = plan.frontend.sample_rate
        self._step_seconds = plan.step * plan.frontend.hop_length / native
        self.sample_rate = native if sample_rate is None else sample_rate
        self._add_stream()

    @property
    def takes_pictures(self) -> bool:
        """True for :meth:`classify`, False for :meth:`push`."""
        return bool(self._pictures)

    @property
    def hop_length(self) -> int:
        """Samples of one step at the bundle's own rate; 1 for pictures."""
        frontend = self._plan.frontend
        return self._plan.step * frontend.hop_length if isinstance(frontend, LogMelFrontend) else 1

    @property
    def step_seconds(self) -> float:
        """Time from one result to the next; 0 for pictures."""
        return self._step_seconds

    @property
    def bundle_rate(self) -> int:
        """The bundle's own sample rate in Hz; 0 for pictures."""
        frontend = self._plan.frontend
        return frontend.sample_rate if isinstance(frontend, LogMelFrontend) else 0

    @property
    def latency_samples(self) -> int:
        """Longest wait of a sample for a result that is about it, in samples of ``bundle_rate``."""
        frontend = self._plan.frontend
        if isinstance(frontend, ImageFrontend):
            return 0
        return (self._plan.step + self._plan.delay) * frontend.hop_length

    @property
    def streams(self) -> tuple[AudioStream | PictureStream, ...]:
        """The channels, for those who measure."""
        return (*self._audio, *self._pictures)

    @property
    def pictures(self) -> PictureStream:
        """What classifies pictures, for those who measure.

        Raises:
            StreamError: a classifier of audio, or a closed session.
        """
        self._require_open()
        if not self._pictures:
            raise StreamError(f"{self.bundle.path.name} classifies audio; use push() or process()")
        return self._pictures[0]

    def push(self, block: NDArray[Any]) -> list[Result]:
        """Take in a block of audio and return the results that it completes, in order of time.

        Args:
            block: int16 or float32, ``[samples]`` or ``[samples, channels]``; any length, also 0.

        Raises:
            StreamError: neither int16 nor float32, NaN or infinity, another dtype or number of
                channels than before in this stream, a classifier of pictures, or a closed session.
                Nothing was taken in.
        """
        self._admit(block)
        self._pushed = self._pushed or len(block) > 0
        channels = block[:, None] if block.ndim == 1 else block
        results = [r for i in range(channels.shape[1]) for r in self._take(i, channels[:, i])]
        return sorted(results, key=lambda r: (r.time, r.channel))

    def flush(self) -> list[Result]:
        """Return the last results and end the stream: silence completes the step under way.

        The next block begins another stream, as after :meth:`reset`.

        Raises:
            StreamError: the session is closed or classifies pictures.
        """
        self._require_audio()
        results: list[Result] = []
        if self._pushed:
            count = self._format[1] or 1 if self._format else 1
            for i in range(count):
                results += self._tail(i)
        self.reset()
        return sorted(results, key=lambda r: (r.time, r.channel))

    def process(self, clip: NDArray[Any]) -> list[Result]:
        """Return all results of a whole clip; a stream under way, if any, is given up.

        Raises:
            StreamError: see :meth:`push`; a stream under way is then kept.
        """
        self._require_audio()
        check_block(clip)
        self.reset()
        return self.push(clip) + self.flush()

    def classify(self, image: NDArray[np.uint8]) -> Result:
        """Classify one picture.

        Args:
            image: uint8[height, width] or uint8[height, width, 1, 3 or 4], of any size.

        Raises:
            StreamError: another dtype or shape, a classifier of audio, or a closed session.
        """
        stream = self.pictures
        stream.frontend.picture = image
        stream.hop()
        return stream.frontend.results[0]

    def reset(self) -> None:
        """Return to the state before the first sample.

        Raises:
            StreamError: the session is closed.
        """
        self._require_open()
        self._format, self._pushed = None, False
        for stream in self._audio:
            stream.reset()
        for resampler in self._resamplers:
            resampler.reset()

    def describe(self) -> dict[str, Any]:
        """Return plain data: bundle, engine, front end backend, rates, latency, channels."""
        self._require_open()
        first = self.streams[0]
        return {
            "bundle": self.bundle.name,
            "bundle_sha256": self.bundle.sha256,
            "precision": self.bundle.precision,
            "engine": first.engine.describe(),
            "frontend_backend": first.frontend.backend,
            "sample_rate": self.sample_rate,
            "resampled_to": self.bundle_rate if self._resamplers else None,
            "hop_length": self.hop_length,
            "latency_samples": self.latency_samples,
            "channels": len(self.streams),
            "labels": list(self.labels),
            "policy": self.policy.to_dict(),
        }

    def close(self) -> None:
        """Give up engine and buffers; anything but another ``close`` is then an error."""
        self._closed = True
        self._audio.clear()
        self._pictures.clear()
        self._resamplers.clear()

    def __enter__(self) -> ClassifySession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self, channel: int, block: NDArray[Any]) -> list[Result]:
        """Take in one channel of an admitted block."""
        stream = self._audio[channel]
        if not self._resamplers:
            pcm = block if block.dtype == np.int16 else to_int16(block)
            return stream.push(pcm)
        real = block if block.dtype == np.float32 else block.astype(np.float32) * _STEP
        return stream.push(to_int16(self._resamplers[channel].push(np.ascontiguousarray(real))))

    def _tail(self, channel: int) -> list[Result]:
        stream, results = self._audio[channel], []
        if self._resamplers:
            rest = self._resamplers[channel].push(np.zeros(0, np.float32), last=True)
            results += stream.push(to_int16(rest))
        frontend = self._plan.frontend
        assert isinstance(frontend, LogMelFrontend)
        missing = self._plan.delay * frontend.hop_length
        missing += -(stream.fifo.fill + missing) % self.hop_length
        return results + stream.push(np.zeros(missing, np.int16))

    def _admit(self, block: NDArray[Any]) -> None:
        """Check a block against the stream under way and make room for its channels."""
        self._require_audio()
        check_block(block)
        form = (block.dtype, block.shape[1] if block.ndim == 2 else None)
        if form == self._format:
            return
        if self._format is not None:
            raise StreamError(
                f"block is {block.dtype}{list(block.shape)}, this stream began with another dtype "
                "or number of channels; call reset() to begin another stream"
            )
        while len(self._audio) < (form[1] or 1):
            self._add_stream()
        self._format = form

    def _add_stream(self) -> None:
        """Open the engine once more: channels are separate streams."""
        number = len(self._audio)
        engine = load_engine(self.bundle, self.engine, self.threads)
        stream = AudioStream(self._plan, engine, self._backend, self._decider(number), number)
        if self.sample_rate != self.bundle_rate:
            self._resamplers.append(Resampler(self.sample_rate, self.bundle_rate))
        self._audio.append(stream)

    def _decider(self, channel: int) -> Decider:
        plan = self._plan
        return Decider(plan.classifier, self.policy, self._step_seconds, self._top, channel)

    def _require_open(self) -> None:
        if self._closed:
            raise StreamError("session is closed; open the bundle again")

    def _require_audio(self) -> None:
        self._require_open()
        if self._pictures:
            raise StreamError(f"{self.bundle.path.name} classifies pictures; use classify(image)")
