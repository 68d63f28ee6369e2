"""One page of results out of the tables that ablations wrote.

As a command: ``python -m spectral_edge.training.ablation_page FOLDER -o docs/ablations.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from spectral_edge.errors import SpecError, SpectralEdgeError

from .ablations import AUDIO, EXPERIMENTS, AblationTable, Row

__all__ = ["load_table", "main", "results_page"]

HEAD = """# Ablations

Written by `python -m spectral_edge.training.ablation_page FOLDER -o docs/ablations.md` out of what
`spectral-edge ablate … --out FOLDER` wrote; above each table stands the command that made it.

**All networks are our reconstructions, and nothing here reproduces a table of a paper.** `toy` runs
on synthetic data with small networks and short training: it says how variants behave against one
another, not how good a network is, and a few seeds leave wide margins. `full` takes real recordings
and images, here with a fraction of the training a recipe gives, so its figures are low, too.
Classifiers are scored on the test split, by which nothing is chosen; denoisers in `full` on
mixtures of the validation speakers with a noise that training lacks. Seeds and effort are as small
as they are so that the whole page took about {hours} on one core of a shared machine, waiting for
it included; the same commands take more of both. The sentence below a table compares the spread
over seeds with the differences; where it names several variants, the table does not say which is
best. `int8 delta` is the change of the metric by w8a8 post-training quantisation, calibrated on
training data; an empty cell means the network has no integer form (an FFT inside). Measurements
(D5, X1) have no such column, and D7 has its own. Milliseconds are PyTorch's on one thread and only
rough; those of real data were taken beside other programs: do not compare them.
"""
SECTIONS = {"toy": "## Synthetic data", "full": "## Real data"}
TABLE = re.compile(r"^### (?P<id>\w+): .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"^`spectral-edge ablate \w+ (?P<options>[^`]*)`: (?P<seconds>\d+) s\.", re.MULTILINE
)


@dataclass(frozen=True)
class _Entry:
    """A table of the page: ready Markdown, and what orders it."""

    preset: str
    id: str
    audio: str
    seconds: float
    text: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What two tables of one page never share."""
        return self.preset, self.id, self.audio


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


def results_page(*folders: str | Path, keep: str | Path | None = None) -> str:
    """Return a Markdown page of every table in the folders, in the order of the register.

    Args:
        folders: what ``ablate --out`` was given.
        keep: a page written before; its tables that the folders lack stay as they are.

    Raises:
        SpecError: no folder holds a table, or ``keep`` is no such page.
    """
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    tables = [load_table(path) for path in paths if path.stem.split("-")[0] in EXPERIMENTS]
    if not tables:
        where = ", ".join(map(str, folders))
        raise SpecError(f"{where} holds no ablation table: run an ablation with out={where}")
    entries = {} if keep is None else {entry.place: entry for entry in _kept(Path(keep))}
    for t in tables:
        entry = _Entry(t.preset, t.id, t.audio, t.seconds, t.to_markdown())
        entries[entry.place] = entry
    hours = sum(entry.seconds for entry in entries.values()) / 3600
    text = [HEAD.format(hours=f"{hours:.1f} hours")]
    order = list(EXPERIMENTS)
    for preset, heading in SECTIONS.items():
        chosen = [entry for entry in entries.values() if entry.preset == preset]
        chosen.sort(key=lambda entry: (order.index(entry.id), entry.audio))
        if not chosen:
            continue
        minutes = sum(entry.seconds for entry in chosen) / 60
        text += [f"{heading}\n", f"{len(chosen)} tables, {minutes:.0f} minutes in all.\n"]
        absent = [name for name in order if name not in {entry.id for entry in chosen}]
        if absent and preset == "toy":
            text.append(f"Not run for this page: {', '.join(absent)}.\n")
        text += [entry.text for entry in chosen]
    return "\n".join(text)


def _kept(page: Path) -> list[_Entry]:
    """Read the tables of a page back as they stand there."""
    if not page.is_file():
        raise SpecError(f"page {page} does not exist: leave keep out to write a new one")
    entries = []
    for found in TABLE.finditer(page.read_text(encoding="utf-8")):
        command = COMMAND.search(found[0])
        if command is None or found["id"] not in EXPERIMENTS:
            raise SpecError(f"{page} has a table {found['id']!r} without the command that made it")
        words = command["options"].split()
        options = dict(pairwise(words))
        preset = options.get("--preset", "")
        sounds = preset == "full" and EXPERIMENTS[found["id"]].module != "ablation_saf"
        audio = options.get("--audio", AUDIO[0]) if sounds else ""
        text = found[0].rstrip() + "\n"
        entries.append(_Entry(preset, found["id"], audio, float(command["seconds"]), text))
    if not entries:
        raise SpecError(f"{page} holds no ablation table: it is no page of this command")
    return entries


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and return the exit code."""
    parser = argparse.ArgumentParser(description="One page of results out of ablation tables.")
    parser.add_argument("folders", nargs="+", help="what ablate --out was given")
    parser.add_argument("-o", "--output", required=True, help="page to write")
    parser.add_argument(
        "--keep", metavar="PAGE", help="a page written before: its tables that no folder has stay"
    )
    args = parser.parse_args(argv)
    try:
        page = results_page(*args.folders, keep=args.keep)
        Path(args.output).write_text(page, encoding="utf-8")
    except SpectralEdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
