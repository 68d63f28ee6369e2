"""The engine that compiles: the laws of the others, a private cache, errors that help."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit
from spectral_edge.runtimes.doctor import doctor
from spectral_edge.runtimes.engines import compiler as compiling, registry
from spectral_edge.runtimes.engines.registry import load_engine, pick_engine
from spectral_edge.runtimes.rollout import python_environment, rollout
from tests.runtimes.tiny import tiny_bundle
from tests.tolerances import FLOAT_ENGINES_PCM

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="cc is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test run."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "spectral-edge" / "native"


def test_codes_and_states_are_the_golden_ones(tiny: Path) -> None:
    bundle = Bundle.load(tiny)
    result, golden = rollout(bundle, "native"), bundle.golden()
    for name, seen in result.outputs.items():
        assert np.array_equal(seen, golden[f"output.{name}"])
    assert np.array_equal(result.states["past"], golden["state.past"])
    assert result.description["kernels"] > 0


@pytest.mark.parametrize("precision", ["float32", "w8a8"])
def test_a_session_gives_the_audio_of_litert(
    tiny: Path, tiny_float: Path, precision: str, noise: NDArray[np.int16]
) -> None:
    path = tiny if precision == "w8a8" else tiny_float
    outs = []
    for engine in ("litert", "native"):
        with se.open(path, engine=engine) as session:
            outs.append(session.process(noise).astype(int))
    assert np.abs(outs[0] - outs[1]).max() <= (0 if precision == "w8a8" else FLOAT_ENGINES_PCM)


def test_it_is_never_chosen_unasked(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(tiny)
    assert list(registry.ENGINES)[-1] == "native"
    assert "native" not in registry.DEFAULT_ORDER
    assert pick_engine(bundle).name != "native"
    assert "native" not in [e.engine for e in se.check(tiny, hops=2).engines]


def test_states_stand_still_until_they_are_handed_over(tiny: Path) -> None:
    engine = load_engine(Bundle.load(tiny), "native")
    engine.inputs["features"][...] = 50
    before = engine.state()["past"]
    engine.invoke()
    assert np.array_equal(engine.state()["past"], before)
    first = engine.outputs["mask"].copy()
    engine.invoke()  # the hop was dropped: again from the same state
    assert np.array_equal(engine.outputs["mask"], first)
    engine.hand_over()
    after = engine.state()["past"]
    assert not np.array_equal(after, before)
    assert np.array_equal(engine.state()["past"], after)  # looking twice moves once
    engine.reset()
    assert np.array_equal(engine.state()["past"], before)


def test_what_is_written_over_outputs_and_inputs_does_not_reach_states(tiny: Path) -> None:
    plain, written = (load_engine(Bundle.load(tiny), "native") for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(20):
        frame = rng.integers(-128, 128, plain.inputs["features"].shape)
        for engine in (plain, written):
            engine.inputs["features"][...] = frame
            engine.step()
        for array in (*written.outputs.values(), *written.inputs.values()):
            array[...] = 99
        assert np.array_equal(plain.state()["past"], written.state()["past"])


def test_loaded_states_count(tiny: Path) -> None:
    engine = load_engine(Bundle.load(tiny), "native")
    wanted = {"past": np.full(engine.state()["past"].shape, 7, np.int8)}
    engine.invoke()
    engine.hand_over()
    engine.load_state(wanted)  # after a hand-over that still waits
    assert np.array_equal(engine.state()["past"], wanted["past"])


def test_two_engines_share_the_library_and_nothing_else(tiny: Path) -> None:
    one, two = (load_engine(Bundle.load(tiny), "native") for _ in range(2))
    one.inputs["features"][...] = 50
    one.step()
    assert not np.array_equal(one.state()["past"], two.state()["past"])


def test_a_hop_allocates_nothing(tiny: Path) -> None:
    import tracemalloc

    engine = load_engine(Bundle.load(tiny), "native")
    engine.step()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        engine.step()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1000


def test_the_cache_is_private_and_reused(tiny: Path, cache: Path) -> None:
    load_engine(Bundle.load(tiny), "native")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    before = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    load_engine(Bundle.load(tiny), "native")
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == before
    assert all(p.suffix == ".so" for p in before)


def test_an_open_cache_is_closed_and_a_foreign_one_refused(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_engine(Bundle.load(tiny), "native")
    cache.chmod(0o777)
    load_engine(Bundle.load(tiny), "native")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RuntimeUnavailable, match=r"not a folder of your own; set XDG_CACHE_HOME"):
        load_engine(Bundle.load(tiny), "native")


def test_a_cache_that_cannot_be_made_is_an_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeUnavailable, match="set XDG_CACHE_HOME"):
        load_engine(Bundle.load(tiny), "native")


def test_processes_that_compile_at_once_do_not_meet(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from spectral_edge.bundle import Bundle\n"
        "from spectral_edge.runtimes.engines.registry import load_engine\n"
        "load_engine(Bundle.load(sys.argv[1]), 'native').step()\n"
    )
    env = python_environment() | {"XDG_CACHE_HOME": str(tmp_path)}

    def run(_: int) -> int:
        line = [sys.executable, "-c", code, str(tiny)]
        return subprocess.run(line, env=env, check=False).returncode

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [0, 0, 0]
    made = [p.name for p in (tmp_path / "spectral-edge" / "native").iterdir()]
    assert len(made) == 1


def test_without_a_compiler_the_line_to_type_is_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match="engine native is not installed; apt install gcc"):
        load_engine(Bundle.load(tiny), "native")
    with pytest.raises(RuntimeUnavailable, match="apt install gcc"):
        compiling.library_for("int x;")


def test_a_source_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(RuntimeUnfit, match="does not compile the step"):
        compiling.library_for("nonsense")


def test_the_compiler_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -DX=1")
    assert compiling.compiler() == ("cc", "-DX=1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiling.compiler() == ("cc",)


def test_a_file_that_has_no_c_form_is_refused(tmp_path: Path) -> None:
    good = tiny_bundle(tmp_path / "b.seb")
    members = {n: b"nonsense" if n.endswith(".tflite") else c for n, c in good.members.items()}
    bad = write_bundle(tmp_path / "bad.seb", good.manifest, members)
    with pytest.raises(RuntimeUnfit, match=r"native cannot run model.tflite of bad.seb"):
        load_engine(bad, "native")


def test_the_doctor_lists_it() -> None:
    found = next(f for f in doctor().findings if f.name == "native")
    assert found.kind == "engine"
    assert found.ok
