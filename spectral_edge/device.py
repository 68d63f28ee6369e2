"""What machine this is and what condition it is in, as far as it can be read without privileges."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Condition", "describe_device", "read_condition", "resident_bytes"]

_CPU = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")


@dataclass(frozen=True)
class Condition:
    """What can change during a run. None: cannot be read here.

    Attributes:
        loadavg: 1, 5 and 15 minutes.
        governor: frequency governor of CPU 0.
        freq_khz: present frequency that the governor asks for.
        temp_c: hottest thermal zone.
        throttled: Raspberry Pi firmware bits (``vcgencmd get_throttled``), 0 when all is well.
    """

    loadavg: tuple[float, float, float] | None
    governor: str | None
    freq_khz: int | None
    temp_c: float | None
    throttled: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"loadavg": list(self.loadavg) if self.loadavg else None}


def read_condition() -> Condition:
    """Read the present condition."""
    frequency = _read(_CPU / "cpu0/cpufreq/scaling_cur_freq")
    zones = [_read(path) for path in _THERMAL.glob("thermal_zone*/temp")]
    temperatures = [int(z) / 1000 for z in zones if z and z.lstrip("-").isdigit()]
    return Condition(
        loadavg=os.getloadavg() if hasattr(os, "getloadavg") else None,
        governor=_read(_CPU / "cpu0/cpufreq/scaling_governor"),
        freq_khz=int(frequency) if frequency else None,
        temp_c=max(temperatures, default=None),
        throttled=_throttled(),
    )


def describe_device() -> dict[str, Any]:
    """Return model, cores, memory, kernel, userland and libc as plain data."""
    info = _cpuinfo()
    libc, libc_version = platform.libc_ver()
    return {
        "model": _model(info),
        "cpu": info.get("model name") or info.get("Hardware") or platform.processor() or None,
        "cores": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "features": sorted((info.get("flags") or info.get("Features") or "").split()),
        "ram_mb": _ram_mb(),
        "page_size": os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None,
        "kernel": platform.release(),
        "os": _os_name(),
        "machine": platform.machine(),
        # a 64-bit kernel may carry a 32-bit userland: ask the interpreter, not uname
        "userland_bits": 8 * struct.calcsize("P"),
        "libc": f"{libc} {libc_version}".strip() or None,
        "python": platform.python_version(),
    }


def resident_bytes() -> tuple[int | None, int | None]:
    """Return the resident memory of this process now and at its peak, in bytes."""
    status = _read(Path("/proc/self/status"))
    if status is None:
        return None, None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)

    def kilobytes(name: str) -> int | None:
        return 1024 * int(fields[name].split()[0]) if name in fields else None

    return kilobytes("VmRSS"), kilobytes("VmHWM")


def _model(info: dict[str, str]) -> str:
    board = _read(Path("/proc/device-tree/model"))
    if board:
        return board.rstrip("\0")
    return info.get("model name") or info.get("Model") or platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    text = _read(Path("/proc/cpuinfo")) or ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _os_name() -> str:
    text = _read(Path("/etc/os-release")) or ""
    for line in text.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.platform()


def _ram_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None


def _throttled() -> int | None:
    """Return the firmware's throttle bits on a Raspberry Pi."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5
        )
        return int(done.stdout.strip().removeprefix("throttled="), 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip() or None
    except OSError:
        return None
