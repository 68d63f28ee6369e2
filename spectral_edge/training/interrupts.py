"""Ctrl-C during training: what is kept, and how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["interruptible"]


@contextmanager
def interruptible(checkpoint: Path | None) -> Iterator[None]:
    """Turn Lightning's silent exit on Ctrl-C back into an interrupt that says how to go on.

    Args:
        checkpoint: file with the finished epochs, or None where nothing is written.

    Raises:
        KeyboardInterrupt: Ctrl-C; its text names the file.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
        kept = checkpoint is not None and checkpoint.is_file()
        how = f": {checkpoint} has the finished epochs, go on with resume" if kept else ""
        raise KeyboardInterrupt(f"interrupted{how}") from None
