"""`spectral-edge live` on a virtual sound device, end to end, as a user starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.runtimes.rollout import python_environment
from tests.runtimes.tiny import tiny_bundle
from tests.runtimes.virtual_device import CLIENT, Lab, jack_server, require_jack

pytestmark = pytest.mark.xdist_group("sound")
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that multiplies by 255/256 and remembers nothing but the window."""
    spec = se.StftFrontend(level="none", compression=1.0)
    path = tmp_path_factory.mktemp("flat") / "flat.seb"
    return tiny_bundle(path, through=True, frontend=spec).path


def start(bundle: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "spectral_edge.cli", "live", str(bundle), "--json"]
    command += ["--input", CLIENT, "--output", CLIENT, *options]
    return subprocess.Popen(
        command,
        env=environment | {"PYTHONPATH": python_environment()["PYTHONPATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_interrupts,
    )


def listen_to_interrupts() -> None:
    """A job in the background of a shell script ignores Ctrl-C, and its children would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def noise(samples: int) -> NDArray[np.float32]:
    pcm = np.random.default_rng(0).integers(-8000, 8000, samples)
    return (pcm / 32768).astype(np.float32)


def delay_of(heard: NDArray[np.float32], expected: NDArray[np.float32]) -> int:
    """Return where ``expected`` lies in ``heard``."""
    n = 1 << (len(heard) + len(expected)).bit_length()
    product = np.fft.rfft(heard, n) * np.conj(np.fft.rfft(expected, n))
    return int(np.argmax(np.fft.irfft(product, n)[: len(heard)]))


def test_what_is_heard_is_what_a_session_gives(flat: Path) -> None:
    """At the bundle's own rate, every sample; late by what the summary states."""
    require_jack()
    stimulus = noise(16_000)
    with jack_server(16_000, 256) as environment:
        lab = Lab(environment["JACK_DEFAULT_SERVER"], stimulus, room=3 * 16_000)
        live = start(flat, environment, "--seconds", "2.2", "--policy", "queue:40")
        out, err = live.communicate(timeout=TIMEOUT_S)
        lab.close()
    assert live.returncode == 0, err
    summary = json.loads(out)
    with se.open(flat) as session:
        expected = session.process(stimulus)
        latency = session.latency_samples
    at = delay_of(lab.heard, expected)
    assert np.array_equal(lab.heard[at : at + len(expected)], expected)
    buffer = 41 * 256  # from one callback to the next, and the queue
    assert summary["latency_ms"]["algorithm"] == latency / 16
    assert summary["latency_ms"]["buffer"] == buffer / 16
    assert at - latency - buffer in (256, 512)  # JACK's own way around
    assert (summary["sample_rate"], summary["resampled_to"]) == (16_000, None)
    assert (summary["ended"], summary["input"]) == ("time", CLIENT)
    counters = summary["counters"]
    assert counters["hops"] >= 2.2 * 16_000 // 256 - 2
    assert (counters["bad_samples"], counters["lost_samples"], counters["dropped"]) == (0, 0, 0)


def test_another_rate_and_an_interrupt(flat: Path) -> None:
    """48 kHz in blocks of 480, resampled; Ctrl-C ends it with the summary and exit code 0."""
    require_jack()
    stimulus = noise(48_000)
    with jack_server(48_000, 480) as environment:
        lab = Lab(environment["JACK_DEFAULT_SERVER"], stimulus, room=5 * 48_000)
        live = start(flat, environment, "--policy", "queue:40", "--blocksize", "480")
        deadline = time.monotonic() + TIMEOUT_S
        while len(lab.heard) < 2.5 * 48_000 and time.monotonic() < deadline:
            time.sleep(0.05)
            if live.poll() is not None:
                break
        live.send_signal(signal.SIGINT)
        out, err = live.communicate(timeout=TIMEOUT_S)
        lab.close()
    assert live.returncode == 0, err
    summary = json.loads(out)
    assert (summary["ended"], summary["sample_rate"]) == ("stopped", 48_000)
    assert summary["resampled_to"] == 16_000
    with se.open(flat, sample_rate=48_000) as session:
        expected, latency = session.process(stimulus), session.latency_samples
    at = delay_of(lab.heard, expected)
    buffer = 480 + 40 * 768
    assert at - latency - buffer in (480, 960)
    error = lab.heard[at : at + len(expected)] - expected
    # a hop of the device is no hop of the bundle here: frames lie elsewhere, and round elsewhere
    assert 10 * np.log10((expected @ expected) / (error @ error)) > 45
