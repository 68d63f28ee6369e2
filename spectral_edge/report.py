"""Reports: what was measured and what was declared, kept apart, as text and as JSON.

``docs/report-format.md`` describes the JSON; ``schemas/report.schema.json`` is its schema.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.table import text_table

__all__ = [
    "Distribution",
    "EngineParity",
    "Gate",
    "LatencyReport",
    "ParityReport",
    "TensorParity",
    "nearest_rank",
]

REPORT_VERSION = 1
P99_NEEDS = 1_000  # samples below which the 99th percentile is one or two outliers
P999_NEEDS = 10_000


def nearest_rank(ordered: NDArray[Any], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of the sorted values do not exceed."""
    rank = math.ceil(percent / 100 * len(ordered))
    return float(ordered[max(rank, 1) - 1])


@dataclass(frozen=True)
class Distribution:
    """Times in µs: count, extremes, mean and nearest-rank percentiles.

    ``p99`` is None below 1,000 samples and ``p999`` below 10,000: too few to mean anything.
    """

    n: int
    min: float
    mean: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float | None
    p999: float | None
    max: float

    @classmethod
    def of(cls, microseconds: NDArray[Any]) -> Distribution:
        """Summarise float or int[n] of µs, n ≥ 1."""
        t = np.sort(np.asarray(microseconds, np.float64))
        return cls(
            n=len(t),
            min=float(t[0]),
            mean=float(t.mean()),
            std=float(t.std()),
            p50=nearest_rank(t, 50),
            p90=nearest_rank(t, 90),
            p95=nearest_rank(t, 95),
            p99=nearest_rank(t, 99) if len(t) >= P99_NEEDS else None,
            p999=nearest_rank(t, 99.9) if len(t) >= P999_NEEDS else None,
            max=float(t[-1]),
        )


PARTS = ("hop", "frontend", "model", "copies")


@dataclass(frozen=True)
class LatencyReport:
    """Latency of one bundle on one engine of one machine.

    Attributes:
        kind: ``measured``; a later release adds ``emulated``, ``virtual_time`` and ``estimated``.
        declared: what follows from the bundle: model, sizes, hop, sample rate, algorithmic latency.
        wall: part -> :class:`Distribution` of wall time per hop, closed loop (hops back to back).
            Parts: ``hop`` (all of it), ``frontend`` (analysis and synthesis), ``model`` (the
            engine's invoke), ``copies`` (state hand-over, FIFO, Python: the rest).
        cpu: the same in CPU time of the thread, from a pass of its own.
        paced: wall time per hop from its scheduled arrival when hops come at their real rate.
        stream: deadline misses, real-time factors.
        cold_start: ms in a fresh process: interpreter, import, load, first hop.
        memory: resident bytes: after load, peak, growth over the run.
        repetitions: p50 of the hop per repetition, and their coefficient of variation.
        yardstick: how fast this core does something well known (``numpy.fft.rfft`` of 512 float64).
        output_sha256: of the PCM that was produced; equal input and bits give an equal hash.
        device, runtime, env, tool: where, with what, in what condition, by what command.
        verdict: ``valid`` and the ``reasons`` against it.
    """

    declared: Mapping[str, Any]
    wall: Mapping[str, Distribution]
    cpu: Mapping[str, Distribution]
    paced: Distribution | None
    stream: Mapping[str, Any]
    cold_start: Mapping[str, Any] | None
    memory: Mapping[str, Any]
    repetitions: Mapping[str, Any]
    yardstick: Mapping[str, Any]
    output_sha256: str
    device: Mapping[str, Any]
    runtime: Mapping[str, Any]
    env: Mapping[str, Any]
    tool: Mapping[str, Any]
    verdict: Mapping[str, Any]
    kind: str = "measured"

    @property
    def outside_model_us(self) -> float:
        """Median µs per hop that are not the engine's invoke: front end, hand-over, Python."""
        return self.wall["hop"].p50 - self.wall["model"].p50

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "schema": "spectral-edge latency report",
            "version": REPORT_VERSION,
            "kind": self.kind,
            "declared": dict(self.declared),
            "measured": {
                "wall_us": {part: asdict(d) for part, d in self.wall.items()},
                "cpu_us": {part: asdict(d) for part, d in self.cpu.items()},
                "paced_us": asdict(self.paced) if self.paced else None,
                "outside_model_us": self.outside_model_us,
                "stream": dict(self.stream),
                "cold_start": dict(self.cold_start) if self.cold_start else None,
                "memory": dict(self.memory),
                "repetitions": dict(self.repetitions),
                "yardstick": dict(self.yardstick),
                "output_sha256": self.output_sha256,
            },
            "device": dict(self.device),
            "runtime": dict(self.runtime),
            "env": dict(self.env),
            "tool": dict(self.tool),
            "verdict": dict(self.verdict),
        }

    def table(self) -> str:
        """Return the report as readable text."""
        d, r, e = self.declared, self.runtime, self.env
        rows = [_time_row(f"{part} wall", self.wall[part]) for part in PARTS]
        rows += [_time_row(f"{part} CPU", self.cpu[part]) for part in PARTS]
        if self.paced:
            rows.append(_time_row("hop paced", self.paced))
        s, c, m = self.stream, self.cold_start, self.memory
        lines = [
            f"{d['name']} ({d['precision']}, {d['bytes']:,} bytes, {d['operators']} operators, "
            f"{d['macs']:,} MAC/hop) on {r['engine']} {r['version']}, {r['threads']} thread(s)",
            f"{self.device['model']}, {self.device['cores']} cores, governor {e['governor']}, "
            f"load {e['loadavg_before'][0]:.2f} → {e['loadavg_after'][0]:.2f}",
            "",
            text_table(["µs per hop", "p50", "p95", "p99", "max", "n"], rows),
            "",
            f"outside the model: {self.outside_model_us:.1f} µs per hop (p50); yardstick "
            f"numpy.fft.rfft(512 float64): {self.yardstick['rfft512_us']:.1f} µs",
            f"hop of {d['hop_us'] / 1000:g} ms: {s['deadline_misses']} of {s['hops']} missed, "
            f"real-time factor {s['rtf_p50']:.4f} (p50), {s['rtf_max']:.4f} (max)",
            f"latency by design {d['algorithmic_ms']:.1f} ms",
        ]
        if c:
            lines.append(
                f"cold start {c['total_ms']:.0f} ms: interpreter {c['interpreter_ms']:.0f}, import "
                f"{c['import_ms']:.0f}, load {c['load_ms']:.0f}, first hop {c['first_hop_ms']:.1f}"
            )
        lines.append(
            f"resident memory {m['rss_peak'] / 1e6:.1f} MB at most, grew by "
            f"{m['rss_growth'] / 1e6:.2f} MB over the run"
        )
        spread = self.repetitions["cv"]
        lines.append(
            f"{len(self.repetitions['p50_us'])} repetitions, spread of p50 {100 * spread:.1f} %: "
            + (
                "valid"
                if self.verdict["valid"]
                else "not valid: " + "; ".join(self.verdict["reasons"])
            )
        )
        return "\n".join(lines)


