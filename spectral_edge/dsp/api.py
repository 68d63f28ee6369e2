"""``FixedSTFT``: the integer STFT on its own, with the names of ``scipy.signal.ShortTimeFFT``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_edge.errors import SpecError, StreamError
from spectral_edge.frontend import WINDOWS, is_smooth, make_window

from .blocks import BlockEngine, BoundCalls, block_engine
from .qformat import rdm
from .tables import StftTables, stft_tables, tables_of_samples

__all__ = ["BlockSpectrum", "FixedSTFT", "StftStream", "pcm_from"]

EXACT_CONDITION = 1 / 16  # from here on the round trip is 0 LSB (docs/numerics.md, section 4)
EXACT_MFFT = 1024  # up to here; longer frames have fewer bits per sample, and 1 LSB can happen


@dataclass(frozen=True)
class BlockSpectrum:
    """A spectrum as integers: X[f, t] = (re + i·im)·2^-exp[t], in units of int16 samples.

    Attributes:
        re: int32[..., bins, frames].
        im: int32[..., bins, frames].
        exp: int32[..., frames].
    """

    re: NDArray[np.int32]
    im: NDArray[np.int32]
    exp: NDArray[np.int32]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self.exp.shape[-1])

    def to_complex(self) -> NDArray[np.complex128]:
        """complex128[..., bins, frames], exact."""
        exponent = -self.exp[..., None, :]
        spectrum = np.empty(self.re.shape, np.complex128)
        spectrum.real = np.ldexp(self.re, exponent)
        spectrum.imag = np.ldexp(self.im, exponent)
        return spectrum

    @classmethod
    def from_complex(cls, spectrum: ArrayLike) -> BlockSpectrum:
        """Round complex[..., bins, frames] to 30-bit mantissas, one exponent per frame.

        Raises:
            StreamError: NaN or infinity.
        """
        values = np.asarray(spectrum, np.complex128)
        if not np.isfinite(values).all():
            raise StreamError("spectrum holds NaN or infinity; check what was done to it")
        peak = np.maximum(np.abs(values.real), np.abs(values.imag)).max(axis=-2)
        exp = np.where(peak > 0, 30 - np.frexp(peak)[1], 0).astype(np.int32)
        scale = exp[..., None, :]
        re = np.rint(np.ldexp(values.real, scale)).astype(np.int32)
        im = np.rint(np.ldexp(values.imag, scale)).astype(np.int32)
        return cls(re, im, exp)


def pcm_from(x: ArrayLike) -> NDArray[np.int16]:
    """Take int16 as it is; round float samples in [-1, 1) to int16, saturating.

    Raises:
        StreamError: another dtype, NaN or infinity.
    """
    samples: NDArray[Any] = np.asarray(x)
    if samples.dtype == np.int16:
        return samples
    if samples.dtype not in (np.float32, np.float64):
        raise StreamError(f"samples are {samples.dtype}, must be int16, or float32 in [-1, 1)")
    if not np.isfinite(samples).all():
        raise StreamError("samples hold NaN or infinity; clean the recording first")
    pcm: NDArray[np.int16]
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


class FixedSTFT:
    """Short-time Fourier transform in integers, with the same bits on every machine.

    ``FixedSTFT(win, hop, fs)`` as in ``scipy.signal.ShortTimeFFT``, and frames lie where they lie
    there (frame p is centred on sample p·hop). ``win`` may also be a name with ``mfft`` samples.
    ``FixedSTFT.from_torch(n_fft, hop_length)`` takes the names of torch.

    Args:
        win: float64[m] in [0, 1], or one of ``sqrt_hann hann hamming rect`` (periodic).
        hop: new samples per frame, 1…m.
        fs: sample rate in Hz.
        mfft: FFT length, at least m; zeros follow the windowed samples. m by default.
        dual_win: synthesis window, float64[m]; the canonical dual window by default.
        phase_shift: 0 references phases to the middle of the window as scipy does, another integer
            to that many samples behind it, None to its first sample.
        win_length: m of a window given by name, ``mfft`` by default.
        backend: ``auto``, ``c`` or ``numpy``.

    Raises:
        SpecError: an FFT length that is not 2^a·3^b·5^c in 64…4096, a window that is longer or
            outside [0, 1], a hop outside 1…m, or a dual window that is none.
    """

    def __init__(
        self,
        win: str | ArrayLike,
        hop: int,
        fs: float,
        *,
        mfft: int | None = None,
        dual_win: ArrayLike | None = None,
        phase_shift: int | None = 0,
        win_length: int | None = None,
        backend: str = "auto",
    ) -> None:
        if not fs > 0:
            raise SpecError(f"fs is {fs} Hz, must be positive")
        samples = self._window(win, mfft, win_length)
        self._mfft = len(samples) if mfft is None else int(mfft)
        if not 1 <= hop <= len(samples):
            raise SpecError(f"hop is {hop}, must be 1…{len(samples)} (the window's length)")
        if phase_shift is not None and not -self._mfft < phase_shift < self._mfft:
            raise SpecError(f"phase_shift is {phase_shift}, must be None or within ±{self._mfft}")
        self.hop, self.fs, self.phase_shift = int(hop), float(fs), phase_shift
        self._backend = backend
        self._samples = samples
        # samples from the window's first one to the one that phases refer to
        self._origin = 0 if phase_shift is None else (phase_shift + self.m_num_mid) % self.m_num
        self.tables = self._make_tables(win, dual_win)
        self._warn_if_badly_conditioned(dual_win is not None)

    @staticmethod
    def _window(
        win: str | ArrayLike, mfft: int | None, win_length: int | None
    ) -> NDArray[np.float64]:
        if isinstance(win, str):
            if mfft is None or win not in WINDOWS:
                raise SpecError(f"win is {win!r}: give mfft and one of {', '.join(WINDOWS)}")
            samples = make_window(win, mfft if win_length is None else max(win_length, 0))
        else:
            samples = np.array(win, np.float64)
        m = len(samples) if samples.ndim == 1 else 0
        if win_length not in (None, m):
            raise SpecError(f"win_length is {win_length}, but win has {m} samples; leave it out")
        n, name = (m, "win has") if mfft is None else (mfft, "mfft is")
        if not 64 <= n <= 4096 or not is_smooth(n):
            raise SpecError(
                f"{name} {n} samples, must be even, 64…4096, with no prime factor above 5; "
                "a longer mfft takes any window"
            )
        if not 1 <= m <= n:
            raise SpecError(f"win has {m} samples, must be 1…{n} (mfft)")
        if not ((samples >= 0) & (samples <= 1)).all() or not samples.any():
            raise SpecError("win must lie within [0, 1] and not be zero; divide it by its maximum")
        samples.setflags(write=False)
        return samples

    def _make_tables(self, win: str | ArrayLike, dual_win: ArrayLike | None) -> StftTables:
        if dual_win is None:
            if isinstance(win, str):
                return stft_tables(self.mfft, self.hop, win, self.m_num)
            return tables_of_samples(self._samples, self.hop, n_fft=self.mfft)
        dual = np.array(dual_win, np.float64)
        if dual.shape != self._samples.shape or not dual.any():
            raise SpecError(f"dual_win has shape {dual.shape}, must be ({self.m_num},), not zero")
        product = self._samples * dual
        off = max(abs(product[r :: self.hop].sum() - 1) for r in range(self.hop))
        if off > 1e-6:
            raise SpecError(
                f"dual_win is off by {off:.2g} from reconstruction; see scipy's from_dual"
            )
        return tables_of_samples(self._samples, self.hop, dual, self.mfft)

    def _warn_if_badly_conditioned(self, has_dual: bool) -> None:
        if has_dual or self.tables.condition >= EXACT_CONDITION or not self.invertible:
            return
        warnings.warn(
            f"window and hop {self.hop} are badly conditioned (sums of w² differ by a factor "
            f"{1 / self.tables.condition:.0f}): up to {self.round_trip_error} steps of error after "
            "the round trip; use a smaller hop",
            RuntimeWarning,
            stacklevel=3,
        )

    @classmethod
    def from_torch(
        cls,
        n_fft: int,
        hop_length: int | None = None,
        window: str | ArrayLike = "hann",
        fs: float = 16_000,
        backend: str = "auto",
        *,
        win_length: int | None = None,
    ) -> FixedSTFT:
        """Build from the names of ``torch.stft``; phases are then those of torch too.

        torch pads a window of ``win_length`` on both sides; frames lie where ``center=True`` puts
        them, with zeros outside the clip.
        """
        hop = (win_length or n_fft) // 4 if hop_length is None else hop_length
        made = cls(
            window, hop, fs, mfft=n_fft, phase_shift=None, win_length=win_length, backend=backend
        )
        made._origin = -((n_fft - made.m_num) // 2)
        return made

    @classmethod
    def from_scipy(cls, sft: Any, backend: str = "auto") -> FixedSTFT:
        """Build from a ``scipy.signal.ShortTimeFFT`` with a real window and ``onesided`` bins."""
        shift = sft.phase_shift
        return cls(sft.win, sft.hop, sft.fs, mfft=sft.mfft, phase_shift=shift, backend=backend)

    @property
    def m_num(self) -> int:
        """Samples of the window."""
        return len(self._samples)

    @property
    def mfft(self) -> int:
        """Length of the FFT."""
        return self._mfft

    @property
    def m_num_mid(self) -> int:
        """Sample of the window that a frame's time refers to."""
        return self.m_num // 2

    @property
    def win(self) -> NDArray[np.float64]:
        """Analysis window, read-only."""
        return self._samples

    @property
    def dual_win(self) -> NDArray[np.float64]:
        """Synthesis window as the integers have it."""
        scale = 2.0 ** (-31 - self.tables.dual_exponent) * self.mfft
        values: NDArray[np.float64] = self.tables.dual.astype(np.float64) * scale
        return values

    @property
    def invertible(self) -> bool:
        """True when overlap-add with the canonical dual window can give the samples back."""
        return self.tables.condition > 0

    @property
    def round_trip_error(self) -> int:
        """Largest error in int16 steps after analysis and synthesis, warm-up left out.

        0 for well-conditioned windows up to mfft 1024, 1 for longer ones; with other windows
        mantissa noise (118 dB under a frame's peak) is amplified by the largest over the smallest
        sum of squared windows.
        """
        if self.tables.condition >= EXACT_CONDITION:
            return 0 if self.mfft <= EXACT_MFFT else 1
        if not self.invertible:
            return 32768
        noise = 32768 * self.mfft**0.5 * 10 ** (-118 / 20) / self.tables.condition
        return min(32768, int(np.ceil(noise)))

    @property
    def delay_samples(self) -> int:
        """Samples by which ``stream().pull`` lags behind ``push``."""
        return self.m_num - self.hop

    @property
    def f_pts(self) -> int:
        """Number of bins."""
        return self.mfft // 2 + 1

    @property
    def T(self) -> float:  # noqa: N802  scipy's name
        """Seconds between samples."""
        return 1 / self.fs

    @property
    def delta_f(self) -> float:
        """Hz between bins."""
        return self.fs / self.mfft

    @property
    def f(self) -> NDArray[np.float64]:
        """Frequencies of the bins in Hz."""
        return np.arange(self.f_pts) * self.delta_f

    @property
    def delta_t(self) -> float:
        """Seconds between frames."""
        return self.hop / self.fs

    def _support(self) -> tuple[int, int]:
        """First sample of the window that is not zero, and one after the last."""
        nonzero = np.flatnonzero(self._samples)
        return int(nonzero[0]), int(nonzero[-1]) + 1

    @property
    def p_min(self) -> int:
        """First frame that touches a sample of a clip."""
        return -((self._support()[1] - 1 - self.m_num_mid) // self.hop)

    def p_max(self, n: int) -> int:
        """One after the last frame that touches a sample of a clip of ``n``."""
        return (n - 1 + self.m_num_mid - self._support()[0]) // self.hop + 1

    @property
    def k_min(self) -> int:
        """First sample of frame ``p_min``, at most 0."""
        return self.p_min * self.hop - self.m_num_mid

    def k_max(self, n: int) -> int:
        """One after the last sample of frame ``p_max(n) - 1``."""
        return (self.p_max(n) - 1) * self.hop + self.m_num - self.m_num_mid

    @property
    def lower_border_end(self) -> tuple[int, int]:
        """First sample and first frame that zeros in front of a clip do not touch."""
        start = self.m_num_mid - self._support()[0]  # of frame 0, before sample 0
        frame = max(1, -(-start // self.hop))
        return (frame - 1) * self.hop - start + self.m_num, frame

    def upper_border_begin(self, n: int) -> tuple[int, int]:
        """First sample and first frame that zeros behind a clip of ``n`` samples touch."""
        frame = (n - self._support()[1] + self.m_num_mid) // self.hop + 1
        return frame * self.hop - self.m_num_mid, frame

    def p_num(self, n: int) -> int:
        """Frames of a clip of ``n`` samples."""
        return self.p_max(n) - self.p_min

    def t(self, n: int) -> NDArray[np.float64]:
        """Times of the frames of a clip of ``n`` samples in seconds."""
        return np.arange(self.p_min, self.p_max(n)) * self.delta_t

    def _turned(
        self, re: NDArray[np.int32], im: NDArray[np.int32], way: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Refer phases [frames, bins] to the origin (way 1), or back to the first sample (-1).

        Multiplied by exp(±2·pi·i·origin·bin/mfft) through the Q31 circle; half turns are exact.
        """
        index = way * self._origin * np.arange(self.f_pts) % self.mfft
        if 2 * self._origin % self.mfft == 0:  # every factor is 1 or -1
            sign = (1 - 2 * (index > 0)).astype(np.int32)
            return re * sign, im * sign
        c, s = self.tables.cosine[index], self.tables.sine[index]
        turned = rdm(re, c) - rdm(im, s), rdm(re, s) + rdm(im, c)
        real, imag = (np.clip(v, -(2**31), 2**31 - 1).astype(np.int32) for v in turned)
        return real, imag

    def stft(self, x: ArrayLike) -> BlockSpectrum:
        """Transform int16[..., samples] (or float in [-1, 1)) as scipy frames it."""
        pcm = pcm_from(x)
        clips = pcm.reshape(-1, pcm.shape[-1]) if pcm.size else np.zeros((0, 0), np.int16)
        if not pcm.size:
            raise StreamError(f"clip has shape {pcm.shape}, must hold samples")
        n = pcm.shape[-1]
        warm_up = -(-self.m_num // self.hop)  # hops that fill the first frame
        first = self.k_min  # its first sample
        lead = self.hop * warm_up - self.m_num - first
        hops = warm_up - 1 + self.p_num(n)
        padded = np.zeros(hops * self.hop, np.int16)
        engine = block_engine(self.tables, self._backend)
        parts = []
        for clip in clips:
            padded[lead : lead + n] = clip[: len(padded) - lead]
            engine.reset()
            re, im, e = (part[warm_up - 1 :] for part in engine.push(padded))
            re, im = self._turned(re, im, 1)
            parts.append((re.T, im.T, e))
        lead_shape = pcm.shape[:-1]
        re, im, e = (
            np.stack(p).reshape(*lead_shape, *p[0].shape) for p in zip(*parts, strict=True)
        )
        return BlockSpectrum(re, im, e)

    def istft(self, s: BlockSpectrum, k0: int = 0, k1: int | None = None) -> NDArray[np.int16]:
        """Samples k0…k1 of what :meth:`stft` transformed, int16[..., k1 - k0].

        Args:
            s: spectrum whose first frame is ``p_min``.
            k0: first sample.
            k1: one after the last; by default the last sample that the frames determine.

        Raises:
            SpecError: window and hop cannot be inverted.
            StreamError: a spectrum of another number of bins, or k0, k1 out of order.
        """
        if not self.invertible:
            raise SpecError(f"window and hop {self.hop} cannot be inverted; use a smaller hop")
        if s.re.shape[-2] != self.f_pts or s.re.shape != s.im.shape:
            raise StreamError(f"spectrum has {s.re.shape[-2]} bins, this STFT has {self.f_pts}")
        first = self.k_min
        end = first + (s.frames - 1) * self.hop + self.m_num
        k1 = end if k1 is None else k1
        if not first <= k0 <= k1 <= end:
            raise StreamError(f"k0, k1 are {k0}, {k1}; must be ordered and within {first}…{end}")
        flush = -(-self.m_num // self.hop)
        engine, out = block_engine(self.tables, self._backend), []
        shape = s.re.shape[:-2]
        for re, im, e in zip(
            s.re.reshape(-1, *s.re.shape[-2:]),
            s.im.reshape(-1, *s.im.shape[-2:]),
            s.exp.reshape(-1, s.frames),
            strict=True,
        ):
            engine.reset()
            re, im = self._turned(re.T, im.T, -1)
            silence = np.zeros((flush, self.f_pts), np.int32)
            pcm = engine.pull(
                np.concatenate([re, silence]),
                np.concatenate([im, silence]),
                np.concatenate([e, np.zeros(flush, np.int32)]),
            )
            out.append(pcm[k0 - first : k1 - first])
        clips: NDArray[np.int16] = np.stack(out).reshape(*shape, k1 - k0)
        return clips

    def spectrogram(self, x: ArrayLike) -> NDArray[np.float64]:
        """|STFT|² as float64[..., bins, frames], in squared int16 units."""
        spectrum = self.stft(x).to_complex()
        power: NDArray[np.float64] = np.square(spectrum.real) + np.square(spectrum.imag)
        return power

    def stream(self) -> StftStream:
        """A causal stream: push any number of samples, pull what frames complete."""
        return StftStream(self, block_engine(self.tables, self._backend))


class StftStream:
    """Causal hop-by-hop transform of one channel; the frame ends with the newest sample.

    Phases refer to the first sample of the frame. ``pull`` lags ``delay_samples`` behind ``push``.
    """

    def __init__(self, owner: FixedSTFT, engine: BlockEngine) -> None:
        self._owner, self._engine = owner, engine
        self._rest = np.zeros(0, np.int16)

    @property
    def backend(self) -> str:
        """``c`` or ``numpy``."""
        return self._engine.name

    def push(self, block: ArrayLike) -> BlockSpectrum:
        """Take samples [any number], return the frames they complete (maybe none)."""
        pcm = np.concatenate([self._rest, pcm_from(block)])
        whole = len(pcm) // self._owner.hop * self._owner.hop
        self._rest = pcm[whole:]
        re, im, e = self._engine.push(pcm[:whole])
        return BlockSpectrum(re.T, im.T, e)

    def pull(self, s: BlockSpectrum) -> NDArray[np.int16]:
        """Take frames, return int16[frames·hop]."""
        if s.re.shape[0] != self._owner.f_pts:
            raise StreamError(f"spectrum has {s.re.shape[0]} bins, needs {self._owner.f_pts}")
        return self._engine.pull(s.re.T, s.im.T, s.exp)

    def bind(
        self,
        block: NDArray[np.int16],
        re: NDArray[np.int32],
        im: NDArray[np.int32],
        out: NDArray[np.int16],
    ) -> BoundCalls:
        """Bind buffers once, so that a hop costs no conversion: what a real-time loop wants.

        Args:
            block: int16[hop], read by ``analyze``.
            re: int32[bins], written by ``analyze``, read by ``synthesize``.
            im: the same.
            out: int16[hop], written by ``synthesize``, ``delay_samples`` late.

        Returns:
            ``analyze() -> exponent`` and ``synthesize(exponent)``. They share the past with
            ``push`` and ``pull``.

        Raises:
            StreamError: a buffer of another shape or dtype, or not contiguous; or samples that a
                push left over.
        """
        hop, bins = self._owner.hop, self._owner.f_pts
        for name, buffer, size, dtype in (
            ("block", block, hop, np.int16),
            ("re", re, bins, np.int32),
            ("im", im, bins, np.int32),
            ("out", out, hop, np.int16),
        ):
            if buffer.shape != (size,) or buffer.dtype != dtype or not buffer.flags.c_contiguous:
                seen = f"{buffer.dtype}{list(buffer.shape)}"
                raise StreamError(f"{name} is {seen}, must be contiguous {dtype.__name__}[{size}]")
        if len(self._rest):
            raise StreamError(f"{len(self._rest)} samples wait for the rest of a hop; reset first")
        return self._engine.bound(block, re, im, out)

    def reset(self) -> None:
        """Forget everything."""
        self._rest = np.zeros(0, np.int16)
        self._engine.reset()
