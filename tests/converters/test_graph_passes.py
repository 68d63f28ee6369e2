"""Clean-up passes: each does what it says, and none changes a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.converters.passes import clean
from tests.converters.canonical import op, quantised, step_program
from tests.converters.gallery import Lambda


def _cleaned(function: Callable[..., Tensor], *inputs: Tensor) -> list[str]:
    """Ops that are left, after checking that the result is the same."""
    program = step_program(Lambda(function), inputs)
    return _checked(program.module, inputs)


def _checked(module: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> list[str]:
    cleaned = clean(module, inputs)
    with torch.no_grad():
        for want, got in zip(module(*inputs), cleaned(*inputs), strict=True):
            assert torch.equal(want, got)
    return [op(n) for n in cleaned.graph.nodes if n.op == "call_function"]


X = torch.randn(1, 4, 3, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clone() * 2,
        lambda x: x.contiguous() * 2,
        lambda x: F.dropout(x, 0.5, training=False) * 2,
        lambda x: x.view(1, 4, 3, 6) * 2,
        lambda x: x[:, :, 0:3] * 2,
        lambda x: F.pad(x, (0, 0)) * 2,
        lambda x: x.expand(1, 4, 3, 6) * 2,
        lambda x: torch.cat((x,), 1) * 2,
        lambda x: x.to(torch.float32) * 2,
    ],
)
def test_ops_that_return_their_input_are_dropped(function: Callable[..., Tensor]) -> None:
    assert _cleaned(function, X) == ["aten.mul"]


def test_a_permute_of_axes_of_size_one_is_dropped() -> None:
    assert _cleaned(lambda x: x.transpose(0, 1) * 2, torch.randn(1, 1, 5)) == ["aten.mul"]


def test_constants_are_folded() -> None:
    table = torch.arange(6.0)
    left = _cleaned(lambda x: x * (table.sin() + 1).reshape(1, 1, 1, 6), X)
    assert left == ["aten.mul"]


def test_sizes_become_numbers() -> None:
    assert _cleaned(lambda x: x.reshape(x.shape[0], -1, x.shape[3]) * x.shape[1], X) == [
        "aten.reshape",
        "aten.mul",
    ]


def test_equal_computations_are_merged() -> None:
    assert _cleaned(lambda x: x.exp() + x.exp(), X) == ["aten.exp", "aten.add"]


def test_a_slice_inside_one_piece_of_a_cat_reads_the_piece() -> None:
    left = _cleaned(lambda x, y: torch.cat((x, y), 2)[:, :, 3:] * 2, X, X + 1)
    assert left == ["aten.mul"]


def test_a_slice_over_fewer_pieces_crops_the_cat() -> None:
    left = _cleaned(lambda x, y: torch.cat((x, y, x), 2)[:, :, 2:6] * 2, X, X + 1)
    assert left == ["aten.slice", "aten.cat", "aten.mul"]


def test_a_slice_over_all_pieces_stays() -> None:
    left = _cleaned(lambda x, y: torch.cat((x, y), 2)[:, :, 1:] * 2, X, X + 1)
    assert left == ["aten.cat", "aten.slice", "aten.mul"]


def test_symmetric_padding_moves_into_the_convolution() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.pad(x, (1, 1, 2, 2)))

    program = step_program(Padded(), [X])
    assert _checked(program.module, [X]) == ["aten.conv2d"]
    codes = [o for o in _checked(quantised(program).module, [X]) if o.startswith("aten.")]
    assert codes == ["aten.conv2d"]


def test_one_sided_padding_stays() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.pad(x, (1, 1, 2, 0)))

    left = _checked(step_program(Causal(), [X]).module, [X])
    assert [o for o in left if o.endswith("conv2d")] == ["aten.conv2d"]
    assert len(left) == 2


def test_quantised_movement_loses_its_repeated_pairs() -> None:
    program = quantised(step_program(Lambda(lambda x: x.clone() * 2), [X]))
    left = _checked(program.module, [X])
    assert left.count("quantized_decomposed.quantize_per_tensor") == 2


def test_the_graph_of_the_program_is_not_touched() -> None:
    program = step_program(Lambda(lambda x: x.clone() * 2), [X])
    before = str(program.module.graph)
    clean(program.module, [X])
    assert str(program.module.graph) == before
