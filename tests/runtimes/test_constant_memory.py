"""A session and a file run need no more memory for a long stream than for a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectral_edge import audio
from spectral_edge.runtimes.rollout import python_environment
from tests.tolerances import RSS_GROWTH_BYTES

STREAM = """
import sys, time
import numpy as np
import spectral_edge as se
from spectral_edge.device import resident_bytes
from spectral_edge.runtimes.scheduler.realtime import RealtimeSession
session = se.open(sys.argv[1])
live = RealtimeSession(se.open(sys.argv[1], sample_rate=44_100))
block = (np.random.default_rng(0).standard_normal(777) * 3000).astype(np.int16)
real = block.astype(np.float32) / 32768
def push(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(100):
            session.push(block)
        session.reset()
        for _ in range(100):
            session.push(real)
        session.reset()
        for _ in range(50):
            live.push(real)
push(0.5)
before, _ = resident_bytes()
push(float(sys.argv[2]))
print(resident_bytes()[0] - before)
"""

FILE = """
import sys
from spectral_edge.device import resident_bytes
from spectral_edge.runtimes.files import enhance_file
enhance_file(*sys.argv[1:4])
before = resident_bytes()[1]
enhance_file(sys.argv[1], *sys.argv[4:6])
print(resident_bytes()[1] - before)
"""


def growth(script: str, *arguments: object) -> int:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=python_environment(),
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_stream_does_not_grow(tiny: Path, seconds: float) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory cannot be read here")
    assert growth(STREAM, tiny, seconds) <= RSS_GROWTH_BYTES


def test_a_long_file_needs_what_a_short_one_does(tiny: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory cannot be read here")
    clip = (np.random.default_rng(0).standard_normal(16_000 * 20) * 2000).astype(np.int16)
    audio.write(tmp_path / "short.wav", clip, 16_000)
    audio.write(tmp_path / "long.wav", np.tile(clip, 30), 16_000)  # ten minutes
    places = [tmp_path / n for n in ("short.wav", "a.wav", "long.wav", "b.wav")]
    assert growth(FILE, tiny, *places) <= RSS_GROWTH_BYTES
