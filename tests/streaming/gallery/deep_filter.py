"""Band gains and, for the lowest bins, complex filters over five frames (one ahead)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.gallery.entry import Entry, causal2d

TAPS, AHEAD, LOW = 5, 1, 8


class DeepFilter(nn.Module):
    def __init__(self, bins: int = 33, bands: int = 16, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=(0, 1))
        self.time = nn.GRU(4 * bands, width, batch_first=True)
        self.gains, self.filters = nn.Linear(width, bands), nn.Linear(width, LOW * TAPS * 2)
        self.widen = nn.Linear(bands, bins, bias=False)

    def forward(self, spectrum: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        # spectrum [batch, 2, frames, bins], energy [batch, frames, bands]
        x = F.relu(self.conv(causal2d(energy.unsqueeze(1), 3)))
        h = self.time(x.permute(0, 2, 1, 3).flatten(2))[0]
        gain = torch.sigmoid(self.widen(torch.sigmoid(self.gains(h)))).unsqueeze(1)
        low, high = spectrum[..., :LOW], spectrum[..., LOW:] * gain[..., LOW:]
        coefficients = self.filters(h).reshape(h.shape[0], h.shape[1], LOW, 2, TAPS)
        frames = F.pad(low, (0, 0, TAPS - 1 - AHEAD, AHEAD)).unfold(2, TAPS, 1)
        re, im = frames[:, 0], frames[:, 1]  # [batch, frames, LOW, TAPS]
        a, b = coefficients[..., 0, :], coefficients[..., 1, :]
        filtered = torch.stack([(re * a - im * b).sum(-1), (re * b + im * a).sum(-1)], dim=1)
        return torch.cat([filtered, high], dim=-1)


def entry() -> Entry:
    example = (torch.randn(1, 2, 8, 33), torch.randn(1, 8, 16))
    return Entry(DeepFilter(), example, (2, 1), delay=AHEAD)
