"""SAF edge sizes: counts, causality, what export sees, and the local attention's arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.export import Dim

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from spectral_edge.layers import LocalBandAttention
from spectral_edge.models import MODELS, build
from tests.tolerances import COUNT_RELATIVE, LAYER_ABSOLUTE, STEP_EQUALS_CLIP_RELATIVE

# parameters, multiply-accumulates per frame, state elements (design table; K of the state is 1024)
COUNTS = {
    "saf_edge_nano": (11e3, 0.42e6, 36.8 * 1024),
    "saf_edge_xs": (32e3, 1.13e6, 78.1 * 1024),
    "saf_edge_s": (63.2e3, 2.20e6, 138.9 * 1024),
    "saf_edge_m": (134e3, 4.73e6, 220.4 * 1024),
    "saf_edge_l": (334e3, 11.4e6, 438.0 * 1024),
}
SIZES = tuple(COUNTS)
QUICK_SIZES = ("saf_edge_nano", "saf_edge_s")
WITH_SLOW_SIZES = [
    size if size in QUICK_SIZES else pytest.param(size, marks=pytest.mark.slow) for size in SIZES
]
# What the network may consist of: every one of these has an integer kernel or is data movement.
ALLOWED_OPS = {
    "aten.conv2d.default",
    "aten.batch_norm.default",
    "aten.relu6.default",
    "aten.hardtanh.default",
    "aten.sigmoid.default",
    "aten.add.Tensor",
    "aten.mul.Tensor",
    "aten.cat.default",
    "aten.pad.default",
    "aten.slice.Tensor",
    "aten.upsample_nearest2d.vec",
}


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = build(name, StftFrontend()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def _counts(model: nn.Module) -> tuple[int, int, int]:
    """Return (parameters, multiply-accumulates per frame, state elements) by running the model."""
    macs = state = 0

    def count(conv: nn.Conv2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs, state
        macs += output[0, :, 0].numel() * conv.weight[0].numel()
        past = (conv.kernel_size[0] - 1) * conv.dilation[0]
        state += past * inputs[0].shape[1] * inputs[0].shape[3]

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 1, 257))
    return sum(p.numel() for p in model.parameters()), macs, state


@pytest.mark.parametrize("name", SIZES)
def test_counts_are_those_of_the_design(name: str) -> None:
    assert _counts(_model(name)) == pytest.approx(COUNTS[name], rel=COUNT_RELATIVE)


@pytest.mark.parametrize("name", QUICK_SIZES)
def test_later_frames_do_not_change_earlier_outputs(name: str) -> None:
    model = _model(name)
    features = torch.randn(2, 3, 40, 257)
    changed = features.clone()
    changed[:, :, 25:] = torch.randn(2, 3, 15, 257)
    with torch.no_grad():
        before, after = model(features), model(changed)
    for key in ("mask", "bias"):
        assert torch.equal(before[key][:, :, :25], after[key][:, :, :25])
        assert not torch.allclose(before[key][:, :, 25], after[key][:, :, 25])


@pytest.mark.parametrize(("name", "lookahead"), [("saf_edge_nano", 1), ("saf_edge_s", 5)])
def test_lookahead_is_exactly_that_many_frames(name: str, lookahead: int) -> None:
    torch.manual_seed(0)
    model = build(name, StftFrontend(), lookahead=lookahead).eval()
    features = torch.randn(1, 3, 30, 257)
    changed = features.clone()
    changed[:, :, 20:] += 1.0
    with torch.no_grad():
        moved = (model(features)["mask"] - model(changed)["mask"]).abs().amax((0, 1, 3))
    assert moved.nonzero()[0] == 20 - lookahead
    plain = build(name, StftFrontend())
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]


def test_lookahead_streams_with_that_delay() -> None:
    torch.manual_seed(0)
    model = build("saf_edge_nano", StftFrontend(), lookahead=2).eval()
    program = se.streamify(model, torch.randn(1, 3, 8, 257), time_dim=2, check_lengths=(11,))
    assert (program.delay, program.hop_multiple) == (2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lookahead": 7}, "must be 0…6 frames"), ({"ahead": 1}, "saf_edge_s has no option 'ahead'")],
)
def test_wrong_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("saf_edge_s", StftFrontend(), **options)


@pytest.mark.parametrize("name", QUICK_SIZES)
def test_first_frames_do_not_depend_on_the_length(name: str) -> None:
    model = _model(name)
    features = torch.randn(1, 3, 17, 257)
    with torch.no_grad():
        whole = model(features)["mask"]
        for frames in (1, 2, 3):
            part = model(features[:, :, :frames])["mask"]
            torch.testing.assert_close(
                part, whole[:, :, :frames], rtol=0, atol=STEP_EQUALS_CLIP_RELATIVE
            )


@pytest.mark.parametrize(("n_fft", "bins"), [(512, 257), (320, 161), (480, 241)])
def test_shapes_and_ranges(n_fft: int, bins: int) -> None:
    frontend = StftFrontend(n_fft=n_fft, hop_length=n_fft // 2)
    model = build("saf_edge_nano", frontend).eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 5, bins))
    assert set(outputs) == {"mask", "bias"}
    assert outputs["mask"].shape == (2, 1, 5, bins)
    assert outputs["bias"].shape == (2, 2, 5, bins)
    assert 0.0 < float(outputs["mask"].min()) <= float(outputs["mask"].max()) < 1.0


@pytest.mark.parametrize("name", WITH_SLOW_SIZES)
def test_exports_with_free_batch_and_frames(name: str) -> None:
    model = _model(name)
    example = torch.randn(2, 3, 6, 257)
    shapes = {"features": {0: Dim("batch"), 2: Dim("frames")}}
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    ops = {
        str(node.target)
        for node in program.graph.nodes
        if node.op == "call_function" and "aten" in str(node.target)
    }
    assert ops - {"aten.sym_size.int"} <= ALLOWED_OPS
    other = torch.randn(1, 3, 1, 257)
    with torch.no_grad():
        wanted, got = model(other), program.module()(other)
    for key in ("mask", "bias"):
        torch.testing.assert_close(got[key], wanted[key], rtol=0, atol=STEP_EQUALS_CLIP_RELATIVE)


@pytest.mark.parametrize("name", ["saf_edge_nano", "saf_edge_xs"])
def test_every_batch_norm_follows_a_convolution(name: str) -> None:
    program = torch.export.export(_model(name), (torch.randn(2, 3, 6, 257),))
    norms = [n for n in program.graph.nodes if str(n.target) == "aten.batch_norm.default"]
    assert norms
    for norm in norms:
        source = norm.args[0]
        assert str(source.target) == "aten.conv2d.default", norm.name
        assert len(source.users) == 1, norm.name


def test_local_attention_equals_a_loop_over_neighbours() -> None:
    torch.manual_seed(1)
    channels, bands, heads = 8, 5, 2
    layer = LocalBandAttention(channels, bands, heads).eval()
    nn.init.normal_(layer.position)
    x = torch.randn(2, channels, 3, bands)
    with torch.no_grad():
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        summed = torch.zeros_like(x)
        head = torch.arange(channels) // (channels // heads)
        for offset in (-1, 0, 1):
            start = (offset + 1) * (bands + 3)
            for band in range(bands):
                if not 0 <= band + offset < bands:
                    continue
                product = query[..., band] * key[..., band + offset]
                logit = torch.stack([product[:, head == h].sum(1) for h in range(heads)], dim=1)
                logit = logit / math.sqrt(channels // heads) + layer.score.bias[:, None]
                gate = torch.sigmoid(logit + layer.position[0, :, 0, start + band][:, None])
                spread = gate[:, head] + layer.spread.bias[:, None]
                summed[..., band] += spread * value[..., band + offset] / 3.0
        summed += layer.gather.bias[:, None, None]
        expected = x + layer.out(summed)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=LAYER_ABSOLUTE)


def test_other_heads_are_refused() -> None:
    with pytest.raises(SpecError, match="'mask', SAF returns mask and bias"):
        build("saf_edge_s", StftFrontend(head="mask"))


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'saf_edge_xl', must be one of .*saf_edge_s"):
        build("saf_edge_xl", StftFrontend())


def test_names_are_registered() -> None:
    assert set(SIZES) <= set(MODELS)
