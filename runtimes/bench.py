"""Measures the latency of a bundle: closed loop, split by part, with what is needed to judge it.

Method: fresh processes for the cold start, then per repetition one pass stamped with wall time and
one with CPU time of the thread (the two clocks would disturb each other), hops back to back,
garbage collector off. Stamping costs about 0.5 µs per hop and is not subtracted.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge import __version__, audio as audio_files
from spectral_edge.bundle import Bundle
from spectral_edge.device import Condition, describe_device, read_condition, resident_bytes
from spectral_edge.errors import RuntimeUnfit, SpecError
from spectral_edge.report import Distribution, LatencyReport

from .coldstart import measure_cold_start, memory_growth
from .opening import open as open_session
from .pictures import PERIOD_S, measurable, sample_picture
from .timing import HopTimes, Measurable, rfft_yardstick_us, time_hops, time_paced

__all__ = ["bench", "load_clip", "speech_like_noise"]

WARM_UP_HOPS = 100
HASHED_HOPS = 200
MIN_HOPS, MAX_HOPS = 200, 100_000  # per pass
SLOW_HOPS, SLOW_PASS_S = 20, 2.0  # of networks that would need longer for MIN_HOPS
MAX_CV = 0.05  # of the repetitions' p50; above, no verdict
MAX_LOAD_PER_CORE = 0.75  # before the run; above, somebody else is measured too
SEED = 0


def bench(
    path: str | os.PathLike[str],
    engine: str | None = None,
    seconds: float = 10,
    audio: str | os.PathLike[str] | None = None,
    threads: int = 1,
    target: str | None = None,
    repetitions: int = 5,
    paced: bool = False,
    cold_start: bool = True,
    backend: str = "auto",
    progress: Callable[[float], object] | None = None,
) -> LatencyReport:
    """Measure the latency of a bundle on this machine.

    Args:
        path: a ``.seb`` file or bundle directory.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        seconds: time to spend on hops, shared by all repetitions.
        audio: file to feed (first channel, resampled when necessary); None makes a noise that
            rises and falls like speech.
        threads: threads of the engine.
        target: None for this machine.
        repetitions: how often to repeat; the spread decides whether the result is valid.
        paced: also push hops at their real rate for ``seconds`` and count from scheduled arrival.
        cold_start: also start fresh processes.
        backend: front end arithmetic, see :func:`spectral_edge.open`.
        progress: called with the share done, 0…1.

    Raises:
        BundleError, AudioError, SpecError: bad input.
        RuntimeUnavailable, RuntimeUnfit: the engine is not there or cannot run the bundle.
    """
    if target is not None:
        raise RuntimeUnfit(
            f"target {target!r} cannot be reached by this release: copy the bundle to the device "
            "and run `spectral-edge bench` there"
        )
    if seconds <= 0 or repetitions < 1:
        raise SpecError(
            f"seconds is {seconds} and repetitions is {repetitions}, must be above 0 and at least 1"
        )
    tell = progress or (lambda share: None)
    before = read_condition()
    bundle = Bundle.load(path)
    with open_session(bundle, engine, threads, backend=backend) as session:
        clip = _clip(session, audio)
        feed = measurable(session)
        started = measure_cold_start(Path(path), session.engine, threads) if cold_start else None
        tell(0.1)
        output_sha256 = _hash_output(session, clip)
        hops = _hops_per_pass(feed, clip, seconds / (2 * repetitions))
        memory = _memory(feed, started)
        wall, cpu, yardsticks = [], [], []
        for i in range(repetitions):
            yardsticks.append(rfft_yardstick_us())
            wall.append(time_hops(feed, clip, hops, time.perf_counter_ns))
            cpu.append(time_hops(feed, clip, hops, time.thread_time_ns))
            tell(0.1 + 0.8 * (i + 1) / repetitions)
        period = _period(session)
        on_time = (
            Distribution.of(time_paced(feed, clip, max(1, int(seconds / period)), period))
            if paced
            else None
        )
        after = read_condition()
        medians = [float(np.median(t.hop)) for t in wall]
        cv = float(np.std(medians) / np.mean(medians))
        tell(1.0)
        return LatencyReport(
            declared=_declare(bundle, session),
            wall=_merge(wall),
            cpu=_merge(cpu),
            paced=on_time,
            stream=_stream(np.concatenate([t.hop for t in wall]), period * 1e6),
            cold_start=started,
            memory=memory,
            repetitions={"p50_us": medians, "cv": cv, "hops_each": hops},
            yardstick={"rfft512_us": float(np.median(yardsticks))},
            output_sha256=output_sha256,
            device=describe_device(),
            runtime=_runtime(session),
            env=_env(before, after),
            tool=_tool(),
            verdict=_verdict(before, after, cv, session),
        )


def speech_like_noise(sample_rate: int, seconds: float = 4.0) -> NDArray[np.int16]:
    """Return int16[samples]: coloured noise at about -26 dBFS, swelling four times a second."""
    n = int(seconds * sample_rate)
    rng = np.random.default_rng(SEED)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / sample_rate)
    coloured = np.fft.irfft(spectrum / np.sqrt(1 + (frequency / 500) ** 2), n)
    swell = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(n) / sample_rate)
    shaped = coloured * swell
    level = 32768 * 10 ** (-26 / 20) / np.sqrt(np.mean(shaped**2))
    pcm: NDArray[np.int16] = np.clip(np.rint(shaped * level), -32768, 32767).astype(np.int16)
    return pcm


def _clip(session: Any, audio: str | os.PathLike[str] | None) -> NDArray[np.int16]:
    if getattr(session, "takes_pictures", False):
        if audio is not None:
            raise SpecError("the bundle classifies pictures; measure it without audio")
        return np.zeros(2, np.int16)
    return load_clip(audio, session) if audio else speech_like_noise(session.sample_rate)


def _period(session: Any) -> float:
    """Seconds from one hop to the next at the rate of the audio."""
    return session.hop_length / session.sample_rate if session.sample_rate else PERIOD_S


def load_clip(path: str | os.PathLike[str], session: Any) -> NDArray[np.int16]:
    """Return the first channel of a file as int16[samples] at the session's rate."""
    samples, rate = audio_files.read(path)
    mono = samples[:, 0]
    if rate != session.sample_rate:
        real: NDArray[np.float32] = mono.astype(np.float32) / np.float32(audio_files.PCM_SCALE)
        resampler = audio_files.Resampler(rate, session.sample_rate)
        mono = audio_files.to_int16(resampler.push(real, last=True))
    missing = 2 * session.hop_length - len(mono)
    return np.pad(mono, (0, max(0, missing)))


