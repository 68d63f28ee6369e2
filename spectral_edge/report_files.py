"""Reads reports back from JSON and puts several on one page."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_edge.errors import SpecError
from spectral_edge.report import (
    Distribution,
    EngineParity,
    Gate,
    LatencyReport,
    ParityReport,
    TensorParity,
)
from spectral_edge.schema import first_violation, load_schema, strict_json

__all__ = ["load_report", "render_reports"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>spectral-edge reports</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}
pre{{background:#f4f4f4;padding:1rem;overflow-x:auto}}</style></head><body>
{body}
</body></html>
"""


def load_report(path: str | os.PathLike[str]) -> LatencyReport | ParityReport:
    """Read a latency or parity report that ``--json`` wrote.

    Raises:
        SpecError: missing, not JSON, or not a report of this version.
    """
    path = Path(path)
    try:
        data = strict_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is not a report ({error}); write one with --json") from error
    said = data.get("schema") if isinstance(data, dict) else None
    kind = {"spectral-edge latency report": "latency", "spectral-edge parity report": "parity"}
    if said not in kind:
        raise SpecError(f"{path} is not a report (schema {said!r}); write one with --json")
    if bad := first_violation(data, load_schema("report"), kind[said]):
        raise SpecError(f"{path}: {bad}; write it again with --json")
    return _latency(data) if kind[said] == "latency" else _parity(data)


def render_reports(reports: Sequence[LatencyReport | ParityReport], kind: str) -> str:
    """Return one page with every report.

    Args:
        reports: in the order wanted.
        kind: ``md`` or ``html``.

    Raises:
        SpecError: another kind.
    """
    titled = [(_title(report), report.table()) for report in reports]
    if kind == "md":
        return "\n".join(f"## {title}\n\n```\n{table}\n```\n" for title, table in titled)
    if kind == "html":
        parts = [f"<h2>{html.escape(t)}</h2>\n<pre>{html.escape(x)}</pre>" for t, x in titled]
        return _PAGE.format(body="\n".join(parts))
    raise SpecError(f"report kind is {kind!r}, must be 'md' or 'html'")


def _title(report: LatencyReport | ParityReport) -> str:
    if isinstance(report, ParityReport):
        return f"Parity of {report.bundle}"
    return f"Latency of {report.declared['name']} on {report.runtime['engine']}"


def _latency(data: dict[str, Any]) -> LatencyReport:
    m = data["measured"]
    return LatencyReport(
        declared=data["declared"],
        wall={part: Distribution(**d) for part, d in m["wall_us"].items()},
        cpu={part: Distribution(**d) for part, d in m["cpu_us"].items()},
        paced=Distribution(**m["paced_us"]) if m["paced_us"] else None,
        stream=m["stream"],
        cold_start=m["cold_start"],
        memory=m["memory"],
        repetitions=m["repetitions"],
        yardstick=m["yardstick"],
        output_sha256=m["output_sha256"],
        device=data["device"],
        runtime=data["runtime"],
        env=data["env"],
        tool=data["tool"],
        verdict=data["verdict"],
        kind=data["kind"],
    )


def _parity(data: dict[str, Any]) -> ParityReport:
    engines = [
        EngineParity(**{**e, "tensors": tuple(TensorParity(**t) for t in e["tensors"])})
        for e in data["engines"]
    ]
    return ParityReport(
        bundle=data["bundle"],
        bundle_sha256=data["bundle_sha256"],
        precision=data["precision"],
        hops=data["hops"],
        gates=tuple(Gate(**g) for g in data["gates"]),
        engines=tuple(engines),
    )
