"""One channel of a session: front end, engine and hop FIFO, bound to each other's buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.dsp.fixed import FrontendStream
from spectral_edge.errors import RuntimeUnfit
from spectral_edge.frontend import StftFrontend
from spectral_edge.manifest import TensorEntry

from .engines.base import Port, StepEngine
from .scheduler import HopFifo

__all__ = ["ChannelState", "ChannelStream", "check_streamable"]

NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)
_LAYOUTS = {NCHW: "nchw", NHWC: "nhwc"}


@dataclass(frozen=True)
class ChannelState:
    """Everything one channel remembers between two samples."""

    frontend: bytes
    model: dict[str, NDArray[Any]]
    fifo: dict[str, Any]


def check_streamable(bundle: Bundle) -> StftFrontend:
    """Return the front end of a bundle that turns audio into audio.

    Raises:
        RuntimeUnfit: no front end, a head that makes no audio, or several frames per step.
    """
    frontend, name = bundle.frontend, bundle.path.name
    if frontend is None:
        raise RuntimeUnfit(
            f"{name} has no front end; a session needs one, see spectral_edge.export"
        )
    if frontend.head not in ("mask", "mask_bias"):
        raise RuntimeUnfit(
            f"{name} has head {frontend.head!r}; a session makes audio from 'mask' or 'mask_bias'"
        )
    if bundle.manifest["hop_multiple"] != 1:
        raise RuntimeUnfit(
            f"{name} takes {bundle.manifest['hop_multiple']} frames a step; a session takes 1"
        )
    if len(bundle.inputs) != 1:
        raise RuntimeUnfit(f"{name} has {len(bundle.inputs)} inputs; a session feeds one")
    return frontend


class ChannelStream:
    """Audio in, audio out, one channel.

    One hop is four calls: ``analyze`` (PCM to codes), ``invoke``, ``hand_over`` (states) and
    ``synthesize`` (mask to PCM). They work on buffers that were bound when the stream was made.
    """

    def __init__(self, bundle: Bundle, engine: StepEngine, backend: str = "auto") -> None:
        frontend = check_streamable(bundle)
        source, mask, bias = _heads(bundle, frontend)
        self.engine = engine
        self.frontend = FrontendStream(
            frontend,
            source.qparams,
            mask.qparams,
            bias.qparams if bias else None,
            backend=backend,
            delay=bundle.delay,
        )
        self.fifo = HopFifo(frontend.hop_length, self.hop)
        ports = [engine.ports.inputs[source.name], engine.ports.outputs[mask.name]]
        if bias:
            ports.append(engine.ports.outputs[bias.name])
        self.frontend.bind(
            self.fifo.hop_in,
            engine.inputs[source.name],
            engine.outputs[mask.name],
            engine.outputs[bias.name] if bias else None,
            self.fifo.hop_out,
            layout=_layout(ports),
        )
        self._calls: tuple[Callable[[], object], ...] = (
            self.frontend.analyze,
            engine.invoke,
            engine.hand_over,
            self.frontend.synthesize,
        )

    def hop(self) -> None:
        """Run one hop on ``fifo.hop_in``; the result is in ``fifo.hop_out``."""
        analyze, invoke, hand_over, synthesize = self._calls
        analyze()
        invoke()
        hand_over()
        synthesize()

    def reset(self) -> None:
        """Return to the state before the first sample."""
        self.frontend.reset()
        self.engine.reset()
        self.fifo.reset()

    def state(self) -> ChannelState:
        """Return a copy of everything remembered."""
        return ChannelState(self.frontend.state(), self.engine.state(), self.fifo.state())

    def load_state(self, state: ChannelState) -> None:
        """Return to what :meth:`state` gave."""
        self.engine.load_state(state.model)
        self.frontend.load_state(state.frontend)
        self.fifo.load_state(state.fifo)


def _heads(
    bundle: Bundle, frontend: StftFrontend
) -> tuple[TensorEntry, TensorEntry, TensorEntry | None]:
    """Return the feature input, the mask output and, for head mask_bias, the bias output."""
    outputs = {t.name: t for t in bundle.outputs}
    expected = {"mask", "bias"} if frontend.head == "mask_bias" else {"mask"}
    if frontend.head == "mask" and len(outputs) == 1:
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
