"""Scales whose ratios have odd denominators: no value near a rounding boundary."""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

import spectral_edge as se
from spectral_edge.calibration.separate import odd_fraction


@given(st.floats(1e-5, 3.0))
def test_fraction_lies_in_its_interval_and_has_an_odd_denominator(ratio: float) -> None:
    found = odd_fraction(ratio * 0.995, ratio * 1.05)
    assert found is not None
    assert ratio * 0.995 * (1 - 1e-12) <= found <= ratio * 1.05 * (1 + 1e-12)
    assert Fraction(found).limit_denominator(1 << 24).denominator % 2 == 1


def test_an_empty_interval_gives_no_fraction() -> None:
    assert odd_fraction(0.5, 0.5) is None


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(4, 8, 3)
        self.b = nn.Conv1d(8, 8, 1)
        self.g = nn.Conv1d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.a(F.pad(x, (2, 0))))
        x = x + self.b(x)
        return x + self.b(x) * torch.sigmoid(self.g(x))


def test_every_ratio_that_is_rounded_has_an_odd_denominator() -> None:
    torch.manual_seed(0)
    program = se.streamify(Residual().eval(), torch.randn(1, 4, 8), 2)
    int8 = se.quantize(program, [(torch.randn(1, 4, 200),)])
    ratios = list(_ratios(int8.module))
    assert len(ratios) >= 5
    for ratio in ratios:
        # float32 scales hold the ratio to 2^-22; the fraction has a denominator below 2^15
        found = Fraction(ratio).limit_denominator(1 << 13)
        assert abs(float(found) / ratio - 1) < 2**-21
        assert found.denominator % 2 == 1


def _ratios(module: torch.fx.GraphModule) -> list[float]:
    """Return scale ratios of sums (each operand) and convolutions (each channel)."""
    aten = torch.ops.aten
    found: list[float] = []
    for node in module.graph.nodes:
        if node.target not in (aten.add.Tensor, aten.conv1d.default):
            continue
        (user,) = node.users
        if user.target is aten.relu6.default:
            (user,) = user.users
        out = user.args[1]
        first = node.args[0].args[1]
        if node.target is aten.add.Tensor:
            found += [first / out, node.args[1].args[1] / out]
        else:
            weights = getattr(module, node.args[1].args[1].target)
            found += [first * float(w) / out for w in weights]
    return found
