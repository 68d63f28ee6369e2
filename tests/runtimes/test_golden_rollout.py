"""Rollouts in this process and in their own give the golden codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectral_edge.bundle import Bundle
from spectral_edge.errors import RuntimeUnfit, SpecError
from spectral_edge.runtimes.rollout import RolloutResult, rollout
from tests.runtimes.tiny import tiny_bundle
from tests.tolerances import TFLITE_RUNTIME_MAX_CODES, TFLITE_RUNTIME_TINY_CODES_EQUAL


def shares(result: RolloutResult, bundle: Bundle) -> list[float]:
    golden = bundle.golden()
    pairs = [(a, golden[f"output.{n}"][: result.hops]) for n, a in result.outputs.items()]
    return [float(np.mean(seen == wanted)) for seen, wanted in pairs]


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
@pytest.mark.parametrize("own_process", [False, True])
def test_codes_equal_the_golden_ones(tiny: Path, engine: str, own_process: bool) -> None:
    bundle = Bundle.load(tiny)
    result = rollout(bundle, engine, own_process=own_process)
    assert shares(result, bundle) == [1.0, 1.0]
    assert np.array_equal(result.states["past"], bundle.golden()["state.past"])
    assert result.description["engine"] == engine
    assert result.hops == 40


def test_tflite_runtime_is_close_in_its_own_process(tiny: Path) -> None:
    bundle = Bundle.load(tiny)
    result = rollout(bundle, "tflite-runtime")
    assert min(shares(result, bundle)) >= TFLITE_RUNTIME_TINY_CODES_EQUAL
    for name, seen in result.outputs.items():
        difference = seen.astype(int) - bundle.golden()[f"output.{name}"]
        assert np.abs(difference).max() <= TFLITE_RUNTIME_MAX_CODES


def test_fewer_hops_are_the_first_ones(tiny: Path) -> None:
    bundle = Bundle.load(tiny)
    whole, part = rollout(bundle, "litert"), rollout(bundle, "litert", hops=7)
    assert part.hops == 7
    assert all(np.array_equal(part.outputs[n], whole.outputs[n][:7]) for n in whole.outputs)


@pytest.mark.parametrize(("hops", "words"), [(0, "hops is 0"), (41, "has 40 golden hops")])
def test_hops_out_of_range(tiny: Path, hops: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        rollout(tiny, "litert", hops=hops)


def test_errors_come_back_from_the_other_process(tmp_path: Path) -> None:
    from spectral_edge.bundle import write_bundle

    good = tiny_bundle(tmp_path / "b.seb")
    members = dict(good.members) | {"model.tflite": b"nonsense"}
    bad = write_bundle(tmp_path / "bad.seb", good.manifest, members)
    with pytest.raises(RuntimeUnfit, match=r"tflite-runtime.*cannot run model.tflite of bad.seb"):
        rollout(bad, "tflite-runtime")
