"""What all tests share: one torch thread, the C core built once, real data, and honest skips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "spectral_edge" / "_native" / "_core.so"
EXPECTED_SKIPS = ROOT / "tests" / "expected_skips.txt"

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def core_is_stale() -> bool:
    """True when a C source or header is newer than the built core."""
    if not CORE.exists():
        return True
    sources = [*(ROOT / "runtimes/c/src").glob("*"), *(ROOT / "runtimes/c/include").glob("*")]
    return any(path.stat().st_mtime > CORE.stat().st_mtime for path in sources)


def build_core() -> None:
    """Build the C core in place; without a compiler its tests skip."""
    compiler = os.environ.get("CC", "cc").split()[0]
    if not shutil.which(compiler) or not any((ROOT / "runtimes/c/src").glob("*.c")):
        return
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def pytest_configure(config: pytest.Config) -> None:
    """Build before the workers of xdist start, so that they never see half a library."""
    config.stash[SKIPS] = []
    if not hasattr(config, "workerinput") and core_is_stale():
        build_core()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests of minutes, so that one worker does not end with them alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Small tensors run faster on one thread, and two workers share two cores."""
    if "torch" in sys.modules or os.environ.get("PYTEST_XDIST_WORKER"):
        try:
            import torch
        except ImportError:
            return
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real audio and images, from SPECTRAL_EDGE_DATA; skips where there is none."""
    value = os.environ.get("SPECTRAL_EDGE_DATA", "")
    if not value:
        pytest.skip("SPECTRAL_EDGE_DATA is not set")
    root = Path(value)
    if not root.is_dir():
        pytest.fail(f"SPECTRAL_EDGE_DATA is {value!r}, which is no folder")
    return root


@pytest.fixture(scope="session")
def demo_audio() -> Path:
    """Folder with the speech samples that ship with the package."""
    return ROOT / "spectral_edge" / "data" / "demo"


# A skipped test proves nothing, so in CI every reason must be expected: one pattern per line in
# tests/expected_skips.txt. At a developer's desk skips are free.
SKIPS = pytest.StashKey[list[tuple[str, str]]]()


class SkipRecorder:
    """Collects (test, reason) of every skip; runs in the controller only."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def record(self, report: Any) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        self.config.stash[SKIPS].append((report.nodeid, reason.removeprefix("Skipped: ")))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.record(report)


def unexpected_skips(config: pytest.Config) -> list[tuple[str, str]]:
    """Skips whose reason no line of tests/expected_skips.txt matches."""
    lines = EXPECTED_SKIPS.read_text().splitlines()
    allowed = [re.compile(line) for line in lines if line and not line.startswith("#")]
    return [
        (test, reason)
        for test, reason in config.stash[SKIPS]
        if not any(pattern.search(reason) for pattern in allowed)
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(SkipRecorder(session.config))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput") or not IN_CI:
        return
    if exitstatus == pytest.ExitCode.OK and unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    unexpected = unexpected_skips(config) if IN_CI else []
    for test, reason in unexpected:
        terminalreporter.write_line(f"UNEXPECTED SKIP {test}: {reason}", red=True)
    if unexpected:
        terminalreporter.write_line("allow a reason in tests/expected_skips.txt, or fix the cause")
