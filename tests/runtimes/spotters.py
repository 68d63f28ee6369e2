"""Small classifiers with weights set by hand: they tell low from high tones, and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import spectral_edge as se
from spectral_edge.models.window import window_program

RATE = 16_000
BORDER_HZ = 1_150  # between the bands 31 and 32
LABELS = ("quiet", "low", "high")
FRONTEND = se.LogMelFrontend()
PICTURES = se.ImageFrontend(8, 8)
COLOURS = ("red", "green", "blue")
POLICY = se.DetectionPolicy(threshold=0.6, refractory=0.8, ignore=("quiet",), smoothing_seconds=0.1)


def tone_weights(frames: int) -> tuple[Tensor, Tensor]:
    """Kernel [3, 1, frames, 64] and bias [3] of (quiet, low, high)."""
    low, high = torch.zeros(64), torch.zeros(64)
    low[:32], high[32:] = 1 / 32, 1 / 32
    rows = torch.stack([-4 * (low + high), 4 * low, 4 * high])
    return rows[:, None, None].repeat(1, 1, frames, 1) / frames, torch.tensor([-6.0, 0.0, 0.0])


class Stream(nn.Module):
    """One row of logits per ``step`` frames, from the newest ``reach`` of them."""

    def __init__(self, reach: int, step: int = 1) -> None:
        super().__init__()
        self.reach, self.conv = reach, nn.Conv2d(1, 3, (reach, 64), stride=(step, 1))
        self.past = reach - step
        with torch.no_grad():
            for parameter, value in zip(self.conv.parameters(), tone_weights(reach), strict=True):
                parameter.copy_(value)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.pad(features, (0, 0, self.past, 0))).squeeze(3).transpose(1, 2)


class Window(nn.Module):
    """Logits of a window of 20 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, (20, 64))
        with torch.no_grad():
            for parameter, value in zip(self.conv.parameters(), tone_weights(20), strict=True):
                parameter.copy_(value)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features).flatten(1)


class Colour(nn.Module):
    """Logits from the mean of each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 8)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None].repeat(1, 1, 8, 8) / 16)
            self.conv.bias.zero_()  # type: ignore[union-attr]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv(pixels).flatten(1)


def tones(*parts: tuple[float, float], level: float = 3000.0) -> NDArray[np.int16]:
    """(Hz, seconds) one after the other: noise below or above 1.1 kHz, a pause at 0 Hz."""
    rng = np.random.default_rng(3)
    pieces = []
    for hertz, seconds in parts:
        noise = rng.standard_normal(int(seconds * RATE))
        spectrum = np.fft.rfft(noise)
        bins = np.fft.rfftfreq(len(noise), 1 / RATE)
        spectrum[(bins < BORDER_HZ) != (hertz < BORDER_HZ)] = 0
        shaped = np.fft.irfft(spectrum, len(noise))
        pieces.append(level * shaped * bool(hertz) + rng.standard_normal(len(noise)) * 3)
    return np.rint(np.concatenate(pieces)).astype(np.int16)


def spotter(kind: str, path: Path, precision: str = "w8a8", **choices: object) -> Path:
    """Export one of ``stream``, ``patch``, ``window``, ``colour``."""
    frames = torch.from_numpy(
        FRONTEND.features(tones((0, 1), (400, 1), (0, 0.5), (3000, 1), (0, 0.5)))
    )
    if kind == "colour":
        pixels = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        pixels[:3] = torch.eye(3)[:, :, None, None] * 2 - 1
        program, sequences = window_program(Colour().eval(), pixels), [(pixels,)]
    elif kind == "window":
        windows = frames.unfold(0, 20, 8).transpose(1, 2)[:, None].contiguous()
        program, sequences = window_program(Window().eval(), windows), [(windows,)]
    else:
        model = (Stream(6) if kind == "stream" else Stream(8, 4)).eval()
        clip = frames[None, None]
        program = se.streamify(model, clip[:, :, :64], time_dim=2)
        sequences = [(clip,)]
    if precision == "w8a8":
        program = se.quantize(program, sequences)
    else:
        program = program.with_(golden_inputs=sequences[0])
    if kind == "colour":
        labels = se.Classifier(COLOURS, **choices)  # type: ignore[arg-type]
        return se.export(program, path, frontend=PICTURES, labels=labels).path
    settings = {"policy": POLICY, "window_hop": 5 if kind == "window" else None, **choices}
    labels = se.Classifier(LABELS, **settings)  # type: ignore[arg-type]
    return se.export(program, path, frontend=FRONTEND, labels=labels).path
