"""From the TFLite file of a step program to one C source file.

:mod:`.read` reads and checks the file, :mod:`.lower` and its rules turn operators into lazy values
and kernels, :mod:`.plan` gives every buffer its place, :mod:`.emit` writes the text.
"""

from __future__ import annotations

from .source import CSource, Port, compile_step

__all__ = ["CSource", "Port", "compile_step"]
