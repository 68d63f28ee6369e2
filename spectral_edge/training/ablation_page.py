"""One page of results out of the tables that ablations wrote.

As a command: ``python -m spectral_edge.training.ablation_page FOLDER -o docs/ablations.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from spectral_edge.errors import SpecError, SpectralEdgeError

from .ablations import EXPERIMENTS, AblationTable, Row

__all__ = ["load_table", "main", "results_page"]

HEAD = """# Ablations

Written by `python -m spectral_edge.training.ablation_page FOLDER -o docs/ablations.md` out of what
`spectral-edge ablate … --out FOLDER` wrote; above each table stands the command that made it.

**All networks are our reconstructions, and nothing here reproduces a table of a paper.** `toy`
runs on synthetic data with small networks and short training: it says how variants behave against
one another, not how good a network is, and a few seeds leave wide margins. `full` takes real
recordings and images, here with a fraction of the training a recipe gives (`--effort`), so its
figures are low, too. Seeds and effort are as small as they are so that the whole page takes one
to two hours of one processor core; the same commands take more of both. The sentence below a
table compares the spread over seeds with the differences; where it names several variants, the
table does not say which is best. `int8 delta` is the change of the metric by w8a8 post-training
quantisation; an empty cell means the network has no integer form (an FFT inside). Milliseconds
are PyTorch's on one thread of a shared machine and only rough.
"""
SECTIONS = {"toy": "## Synthetic data", "full": "## Real data"}


def load_table(path: str | Path) -> AblationTable:
    """Read a table that :meth:`AblationTable.write` wrote.

    Raises:
        SpecError: the file is not such a table.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [Row(**row) for row in data.pop("rows")]
        return AblationTable(**data, rows=rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path} is no ablation table: {error}") from None


def results_page(*folders: str | Path) -> str:
    """Return a Markdown page of every table in the folders, in the order of the register.

    Raises:
        SpecError: no folder holds a table.
    """
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    tables = [load_table(path) for path in paths if path.stem.split("-")[0] in EXPERIMENTS]
    if not tables:
        where = ", ".join(map(str, folders))
        raise SpecError(f"{where} holds no ablation table: run an ablation with out={where}")
    text = [HEAD]
    order = list(EXPERIMENTS)
    for preset, heading in SECTIONS.items():
        chosen = [table for table in tables if table.preset == preset]
        chosen.sort(key=lambda table: (order.index(table.id), table.audio))
        if not chosen:
            continue
        minutes = sum(table.seconds for table in chosen) / 60
        text += [f"{heading}\n", f"{len(chosen)} tables, {minutes:.0f} minutes in all.\n"]
        absent = [name for name in order if name not in {table.id for table in chosen}]
        if absent and preset == "toy":
            text.append(f"Not run for this page: {', '.join(absent)}.\n")
        text += [table.to_markdown() for table in chosen]
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and return the exit code."""
    parser = argparse.ArgumentParser(description="One page of results out of ablation tables.")
    parser.add_argument("folders", nargs="+", help="what ablate --out was given")
    parser.add_argument("-o", "--output", required=True, help="page to write")
    args = parser.parse_args(argv)
    try:
        Path(args.output).write_text(results_page(*args.folders), encoding="utf-8")
    except SpectralEdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
