"""How the command line shows progress and notes: on standard error, so that results stay clean."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["progress_bar", "short_warnings"]

_LINE_EVERY_S = 10.0


@contextmanager
def progress_bar(title: str, stream: TextIO | None = None) -> Iterator[Callable[[float], None]]:
    """Show how far something is: a bar on a terminal, else a line now and then.

    Args:
        title: what is being done.
        stream: where to; standard error when not given.

    Yields:
        A function to call with the share done, 0…1.
    """
    out = stream or sys.stderr
    bar = _rich_progress(out) if out.isatty() else None
    if bar is None:
        yield _line_printer(title, out)
        return
    with bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _rich_progress(out: TextIO) -> Any:
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        return None
    return Progress(console=Console(file=out), transient=True)


def _line_printer(title: str, out: TextIO) -> Callable[[float], None]:
    last = time.monotonic()

    def tell(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            out.write(f"{title}: {100 * share:.0f} %\n")
            out.flush()

    return tell


@contextmanager
def short_warnings() -> Iterator[None]:
    """Print warnings of this package as one line each; those of libraries as usual."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, RuntimeWarning):
            sys.stderr.write(f"spectral-edge: note: {message}\n")
        else:
            usual(message, category, *rest, **named)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual
