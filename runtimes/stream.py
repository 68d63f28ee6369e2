"""One channel of a session: front end, engine and hop FIFO, bound to each other's buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.dsp.fixed import FrontendStream
from spectral_edge.errors import RuntimeUnfit
from spectral_edge.frontend import StftFrontend
from spectral_edge.manifest import TensorEntry

from .engines.base import Port, StepEngine
from .scheduler.fifo import HopFifo
from .scheduler.framed import FramedEngine

__all__ = ["ChannelState", "ChannelStream", "check_streamable", "latency_frames"]

NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)
# States of a program with lookahead, as StepProgram names them (which needs torch): steps taken,
# and frames of the clip, which the host sets at the end.
CLOCK, LENGTH, LENGTH_UNKNOWN = "clock", "length", 1 << 30
# A clock that reaches LENGTH_UNKNOWN reads as the end of the clip, after months. It only tells
# warm-up from later, so it is set back long before, to where warm-up is long over.
CLOCK_LIMIT, CLOCK_SET_BACK, CLOCK_EVERY = 1 << 24, 1 << 20, 1 << 20  # the last in hops
_LAYOUTS = {NCHW: "nchw", NHWC: "nhwc"}


@dataclass(frozen=True)
class ChannelState:
    """Everything one channel remembers between two samples."""

    frontend: bytes
    model: dict[str, NDArray[Any]]
    fifo: dict[str, Any]


AUDIO_HEADS = ("mask", "complex_mask", "mask_bias")


def check_streamable(bundle: Bundle) -> StftFrontend:
    """Return the front end of a bundle that turns audio into audio.

    Raises:
        RuntimeUnfit: no front end, a head that makes no audio, or several inputs.
    """
    frontend, name = bundle.frontend, bundle.path.name
    if not isinstance(frontend, StftFrontend):
        seen = "no front end" if frontend is None else f"front end {frontend.kind!r}"
        raise RuntimeUnfit(
            f"{name} has {seen}; a session needs an StftFrontend, see spectral_edge.export"
        )
    if frontend.head not in AUDIO_HEADS:
        raise RuntimeUnfit(
            f"{name} has head {frontend.head!r}; a session makes audio from one of "
            f"{', '.join(AUDIO_HEADS)}"
        )
    if len(bundle.inputs) != 1:
        raise RuntimeUnfit(f"{name} has {len(bundle.inputs)} inputs; a session feeds one")
    return frontend


def latency_frames(bundle: Bundle) -> int:
    """Return the frames by which a mask comes after its frame: lookahead, and frames collected."""
    return bundle.delay + int(bundle.manifest["hop_multiple"]) - 1


class ChannelStream:
    """Audio in, audio out, one channel.

    One hop is four calls: ``analyze`` (PCM to codes), ``invoke``, ``hand_over`` (states) and
    ``synthesize`` (mask to PCM). They work on buffers that were bound when the stream was made.
    """

    def __init__(self, bundle: Bundle, engine: StepEngine, backend: str = "auto") -> None:
        frontend = check_streamable(bundle)
        source, mask, bias = _heads(bundle, frontend)
        if bundle.manifest["hop_multiple"] != 1:
            engine = FramedEngine(engine, bundle)
        self.engine = engine
        self._overlap = frontend.n_fft - frontend.hop_length
        self._has_end = _has_end(bundle)
        self._until_clock = CLOCK_EVERY
        ports = [engine.ports.inputs[source.name], engine.ports.outputs[mask.name]]
        if bias:
            ports.append(engine.ports.outputs[bias.name])
        layout = _layout(ports)
        self._open, self._shut = _codes(mask, 1.0), _codes(mask, 0.0)
        if frontend.head == "complex_mask":  # 1 + 0i
            one, zero = self._open[mask.name], self._shut[mask.name]
            shape = (1, 2, 1, 1) if layout == "nchw" else (1, 1, 1, 2)
            self._open = {mask.name: np.array([one, zero]).reshape(shape)}
        if bias:
            self._open |= _codes(bias, 0.0)
            self._shut |= _codes(bias, 0.0)
        self.frontend = FrontendStream(
            frontend,
            source.qparams,
            mask.qparams,
            bias.qparams if bias else None,
            backend=backend,
            delay=latency_frames(bundle),
        )
        self.fifo = HopFifo(frontend.hop_length, self.hop)
        self.frontend.bind(
            self.fifo.hop_in,
            engine.inputs[source.name],
            engine.outputs[mask.name],
            engine.outputs[bias.name] if bias else None,
            self.fifo.hop_out,
            layout=layout,
        )
        self._calls: tuple[Callable[[], object], ...] = (
            self.frontend.analyze,
            self.engine.invoke,
            self._hand_over_and_tick if _is_counter(bundle, CLOCK) else self.engine.hand_over,
            self.frontend.synthesize,
        )

    def hop(self) -> None:
        """Run one hop on ``fifo.hop_in``; the result is in ``fifo.hop_out``."""
        analyze, invoke, hand_over, synthesize = self._calls
        analyze()
        invoke()
        hand_over()
        synthesize()

    def bypass(self) -> None:
        """Let the audio of one hop through without running the model; its states stay."""
        self._pass_over(self._open)

    def mute(self) -> None:
        """Give silence for one hop without running the model; its states stay."""
        self._pass_over(self._shut)

    def end_clip(self) -> None:
        """Tell a program with lookahead that no sample follows the last one; silence may.

        The clip is as long as :meth:`StftSimulation.analyze` makes it, so that what follows is what
        the model gives offline, where padding begins after the last frame.
        """
        if not self._has_end:
            return
        samples = self.fifo.fill + self._overlap
        frames = -(-samples // len(self.fifo.hop_in))  # that are still to come
        states = self.engine.state()
        step = 1
        if isinstance(self.engine, FramedEngine):
            step = self.engine.frames
            frames += self.engine.position
        states[LENGTH][...] = (int(states[CLOCK][0]) + -(-frames // step)) * step
        self.engine.load_state(states)

    def reset(self) -> None:
        """Return to the state before the first sample."""
        self.frontend.reset()
        self.engine.reset()
        self.fifo.reset()

    def state(self) -> ChannelState:
        """Return a copy of everything remembered."""
        return ChannelState(self.frontend.state(), self.engine.state(), self.fifo.state())

    def load_state(self, state: ChannelState) -> None:
        """Return to what :meth:`state` gave.

        Raises:
            StreamError: a part that does not belong here; the parts before it are loaded.
        """
        self.engine.load_state(state.model)
        self.frontend.load_state(state.frontend)
        self.fifo.load_state(state.fifo)

    def _hand_over_and_tick(self) -> None:
        self.engine.hand_over()
        self._until_clock -= 1
        if self._until_clock <= 0:
            self._until_clock = CLOCK_EVERY
            states = self.engine.state()
            if int(states[CLOCK][0]) > CLOCK_LIMIT:
                states[CLOCK][...] = CLOCK_SET_BACK
                self.engine.load_state(states)

    def _pass_over(self, codes: Mapping[str, Any]) -> None:
        self.frontend.analyze()
        if isinstance(self.engine, FramedEngine):
            self.engine.pass_over(codes)
        else:
            for name, code in codes.items():
                self.engine.outputs[name][...] = code
        self.frontend.synthesize()


def _codes(entry: TensorEntry, value: float) -> dict[str, Any]:
    """Return by name what a tensor holds where its real value is ``value``, saturated."""
    if entry.qparams is None:
        return {entry.name: value}
    return {entry.name: int(entry.qparams.quantize(np.array([value], np.float32))[0])}


def _is_counter(bundle: Bundle, name: str) -> bool:
    state = bundle.states.get(name)
    return state is not None and state.dtype == "int32" and state.shape == (1,)


def _has_end(bundle: Bundle) -> bool:
    """True for a program whose states include the clip's length, set by the host."""
    if not (_is_counter(bundle, CLOCK) and _is_counter(bundle, LENGTH)):
        return False
    return bundle.states[LENGTH].initial_code == LENGTH_UNKNOWN


