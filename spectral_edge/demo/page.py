"""The demo's one-page report: plain data in, HTML out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["render_page"]

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
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**report)
