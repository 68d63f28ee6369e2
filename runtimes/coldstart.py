"""Cold start: from starting a process to the first enhanced hop, measured from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_edge.device import resident_bytes
from spectral_edge.errors import RuntimeUnfit

from .rollout import python_environment

__all__ = ["measure_cold_start", "memory_growth"]

if TYPE_CHECKING:
    from .timing import Measurable

# the child's clock starts before it imports anything of ours; CLOCK_MONOTONIC is the same in both
_CHILD = """\
import time
started = time.monotonic_ns()
import sys
from spectral_edge.runtimes.coldstart import report_first_hop
report_first_hop(started, *sys.argv[1:])
"""
WARM_UP_HOPS = 50
GROWTH_HOPS = 3000  # 48 s of audio at 16 ms: what is lost per hop shows
GROWTH_SECONDS = 10.0  # large networks get fewer
TIMEOUT_S = 300


def measure_cold_start(path: Path, engine: str, threads: int, runs: int = 3) -> dict[str, Any]:
    """Start ``runs`` fresh processes that open a bundle and enhance a hop.

    Returns:
        Of the run with the median total: ``interpreter_ms`` (process start to first statement),
        ``import_ms``, ``load_ms`` (verify and open), ``first_hop_ms``, ``total_ms``; resident bytes
        ``rss_after_load``, ``rss_peak``, ``rss_growth`` over 3,000 hops; ``totals_ms`` of all runs.

    Raises:
        RuntimeUnfit: the process failed.
    """
    results = sorted(
        (_one(path, engine, threads) for _ in range(runs)), key=lambda r: r["total_ms"]
    )
    totals = [r["total_ms"] for r in results]
    return results[(runs - 1) // 2] | {"totals_ms": totals}


def _one(path: Path, engine: str, threads: int) -> dict[str, Any]:
    spawned = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), engine, str(threads)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=python_environment(),
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeUnfit(f"a fresh process could not run {path.name} on {engine} ({said})")
    data: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    started, first_done = data.pop("started_ns"), data.pop("first_done_ns")
    return data | {
        "interpreter_ms": (started - spawned) / 1e6,
        "total_ms": (first_done - spawned) / 1e6,
    }


def memory_growth(session: Measurable) -> int | None:
    """Return by how many resident bytes the process grows over 3,000 hops, after 50 to warm up.

    Hops that do not fit into 10 seconds are left out.
    """
    import numpy as np

    hop = np.zeros(session.hop_length, np.int16)
    started = time.monotonic()
    for _ in range(WARM_UP_HOPS):
        session.push(hop)
    before, _ = resident_bytes()
    for _ in range(GROWTH_HOPS):
        session.push(hop)
        if time.monotonic() - started > GROWTH_SECONDS:
            break
    after, _ = resident_bytes()
    return None if before is None or after is None else after - before


def report_first_hop(started: int, path: str, engine: str, threads: str) -> None:
    """Open a bundle, run hops, print the times as one line of JSON; runs in the fresh process."""
    import numpy as np

    from .opening import open as open_session
    from .pictures import measurable

    imported = time.monotonic_ns()
    session = measurable(open_session(path, engine, int(threads)))
    loaded = time.monotonic_ns()
    hop = np.zeros(session.hop_length, np.int16)
    session.push(hop)
    first_done = time.monotonic_ns()
    growth = memory_growth(session)
    loaded_bytes, peak = resident_bytes()
    data = {
        "import_ms": (imported - started) / 1e6,
        "load_ms": (loaded - imported) / 1e6,
        "first_hop_ms": (first_done - loaded) / 1e6,
        "rss_after_load": None if loaded_bytes is None else loaded_bytes - (growth or 0),
        "rss_peak": peak,
        "rss_growth": growth,
        "started_ns": started,
        "first_done_ns": first_done,
    }
    sys.stdout.write(json.dumps(data) + "\n")
