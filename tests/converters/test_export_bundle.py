"""export: one call, one bundle that proves itself; equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spectral_edge as se
from spectral_edge.bundle import Bundle
from spectral_edge.converters.file_qparams import (
    onnx_qparams,
    program_qparams,
    tflite_qparams,
    verify_qparams,
)
from spectral_edge.converters.golden import FLOAT_HOPS, golden_rollout
from spectral_edge.converters.to_onnx import to_onnx
from spectral_edge.converters.to_tflite import to_tflite
from spectral_edge.errors import SpecError
from spectral_edge.program import StateSpec, StepProgram
from tests.tolerances import LITERT_CODES_EQUAL


class Small(nn.Module):
    """A causal convolution with a state and a sigmoid; features of the default front end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (2, 3), padding=(0, 1))
        self.mask = nn.Conv2d(4, 1, 1)
        self.bias = nn.Conv2d(4, 2, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        h = F.relu(self.conv(F.pad(features, (0, 0, 1, 0))))
        return {"mask": torch.sigmoid(self.mask(h)), "bias": self.bias(h)}


@pytest.fixture(scope="module")
def floats() -> StepProgram:
    torch.manual_seed(0)
    return se.streamify(Small().eval(), torch.randn(1, 3, 10, 257), time_dim=2)


@pytest.fixture(scope="module")
def codes(floats: StepProgram) -> StepProgram:
    return se.quantize(floats, [(torch.randn(1, 3, 520, 257),)])


@pytest.fixture(scope="module")
def bundle(codes: StepProgram, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("export") / "small.seb"
    said: list[tuple[str, int, int]] = []
    made = se.export(
        codes,
        path,
        frontend=se.StftFrontend(),
        metrics={"si_sdr_db": 12.5},
        progress=lambda *line: said.append(line),
    )
    assert [what for what, _, _ in said] == ["tflite", "onnx", "golden rollout", "bundle", "bundle"]
    return made


def test_the_bundle_passes_its_own_check(bundle: Bundle) -> None:
    report = se.check(bundle, engines=["litert", "onnxruntime"])
    assert report.passed, report
    assert [g.passed for g in report.gates] == [True] * 3


def test_manifest_says_what_the_program_is(bundle: Bundle, codes: StepProgram) -> None:
    manifest = bundle.manifest
    assert manifest["name"] == "small"
    assert manifest["precision"] == "w8a8"
    assert manifest["frontend_fingerprint"] == se.StftFrontend().fingerprint
    assert [t["dtype"] for t in manifest["inputs"] + manifest["outputs"]] == ["int8"] * 3
    assert manifest["formats"]["tflite"]["layout"]["features"] == [0, 2, 3, 1]
    assert manifest["formats"]["tflite"]["runtime_floor"]["tflite-runtime"] == "2.14.0"
    assert manifest["formats"]["onnx"]["opset"] == 21
    assert manifest["state_bytes"] == codes.state_elements
    assert manifest["qparams"] == [list(row) for row in program_qparams(codes)]
    assert manifest["provenance"]["golden"] == "calibration data"
    assert min(manifest["provenance"]["fake_quant_codes_equal"].values()) >= LITERT_CODES_EQUAL
    assert "si_sdr_db: 12.5" in bundle.member("card.md").decode()


def test_golden_holds_500_hops_of_codes(bundle: Bundle) -> None:
    golden = bundle.golden()
    assert golden["input.features"].shape == (512, 1, 3, 1, 257)
    assert golden["output.mask"].dtype == np.int8
    assert np.unique(golden["output.mask"]).size > 50


def test_equal_programs_give_equal_files(
    codes: StepProgram, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert to_onnx(codes) == bundle.member("model.onnx")
    assert to_tflite(codes) == bundle.member("model.tflite")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    paths = [tmp_path / "a.seb", tmp_path / "b.seb"]
    for path in paths:
        se.export(codes, path, name="same", formats=("tflite",))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_float_programs_need_no_calibration(floats: StepProgram, tmp_path: Path) -> None:
    bundle = se.export(floats, tmp_path / "float", formats=("tflite", "pt2"), card="mine")
    assert bundle.manifest["provenance"]["golden"].startswith("noise")
    assert bundle.golden()["input.features"].shape[0] == FLOAT_HOPS
    assert bundle.member("card.md") == b"mine"
    assert set(bundle.manifest["formats"]) == {"tflite"}
    assert bundle.member("model.pt2")[:2] == b"PK"
    assert se.check(bundle, engines=["litert"]).passed


def test_a_start_that_is_not_constant_becomes_a_member(floats: StepProgram, tmp_path: Path) -> None:
    name, spec = next(iter(floats.states.items()))
    ramp = np.arange(spec.elements, dtype=np.float32).reshape(spec.shape)
    states = floats.states.copy()
    states[name] = StateSpec(spec.shape, spec.dtype, ramp)
    bundle = se.export(floats.with_(states=states), tmp_path / "ramp", formats=("tflite",))
    np.testing.assert_array_equal(bundle.initial_states()[name], ramp)
    assert se.check(bundle, engines=["litert"]).passed


def test_golden_can_hold_the_float_reference(floats: StepProgram, codes: StepProgram) -> None:
    arrays, _ = golden_rollout(codes, floats)
    hops = arrays["float.hops"]
    assert len(hops) == len(arrays["float.mask"]) <= FLOAT_HOPS
    q = codes.outputs[0].qparams
    assert q is not None
    real = q.dequantize(arrays["output.mask"][hops])
    assert np.abs(real - arrays["float.mask"]).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"formats": ()}, "formats are"),
        ({"formats": ("tflite", "coreml")}, "choose some of"),
        ({"frontend": se.StftFrontend(n_fft=320, hop_length=160)}, "has shape"),
    ],
)
def test_what_cannot_be_exported(
    codes: StepProgram, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        se.export(codes, tmp_path / "no.seb", **changes)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_int16_programs_are_refused(codes: StepProgram, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="w8a16"):
        se.export(codes.with_(precision="w8a16"), tmp_path / "no.seb")


def test_qparams_are_read_from_the_files(bundle: Bundle, codes: StepProgram) -> None:
    expected = {name: (scale, zp) for name, scale, zp in program_qparams(codes)}
    tflite = tflite_qparams(bundle.member("model.tflite"))
    onnx = onnx_qparams(bundle.member("model.onnx"))
    assert {n: tflite[n] for n in codes.qparams} == {n: expected[n] for n in codes.qparams}
    assert {n: onnx[n] for n in codes.qparams} == {n: expected[n] for n in codes.qparams}
    assert set(tflite.values()) == set(expected.values())


def test_other_qparams_are_noticed(bundle: Bundle, codes: StepProgram, floats: StepProgram) -> None:
    other = se.quantize(floats, [(torch.randn(1, 3, 520, 257) * 2,)])
    problems = verify_qparams(other, bundle.member("model.tflite"), bundle.member("model.onnx"))
    assert any(p.startswith("tflite: features has") for p in problems)
    assert any("no tensor has" in p for p in problems)
    assert any(p.startswith("onnx: ") for p in problems)
