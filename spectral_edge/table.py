"""Plain text tables for reports and the command line."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["text_table"]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns whose cells all start with a digit or dash are right-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    right = [
        all(row[i][:1].isdigit() or row[i] in ("–", "") for row in rows) for i in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), "  ".join("─" * w for w in widths), *map(line, rows)])
