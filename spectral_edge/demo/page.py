"""The demo's one-page report: plain data in, HTML out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["parity_rows", "render_page"]

TEMPLATE = Path(__file__).resolve().parent / "page.html.jinja"


def render_page(report: dict[str, Any]) -> str:
    """Fill the template with the content of ``report.json``.

    Args:
        report: what :meth:`spectral_edge.demo.DemoResult.to_dict` returns.

    Returns:
        HTML that refers to the pictures and audio files beside it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **report, parity_rows=parity_rows(report["parity"])
    )


def parity_rows(parity: dict[str, Any]) -> list[dict[str, Any]]:
    """Shorten a parity report to what fits a page.

    Args:
        parity: what :meth:`spectral_edge.ParityReport.to_dict` returns.

    Returns:
        Per engine one row per output and one with the worst of all states; an engine that
        did not run has a single row without figures.
    """
    rows = []
    for engine in parity["engines"]:
        head = {
            "engine": f"{engine['engine']} {engine['version'] or ''}".strip(),
            "status": engine["status"],
            "note": engine["reason"] or engine["threshold"],
        }
        states = [t for t in engine["tensors"] if t["tensor"].startswith("state.")]
        shown = [t for t in engine["tensors"] if t not in states]
        if states:
            shown.append(_worst(states))
        rows += [{**head, **tensor} for tensor in shown] or [{**head, "tensor": None}]
    return rows


def _worst(states: list[dict[str, Any]]) -> dict[str, Any]:
    measured = [t["snr_db"] for t in states if t["snr_db"] is not None]
    return {
        "tensor": f"worst of {len(states)} states",
        "equal": min(t["equal"] for t in states),
        "max_difference": max(t["max_difference"] for t in states),
        "snr_db": min(measured, default=None),
    }
