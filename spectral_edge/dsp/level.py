"""Running power of the input: the golden model of ``update_level`` in ``se_frontend.c``.

P <- P + alpha·(min(E, 8·P) - P), not below a floor, where E is the mean square of a hop. P is Q16
in squared int16 units; alpha = 1 - exp(-hop/(2 s · rate)) has a 16-bit mantissa.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from spectral_edge.frontend import (
    LEVEL_ATTACK_RATIO,
    LEVEL_FLOOR_DBFS,
    LEVEL_START_DBFS,
    LEVEL_TAU_SECONDS,
    StftFrontend,
)

from .qformat import LOG_ONE, Ints, log2_q24
from .tables import log2_table

__all__ = ["LevelRule", "running_level"]

FULL_SCALE_POWER = 1 << 46  # 32768^2, Q16


def _exp_minus(x: Fraction) -> Fraction:
    """e^-x for 0 <= x <= 1, exact to 1e-30, without libm."""
    total = term = Fraction(1)
    for k in range(1, 40):
        term = -term * x / k
        total += term
    return total


def _power_of_dbfs(dbfs: int) -> int:
    """(32768·10^(dbfs/20))² in Q16 for a whole negative ``dbfs``, by an integer tenth root."""
    power_ten = 10 ** (-dbfs)  # (10^(-dbfs/10))^10
    scale = 10**30
    low, high = 0, scale * (10 ** (-dbfs // 10 + 1))
    while low < high:  # floor(scale · power_ten^(1/10))
        middle = (low + high + 1) // 2
        if middle**10 <= power_ten * scale**10:
            low = middle
        else:
            high = middle - 1
    return (FULL_SCALE_POWER * scale + low // 2) // low


@dataclass(frozen=True)
class LevelRule:
    """Integers of the level tracker of one front end (0 in ``alpha_mantissa``: level is fixed)."""

    running: bool
    start: int
    floor: int
    alpha_mantissa: int
    alpha_shift: int

    @classmethod
    def of(cls, frontend: StftFrontend) -> LevelRule:
        """Derive the integers from a front end."""
        if frontend.level == "none":
            return cls(False, FULL_SCALE_POWER, 1 << 16, 0, 1)
        time = Fraction(frontend.hop_length, frontend.sample_rate) / Fraction(LEVEL_TAU_SECONDS)
        alpha = 1 - _exp_minus(time)
        shift = 16
        while alpha * 2**shift < 2**15:
            shift += 1
        return cls(
            running=True,
            start=_power_of_dbfs(round(LEVEL_START_DBFS)),
            floor=_power_of_dbfs(round(LEVEL_FLOOR_DBFS)),
            alpha_mantissa=round(alpha * 2**shift),
            alpha_shift=shift,
        )

    def update(self, power: int, energy: int, hop_length: int) -> int:
        """One hop: the new power from the hop's sum of squares."""
        if not self.running:
            return power
        mean = min(((energy << 16) + hop_length // 2) // hop_length, LEVEL_ATTACK_RATIO * power)
        product = (mean - power) * self.alpha_mantissa
        power += (product + (1 << (self.alpha_shift - 1))) >> self.alpha_shift
        return max(power, self.floor)


def running_level(
    rule: LevelRule, power: int, pcm: NDArray[np.int16], hop_length: int
) -> tuple[Ints, int]:
    """Follow a clip: log2 sqrt(P) in Q24 per hop, and the power after the last one."""
    hops = pcm.reshape(-1, hop_length).astype(np.int64)
    powers = []
    for energy in (hops * hops).sum(axis=1).tolist():
        power = rule.update(power, energy, hop_length)
        powers.append(power)
    logs = log2_q24(np.array(powers, np.int64), log2_table()) - 16 * LOG_ONE
    return logs >> 1, power
