"""A real network, all the way: the session plays what torch computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spectral_edge as se
from spectral_edge import audio
from spectral_edge.bundle import Bundle
from spectral_edge.runtimes.engines.reference import ReferenceEngine
from spectral_edge.runtimes.rollout import rollout
from spectral_edge.runtimes.stream import ChannelStream
from tests.tolerances import (
    LITERT_CODES_EQUAL,
    ONNXRUNTIME_CODES_EQUAL,
    SAME_PROGRAM_SNR_DB,
    TORCH_CODES_EQUAL,
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Made:
    """A network of the edge family with random weights, and its two bundles."""

    program: se.StepProgram
    quantized: se.StepProgram
    w8a8: Bundle
    float32: Bundle


@pytest.fixture(scope="module")
def clip(demo_audio: Path) -> NDArray[np.int16]:
    samples, _ = audio.read(demo_audio / "noisy.wav")
    return samples[:32_000, 0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_audio: Path) -> Made:
    folder = tmp_path_factory.mktemp("real")
    frontend = se.StftFrontend()
    torch.manual_seed(0)
    model = se.models.saf_edge_nano(frontend).eval()
    sequences = list(frontend.sequences([demo_audio / "noisy.wav"], max_seconds=3))
    program = se.streamify(model, sequences[0][0][:, :, :64], time_dim=2)
    quantized = se.quantize(program, sequences, recipe="w8a8")
    floats = program.with_(golden_inputs=quantized.golden_inputs)
    return Made(
        floats,
        quantized,
        se.export(quantized, folder / "w8a8.seb", frontend=frontend, formats=("tflite", "onnx")),
        se.export(floats, folder / "float32.seb", frontend=frontend, formats=("tflite", "onnx")),
    )


def play(stream: ChannelStream, clip: NDArray[np.int16]) -> NDArray[np.int16]:
    out = np.empty_like(clip)
    stream.fifo.exchange(clip, out)
    return out


def snr_db(wanted: NDArray[np.int16], seen: NDArray[np.int16]) -> float:
    w, error = wanted.astype(float), seen.astype(float) - wanted
    return float(10 * np.log10((w @ w) / max(error @ error, 1e-9)))


def test_reference_engine_follows_the_golden_codes(made: Made) -> None:
    """Torch sums in float32, the golden rollout in integers: a rounding tie may go either way."""
    golden = made.w8a8.golden()
    engine = ReferenceEngine(made.w8a8, made.quantized)
    equal = []
    for hop in range(60):
        engine.inputs["features"][...] = golden["input.features"][hop]
        engine.step()
        equal += [np.mean(a == golden[f"output.{n}"][hop]) for n, a in engine.outputs.items()]
    assert np.mean(equal) >= TORCH_CODES_EQUAL


@pytest.mark.parametrize(
    ("engine", "share"), [("litert", LITERT_CODES_EQUAL), ("onnxruntime", ONNXRUNTIME_CODES_EQUAL)]
)
def test_engines_follow_the_golden_rollout(made: Made, engine: str, share: float) -> None:
    golden = made.w8a8.golden()
    result = rollout(made.w8a8, engine)
    for name, seen in result.outputs.items():
        assert np.mean(seen == golden[f"output.{name}"]) >= share


@pytest.mark.parametrize("precision", ["w8a8", "float32"])
@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_audio_is_what_torch_computes(
    made: Made, clip: NDArray[np.int16], precision: str, engine: str
) -> None:
    bundle: Bundle = getattr(made, precision)
    program = made.quantized if precision == "w8a8" else made.program
    wanted = play(ChannelStream(bundle, ReferenceEngine(bundle, program)), clip)
    with se.open(bundle, engine=engine) as session:
        seen = session.push(clip)
    assert snr_db(wanted, seen) >= SAME_PROGRAM_SNR_DB


def test_any_split_and_a_saved_state_give_the_same_bytes(
    made: Made, clip: NDArray[np.int16]
) -> None:
    rng = np.random.default_rng(0)
    with se.open(made.w8a8) as session:
        whole = session.process(clip)
        parts, start = [], 0
        while start < len(clip):
            size = int(rng.integers(0, 1500))
            parts.append(session.push(clip[start : start + size]))
            start += size
            saved = session.state()
            session.reset()
            session.load_state(saved)
            session.push(clip[:0])
        out = np.concatenate([*parts, session.flush()])
    assert np.array_equal(out[session.latency_samples :], whole)


def test_reference_engine_wants_its_own_program(made: Made, tmp_path: Path) -> None:
    from tests.runtimes.tiny import tiny_bundle

    other = tiny_bundle(tmp_path / "tiny.seb")
    with pytest.raises(
        se.errors.RuntimeUnfit, match="pass the program the bundle was exported from"
    ):
        ReferenceEngine(other, made.quantized)
