"""Models from waveform to waveform are split: transforms to the front end, the rest streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import spectral_edge as se
from spectral_edge.dsp.simulate import FrontendSimulation
from spectral_edge.errors import NotStreamable
from spectral_edge.frontend import make_window
from tests.tolerances import STEP_EQUALS_CLIP_RELATIVE

N_FFT, HOP, BINS = 128, 64, 65


class Denoiser(nn.Module):
    """GRU over frames between torch.stft and torch.istft; ``between`` says how it is used."""

    def __init__(
        self,
        between: Callable[[Denoiser, torch.Tensor], torch.Tensor],
        outputs: int = BINS,
        *,
        lead: int = 0,
        normalized: bool = False,
        window: str = "hamming",
        center: bool = False,
    ) -> None:
        super().__init__()
        self.between, self.lead = between, lead
        self.gru, self.out = nn.GRU(BINS, 24, batch_first=True), nn.Linear(24, outputs)
        self.register_buffer("window", torch.tensor(make_window(window, N_FFT)).float())
        self.options = {"center": center, "normalized": normalized, "window": self.window}

    def network(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, bins, frames] -> [batch, outputs, frames]."""
        return self.out(self.gru(x.transpose(1, 2))[0]).transpose(1, 2)  # type: ignore[no-any-return]

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        padded = F.pad(wave, (self.lead, 0))
        spectrum = torch.stft(padded, N_FFT, HOP, return_complex=True, **self.options)
        out = torch.istft(self.between(self, spectrum), N_FFT, HOP, **self.options)
        return out[..., self.lead :]


