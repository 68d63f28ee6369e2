"""Counters, clocks and lookahead below the full rate: whole numbers that engines count, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import spectral_edge as se


class CountsFrames(nn.Module):
    """Mean of all frames so far, by a sum of ones in int64."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, frames, 8]
        ones = torch.ones_like(x[:, :, :1], dtype=torch.int64)
        y: torch.Tensor = self.out(x.cumsum(1) / ones.cumsum(1).to(x.dtype))
        return y


class NumbersFrames(nn.Module):
    """Mean of all frames so far, by their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number = torch.arange(1, x.shape[1] + 1).to(x.dtype).reshape(1, -1, 1)
        y: torch.Tensor = self.out(x.cumsum(1) / number)
        return y


class HalfRateAhead(nn.Module):
    """Looks ahead at half the frame rate, with a recurrence in between."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.before = nn.Conv1d(8, 8, 2, 2), nn.Conv1d(8, 8, 3, padding=1)
        self.gru, self.after = nn.GRU(8, 8, batch_first=True), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(self.down(x.transpose(1, 2)))
        y = self.after(self.gru(y.transpose(1, 2))[0].transpose(1, 2))
        return y.repeat_interleave(2, 2)[:, :, : x.shape[1]].transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [CountsFrames, NumbersFrames, HalfRateAhead])
def test_engines_count_like_torch(make: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = se.streamify(make(), torch.randn(1, 20, 8), 1)
    assert all(s.dtype in ("float32", "int32") for s in program.states.values())
    int8 = se.quantize(program, [(torch.randn(1, 100, 8),) for _ in range(3)])
    bundle = se.export(int8, tmp_path / "counts.seb")
    report = se.check(bundle, engines=["litert", "onnxruntime"])
    assert report.passed, report.table()
    assert all(t.equal == 1.0 for e in report.engines for t in e.tensors), report.table()
