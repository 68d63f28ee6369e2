"""Late hops, bad samples and gaps, on a clock that the test turns: counted, and never poisonous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.errors import SpecError, StreamError
from spectral_edge.runtimes.scheduler.counters import Counters
from spectral_edge.runtimes.scheduler.deadline import OverrunPolicy
from spectral_edge.runtimes.scheduler.realtime import RealtimeSession

HOP, WINDOW, PERIOD = 256, 512, 16_000_000  # samples, samples, ns


class Clock:
    """Stands still unless somebody turns it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def realtime(
    path: Path,
    policy: str,
    costs_ns: Iterable[int] = (),
    channels: int = 1,
    sample_rate: int | None = None,
) -> tuple[RealtimeSession, Clock]:
    """A session whose hops take ``costs_ns``, then no time at all."""
    session, clock = se.open(path, sample_rate=sample_rate), Clock()
    session.prepare(channels)
    left: Iterator[int] = iter(costs_ns)

    def slow(hop: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            hop()
            clock.now += next(left, 0)

        return run

    for stream in session.streams:
        stream.hop = slow(stream.hop)  # type: ignore[method-assign]
    return RealtimeSession(session, channels, OverrunPolicy.parse(policy), clock=clock), clock


def play(
    live: RealtimeSession, clock: Clock, clip: NDArray[np.int16], size: int = HOP
) -> NDArray[np.int16]:
    """Blocks arrive at their rate; each is taken as soon as the ones before are done."""
    parts, begun = [], clock.now
    for start in range(0, len(clip), size):
        block = clip[start : start + size]
        arrived = begun + round((start + len(block)) * 1e9 / live.session.sample_rate)
        clock.now = max(clock.now, arrived)
        parts.append(live.push(block, arrived))
    return np.concatenate(parts)


def plain(path: Path, clip: NDArray[np.int16]) -> NDArray[np.int16]:
    with se.open(path) as session:
        return session.push(clip)


def counts(counters: Counters) -> tuple[int, int, int, int, int]:
    c = counters
    return c.hops, c.misses, c.longest_miss_run, c.dropped, c.bypassed


@pytest.mark.parametrize("policy", ["drop", "bypass", "queue:2"])
def test_hops_in_time_are_what_a_session_gives(
    tiny: Path, noise: NDArray[np.int16], policy: str
) -> None:
    live, clock = realtime(tiny, policy, [PERIOD] * 100)  # ready just when the next one arrives
    assert np.array_equal(play(live, clock, noise), plain(tiny, noise))
    assert counts(live.counters) == (len(noise) // HOP, 0, 0, 0, 0)
    assert live.counters.to_dict()["hop_us"]["max"] == PERIOD / 1000


def test_dropped_hops_are_silent_and_the_rest_is_as_before(
    through: Path, noise: NDArray[np.int16]
) -> None:
    """Hop 4 takes 3.5 periods: it is late itself, 5 and 6 are due before they could begin."""
    live, clock = realtime(through, "drop", [0, 0, 0, 0, PERIOD * 7 // 2])
    seen, wanted = play(live, clock, noise), plain(through, noise)
    assert counts(live.counters) == (19, 3, 3, 2, 0)
    at = 4 * HOP + WINDOW  # frame 5 covers hops 4 and 5, which come out one window later
    assert np.array_equal(seen[:at], wanted[:at])
    assert not seen[at + HOP : at + 2 * HOP].any()
    assert not np.array_equal(seen[at : at + HOP], wanted[at : at + HOP])  # the fade
    assert np.array_equal(seen[at + 3 * HOP :], wanted[at + 3 * HOP :])


def test_bypassed_hops_let_the_audio_through(through: Path, noise: NDArray[np.int16]) -> None:
    """A bundle whose mask is always open cannot tell: bypass is in time and has no seam."""
    live, clock = realtime(through, "bypass", [0, 0, 0, 0, PERIOD * 7 // 2])
    assert np.array_equal(play(live, clock, noise), plain(through, noise))
    assert counts(live.counters) == (19, 3, 3, 0, 2)


def test_queued_hops_wait_and_all_run(tiny: Path, noise: NDArray[np.int16]) -> None:
    live, clock = realtime(tiny, "queue:3", [0, 0, 0, 0, PERIOD * 7 // 2])
    assert live.budget_ns == 4 * PERIOD
    assert np.array_equal(play(live, clock, noise), plain(tiny, noise))
    assert counts(live.counters) == (19, 0, 0, 0, 0)


def test_a_queue_has_a_bound(tiny: Path, noise: NDArray[np.int16]) -> None:
    live, clock = realtime(tiny, "queue:1", [0, 0, 0, 0, PERIOD * 9 // 2])
    play(live, clock, noise)
    assert counts(live.counters) == (19, 3, 3, 2, 0)


def test_a_machine_that_is_too_slow_runs_what_it_can(tiny: Path) -> None:
    """Every hop takes 1.5 periods: two of three begin in time, and no backlog builds up."""
    live, clock = realtime(tiny, "bypass", [PERIOD * 3 // 2] * 1000)
    clip = np.zeros(300 * HOP, np.int16)
    play(live, clock, clip)
    done = live.counters
    assert done.hops == 300
    assert (done.times.n, done.bypassed) == (201, 99)
    assert clock.now - 300 * PERIOD <= PERIOD + PERIOD * 3 // 2


def test_channels_are_counted_each(tiny: Path, noise: NDArray[np.int16]) -> None:
    live, clock = realtime(tiny, "bypass", channels=2)
    both = np.stack([noise, noise[::-1]], axis=1)
    assert np.array_equal(play(live, clock, both), plain(tiny, both))
    assert live.counters.hops == 2 * (len(noise) // HOP)


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_samples_count_as_silence(tiny: Path, rate: int, bad: float) -> None:
    rng = np.random.default_rng(3)
    clip = (rng.standard_normal(9000) * 0.1).astype(np.float32)
    where = rng.choice(len(clip), 700, replace=False)
    broken, mended = clip.copy(), clip.copy()
    broken[where], mended[where] = bad, 0
    live, clock = realtime(tiny, "drop", sample_rate=rate)
    seen = play(live, clock, broken, 777)
    with se.open(tiny, sample_rate=rate) as session:
        assert np.array_equal(seen, session.push(mended))
    assert live.counters.bad_samples == 700
    assert np.isfinite(seen).all()


def test_a_session_refuses_bad_samples_and_goes_on(tiny: Path) -> None:
    clip = np.full(HOP, 0.1, np.float32)
    with se.open(tiny) as session, se.open(tiny) as other:
        with pytest.raises(StreamError, match="nan at sample 3"):
            session.push(np.where(np.arange(HOP) == 3, np.float32(np.nan), clip))
        assert np.array_equal(session.push(clip), other.push(clip))


def test_a_short_gap_is_silence(tiny: Path, noise: NDArray[np.int16]) -> None:
    live, clock = realtime(tiny, "drop")
    first, lost, rest = noise[:1000], 700, noise[1000:]
    seen = [play(live, clock, first), live.skip(lost, first), play(live, clock, rest)]
    filled = np.concatenate([first, np.zeros(lost, np.int16), rest])
    assert np.array_equal(np.concatenate(seen), plain(tiny, filled))
    assert live.counters.lost_samples == lost


def test_a_long_gap_begins_another_stream(tiny: Path, noise: NDArray[np.int16]) -> None:
    live, clock = realtime(tiny, "drop")
    live.push(noise[:1000])
    assert len(live.skip(200_000, noise)) == 200_000
    assert np.array_equal(play(live, clock, noise), plain(tiny, noise))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wait", "must be one of drop, bypass, queue"),
        ("queue:x", "queue:HOPS"),
        ("drop:3", "queue:HOPS"),
        ("queue:0", "bound is 0 hops, must be 1…64"),
        ("queue:65", "must be 1…64"),
    ],
)
def test_policies_that_do_not_exist(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        OverrunPolicy.parse(text)


@pytest.mark.parametrize("text", ["drop", "bypass", "queue:7"])
def test_policies_read_as_they_are_written(text: str) -> None:
    assert str(OverrunPolicy.parse(text)) == text
