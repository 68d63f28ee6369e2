"""The integer STFT front end in torch: forward as on the device bit for bit, float backward.

For the last epochs and for evaluation; :mod:`spectral_edge.dsp.simulate` is the fast default, whose
error is far below one int8 code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend, make_window

from .blocks import block_engine
from .features import features_q16
from .tables import stft_tables

__all__ = ["ExactFeatures", "ExactSTFT"]


def _to_int16(x: Tensor) -> np.ndarray[Any, np.dtype[np.int16]]:
    """float[..., samples] with full scale 1 to int16, as ``pcm_from`` rounds it."""
    scaled = torch.clamp(torch.round(x.detach().double() * 32768.0), -32768, 32767)
    return scaled.to(torch.int16).cpu().numpy()


class _Forward(torch.autograd.Function):
    """Integer STFT forward; backward is the adjoint of the float STFT with the ideal window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: ExactSTFT) -> Tensor:
        ctx.owner, ctx.samples = owner, x.shape[-1]
        re, im, e = owner.integers(x)
        scale = torch.exp2(-e.double() - 15)[..., None, :]  # int16 samples to full scale 1
        return torch.complex(re.double() * scale, im.double() * scale).to(owner.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return ctx.owner.adjoint(grad[0], ctx.samples), None


class ExactSTFT(nn.Module):
    """Causal STFT of whole clips through the integer transform.

    Hop t ends frame t; before the clip there are zeros (the framing of the device). Samples are
    float with full scale 1; spectra are complex[..., bins, frames] in the same unit.

    Args:
        n_fft: even, 2^a·3^b·5^c, 64…4096.
        hop_length: 1…n_fft.
        window: ``sqrt_hann``, ``hann``, ``hamming`` or ``rect``.
        dtype: complex64 (spectra rounded to float32) or complex128 (exact).
        backend: ``auto``, ``c`` or ``numpy``; same bits.
        window_length: samples of the window, 1…n_fft; zeros follow, n_fft by default.

    Raises:
        SpecError: an unknown window or backend.
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int = 512,
        hop_length: int = 256,
        window: str = "sqrt_hann",
        dtype: torch.dtype = torch.complex64,
        backend: str = "auto",
        window_length: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in (torch.complex64, torch.complex128):
            raise SpecError(f"dtype is {dtype}, must be complex64 or complex128")
        self.n_fft, self.hop_length, self.dtype = n_fft, hop_length, dtype
        m = window_length or n_fft
        self._tables, self._backend = stft_tables(n_fft, hop_length, window, m), backend
        block_engine(self._tables, backend)
        ideal = torch.from_numpy(make_window(window, m).copy())
        self.register_buffer("window", ideal, persistent=False)

    def integers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mantissas int32[..., bins, frames] twice and exponents int32[..., frames]."""
        pcm = _to_int16(x)
        hops = pcm.shape[-1] // self.hop_length
        engine = block_engine(self._tables, self._backend)
        parts = []
        for clip in pcm.reshape(-1, pcm.shape[-1]):
            engine.reset()
            re, im, e = engine.push(clip[: hops * self.hop_length])
            parts.append((re.T, im.T, e))
        re_all, im_all, e_all = (
            torch.from_numpy(np.stack(p)).reshape(*pcm.shape[:-1], *p[0].shape).to(x.device)
            for p in zip(*parts, strict=True)
        )
        return re_all, im_all, e_all

    def float_stft(self, x: Tensor) -> Tensor:
        """The same transform in floating point: what gradients belong to."""
        hops = x.shape[-1] // self.hop_length
        x = x[..., : hops * self.hop_length]
        m = self.window.shape[0]
        padded = nn.functional.pad(x, (m - self.hop_length, 0))
        frames = padded.unfold(-1, m, self.hop_length)
        spectrum: Tensor = torch.fft.rfft(frames * self.window.to(x.dtype), n=self.n_fft)
        return spectrum.transpose(-1, -2)

    def adjoint(self, grad: Tensor, samples: int) -> Tensor:
        """Gradient of ``float_stft`` with respect to [..., samples]."""
        real = torch.float32 if grad.dtype == torch.complex64 else torch.float64
        with torch.enable_grad():
            x = torch.zeros(*grad.shape[:-2], samples, dtype=real, device=grad.device)
            x.requires_grad_(True)
            (out,) = torch.autograd.grad(self.float_stft(x), x, grad)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """float[..., samples] -> complex[..., bins, frames]."""
        return _Forward.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]


class ExactFeatures(nn.Module):
    """Features of a front end, exactly as the device computes them.

    The value is the integer front end's; the gradient is that of ``simulation``, a differentiable
    module from waveform to the same features (straight through the rounding).

    Args:
        frontend: the front end.
        simulation: module float[batch, samples] -> float[batch, channels, frames, bins], or None
            for evaluation without gradients.
        backend: ``auto``, ``c`` or ``numpy``.
    """

    def __init__(
        self, frontend: StftFrontend, simulation: nn.Module | None = None, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.frontend, self.simulation, self._backend = frontend, simulation, backend

    def forward(self, x: Tensor) -> Tensor:
        """float[batch, samples] -> float32[batch, channels, frames, bins]."""
        clips = [features_q16(self.frontend, clip, self._backend) for clip in _to_int16(x)]
        values = torch.from_numpy(np.stack(clips)).to(x.device).float() / 65536
        if self.simulation is None:
            return values
        smooth: Tensor = self.simulation(x)
        return smooth + (values - smooth).detach()
