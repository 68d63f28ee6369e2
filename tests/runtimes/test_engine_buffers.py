"""Engines on bound memory do what the same library does through its own copying interface."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnavailable, RuntimeUnfit, StreamError
from spectral_edge.runtimes.engines import registry
from spectral_edge.runtimes.engines.base import StepEngine
from spectral_edge.runtimes.engines.copies import plan_copies
from spectral_edge.runtimes.engines.registry import load_engine
from tests.runtimes.tiny import tiny_bundle

STEPS = 3000
IN_PROCESS = ("litert", "onnxruntime")


def codes(steps: int, seed: int = 1) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (steps, 1, 3, 1, 257)).astype(np.int8)


def step(engine: StepEngine, features: NDArray[np.int8]) -> dict[str, NDArray[Any]]:
    """Run one hop of logical codes and return copies of the logical outputs."""
    engine.inputs["features"][...] = engine.ports.inputs["features"].to_stored(features)
    engine.step()
    return {n: engine.ports.outputs[n].to_logical(a).copy() for n, a in engine.outputs.items()}


def test_litert_on_raw_addresses_equals_set_and_get_tensor(tiny: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    bundle = Bundle.load(tiny)
    engine = load_engine(bundle, "litert")
    plain = Interpreter(model_content=bundle.member("model.tflite"), num_threads=1)
    plain.allocate_tensors()
    runner = plain.get_signature_runner("step")
    ins, outs = runner.get_input_details(), runner.get_output_details()
    del runner  # it would block invoke
    index = {n: d["index"] for n, d in {**ins, **outs}.items()}
    for turn in range(2):
        past = np.zeros((1, 1, 257, 3), np.int8)
        engine.reset()
        for features in codes(STEPS // 2, seed=turn):
            plain.set_tensor(index["features"], features.transpose(0, 2, 3, 1))
            plain.set_tensor(index["state.past"], past)
            plain.invoke()
            past = plain.get_tensor(index["state.past.next"])
            engine.inputs["features"][...] = features.transpose(0, 2, 3, 1)
            engine.step()
            for name, array in engine.outputs.items():
                assert np.array_equal(array, plain.get_tensor(index[name]))
        assert np.array_equal(engine.state()["past"], past.transpose(0, 3, 1, 2))


def test_onnxruntime_on_bound_buffers_equals_run(tiny: Path) -> None:
    import onnxruntime

    bundle = Bundle.load(tiny)
    engine = load_engine(bundle, "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    plain = onnxruntime.InferenceSession(bundle.member("model.onnx"), options)
    past = np.zeros((1, 3, 1, 257), np.int8)
    for features in codes(300):
        feeds = {"features": features, "state.past": past}
        mask, bias, past = plain.run(["mask", "bias", "state.past.next"], feeds)
        seen = step(engine, features)
        assert np.array_equal(seen["mask"], mask)
        assert np.array_equal(seen["bias"], bias)
        assert np.array_equal(engine.state()["past"], past)


@pytest.mark.parametrize("name", IN_PROCESS)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_state_goes_out_and_comes_back(tiny: Path, name: str, at: int) -> None:
    bundle = Bundle.load(tiny)
    first, second = load_engine(bundle, name), load_engine(bundle, name)
    hops = codes(20)
    for features in hops[:at]:
        step(first, features)
    saved = first.state()
    expected = [step(first, features) for features in hops[at:]]
    step(second, hops[-1])
    second.load_state(saved)
    for features, wanted in zip(hops[at:], expected, strict=True):
        seen = step(second, features)
        assert all(np.array_equal(seen[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_wrong_states_are_refused(tiny: Path, name: str) -> None:
    engine = load_engine(Bundle.load(tiny), name)
    good = engine.state()
    with pytest.raises(StreamError, match=r"states are \['other'\], must be \['past'\]"):
        engine.load_state({"other": good["past"]})
    with pytest.raises(StreamError, match=r"state 'past' is int16\[1, 3, 1, 257\], must be int8"):
        engine.load_state({"past": good["past"].astype(np.int16)})


@pytest.mark.parametrize("name", IN_PROCESS)
def test_initial_state_comes_from_the_bundle(tmp_path: Path, name: str) -> None:
    state = {"name": "past", "shape": [1, 3, 1, 257], "dtype": "int8", "scale": 4 / 128}
    state |= {"zero_point": 0, "initial_code": -7, "initial": None}
    engine = load_engine(tiny_bundle(tmp_path / "b.seb", changes={"states": [state]}), name)
    step(engine, codes(1)[0])
    engine.reset()
    assert (engine.state()["past"] == -7).all()


def test_a_file_that_contradicts_the_manifest_is_refused(tmp_path: Path) -> None:
    wrong = {"name": "features", "shape": [1, 3, 1, 256], "dtype": "int8", "time_dim": 2}
    wrong |= {"scale": 4 / 128, "zero_point": 0}
    bundle = tiny_bundle(tmp_path / "b.seb", changes={"inputs": [wrong]})
    for name in IN_PROCESS:
        with pytest.raises(RuntimeUnfit, match=r"tensor 'features'.*export"):
            load_engine(bundle, name)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_file_the_engine_cannot_read_is_refused(tmp_path: Path, name: str) -> None:
    from spectral_edge.bundle import write_bundle

    good = tiny_bundle(tmp_path / "b.seb")
    members = {n: b"nonsense" if n.startswith("model.") else c for n, c in good.members.items()}
    bad = write_bundle(tmp_path / "bad.seb", good.manifest, members)
    with pytest.raises(RuntimeUnfit, match=rf"{name}.*cannot run model\..* of bad.seb"):
        load_engine(bad, name)


def test_missing_engine_names_the_line_to_type(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    bundle = Bundle.load(tiny)
    for name, info in registry.ENGINES.items():
        with pytest.raises(
            RuntimeUnavailable, match=rf"pip install 'spectral-edge\[{info.extra}\]'"
        ):
            load_engine(bundle, name)
    with pytest.raises(RuntimeUnavailable, match="none is installed; pip install"):
        load_engine(bundle)


def test_litert_greeting_stays_off_stderr(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_engine(Bundle.load(tiny), "litert")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("backend", ["auto", "python"])
def test_copies_are_done_as_if_at_once(backend: str) -> None:
    memory = np.arange(40, dtype=np.uint8)
    base = memory.ctypes.data
    # a chain (1 <- 0, 2 <- 1), a swap of 4 and 5, and an overlap with itself
    copies = [(10, 0, 10), (20, 10, 10), (30, 34, 4), (34, 30, 4), (38, 39, 1)]
    before = memory.copy()
    plan = plan_copies([(base + t, base + s, n) for t, s, n in copies], backend)
    plan.run()
    for target, source, size in copies:
        assert np.array_equal(memory[target : target + size], before[source : source + size])


def test_copies_agree_with_the_header() -> None:
    from spectral_edge.runtimes.engines.copies import _Entry

    text = (Path(__file__).parents[2] / "runtimes/c/include/se_copy.h").read_text()
    assert "void se_copy_many(const se_copy *copies, size_t count)" in text
    fields = [
        line.split(";")[0].split()[-1].lstrip("*") for line in text.splitlines() if "/* [" in line
    ]
    assert fields == ["target", "source"]
    assert ctypes.sizeof(_Entry) == 3 * ctypes.sizeof(ctypes.c_void_p)
