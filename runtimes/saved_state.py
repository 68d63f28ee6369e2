"""What a session remembers, as a value and as bytes that nobody has to trust.

The bytes are an ``.npz`` without pickles: sizes, names, dtypes and shapes are checked when they are
read, and again by the session that loads them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import BundleError, StreamError
from spectral_edge.npz import read_npz

from .replay import ResamplerState
from .resampling import BridgeState
from .stream import ChannelState

__all__ = ["SessionState"]

VERSION = 2
MAX_BYTES = 1 << 28
# Names in the file; "{c}" is the channel. Model states follow as "{c}.model.{name}", what a session
# that resamples remembers as "{c}.rate.{name}".
HEAD, CHANNEL = "session", ("frontend", "hop_in", "hop_out", "fill")
MODEL = "model."
RATE, RATE_ARRAYS, RATE_COUNTS = "rate.", ("down", "up", "ready"), 5
_DTYPES = ("int16", "float32")


@dataclass(frozen=True)
class SessionState:
    """Everything a session remembers between two blocks.

    Attributes:
        bundle_sha256: the bundle it belongs to.
        channels: memory of every channel.
        dtype: dtype of the audio of the stream under way, None before its first block.
        axes: channels of that audio, None when it is ``[samples]``.
        sample_rate: Hz of the audio that the session takes.
        bridges: memory of the resamplers, one per channel of a session that has any.
    """

    bundle_sha256: str
    channels: tuple[ChannelState, ...]
    dtype: str | None = None
    axes: int | None = None
    sample_rate: int = 0
    bridges: tuple[BridgeState, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the state as bytes for a file or another process."""
        form = 0 if self.dtype is None else 1 + _DTYPES.index(self.dtype)
        arrays: dict[str, NDArray[Any]] = {
            HEAD: np.array(
                [VERSION, len(self.channels), form, self.axes or 0, self.sample_rate], np.int32
            ),
            "bundle": np.frombuffer(bytes.fromhex(self.bundle_sha256), np.uint8),
        }
        for c, channel in enumerate(self.channels):
            arrays[f"{c}.frontend"] = np.frombuffer(channel.frontend, np.uint8)
            arrays |= {f"{c}.{n}": np.asarray(channel.fifo[n]) for n in CHANNEL[1:]}
            arrays |= {f"{c}.{MODEL}{n}": value for n, value in channel.model.items()}
        for c, bridge in enumerate(self.bridges):
            down, up = bridge.down, bridge.up
            counts = [down.taken, down.given, up.taken, up.given, bridge.to_drop]
            parts = (down.history, up.history, bridge.ready)
            for name, value in zip(RATE_ARRAYS, parts, strict=True):
                arrays[f"{c}.{RATE}{name}"] = value
            arrays[f"{c}.{RATE}counts"] = np.array(counts, np.int64)
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> SessionState:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            StreamError: not a state, damaged, of another version, or too large.
        """
        try:
            arrays = read_npz(data, "the saved state", MAX_BYTES)
        except BundleError as error:
            raise StreamError(f"{error}; save the state again") from error
        head, bundle = arrays.pop(HEAD, None), arrays.pop("bundle", None)
        if head is None or head.dtype != np.int32 or head.shape not in ((4,), (5,)):
            raise StreamError("these bytes are not the state of a session; save it again")
        version, count, form, axes, rate = (int(n) for n in [*head, 0][:5])
        if version != VERSION:
            raise StreamError(
                f"the saved state has version {version}, this release reads {VERSION}"
            )
        if bundle is None or bundle.dtype != np.uint8 or bundle.shape != (32,):
            raise StreamError("the saved state names no bundle; save it again")
        if not 0 < count <= 64 or not 0 <= form <= len(_DTYPES) or not 0 <= axes <= count:
            raise StreamError(f"the saved state says {count} channels in {axes}; save it again")
        channels = tuple(_channel(arrays, c) for c in range(count))
        resamples = any(f".{RATE}" in name for name in arrays)
        bridges = tuple(_bridge(arrays, c) for c in range(count)) if resamples else ()
        if arrays:
            raise StreamError(f"the saved state holds unknown arrays {sorted(arrays)[:3]}")
        dtype = _DTYPES[form - 1] if form else None
        return cls(bundle.tobytes().hex(), channels, dtype, axes or None, rate, bridges)


def _channel(arrays: dict[str, NDArray[Any]], c: int) -> ChannelState:
    """Take the arrays of channel ``c`` out of ``arrays``."""
    parts = {name: arrays.pop(f"{c}.{name}", None) for name in CHANNEL}
    missing = [name for name, value in parts.items() if value is None]
    fill = parts["fill"]
    if missing or fill is None or fill.shape != () or fill.dtype.kind != "i":
        raise StreamError(f"the saved state lacks {missing or 'a fill'} of channel {c}")
    prefix = f"{c}.{MODEL}"
    names = [name for name in arrays if name.startswith(prefix)]
    model = {name.removeprefix(prefix): arrays.pop(name) for name in names}
    frontend = parts.pop("frontend")
    assert frontend is not None
    return ChannelState(frontend.tobytes(), model, {**parts, "fill": int(fill)})


def _bridge(arrays: dict[str, NDArray[Any]], c: int) -> BridgeState:
    """Take what the resamplers of channel ``c`` remember out of ``arrays``."""
    parts = [arrays.pop(f"{c}.{RATE}{name}", None) for name in (*RATE_ARRAYS, "counts")]
    down, up, ready, counts = parts
    if down is None or up is None or ready is None or counts is None:
        raise StreamError(f"the saved state lacks resamplers of channel {c}; save it again")
    if counts.dtype != np.int64 or counts.shape != (RATE_COUNTS,):
        raise StreamError(f"the saved resamplers of channel {c} have no counts; save it again")
    down_taken, down_given, up_taken, up_given, to_drop = (int(n) for n in counts)
    return BridgeState(
        ResamplerState(down, down_taken, down_given),
        ResamplerState(up, up_taken, up_given),
        ready,
        to_drop,
    )
