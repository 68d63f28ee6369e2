"""The int8 program has the one form that writers read, op by op, and computes what it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.program import StepProgram
from tests.calibration.step_programs import (
    DEQUANTIZE,
    QUANTIZE,
    Ops,
    check_canonical,
    noise,
    onnxruntime_codes,
    step_program,
    toy_program,
)
from tests.tolerances import (
    ONNXRUNTIME_CODES_EQUAL,
    ONNXRUNTIME_CODES_EQUAL_WITH_TIES,
    W8A8_OPS_SQNR_DB,
)

Forward = Callable[..., Any]


def gru(m: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a hand-written GRU with one gate fewer."""
    z, r, n = m.gates(x.mean(dim=1) + h).split(8, dim=-1)
    update = torch.sigmoid(z)
    new = torch.tanh(n + torch.sigmoid(r) * h)
    following = (1 - update) * h + update * new
    return following.unsqueeze(1), following


STATELESS: dict[str, Forward] = {
    "linear": lambda m, x: m.linear(x),
    "linear without bias, relu": lambda m, x: torch.relu(m.bare(x)),
    "matrix on the right": lambda m, x: x @ m.matrix,
    "addmm": lambda m, x: torch.addmm(m.linear.bias, x.reshape(-1, 8), m.linear.weight.t()).reshape(
        -1, 4, 1, 6
    ),
    "conv1d": lambda m, x: F.relu6(m.conv1d(x.squeeze(2))),
    "conv2d without bias": lambda m, x: m.conv(x),
    "transposed conv": lambda m, x: m.up(x),
    "matmul": lambda m, x: m.linear(x).transpose(2, 3) @ x[..., :6],
    "mean": lambda m, x: x.mean(dim=3, keepdim=True) + x.mean(dim=(2, 3), keepdim=True),
    "softmax": lambda m, x: torch.softmax(x, dim=-1) * x,
    "gelu": lambda m, x: F.gelu(m.linear(x)),
    "leaky relu": lambda m, x: F.leaky_relu(m.linear(x), 0.1),
    "relu alone": lambda m, x: torch.relu(torch.cat([x, x], 1)),
    "hard swish": lambda m, x: F.hardswish(x),
    "layer norm": lambda m, x: m.layer_norm(x),
    "group norm": lambda m, x: m.group_norm(x),
    "prelu": lambda m, x: m.prelu(x),
    "silu": lambda m, x: F.silu(x),
    "softplus": lambda m, x: F.softplus(x),
    "rms norm by hand": lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2),
    "exp of sqrt": lambda m, x: torch.exp(-torch.sqrt(x.abs() + 0.1)),
    "constants": lambda m, x: (x * m.bands + m.bands) - 0.25,
    "scalars": lambda m, x: torch.add(1.0 - x, x / 3.0, alpha=-0.5) * 2.0 + (-x),
    "clamp": lambda m, x: x.clamp(0, 6) + x.clamp(min=0) + x.clamp(-1, 1),
    "cat with a constant": lambda m, x: torch.cat([x, m.tail.expand(x.shape[0], -1, -1, -1)], -1),
    "padding": lambda m, x: F.pad(x, (2, 1), value=0.5),
    "pieces": lambda m, x: torch.stack(x.split(2, dim=1), dim=1).flatten(1, 2),
    "chunks": lambda m, x: torch.cat(x.chunk(2, dim=3)[::-1], dim=3)[..., 1:],
    "select and unbind": lambda m, x: x.unbind(1)[0] + x[:, 2],
    "pooling": lambda m, x: F.max_pool2d(x, (1, 2)) + F.avg_pool2d(x, (1, 2)),
    "upsampling": lambda m, x: F.interpolate(x, scale_factor=(1, 2), mode="nearest"),
    "maximum": lambda m, x: torch.maximum(m.linear(x), x[..., :6]),
    "movement": lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], 8, 4).unsqueeze(1),
    "sigmoid in a cat": lambda m, x: torch.cat([torch.sigmoid(x), m.conv(x)], 1),
    "gates in a cat": lambda m, x: torch.cat([torch.sigmoid(x), torch.tanh(x)], 1),
    "input returned": lambda m, x: (x, x[:, :2]),
}


