"""What a writer cannot spell is refused with the node, its module, and what exists instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectral_edge.converters.coverage import coverage, coverage_warnings
from spectral_edge.converters.tflite.schema import schema
from spectral_edge.converters.to_onnx import to_onnx
from spectral_edge.converters.to_tflite import to_tflite, write_tflite
from spectral_edge.errors import ConversionError, RuntimeUnavailable, UnsupportedOp
from tests.converters.canonical import quantised, step_program
from tests.converters.gallery import IMAGE, Lambda

X = torch.randn(IMAGE)


class Deep(nn.Module):
    """An op without a lowering, two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(16, 16, 1), Lambda(torch.erfinv))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def test_an_unknown_op_is_named_with_its_place() -> None:
    with pytest.raises(UnsupportedOp) as caught:
        to_tflite(step_program(Deep(), [X]))
    message = str(caught.value)
    assert "aten.erfinv.default" in message
    assert "'erfinv'" in message
    assert "block.1" in message
    assert "aten.conv2d" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: nn.functional.interpolate(x, size=(6, 30)), "factor of 30/20"),
        (lambda x: nn.functional.pad(x, (1, 1, 0, 0), mode="reflect"), "reflect"),
        (lambda x: nn.functional.conv2d(x, x[:, :, :1, :1]), "weight is not a constant"),
        (lambda x: nn.functional.max_pool2d(x, 3, 2, 1), "padding"),
        (lambda x: nn.functional.avg_pool2d(x, 4, ceil_mode=True), "ceil_mode"),
        (lambda x: torch.div(x, 2.0, rounding_mode="floor"), "rounding"),
        (lambda x: nn.functional.elu(x, alpha=0.5), "alpha"),
        (lambda x: nn.functional.softplus(x, beta=2), "beta"),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, (2, 5)), "output size of 1"),
    ],
)
def test_unsupported_arguments_are_named(function: Any, words: str) -> None:
    with pytest.raises(UnsupportedOp, match=words):
        to_tflite(step_program(Lambda(function), [X]))


def test_padded_max_pool_says_why() -> None:
    with pytest.raises(UnsupportedOp, match=r"\[1, 1\] has no lowering for this shape"):
        to_tflite(step_program(Lambda(lambda x: nn.functional.max_pool2d(x, 3, 2, 1)), [X]))


def test_activations_quantised_to_part_of_the_codes_are_refused() -> None:
    program = quantised(step_program(Lambda(lambda x: x * 2), [X]))
    for node in program.module.graph.nodes:
        if "quantize_per_tensor" in str(node.target):
            node.args = (*node.args[:3], -127, *node.args[4:])
    program.module.recompile()
    with pytest.raises(ConversionError, match="activations use all of"):
        to_tflite(program)


def test_an_op_that_torch_cannot_write_as_onnx() -> None:
    with pytest.raises(ConversionError, match=r"torch.onnx.export cannot write the step"):
        to_onnx(step_program(Lambda(lambda x: torch.special.i0e(x)), [X]))


def test_a_missing_schema_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("spectral_edge.converters.tflite.schema.import_module", refuse)
    schema.cache_clear()
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'spectral-edge\[litert\]'"):
        schema()
    schema.cache_clear()


def test_slow_operators_are_announced() -> None:
    program = quantised(step_program(Lambda(lambda x: x[..., ::2].softmax(-1)), [X]))
    warnings = coverage_warnings(write_tflite(program).op_dtypes, "w8a8")
    assert any("STRIDED_SLICE (int8) is not delegated" in w for w in warnings)
    assert any("TRANSPOSE" in w for w in warnings)
    assert any("float32 because they have no exact int8 kernel" in w for w in warnings)


def test_a_plain_convolution_has_nothing_to_announce() -> None:
    program = quantised(step_program(nn.Conv2d(16, 8, 3), [X]))
    assert coverage_warnings(write_tflite(program).op_dtypes, "w8a8") == []


def test_the_coverage_table_knows_both_worlds() -> None:
    assert coverage("litert", "CONV_2D", "int8") == "delegated"
    assert coverage("litert", "SOFTMAX", "int8") == "reference"
    assert coverage("litert", "SOFTMAX", "float32") == "delegated"
    assert coverage("tflite-runtime", "CONV_2D", "int8") == "optimised"
    assert coverage("tflite-runtime", "DIV", "int8") == "missing"
    assert coverage("litert", "RFFT2D", "float32") is None
