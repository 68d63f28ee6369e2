"""Two inputs (band features and pitch), convolutions, stacked GRUs, gains and strengths."""

from __future__ import annotations

import torch
from torch import nn

from tests.streaming.gallery.entry import Entry, causal1d


class PercepNet(nn.Module):
    def __init__(self, bands: int = 34, width: int = 24) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(bands + 2, width, 5), nn.Conv1d(width, width, 3)
        self.grus = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(3))
        self.pitch_gru = nn.GRU(2 * width, width, batch_first=True)
        self.gains, self.strength = nn.Linear(4 * width, bands), nn.Linear(width, bands)

    def forward(
        self, bands: torch.Tensor, pitch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:  # [batch, frames, 34], [batch, frames, 2]
        x = torch.cat([bands, pitch], dim=-1).transpose(1, 2)
        x = torch.relu(self.first(causal1d(x, 5)))
        x = torch.tanh(self.second(causal1d(x, 3))).transpose(1, 2)
        outputs = [x]
        for gru in self.grus:
            outputs.append(gru(outputs[-1])[0])
        pitch_state = self.pitch_gru(torch.cat([outputs[-1], x], dim=-1))[0]
        gains = torch.sigmoid(self.gains(torch.cat([*outputs[1:], pitch_state], dim=-1)))
        return gains, torch.sigmoid(self.strength(pitch_state))


def entry() -> Entry:
    return Entry(PercepNet(), (torch.randn(1, 8, 34), torch.randn(1, 8, 2)), 1)
