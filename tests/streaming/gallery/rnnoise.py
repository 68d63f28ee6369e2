"""Three GRUs that share what they found: voice activity, noise, band gains."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry


class RnNoise(nn.Module):
    def __init__(self, features: int = 42, bands: int = 22) -> None:
        super().__init__()
        self.dense = nn.Linear(features, 24)
        self.vad_gru, self.vad = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 1)
        self.noise_gru = nn.GRU(24 + 24 + features, 32, batch_first=True)
        self.gain_gru = nn.GRU(24 + 32 + features, 40, batch_first=True)
        self.gains = nn.Linear(40, bands)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:  # [batch, frames, 42]
        x = torch.tanh(self.dense(features))
        voice = self.vad_gru(x)[0]
        noise = self.noise_gru(torch.cat([x, voice, features], dim=-1))[0]
        y = self.gain_gru(torch.cat([voice, noise, features], dim=-1))[0]
        return {"gains": torch.sigmoid(self.gains(y)), "vad": torch.sigmoid(self.vad(voice))}


def entry() -> Entry:
    return Entry(RnNoise(), (torch.randn(1, 8, 42),), 1)