def _heads(
    bundle: Bundle, frontend: StftFrontend
) -> tuple[TensorEntry, TensorEntry, TensorEntry | None]:
    """Return the feature input, the mask output and, for head mask_bias, the bias output."""
    outputs = {t.name: t for t in bundle.outputs}
    expected = {"mask", "bias"} if frontend.head == "mask_bias" else {"mask"}
    if frontend.head != "mask_bias" and len(outputs) == 1:
        outputs = {"mask": bundle.outputs[0]}
    if set(outputs) != expected:
        raise RuntimeUnfit(
            f"{bundle.path.name} has outputs {sorted(outputs)}, head {frontend.head!r} needs "
            f"{sorted(expected)}; return them by these names from forward"
        )
    return bundle.inputs[0], outputs["mask"], outputs.get("bias")


def _layout(ports: list[Port]) -> str:
    """Return "nchw" or "nhwc"; with one channel both are the same memory."""
    layouts = {port.axes for port in ports if port.shape[1] > 1} or {ports[0].axes}
    if len(layouts) != 1 or (axes := layouts.pop()) not in _LAYOUTS:
        raise RuntimeUnfit(
            f"the model stores {[p.name for p in ports]} with axes {[p.axes for p in ports]}; "
            f"a session binds {NCHW} or {NHWC}"
        )
    return _LAYOUTS[axes]