def _time_row(label: str, t: Distribution) -> list[str]:
    p99 = "–" if t.p99 is None else f"{t.p99:.1f}"
    return [label, f"{t.p50:.1f}", f"{t.p95:.1f}", p99, f"{t.max:.1f}", f"{t.n:,}"]


@dataclass(frozen=True)
class TensorParity:
    """How one tensor of a rollout compares with the golden one.

    Attributes:
        tensor: ``output.<name>`` or ``state.<name>``.
        equal: share of equal values, 0…1.
        max_difference: largest difference, in codes (real values for float32 bundles).
        first_hop: first hop with a difference above the allowed one, None when there is none.
        snr_db: signal to difference in dB over dequantised values, None when identical.
    """

    tensor: str
    equal: float
    max_difference: float
    first_hop: int | None = None
    snr_db: float | None = None


@dataclass(frozen=True)
class EngineParity:
    """One engine against the golden rollout.

    Attributes:
        status: ``passed``, ``failed`` or ``skipped``.
        reason: why it failed or was skipped, else "".
        threshold: what had to hold, in words.
    """

    engine: str
    version: str | None
    status: str
    reason: str = ""
    threshold: str = ""
    tensors: tuple[TensorParity, ...] = ()


@dataclass(frozen=True)
class Gate:
    """One statement about the bundle that holds or not, with the numbers that show it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class ParityReport:
    """Whether every format and engine says what the golden rollout says."""

    bundle: str
    bundle_sha256: str
    precision: str
    hops: int
    gates: tuple[Gate, ...]
    engines: tuple[EngineParity, ...]

    @property
    def passed(self) -> bool:
        """True when every gate holds, no engine failed and at least one ran."""
        states = [e.status for e in self.engines]
        return all(g.passed for g in self.gates) and "failed" not in states and "passed" in states

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "schema": "spectral-edge parity report",
            "version": REPORT_VERSION,
            "bundle": self.bundle,
            "bundle_sha256": self.bundle_sha256,
            "precision": self.precision,
            "hops": self.hops,
            "gates": [asdict(g) for g in self.gates],
            "engines": [
                asdict(e) | {"tensors": [asdict(t) for t in e.tensors]} for e in self.engines
            ],
            "passed": self.passed,
        }

    def table(self) -> str:
        """Return the report as readable text."""
        gates = [["ok" if g.passed else "FAILED", g.name, g.detail] for g in self.gates]
        rows: list[Sequence[str]] = []
        for e in self.engines:
            label = f"{e.engine} {e.version or ''}".strip()
            if not e.tensors:
                rows.append([label, "–", "–", "–", "–", f"{e.status}: {e.reason}"])
            for i, t in enumerate(e.tensors):
                snr = "identical" if t.snr_db is None else f"{t.snr_db:.1f} dB"
                verdict = f"{e.status} ({e.reason or e.threshold})" if i == 0 else ""
                difference = f"{t.max_difference:g}"
                rows.append(
                    [
                        label if i == 0 else "",
                        t.tensor,
                        f"{100 * t.equal:.3f} %",
                        difference,
                        snr,
                        verdict,
                    ]
                )
        head = ["engine", "tensor", "equal", "max diff", "SNR", "verdict"]
        return "\n".join(
            [
                f"{self.bundle} ({self.precision}), {self.hops} golden hops",
                "",
                text_table(["", "gate", "seen"], gates),
                "",
                text_table(head, rows),
                "",
                "passed" if self.passed else "FAILED",
            ]
        )
