"""One page of results out of the tables that ablations wrote."""

from __future__ import annotations

import json
from pathlib import Path

from spectral_edge.errors import SpecError

from .ablations import EXPERIMENTS, AblationTable, Row

__all__ = ["load_table", "results_page"]

HEAD = """# Ablations

Results of `run_ablation`, written by the command itself. `toy` runs on synthetic data with small
networks and short training: it says how variants behave against one another, not how good a network
is, and two or three seeds leave wide margins. Nothing here reproduces a table of a paper; all
networks are our reconstructions. Milliseconds are of PyTorch on one thread of a shared machine and
only rough.

```python
from spectral_edge.training.ablations import run_ablation
run_ablation("F1", preset="toy", seeds=3, out="runs/ablations")
```
"""


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


def results_page(folder: str | Path) -> str:
    """Return a Markdown page of every table in ``folder``, in the order of the register.

    Raises:
        SpecError: the folder holds no table.
    """
    found = {path.stem: path for path in sorted(Path(folder).glob("*.json"))}
    ids = [name for name in EXPERIMENTS if name in found]
    if not ids:
        raise SpecError(f"{folder} holds no ablation table: run an ablation with out={folder}")
    absent = [name for name in EXPERIMENTS if name not in found]
    text = [HEAD]
    if absent:
        text.append(f"Not run for this page: {', '.join(absent)}.\n")
    text += [load_table(found[name]).to_markdown() for name in ids]
    return "\n".join(text)
