"""What cannot stream is refused: where, which op, why, and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spectral_edge as se
from spectral_edge.errors import NotStreamable
from tests.streaming.support import Net
from tests.streaming.test_windowed_attention import distances, window


def qkv(s: Any, x: torch.Tensor, mask: torch.Tensor | None, **more: Any) -> torch.Tensor:
    q, k, v = s.l(x).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **more)


def stft(x: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(x, 16, 8, window=torch.ones(16), center=True, return_complex=True)
    return torch.view_as_real(spectrum)


Case = tuple[Any, dict[str, Any], str, str]
FRAMES_FIRST: dict[str, Case] = {  # body, parts, why, what instead
    "bidirectional over time": (
        lambda s, x: s.r(x)[0],
        {"r": nn.GRU(12, 4, batch_first=True, bidirectional=True)},
        "needs the end of the clip",
        "one-directional",
    ),
    "last hidden state": (
        lambda s, x: x + s.r(x)[1][0].unsqueeze(1),
        {"r": nn.GRU(12, 12, batch_first=True)},
        "hidden state after the last frame",
        "outputs per frame",
    ),
    "projection": (
        lambda s, x: s.r(x)[0],
        {"r": nn.LSTM(12, 8, proj_size=4, batch_first=True)},
        "proj_size=4",
        "Linear after it",
    ),
    "initial state of the input": (
        lambda s, x: s.r(x, s.l(x[:, 0]).unsqueeze(0))[0],
        {"r": nn.GRU(12, 4, batch_first=True), "l": nn.Linear(12, 4)},
        "single frames of the clip|depends on the input",
        "one value per frame|parameter or zeros",
    ),
    "attention without a mask": (
        lambda s, x: qkv(s, x, None),
        {"l": nn.Linear(12, 12)},
        "attends to all of the past",
        "window of frames",
    ),
    "attention with is_causal": (
        lambda s, x: qkv(s, x, None, is_causal=True),
        {"l": nn.Linear(12, 12)},
        "attends to all of the past",
        "window of frames",
    ),
    "attention to all of the past": (
        lambda s, x: qkv(s, x, distances(x.shape[1]) >= 0),
        {"l": nn.Linear(12, 12)},
        "attends to all of the past",
        "window of past frames",
    ),
    "mask that differs per frame": (
        lambda s, x: qkv(
            s, x, window(x.shape[1], 5) & (torch.arange(x.shape[1]) % 2 == 0)[:, None]
            | (distances(x.shape[1]) == 0)
        ),
        {"l": nn.Linear(12, 12)},
        "not the same for every frame",
        "distance only",
    ),
    "scores without a mask": (
        lambda s, x: torch.softmax(x @ x.transpose(1, 2), -1) @ x,
        {},
        "without a mask",
        "window of past frames",
    ),
    "softmax over the queries": (
        lambda s, x: (x @ x.transpose(1, 2))
        .masked_fill(~window(x.shape[1], 4), -1e9)
        .softmax(1)
        @ x,
        {},
        "runs over the queries",
        "last axis",
    ),
    "mean over time": (lambda s, x: x - x.mean(1, keepdim=True), {}, "all frames", "running"),
    "layer norm over time": (
        lambda s, x: F.layer_norm(x.transpose(1, 2), x.shape[1:2]),
        {},
        "over all frames",
        "cumulative or per-frame",
    ),
    "group norm over time": (
        lambda s, x: F.group_norm(x.transpose(1, 2), 1),
        {},
        "over all frames",
        "cumulative or per-frame",
    ),
    "instance norm": (
        lambda s, x: F.instance_norm(x.transpose(1, 2)),
        {},
        "over all frames",
        "cumulative or per-frame",
    ),
    "pooling over time": (
        lambda s, x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1) * x.transpose(1, 2),
        {},
        "averages over all frames",
        "running mean",
    ),
    "reversed": (lambda s, x: x.flip(1), {}, "over all frames", "running"),
    "rolled": (lambda s, x: x.roll(1, 1), {}, "rolls the last frame", "pad"),
    "last frames": (lambda s, x: x[:, -3:], {}, "counted from the end", "fixed start"),
    "first frames": (lambda s, x: x[:, :3], {}, "fixed number of frames", "per frame"),
    "one frame": (lambda s, x: x - x[:, 3:4], {}, "fixed number of frames", "per frame"),
    "reflected": (
        lambda s, x: F.pad(x.transpose(1, 2), (2, 0), mode="reflect"),
        {},
        "frames that come later",
        "replicate",
    ),
    "joined in time": (lambda s, x: torch.cat([x, x], 1), {}, "several clips", "channels"),
    "loop": (
        lambda s, x: torch.stack([x[:, i] for i in range(x.shape[1])], 1),
        {},
        "concrete number of frames",
        "layers.scan",
    ),
    "data dependent": (
        lambda s, x: x * 2 if x.sum() > 0 else x,
        {},
        "depends on data",
        "torch.where",
    ),
    "scrambled": (
        lambda s, x: x.reshape(x.shape[0], 12, x.shape[1]) * 2,
        {},
        "mixes frames",
        "permute",
    ),
    "number of frames": (
        lambda s, x: x * torch.ones(x.shape[0], 1, 12).mul(x.shape[1]),
        {},
        "number of frames",
        "per frame",
    ),
    "changed length": (
        lambda s, x: s.c(x.transpose(1, 2)),
        {"c": nn.Conv1d(12, 4, 3)},
        "frames for T input frames",
        "pad in time",
    ),
    "interpolated in time": (
        lambda s, x: F.interpolate(x.unsqueeze(1), scale_factor=(2.0, 1.0), mode="bilinear"),
        {},
        "interpolates between frames",
        "repetition",
    ),
    "clip repeated": (lambda s, x: x.repeat(1, 2, 1), {}, "repeats the whole clip", "not time"),
    "time as channels": (
        lambda s, x: s.c(x),
        {"c": nn.Conv1d(48, 4, 1)},
        "concrete number of frames|channel axis",
        "",
    ),
    "state in a buffer": (
        lambda s, x: s.memory.add_(x.mean()) + x,
        {"memory": torch.zeros(1)},
        "writes to the buffer memory",
        "layers.scan",
    ),
    "3-D convolution": (
        lambda s, x: s.c(x.reshape(x.shape[0], 1, -1, 3, 4)).flatten(2),
        {"c": nn.Conv3d(1, 2, 1)},
        "no 3-D convolution",
        "conv2d",
    ),
    "complex numbers": (
        lambda s, x: torch.view_as_complex(x.reshape(x.shape[0], -1, 6, 2)).abs(),
        {},
        "no complex numbers",
        "channels",
    ),
    "unknown op": (lambda s, x: torch.special.i0(x), {}, "no streaming rule", "lists them"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES_FIRST)
def test_refused(name: str) -> None:
    body, parts, why, instead = FRAMES_FIRST[name]
    with pytest.raises(NotStreamable, match=why) as caught:
        se.streamify(Net(body, **parts), torch.randn(1, 8, 12), 1)
    text = str(caught.value).lower()
    assert "\n" not in text
    assert any(word.lower() in text for word in instead.split("|")), text
    assert caught.value.exit_code == 2


def test_a_transform_inside_the_model_belongs_to_the_front_end() -> None:
    net = Net(lambda s, x: stft(x).movedim(2, 1))
    with pytest.raises(NotStreamable, match=r"aten::stft.*front end.*StftFrontend"):
        se.streamify(net, torch.randn(1, 64), 1)


def test_module_path_op_and_source_line_are_named() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(1)

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Inner()))
    with pytest.raises(NotStreamable, match=r"module 1\.0, op aten::flip \(test_refusal_texts\.py"):
        se.streamify(model, torch.randn(1, 8, 4), 1)


def test_what_nobody_uses_is_not_refused() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        y, _ = s.r(x)
        x.mean(1)
        return y

    se.streamify(Net(body, r=nn.GRU(4, 4, batch_first=True)), torch.randn(1, 8, 4), 1)
