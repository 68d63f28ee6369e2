"""Runs of an ablation on disk, one line each: a later call goes on from what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spectral_edge.errors import SpecError

__all__ = ["Run", "RunFile"]

FORMAT = "spectral-edge ablation runs"


@dataclass(frozen=True)
class Run:
    """What one variant gave for one seed; plain data.

    Attributes:
        label: of the variant.
        seed: of the run.
        value: the metric.
        int8: the metric after w8a8 quantisation, or None.
        extras: further columns.
        parameters: of the network; measured, like the next two, for seed 0 alone.
        macs: of one example, or None.
        latency_ms: median processor time of one example in PyTorch on one thread, or None.
        seconds: the run took.
    """

    label: str
    seed: int
    value: float
    int8: float | None = None
    extras: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    seconds: float = 0.0


class RunFile:
    """The runs of one experiment: a line of settings, then a line of JSON per finished run.

    Args:
        path: file to write.
        settings: what must be the same for runs to belong to one table.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, {"format": FORMAT, **settings}

    def start(self) -> None:
        """Begin an empty file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write([json.dumps(self.settings)])

    def resume(self) -> list[Run]:
        """Return the finished runs, and begin a file where there is none.

        A line cut short by an interruption is dropped, in the file too.

        Raises:
            SpecError: the file holds runs with other settings, or is no file of runs.
        """
        if not self.path.is_file():
            self.start()
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self._check(lines)
        runs: list[Run] = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                runs.append(Run(**json.loads(line)))
            except (ValueError, TypeError):
                if number < len(lines):
                    raise SpecError(f"line {number} of {self.path} is no run: remove it") from None
        self._write([lines[0], *(json.dumps(asdict(run)) for run in runs)])
        return runs

    def add(self, run: Run) -> None:
        """Append a finished run; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(run)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _check(self, lines: list[str]) -> None:
        try:
            found = json.loads(lines[0])
        except (ValueError, IndexError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise SpecError(f"{self.path} holds no ablation runs: remove it or write elsewhere")
        for name, wanted in self.settings.items():
            if found.get(name) != wanted:
                raise SpecError(
                    f"{self.path} has runs with {name} {found.get(name)!r}, asked for is "
                    f"{wanted!r}: go on with the same settings, or start anew without resume"
                )

    def _write(self, lines: Iterable[str]) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, self.path)
