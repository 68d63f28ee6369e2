"""The demo's steps on the console: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

__all__ = ["ConsoleProgress"]


class ConsoleProgress:
    """A progress callback for :func:`spectral_edge.demo.run_demo`.

    Call it as ``progress(step, None, "")`` when a step begins and as
    ``progress(step, seconds, note)`` when it is done. Writes to ``stream`` (standard error when
    not given), so that ``--json`` keeps standard output for itself.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._status: Any = None
        self._console: Any = None
        if self._stream.isatty():
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False)

    def __call__(self, step: str, seconds: float | None, note: str) -> None:
        """Show that a step has begun (``seconds`` is None) or how long it took."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if seconds is not None:
            self._line(f"{step:<12} {seconds:6.1f} s  {note}")
        elif self._console is not None:
            self._status = self._console.status(step)
            self._status.start()

    def _line(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()
