"""Networks of the gallery and shipped bundles as C: every golden code of every hop and state."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import spectral_edge as se
from spectral_edge.bundle import Bundle
from spectral_edge.converters.c import compile_step
from spectral_edge.converters.c.plan import SLIDE_STEPS
from spectral_edge.models.checkpoint import load_checkpoint
from spectral_edge.runtimes.engines.registry import load_engine
from spectral_edge.runtimes.rollout import rollout
from tests.converters.c.running import built, command, driver, sanitizers
from tests.streaming.gallery.catalogue import GALLERY
from tests.streaming.gallery.test_gallery import clips
from tests.streaming.support import randomised
from tests.tolerances import STEP_EQUALS_CLIP_RELATIVE

QUICK = ("tc-resnet", "fsmn")
FLOAT = (
    "attention u-net",
    "conv-tasnet",
    "emformer",
    "gru mask",
    "gtcrn without band recurrence",
    "linear attention",
    "mamba",
    "s4d",
    "wave u-net",
)
ZOO = Path(se.__file__).parent / "zoo"

MOST_KERNELS = {"gtcrn without band recurrence": 100, "gru mask": 16}


@cache
def export(name: str, folder: Path, *, quantised: bool) -> Bundle:
    """A network with random weights as a bundle with a TFLite file."""
    torch.manual_seed(0)
    entry = GALLERY[name]()
    program = se.streamify(randomised(entry.model), entry.example, entry.time_dim, check_lengths=())
    if quantised:
        program = se.quantize(program, clips(program, entry.example))
    path = folder / f"{name} {program.precision}.seb"
    se.export(program, path, formats=("tflite",))
    return Bundle.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles of this module lie; each is made once."""
    return tmp_path_factory.mktemp("networks")


def assert_golden(bundle: Bundle) -> None:
    """Run all golden hops; codes and counters equal, floats within rounding of the peak."""
    golden, result = bundle.golden(), rollout(bundle, "native")
    seen = {f"output.{n}": a for n, a in result.outputs.items()}
    seen |= {f"state.{n}": a for n, a in result.states.items()}
    for name, values in seen.items():
        wanted = golden[name]
        if values.dtype == np.float32:
            peak = max(1.0, float(np.abs(wanted).max(initial=0.0)))
            assert np.abs(values - wanted).max() <= STEP_EQUALS_CLIP_RELATIVE * peak, name
        else:
            np.testing.assert_array_equal(values, wanted, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "w8a8"])
@pytest.mark.parametrize("name", QUICK)
def test_network_gives_the_golden_rollout(name: str, precision: str, folder: Path) -> None:
    command()
    assert_golden(export(name, folder, quantised=precision == "w8a8"))


def test_delay_lines_slide_and_nobody_sees_it(folder: Path) -> None:
    """Looking at states, loading them and dropping hops change nothing, wherever the slide is."""
    command()
    bundle = export("tc-resnet", folder, quantised=True)
    member = bundle.manifest["formats"]["tflite"]["member"]
    assert "s->slid *" in compile_step(bundle.member(member)).source
    plain, watched = (load_engine(bundle, "native") for _ in range(2))
    rng = np.random.default_rng(0)
    for hop in range(3 * SLIDE_STEPS):
        for name, array in plain.inputs.items():
            array[...] = rng.integers(-128, 128, array.shape)
            watched.inputs[name][...] = array
        plain.step()
        if hop % 3 == 0:
            watched.invoke()  # dropped
        if hop % 5 == 0:
            watched.load_state(watched.state())
        watched.step()
        for name, array in plain.outputs.items():
            np.testing.assert_array_equal(watched.outputs[name], array)
        if hop % 7 == 0:
            watched.state()
    for name, state in plain.state().items():
        np.testing.assert_array_equal(watched.state()[name], state)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT)
def test_float_network_gives_the_golden_rollout(name: str, folder: Path) -> None:
    """In w8a8 the gallery's own test runs every network on the engine ``native``."""
    command()
    bundle = export(name, folder, quantised=False)
    assert_golden(bundle)
    made = compile_step(bundle.member(bundle.manifest["formats"]["tflite"]["member"]))
    assert made.kernels <= MOST_KERNELS.get(name, 10_000)


@pytest.mark.parametrize("name", ["saf_edge_s", pytest.param("dsm_kws_s", marks=pytest.mark.slow)])
def test_shipped_bundle_gives_the_golden_codes(name: str) -> None:
    command()
    bundle = Bundle.load(ZOO / f"{name}.seb")
    assert bundle.precision == "w8a8"
    assert_golden(bundle)


@pytest.mark.slow
def test_shipped_weights_in_float32(tmp_path: Path) -> None:
    model, frontend, _ = load_checkpoint(ZOO / "saf_edge_s.pt")
    example = torch.randn(1, len(frontend.features), 4, frontend.bins)
    program = se.streamify(model, example, 2)
    se.export(program, tmp_path / "float.seb", frontend=frontend, formats=("tflite",))
    assert_golden(Bundle.load(tmp_path / "float.seb"))


@pytest.mark.parametrize("precision", ["float32", "w8a8"])
def test_sanitizers_find_nothing_in_a_network(precision: str, folder: Path, tmp_path: Path) -> None:
    bundle = export("fsmn", folder, quantised=precision == "w8a8")
    made = compile_step(bundle.member(bundle.manifest["formats"]["tflite"]["member"]))
    program = built(made.source, tmp_path, *sanitizers(), main=driver(made))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