def real_mask(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    return spectrum * torch.sigmoid(net.network(spectrum.abs()))


def polar(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    magnitude, phase = spectrum.abs(), torch.angle(spectrum)
    return torch.polar(magnitude * torch.sigmoid(net.network(magnitude)), phase)


def polar_by_exp(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    magnitude, phase = torch.abs(spectrum), spectrum.angle()
    return torch.sigmoid(net.network(magnitude)) * magnitude * torch.exp(1j * phase)


def complex_mask(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    re, im = net.network(spectrum.real + spectrum.imag).chunk(2, dim=1)
    return spectrum * torch.complex(torch.tanh(re), torch.tanh(im))


def by_hand(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(spectrum)
    re, im = parts[..., 0], parts[..., 1]
    a, b = net.network(re).chunk(2, dim=1)
    return torch.view_as_complex(torch.stack((re * a - im * b, re * b + im * a), dim=-1))


def with_channel_axis(net: Denoiser, spectrum: torch.Tensor) -> torch.Tensor:
    wide = spectrum.unsqueeze(1)
    mask = torch.sigmoid(net.network(wide.abs().squeeze(1))).unsqueeze(1)
    return (wide * mask).squeeze(1)


CASES = {
    "real mask": (lambda: Denoiser(real_mask), ("mag",), "mask"),
    "left padding": (lambda: Denoiser(real_mask, lead=N_FFT - HOP), ("mag",), "mask"),
    "normalized": (lambda: Denoiser(real_mask, normalized=True), ("mag",), "mask"),
    "rectangular": (lambda: Denoiser(real_mask, window="rect"), ("mag",), "mask"),
    "polar": (lambda: Denoiser(polar), ("mag",), "mask"),
    "polar by exp": (lambda: Denoiser(polar_by_exp), ("mag", "re", "im"), "mask_bias"),
    "complex mask": (lambda: Denoiser(complex_mask, 2 * BINS), ("re", "im"), "complex_mask"),
    "by hand": (lambda: Denoiser(by_hand, 2 * BINS), ("re", "im"), "mask_bias"),
    "channel axis": (lambda: Denoiser(with_channel_axis), ("mag",), "mask"),
}


@pytest.mark.parametrize("name", CASES)
def test_split(name: str) -> None:
    make, features, head = CASES[name]
    torch.manual_seed(0)
    program = se.streamify(make(), torch.zeros(1, 1024), 1)
    frontend = program.frontend
    assert frontend is not None
    assert (frontend.n_fft, frontend.hop_length) == (N_FFT, HOP)
    assert (frontend.features, frontend.head) == (features, head)
    assert program.inputs[0].shape == (1, len(features), 1, BINS)


def test_front_end_and_program_give_the_waveform_of_the_model() -> None:
    """From rest: a model that pads its clip by n_fft - hop zeros starts like the device."""
    torch.manual_seed(0)
    model = Denoiser(real_mask, lead=N_FFT - HOP).eval()
    program = se.streamify(model, torch.zeros(1, 1024), 1, sample_rate=8_000)
    assert program.frontend is not None
    assert program.frontend.sample_rate == 8_000
    wave = torch.randn(2, 40 * HOP)
    front = FrontendSimulation(program.frontend)
    features, context = front.analyze(wave)
    with torch.no_grad():
        got, wanted = front.synthesize(program.run(features), context), model(wave)
    inner = slice(0, wanted.shape[1] - N_FFT)  # torch.istft has no frames after the clip
    error = (got[:, inner] - wanted[:, inner]).abs().max() / wanted.abs().max()
    assert error <= 10 * STEP_EQUALS_CLIP_RELATIVE


class ConvStft(nn.Module):
    """Transforms as convolutions, real and imaginary parts as channels."""

    def __init__(self, sign: float = -1.0) -> None:
        super().__init__()
        n, k = np.arange(N_FFT), np.arange(BINS)
        window = make_window("sqrt_hann", N_FFT)
        angle = 2 * np.pi * np.outer(k, n) / N_FFT
        there = np.concatenate((np.cos(angle), sign * np.sin(angle))) * window
        weight = np.full((BINS, 1), 2.0)
        weight[[0, -1]] = 1.0
        back = np.concatenate((weight * np.cos(angle), sign * weight * np.sin(angle)))
        back *= window / N_FFT  # the overlap of squared windows at hop n/2 is 1
        self.register_buffer("there", torch.tensor(there[:, None]).float())
        self.register_buffer("back", torch.tensor(back[:, None]).float())
        self.gru, self.out = nn.GRU(2 * BINS, 24, batch_first=True), nn.Linear(24, 2 * BINS)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:  # [batch, 1, samples]
        packed = F.conv1d(wave, self.get_buffer("there"), stride=HOP)
        gain = torch.sigmoid(self.out(self.gru(packed.transpose(1, 2))[0])).transpose(1, 2)
        return F.conv_transpose1d(packed * gain, self.get_buffer("back"), stride=HOP)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_convolutions_with_a_fourier_basis(sign: float) -> None:
    torch.manual_seed(0)
    program = se.streamify(ConvStft(sign), torch.zeros(1, 1, 1024), 2)
    assert program.frontend is not None
    assert program.frontend.window == "sqrt_hann"
    assert program.frontend.features == ("re", "im")
    assert program.frontend.head == "mask_bias"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["real mask", "complex mask", "by hand"])
def test_a_split_model_becomes_bundles_that_enhance(name: str, tmp_path: Path) -> None:
    """Float: the device's audio is the model's. Int8: engines agree, and audio comes out."""
    torch.manual_seed(0)
    make = {
        "real mask": lambda: Denoiser(real_mask, lead=N_FFT - HOP),
        "complex mask": lambda: Denoiser(complex_mask, 2 * BINS, lead=N_FFT - HOP),
        "by hand": lambda: Denoiser(by_hand, 2 * BINS, lead=N_FFT - HOP),
    }[name]
    model = make().eval()
    program = se.streamify(model, torch.zeros(1, 1024), 1)
    pcm = np.random.default_rng(0).integers(-8000, 8000, 16_000).astype(np.int16)
    wave = torch.tensor(pcm[None] / 32768).float()
    with torch.no_grad():
        wanted = 32768 * model(wave)[0].numpy()

    whole = se.open(se.export(program, tmp_path / "float.seb")).process(pcm)
    inner = slice(0, len(wanted) - N_FFT)  # torch.istft has no frames after the clip
    assert np.abs(whole[inner] - wanted[inner]).max() <= 1.5  # of int16

    assert program.frontend is not None
    clips = [(FrontendSimulation(program.frontend).analyze(wave)[0],)]
    bundle = se.export(se.quantize(program, clips), tmp_path / "int8.seb")
    report = se.check(bundle, engines=["litert", "onnxruntime"])
    assert report.passed, report.table()
    session = se.open(bundle)
    coded = session.process(pcm)
    assert snr_db(wanted[inner], coded[inner]) > 10
    if name != "by hand":  # whose codes for a mask know only zero
        (stream,) = session.streams
        stream.fifo.run = stream.bypass
        assert snr_db(pcm, session.process(pcm)) > 30  # the largest code may lie just below 1


def snr_db(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal to difference in dB."""
    return float(10 * np.log10(np.sum(wanted**2.0) / (np.sum((wanted * 1.0 - got) ** 2) + 1e-9)))


REFUSED = {
    "centred frames": (lambda: Denoiser(real_mask, center=True), "center=True"),
    "no inverse": (lambda: Analyser(), "istft 0 times"),
    "gain before": (lambda: Around(before=lambda x: x * 2), "changes the waveform before"),
    "gain after": (lambda: Around(after=lambda x: x * 2), "not the overlap-add"),
    "reversed": (lambda: Around(after=lambda x: x.flip(-1)), "not the overlap-add"),
    "unknown window": (lambda: Analyser(torch.linspace(0.1, 1, N_FFT)), "none of sqrt_hann"),
    "log of complex": (lambda: Denoiser(lambda net, x: x.log()), "'log'"),
    "odd size": (lambda: Analyser(torch.ones(2 * 67), 2 * 67), "no prime factor"),
}  # fmt: skip


class Analyser(nn.Module):
    def __init__(self, window: torch.Tensor | None = None, n_fft: int = N_FFT) -> None:
        super().__init__()
        self.window, self.n_fft = window, n_fft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            x, self.n_fft, HOP, window=self.window, center=False, return_complex=True
        )
        return spectrum.abs()


class Around(nn.Module):
    def __init__(
        self,
        before: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
        after: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.before, self.net, self.after = before, Denoiser(real_mask), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.net(self.before(x)))


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(NotStreamable, match=words) as caught:
        se.streamify(make(), torch.randn(1, 1024), 1)
    assert "\n" not in str(caught.value)