def _hash_output(session: Any, clip: NDArray[np.int16]) -> str:
    if getattr(session, "takes_pictures", False):
        return _hash_results([session.classify(sample_picture())])
    needed = HASHED_HOPS * session.hop_length
    out = session.process(np.resize(clip, needed))
    if isinstance(out, list):
        return _hash_results(out)
    return hashlib.sha256(out.astype("<i2").tobytes()).hexdigest()


def _hash_results(results: list[Any]) -> str:
    """Hash labels and scores, in steps that no difference between libm's can reach."""
    text = ";".join(f"{r.time:.4f} {r.label} {r.score:.4f}" for r in results)
    return hashlib.sha256(text.encode()).hexdigest()


def _hops_per_pass(session: Measurable, clip: NDArray[np.int16], seconds: float) -> int:
    times = time_hops(session, clip, SLOW_HOPS, time.perf_counter_ns)
    if float(np.median(times.hop)) < 1e6 * SLOW_PASS_S / WARM_UP_HOPS:
        times = time_hops(session, clip, WARM_UP_HOPS, time.perf_counter_ns)
    per_hop = float(np.median(times.hop)) / 1e6
    least = MIN_HOPS if per_hop * MIN_HOPS < SLOW_PASS_S else SLOW_HOPS
    return int(min(max(seconds / per_hop, least), MAX_HOPS))


def _merge(passes: list[HopTimes]) -> dict[str, Distribution]:
    return {
        part: Distribution.of(np.concatenate([t.parts()[part] for t in passes]))
        for part in passes[0].parts()
    }


