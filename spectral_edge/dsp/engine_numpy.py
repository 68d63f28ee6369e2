"""The front end on the NumPy golden model; see ``se_frontend.c`` for the same lines in C."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import mask as masks
from .features import compress
from .level import FULL_SCALE_POWER, running_level
from .qformat import LOG_ONE, OLA_MAX, Q31_ONE, Ints, clamp, rdm
from .stft import analyse, frames_of, overlap_add

if TYPE_CHECKING:
    from .fixed import Buffers
    from .plan import FrontendPlan

__all__ = ["GoldenEngine"]

STATE_MAGIC = 0x53454631
STATE_HEAD = struct.Struct("<Iiiiqqq")
MAX_CLIP_HOPS = 1024  # of one vectorised pass, to bound memory


def _look_up(table: NDArray[np.int32], codes: NDArray[Any]) -> Ints:
    values: Ints = table[codes.astype(np.int64) + 128].astype(np.int64)
    return values


class GoldenEngine:
    """One stream, hop by hop or whole clips."""

    name = "numpy"

    def __init__(self, plan: FrontendPlan) -> None:
        self._plan = plan
        self._buffers: Buffers | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        plan = self._plan
        self._history = np.zeros(plan.n_fft, np.int16)
        self._overlap = np.zeros(plan.n_fft, np.int64)
        self._power = plan.level.start
        self._frames = self._pulled = 0
        # what synthesis needs of the last delay + 1 frames: re, im, feature re, feature im
        self._ring = np.zeros((plan.delay + 1, 4, plan.bins), np.int64)
        self._ring_e = np.zeros(plan.delay + 1, np.int64)
        self._ring_level = np.zeros(plan.delay + 1, np.int64)

    def clip(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]:
        """int16[hops·hop] -> int32[channels, hops, bins]."""
        step = MAX_CLIP_HOPS * self._plan.hop_length
        parts = [self._push(pcm[i : i + step]) for i in range(0, len(pcm), step)]
        if not parts:
            return np.empty((self._plan.channels, 0, self._plan.bins), np.int32)
        return np.concatenate(parts, axis=1)

    def _push(self, pcm: NDArray[np.int16]) -> NDArray[np.int32]:
        plan = self._plan
        level, self._power = running_level(plan.level, self._power, pcm, plan.hop_length)
        re, im, e = analyse(frames_of(pcm, self._history, plan.hop_length), plan.tables)
        shift = level + plan.tables.reference_log2
        mag, fr, fi = compress(re, im, e, shift, plan.exponent)
        self._history = np.concatenate([self._history, pcm])[-plan.n_fft :]
        for t in range(max(0, len(e) - plan.delay - 1), len(e)):
            slot = (self._frames + t) % (plan.delay + 1)
            self._ring[slot] = re[t], im[t], fr[t], fi[t]
            self._ring_e[slot], self._ring_level[slot] = e[t], level[t]
        self._frames += len(e)
        return np.stack([(mag, fr, fi)[i] for i in plan.feature_index]).astype(np.int32)

    def bind(self, buffers: Buffers) -> None:
        """Keep the buffers."""
        self._buffers = buffers

    def analyze(self) -> None:
        """Push ``pcm_in``, write codes or float32 features."""
        b = self._buffers
        assert b is not None
        values = self._push(b.pcm_in)[:, 0]
        if b.as_float:
            b.features[:] = values.astype(np.float32) * np.float32(1 / 65536)
        else:
            b.features[:] = self._plan.codes.codes(values.astype(np.int64))

    def _mask(self, channel: int) -> Ints:
        b = self._buffers
        assert b is not None
        assert b.mask is not None
        if b.as_float:
            return masks.to_fixed(b.mask[channel], 31, Q31_ONE)
        return _look_up(self._plan.mask_table, b.mask[channel])

    def _bias(self, channel: int) -> Ints:
        b = self._buffers
        assert b is not None
        assert b.bias is not None
        if b.as_float:
            return masks.to_fixed(b.bias[channel], 16, OLA_MAX)
        return _look_up(self._plan.bias_table, b.bias[channel])

    def _masked(self, slot: int) -> tuple[Ints, Ints, Ints]:
        plan = self._plan
        re, im, fr, fi = self._ring[slot]
        e = self._ring_e[slot : slot + 1]
        if plan.head == "logits" or self._pulled < plan.delay:
            return re[None], im[None], e
        whole, fraction = plan.inverse_whole, plan.inverse_fraction
        if plan.head == "mask":
            gain = masks.mask_power(self._mask(0), whole, fraction)
            return rdm(re, gain)[None], rdm(im, gain)[None], e
        if plan.head == "complex_mask":
            ur, ui = masks.complex_mask(fr, fi, self._mask(0), self._mask(1))
        else:
            ur = masks.mask_bias(fr, self._mask(0), self._bias(0))
            ui = masks.mask_bias(fi, self._mask(0), self._bias(1))
        scale = self._ring_level[slot : slot + 1] + plan.tables.reference_log2
        return masks.expand(ur[None], ui[None], scale, whole, fraction)

    def synthesize(self) -> None:
        """Apply the mask to the frame ``delay`` frames ago, write ``pcm_out``."""
        b = self._buffers
        assert b is not None
        slot = (self._pulled + 1) % (self._plan.delay + 1)
        re, im, e = self._masked(slot)
        b.pcm_out[:] = overlap_add(re, im, e, self._plan.tables, self._overlap)
        self._pulled += 1

    def state(self) -> bytes:
        """All memory as bytes, laid out as the core does."""
        plan = self._plan
        head = STATE_HEAD.pack(
            STATE_MAGIC,
            plan.n_fft,
            plan.hop_length,
            plan.delay,
            self._power,
            self._frames,
            self._pulled,
        )
        parts = [head, self._history.astype("<i2").tobytes(), self._overlap.astype("<i4").tobytes()]
        for ring, e, level in zip(self._ring, self._ring_e, self._ring_level, strict=True):
            parts.append(ring.astype("<i4").tobytes())
            parts.append(np.array([e, level], "<i4").tobytes())
        return b"".join(parts)

    def load_state(self, state: bytes) -> bool:
        """Return False when the bytes do not belong here."""
        plan = self._plan
        if len(state) != len(self.state()):
            return False
        magic, n_fft, hop, delay, power, frames, pulled = STATE_HEAD.unpack_from(state)
        mine = (STATE_MAGIC, plan.n_fft, plan.hop_length, plan.delay)
        if (magic, n_fft, hop, delay) != mine or not 0 <= frames < 1 << 48:
            return False
        if not plan.level.floor <= power <= FULL_SCALE_POWER or not 0 <= pulled < 1 << 48:
            return False
        at = STATE_HEAD.size
        self._history = np.frombuffer(state, "<i2", plan.n_fft, at).astype(np.int16)
        at += 2 * plan.n_fft
        overlap = np.frombuffer(state, "<i4", plan.n_fft, at).astype(np.int64)
        at += 4 * plan.n_fft
        rows = np.frombuffer(state, "<i4", -1, at).reshape(delay + 1, 4 * plan.bins + 2)
        rows = rows.astype(np.int64)
        self._overlap = clamp(overlap, OLA_MAX)
        self._ring = rows[:, :-2].reshape(delay + 1, 4, plan.bins).copy()
        self._ring[:, :2] = clamp(self._ring[:, :2], OLA_MAX)
        self._ring_e = np.clip(rows[:, -2], 0, 30)
        self._ring_level = np.clip(rows[:, -1], 0, 16 * LOG_ONE)
        self._power, self._frames, self._pulled = power, frames, pulled
        return True