@pytest.mark.parametrize("name", STATELESS)
def test_op_has_canonical_form_and_small_error(name: str) -> None:
    program = step_program(Ops(STATELESS[name]), [(1, 4, 1, 8)])
    quantised = se.quantize(program, [noise(program, 30, 4)], recipe={"name": "t", **MINMAX})
    check_canonical(quantised)
    assert all(t.qparams is not None for t in (*quantised.inputs, *quantised.outputs))
    assert sqnr_db(program, quantised) > W8A8_OPS_SQNR_DB


MINMAX = {"activations": "minmax"}

ON_ENGINE = (
    "linear without bias, relu",
    "addmm",
    "conv1d",
    "matmul",
    "constants",
    "cat with a constant",
    "sigmoid in a cat",
)


@pytest.mark.parametrize("name", ON_ENGINE)
def test_onnx_runtime_gives_the_same_codes(name: str) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    program = step_program(Ops(STATELESS[name]), [(1, 4, 1, 8)])
    quantised = se.quantize(program, [noise(program, 30, 4)], recipe={"name": "t", **MINMAX})
    share, worst = onnxruntime_codes(quantised, steps=10)
    assert share >= ONNXRUNTIME_CODES_EQUAL
    assert worst <= 1


def test_a_number_between_two_sums_may_tie() -> None:
    """The one case that scales cannot separate: x · 2 with both scales bound by sums."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    program = step_program(Ops(STATELESS["scalars"]), [(1, 4, 1, 8)])
    quantised = se.quantize(program, [noise(program, 30, 4)], recipe={"name": "t", **MINMAX})
    share, worst = onnxruntime_codes(quantised, steps=10)
    assert share >= ONNXRUNTIME_CODES_EQUAL_WITH_TIES
    assert worst <= 1


def test_toy_program_on_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    program = toy_program()
    quantised = se.quantize(program, [noise(program, 40, 3)])
    share, worst = onnxruntime_codes(quantised, steps=20)
    assert share >= ONNXRUNTIME_CODES_EQUAL
    assert worst <= 1


def test_states_are_tied_and_everything_between_shares() -> None:
    program = toy_program()
    quantised = se.quantize(program, [noise(program, 40, 3)])
    check_canonical(quantised)
    table = quantised.qparams
    assert table["state.state0"] == table["state.state0.next"] == table["input0"]
    assert quantised.states["state0"].dtype == "int8"
    scales = {n.args[1] for n in quantised.module.graph.nodes if n.target is QUANTIZE}
    named = {q.scale for q in table.values()}
    assert named <= scales


def test_clamps_are_fused_and_gates_have_fixed_qparams() -> None:
    quantised = se.quantize(toy_program(), [noise(toy_program(), 40, 3)])
    by_name = {n.name: n for n in quantised.module.graph.nodes}
    for producer, clamp in (("conv2d", "relu6"), ("add_25", "relu")):
        assert [u.name for u in by_name[producer].users] == [clamp]
        pair = by_name[f"{clamp}_dq"]
        assert pair.args[2] == -128
    assert by_name["sigmoid_dq"].args[1:3] == (1 / 256, -128)
    assert quantised.outputs[1].qparams == se.QParams(1 / 256, -128)


def test_recurrent_cell_with_tanh_and_tied_state() -> None:
    program = step_program(Ops(gru), [(1, 4, 8)], [np.zeros((1, 8), np.float32)], time_dim=None)
    program = program.with_(
        inputs=(se_spec(program.inputs[0]),), outputs=tuple(se_spec(o) for o in program.outputs)
    )
    sequence = (torch.randn(4, 4 * 50, 8, generator=torch.Generator().manual_seed(3)),)
    program = program.with_(hop_multiple=4)
    quantised = se.quantize(program, [sequence])
    check_canonical(quantised)
    assert quantised.qparams["state.state0"] == quantised.qparams["state.state0.next"]
    share, worst = onnxruntime_codes(quantised, steps=20)
    assert share >= ONNXRUNTIME_CODES_EQUAL
    assert worst <= 1


def se_spec(spec: Any) -> Any:
    """Give a tensor a time axis."""
    from dataclasses import replace

    return replace(spec, time_dim=1)


def test_fixed_and_free_ranges_meet_with_one_requantisation() -> None:
    program = step_program(Ops(STATELESS["sigmoid in a cat"]), [(1, 4, 1, 8)])
    quantised = se.quantize(program, [noise(program, 30, 4)])
    (sigmoid,) = [n for n in quantised.module.graph.nodes if "aten.sigmoid" in str(n.target)]
    (first,) = sigmoid.users
    (real,) = first.users
    (second,) = real.users
    assert first.args[1:3] == (1 / 256, -128)
    assert second.target is QUANTIZE
    assert second.args[1:3] != (1 / 256, -128)


def test_zero_is_exact_also_for_one_sided_data() -> None:
    program = step_program(Ops(STATELESS["padding"]), [(1, 4, 1, 8)])
    data = tuple(t.abs() + 3.0 for t in noise(program, 30, 4))
    quantised = se.quantize(program, [data], recipe={"name": "t", **MINMAX})
    for node in quantised.module.graph.nodes:
        if node.target is DEQUANTIZE:
            assert -128 <= node.args[2] <= 127
    zeros = torch.zeros(1, 4, 1, 8)
    assert not quantised.step([zeros], [])[0][0][..., 2:-1].any()


def test_numbers_are_represented_exactly() -> None:
    program = step_program(Ops(lambda m, x: x * 0.3), [(1, 4, 1, 8)])
    quantised = se.quantize(program, [noise(program, 30, 4)])
    number = next(
        n
        for n in quantised.module.graph.nodes
        if n.target is DEQUANTIZE and n.args[0].op == "get_attr"
    )
    assert number.args[1:3] == (float(np.float32(0.3)), 0)


class Counter(nn.Module):
    """An int32 frame counter and a float running sum that must stay exact."""

    def forward(self, x: Tensor, count: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        total = total + x
        y = torch.where(count.reshape(-1, 1, 1, 1) > 2, x, total * 0.1)
        return y, count + 1, total


def test_exact_states_stay_as_they_are() -> None:
    states = [np.zeros((1, 1), np.int32), np.zeros((1, 2, 1, 3), np.float32)]
    program = step_program(Counter(), [(1, 2, 1, 3)], states)
    recipe = {"name": "t", "float_states": ["state1"]}
    quantised = se.quantize(program, [noise(program, 40, 2)], recipe=recipe)
    check_canonical(quantised)
    count, total = quantised.states.values()
    assert (count.dtype, count.qparams) == ("int32", None)
    assert (total.dtype, total.qparams, total.exact) == ("float32", None, True)
    clip = noise(program, 25, 1, seed=9)
    states = program.initial_states(1)
    coarse = quantised.inputs[0].qparams
    for n in range(25):
        frame = clip[0][:, :, n : n + 1]
        _, states = quantised.step([frame], states)
    expected = coarse.dequantize(coarse.quantize(clip[0].numpy())).sum(axis=2, keepdims=True)
    assert int(states[0]) == 25
    np.testing.assert_allclose(states[1].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_unused_input_is_left_alone() -> None:
    program = step_program(Ops(lambda m, x, y: x * 2.0), [(1, 4, 1, 8), (1, 1, 1, 1)])
    quantised = se.quantize(program, [noise(program, 30, 2)])
    assert quantised.inputs[1].qparams is None


def test_initial_state_is_on_the_grid() -> None:
    program = step_program(
        Ops(lambda m, x, past: (past + x, x)),
        [(1, 4, 1, 8)],
        [np.full((1, 4, 1, 8), 0.777, np.float32)],
    )
    quantised = se.quantize(program, [noise(program, 30, 2)])
    spec = quantised.states["state0"]
    codes = spec.qparams.quantize(spec.initial)
    np.testing.assert_array_equal(spec.qparams.dequantize(codes), spec.initial)
    assert abs(spec.initial - 0.777).max() <= spec.qparams.scale


def sqnr_db(program: StepProgram, quantised: StepProgram) -> float:
    """Return the worst SQNR over outputs on data like the calibration data."""
    clip = noise(program, 20, 2, seed=5)
    results = []
    for ours, theirs in zip(program.run(*clip), quantised.run(*clip), strict=True):
        power = ours.square().mean()
        results.append(float(10 * torch.log10(power / (ours - theirs).square().mean())))
    return min(results)