def _stream(hop_us: NDArray[np.float64], deadline_us: float) -> dict[str, Any]:
    missed = hop_us > deadline_us
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missed.astype(np.int8), [0]])))
    whole = Distribution.of(hop_us)
    return {
        "hops": len(hop_us),
        "deadline_us": deadline_us,
        "deadline_misses": int(missed.sum()),
        "miss_rate": float(missed.mean()),
        "longest_miss_run": int(max(edges[1::2] - edges[::2], default=0)),
        "rtf_p50": whole.p50 / deadline_us,
        "rtf_p99": None if whole.p99 is None else whole.p99 / deadline_us,
        "rtf_max": whole.max / deadline_us,
    }


def _declare(bundle: Bundle, session: Any) -> dict[str, Any]:
    frontend, manifest = bundle.frontend, bundle.manifest
    late = session.latency_samples / (session.bundle_rate or 1)
    file = manifest["formats"][session.streams[0].engine.kind]
    member = file["member"]
    return {
        "name": bundle.name,
        "bundle_sha256": bundle.sha256,
        "precision": bundle.precision,
        "member": member,
        "bytes": len(bundle.member(member)),
        "operators": file.get("operators", file.get("nodes")),
        "macs": manifest["macs"],
        "node_count": manifest["node_count"],
        "state_bytes": manifest["state_bytes"],
        "sample_rate": session.bundle_rate,
        "n_fft": getattr(frontend, "n_fft", 0),
        "hop_length": session.hop_length,
        "hop_us": 1e6 * _period(session),
        "delay": bundle.delay,
        "latency_samples": session.latency_samples,
        "algorithmic_ms": 1e3 * late,
    }


def _memory(session: Measurable, started: dict[str, Any] | None) -> dict[str, Any]:
    """Take memory from the fresh process: this one may hold torch and the measurements."""
    names = ("rss_after_load", "rss_peak", "rss_growth")
    if started:
        return {"scope": "fresh process", **{name: started.pop(name) for name in names}}
    loaded, _ = resident_bytes()
    growth = memory_growth(session)
    return {
        "scope": "this process",
        **dict(zip(names, (loaded, resident_bytes()[1], growth), strict=True)),
    }


def _runtime(session: Any) -> dict[str, Any]:
    said = session.describe()
    own = {"frontend_backend": said["frontend_backend"], "numpy": np.__version__}
    return {**said["engine"], **own}


def _tool() -> dict[str, Any]:
    return {
        "version": __version__,
        "cmdline": sys.argv,
        "seed": SEED,
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _env(before: Condition, after: Condition) -> dict[str, Any]:
    b, a = before.to_dict(), after.to_dict()
    return {
        "governor": b["governor"],
        **{f"{name}_before": b[name] for name in ("loadavg", "freq_khz", "temp_c", "throttled")},
        **{f"{name}_after": a[name] for name in ("loadavg", "freq_khz", "temp_c", "throttled")},
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gc": "off while measuring",
        "clock": "perf_counter_ns, thread_time_ns",
    }


def _verdict(before: Condition, after: Condition, cv: float, session: Any) -> dict[str, Any]:
    reasons, notes = [], []
    cores = os.cpu_count() or 1
    if cv > MAX_CV:
        reasons.append(f"repetitions differ by {100 * cv:.1f} %, allowed {100 * MAX_CV:.0f} %")
    if before.loadavg and before.loadavg[0] > MAX_LOAD_PER_CORE * cores:
        reasons.append(f"load average {before.loadavg[0]:.2f} on {cores} cores: machine is busy")
    if before.throttled != after.throttled or (after.throttled or 0) & 0xF:
        reasons.append(f"throttled: {before.throttled} before, {after.throttled} after")
    if before.governor not in (None, "performance"):
        notes.append(f"governor is {before.governor}, 'performance' gives steadier times")
    if session.describe()["frontend_backend"] != "c" and session.bundle_rate:
        notes.append("front end runs in NumPy; build the C core for real times")
    return {"valid": not reasons, "reasons": reasons, "notes": notes}
