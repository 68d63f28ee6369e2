"""Calibration over whole sequences, training of the step graph, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.calibration.calibrate import GOLDEN_HOPS, collect_streams, rollout, run_streams
from spectral_edge.calibration.fake_quant import (
    ActivationQuantizer,
    Mode,
    WeightQuantizer,
    qparams_of_range,
    quantizers_cached,
)
from spectral_edge.calibration.insert import quantizers
from spectral_edge.calibration.observers import HistogramObserver, MinMaxObserver
from spectral_edge.calibration.recipe import Recipe, load_recipe, recipe_names
from spectral_edge.calibration.sensitivity import sensitivity
from spectral_edge.errors import CalibrationError, SpecError
from spectral_edge.program import StepProgram
from tests.calibration.step_programs import Ops, check_canonical, noise, step_program, toy_program
from tests.tolerances import W8A8_OPS_SQNR_DB

MINMAX = {"name": "minmax", "activations": "minmax"}
CLIPPING = {"name": "clipping", "activations": "percentile", "percentile": 60.0}


@pytest.fixture(scope="module")
def toy() -> StepProgram:
    return toy_program()


def leaky(m: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """An integrator: its state grows to ten times its input."""
    following = h * 0.9 + x
    return following, following


def leaky_program() -> StepProgram:
    return step_program(Ops(leaky), [(1, 1, 1, 4)], [np.zeros((1, 1, 1, 4), np.float32)])


def test_ranges_come_from_states_that_were_fed_back() -> None:
    quantised = se.quantize(leaky_program(), [(torch.ones(1, 1, 100, 4),)], recipe=MINMAX)
    qparams = quantised.states["state0"].qparams
    highest = qparams.scale * (127 - qparams.zero_point)
    assert highest == pytest.approx(10.0, rel=1e-3)


def test_sequences_of_any_length_and_batch_count_once_and_unpadded(toy: StepProgram) -> None:
    program = leaky_program()
    a, b, c = torch.ones(2, 1, 7, 4), 3 * torch.ones(1, 1, 2, 4), -torch.ones(1, 1, 20, 4)
    seen: dict[int, list[Tensor]] = {}
    streams = collect_streams(program, [(a,), (b,), (c,)])
    for members, outputs, _ in rollout(program, streams, width=3):
        for row, stream in enumerate(members):
            seen.setdefault(stream, []).append(outputs[0][row : row + 1])
    assert {k: len(v) for k, v in seen.items()} == {0: 7, 1: 7, 2: 2, 3: 20}
    for number, clip in enumerate([a[:1], a[1:], b, c]):
        torch.testing.assert_close(torch.cat(seen[number], 2), program.run(clip)[0])


def test_extremes_are_true_extremes_and_not_averages() -> None:
    observer = MinMaxObserver()
    for value in (0.1, -5.0, 0.2, 9.0, 0.3):
        observer.observe(torch.tensor([value]))
    assert observer.range() == (-5.0, 9.0)


def test_masks_and_warm_up_values_are_no_numbers() -> None:
    quantizer = ActivationQuantizer(None, MinMaxObserver())
    quantizer.mode = Mode.OBSERVE
    for value in (-3.0, -1e9, -np.inf, np.nan, np.inf, 5.0):
        quantizer(torch.tensor([value, 1.0]))
    assert quantizer.observer.range() == (-3.0, 5.0)
    quantizer.start_from_observer()
    lowest = quantizer.qparams().dequantize(np.array([-128], np.int8))[0]
    assert lowest == pytest.approx(-13.0, abs=0.1)  # far enough for softmax to forget it


def test_percentile_clips_outliers_and_keeps_zero() -> None:
    observer = HistogramObserver("percentile", 99.9)
    data = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    data[7] = 60.0
    observer.observe(data)
    observer.next_pass()
    observer.observe(data)
    low, high = observer.range()
    assert -6.0 < low < -2.5
    assert 2.5 < high < 12.0
    positive = HistogramObserver("percentile")
    for _ in range(2):
        positive.observe(data.abs() + 1)
        if positive.counts is None:
            positive.next_pass()
    assert positive.range()[0] == 0.0


def test_mse_range_has_the_least_error_among_its_neighbours() -> None:
    data = torch.randn(50_000, generator=torch.Generator().manual_seed(1)) ** 3
    observer = HistogramObserver("mse")
    observer.observe(data)
    observer.next_pass()
    observer.observe(data)
    low, high = observer.range()

    def error(low: float, high: float) -> float:
        q = qparams_of_range(low, high)
        coarse = q.dequantize(q.quantize(data.numpy()))
        return float(np.square(coarse - data.numpy()).mean())

    best = error(low, high)
    assert best < error(*observer.extremes.range())
    assert best <= 1.02 * min(error(low * 1.15, high * 1.15), error(low * 0.85, high * 0.85))


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 3), (2, 5), (-4, -1), (0, 0), (-1e-30, 0)])
def test_zero_has_a_code(low: float, high: float) -> None:
    q = qparams_of_range(low, high)
    assert q.dequantize(q.quantize(np.zeros(1)))[0] == 0.0
    assert q.scale == float(np.float32(q.scale))
    if high > 0:
        assert q.dequantize(np.array([127], np.int8))[0] == pytest.approx(high, abs=1.01 * q.scale)


def test_fake_quantise_gradients_follow_the_lsq_formulas() -> None:
    quantizer = ActivationQuantizer(None, MinMaxObserver())
    quantizer.set_qparams(se.QParams(0.5, -3))
    quantizer.mode = Mode.QUANTIZE
    x = torch.tensor([[-100.0, -1.3, 0.2, 7.77, 100.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (quantizer(x) * weight).sum().backward()
    low, high = -125, 130
    codes = (x.detach() / 0.5).round().clamp(low, high)
    inside = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]])
    factor = 1 / (5 * 127) ** 0.5
    torch.testing.assert_close(x.grad, weight * inside)
    by_scale = (weight * (codes - inside * x.detach() / 0.5)).sum() * factor
    torch.testing.assert_close(quantizer.shift.grad, by_scale * 0.5)  # shift = log of the scale
    by_zero = -(weight * (1 - inside)).sum() * 0.5 * factor
    torch.testing.assert_close(quantizer.zero_point.grad, by_zero)


def test_per_channel_gradients_equal_one_channel_at_a_time() -> None:
    weight = torch.randn(3, 4, 1, 2, generator=torch.Generator().manual_seed(2))
    scales = torch.tensor([0.01, 0.02, 0.03])
    together = WeightQuantizer(weight.shape, 0)
    together.set_scale(scales.reshape(3, 1, 1, 1))
    together.mode = Mode.QUANTIZE
    together(weight).square().sum().backward()
    for channel in range(3):
        alone = WeightQuantizer(weight[channel : channel + 1].shape, 0)
        alone.set_scale(scales[channel].reshape(1, 1, 1, 1))
        alone.mode = Mode.QUANTIZE
        alone(weight[channel : channel + 1]).square().sum().backward()
        torch.testing.assert_close(alone.shift.grad[0], together.shift.grad[channel])


def test_a_bias_always_fits_into_int32() -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.bias.fill_(1e6)

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.layer(x * 1e-3),)

    program = step_program(Dead(), [(1, 1, 1, 4)])
    quantised = se.quantize(program, [noise(program, 20)])
    check_canonical(quantised)
    y = quantised.run(torch.zeros(1, 1, 3, 4))[0]
    torch.testing.assert_close(y, torch.full_like(y, 1e6), rtol=5e-3, atol=0)


def test_quantize_is_deterministic_and_leaves_the_program_alone(toy: StepProgram) -> None:
    before = {k: v.clone() for k, v in toy.module.state_dict().items()}
    sequences = [noise(toy, 40, 3), noise(toy, 25, 1, seed=4)]
    first, second = (se.quantize(toy, sequences) for _ in range(2))
    assert first.module.code == second.module.code
    assert first.qparams == second.qparams
    for (name, a), (other, b) in zip(
        first.module.state_dict().items(), second.module.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    assert all(torch.equal(before[k], v) for k, v in toy.module.state_dict().items())
    assert toy.precision == "float32"
    assert (first.precision, first.recipe) == ("w8a8", "w8a8")


def test_any_batch_gives_the_same_streams(toy: StepProgram) -> None:
    quantised = se.quantize(toy, [noise(toy, 40, 3)])
    clip = noise(toy, 12, 5, seed=8)[0]
    together = quantised.run(clip)
    alone = [quantised.run(clip[i : i + 1]) for i in range(5)]
    for k in range(2):
        torch.testing.assert_close(together[k], torch.cat([a[k] for a in alone]), rtol=0, atol=1e-6)


def test_prepared_program_computes_what_the_frozen_one_computes(toy: StepProgram) -> None:
    prepared = se.prepare(toy, [noise(toy, 40, 3)])
    clip = noise(toy, 20, 2, seed=6)[0]
    frozen = se.freeze(prepared)
    for a, b in zip(prepared.run(clip), frozen.run(clip), strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=1e-6)
    again = se.freeze(prepared)
    assert again.qparams == frozen.qparams


def test_own_loop_has_the_same_effect_as_a_callback(toy: StepProgram) -> None:
    sequences = [noise(toy, 40, 3)]

    def fit(prepared: StepProgram) -> None:
        parameters = [p for p in prepared.module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        states = prepared.initial_states(3)
        for n in range(6):
            frame = [sequences[0][0][:, :, n : n + 1]]
            outputs, states = prepared.step(frame, [s.detach() for s in states])
            optimizer.zero_grad()
            sum(o.square().sum() for o in outputs).backward()
            optimizer.step()

    called = se.quantize(toy, sequences, qat=fit)
    prepared = se.prepare(toy, sequences)
    fit(prepared)
    by_hand = se.freeze(prepared)
    assert called.qparams == by_hand.qparams
    assert called.qparams != se.quantize(toy, sequences).qparams
    assert torch.equal(
        called.module.get_buffer("conv2d_weight_codes"),
        by_hand.module.get_buffer("conv2d_weight_codes"),
    )
    check_canonical(called)


def unroll_loss(program: StepProgram, clip: Tensor) -> Tensor:
    states = program.initial_states(clip.shape[0])
    total = torch.zeros(())
    for n in range(clip.shape[2]):
        outputs, states = program.step([clip[:, :, n : n + 1]], states)
        total = total + sum(o.square().mean() for o in outputs)
    return total


def test_cache_changes_no_gradient(toy: StepProgram) -> None:
    clip = noise(toy, 5, 2)[0]
    gradients = []
    for context in (nullcontext, quantizers_cached):
        prepared = se.prepare(toy, [noise(toy, 40, 3)])
        with context(prepared.module):
            unroll_loss(prepared, clip).backward()
        gradients.append([p.grad for p in prepared.module.parameters() if p.requires_grad])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_training_repairs_bad_ranges_and_repeats(toy: StepProgram) -> None:
    sequences = [noise(toy, 30, 10)]
    config = se.QatConfig(
        steps=40, evaluate_every=20, batch=4, bptt_hops=15, lr=1e-3, scale_lr=2e-2
    )
    bad = se.quantize(toy, sequences, recipe=CLIPPING)
    calls: list[tuple[str, int, int]] = []
    better = se.quantize(
        toy, sequences, recipe=CLIPPING, qat=config, progress=lambda *c: calls.append(c)
    )
    outcome = better.provenance["qat"]
    assert outcome["kept"] == "qat"
    assert outcome["qat_loss"] < 0.7 * outcome["ptq_loss"]
    assert squared_error(toy, better) < 0.7 * squared_error(toy, bad)
    check_canonical(better)
    assert ("train", 40, 40) in calls
    assert {what for what, _, _ in calls} == {"calibrate", "float targets", "train"}
    repeated = se.quantize(toy, sequences, recipe=CLIPPING, qat=config)
    assert repeated.qparams == better.qparams


def squared_error(program: StepProgram, quantised: StepProgram) -> float:
    clip = noise(program, 30, 4, seed=77)[0]
    pairs = zip(program.run(clip), quantised.run(clip), strict=True)
    return sum(float((a - b).square().mean() / a.square().mean()) for a, b in pairs)


def test_training_never_returns_something_worse(toy: StepProgram) -> None:
    sequences = [noise(toy, 30, 4)]
    config = se.QatConfig(steps=9, evaluate_every=3, patience=2, lr=0.5, batch=2, bptt_hops=10)
    plain = se.quantize(toy, sequences)
    kept = se.quantize(toy, sequences, qat=config)
    outcome = kept.provenance["qat"]
    assert outcome["kept"] == "ptq"
    assert outcome["steps"] == 6  # two looks without a better loss
    assert kept.qparams == plain.qparams
    assert torch.equal(
        kept.module.get_buffer("conv2d_weight_codes"),
        plain.module.get_buffer("conv2d_weight_codes"),
    )


def test_training_takes_own_data_and_loss(toy: StepProgram) -> None:
    clips = noise(toy, 20, 3)
    targets = {"y": run_streams(toy, collect_streams(toy, [clips]), 3)[0][0].expand(3, -1, -1, -1)}

    def loss(outputs: Any, targets: Any) -> Tensor:
        assert isinstance(outputs, tuple)
        assert outputs[0].shape == targets["y"].shape
        return (outputs[0] - targets["y"]).abs().mean()

    config = se.QatConfig(
        loss=loss, data=[(clips, targets)], steps=4, evaluate_every=2, batch=2, bptt_hops=8
    )
    quantised = se.quantize(toy, [clips], qat=config)
    assert quantised.provenance["qat"]["steps"] == 4


def test_golden_inputs_are_real_and_long_enough(toy: StepProgram) -> None:
    clips = [noise(toy, 250, 1, seed=s) for s in range(4)]
    quantised = se.quantize(toy, clips)
    (golden,) = quantised.golden_inputs
    assert golden.shape == (1, 2, GOLDEN_HOPS, 9)
    assert torch.equal(golden[:, :, :250], clips[0][0])
    assert torch.equal(golden[:, :, 500:], clips[2][0][:, :, :100])


def test_sensitivity_ranks_tensors(toy: StepProgram) -> None:
    sequences = [noise(toy, 40, 3)]
    table = sensitivity(toy, se.quantize(toy, sequences, recipe=CLIPPING), sequences)
    values = [entry.sqnr_db for entry in table]
    assert values == sorted(values)
    by_name = {entry.name: entry for entry in table}
    assert {"frame", "past", "sigmoid", "linear"} <= set(by_name)
    assert by_name["past"].op == "state"
    assert by_name["conv2d_3"].module.endswith("gate")
    fine = sensitivity(toy, se.quantize(toy, sequences), sequences)
    assert fine[0].sqnr_db > table[0].sqnr_db + 5
    assert fine[0].sqnr_db > W8A8_OPS_SQNR_DB


def test_refusals_say_what_to_do(toy: StepProgram) -> None:
    overflowing = step_program(Ops(lambda m, x: x * 1e30 * 1e30), [(1, 1, 1, 4)])
    with pytest.raises(CalibrationError, match="no calibration sequences"):
        se.quantize(toy, [])
    with pytest.raises(CalibrationError, match="sequence 1: input 'input0' has 8 on axis 3"):
        se.quantize(toy, [noise(toy, 5), (torch.zeros(1, 2, 5, 8),)])
    with pytest.raises(CalibrationError, match="got 2 inputs, the program has 1"):
        se.quantize(toy, [(*noise(toy, 5), *noise(toy, 5))])
    bad = noise(toy, 5)
    bad[0][0, 0, 3, 0] = float("nan")
    with pytest.raises(CalibrationError, match="input 'input0' has NaN"):
        se.quantize(toy, [bad])
    quantised = se.quantize(toy, [noise(toy, 5)])
    with pytest.raises(CalibrationError, match="precision w8a8, expected float32"):
        se.quantize(quantised, [noise(toy, 5)])
    with pytest.raises(CalibrationError, match="has no quantisers: call prepare first"):
        se.freeze(toy)
    with pytest.raises(CalibrationError, match="output 'output0' of the float program has NaN"):
        se.quantize(overflowing, [noise(overflowing, 5)])
    with pytest.raises(CalibrationError, match="no value was seen"):
        MinMaxObserver().range()
    with pytest.raises(CalibrationError, match="the programs differ"):
        sensitivity(leaky_program(), quantised, [])


def test_recipes_are_checked(toy: StepProgram, tmp_path: Any) -> None:
    assert "w8a8" in recipe_names()
    assert load_recipe("w8a8").precision == "w8a8"
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nactivations: percentile\npercentile: 99.5\n")
    assert load_recipe(own) == Recipe("own", activations="percentile", percentile=99.5)
    assert se.quantize(toy, [noise(toy, 9)], recipe=str(own)).recipe == "own"
    for data, message in (
        ({"name": "x", "bits": 4}, r"unknown keys \['bits'\]"),
        ({"activations": "mse"}, "has no name"),
        ({"name": "x", "activations": "ema"}, "must be one of minmax, mse, percentile"),
        ({"name": "x", "precision": "int8"}, "recipe precision is 'int8'"),
        ({"name": "x", "percentile": 3}, "recipe percentile is 3"),
        ({"name": "x", "percentile": "all"}, "wrong type"),
        ({"name": "x", "streams": 0}, "recipe streams is 0"),
    ):
        with pytest.raises(SpecError, match=message):
            load_recipe(data)
    with pytest.raises(SpecError, match="recipe is 'w4a4', must be one of"):
        load_recipe("w4a4")
    own.write_text("- a list\n")
    with pytest.raises(SpecError, match="holds list, must be a mapping"):
        load_recipe(own)
    with pytest.raises(SpecError, match="cannot be read"):
        load_recipe(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("batch", 1.5), ("lr", -1.0), ("held_out", 1.0), ("clip_norm", 0.0)],
)
def test_qat_config_is_checked(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"QatConfig {field} is"):
        se.QatConfig(**{field: value})


def test_shared_quantisers_are_one_object(toy: StepProgram) -> None:
    prepared = se.prepare(toy, [noise(toy, 10)])
    calls = [n.target for n in prepared.module.graph.nodes if n.op == "call_module"]
    assert calls.count("quantizers.frame") == 2  # the frame and the state; the cat needs none
    assert len(quantizers(prepared.module)) < len(calls)
