"""Attention over time within a window: every way to write the mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.streaming.support import Net, streams

Body = Any


def distances(frames: int) -> torch.Tensor:
    at = torch.arange(frames)
    return at[:, None] - at[None, :]


def window(frames: int, width: int, ahead: int = 0) -> torch.Tensor:
    distance = distances(frames)
    return (distance >= -ahead) & (distance < width)


def attend(s: Any, x: torch.Tensor, *, ahead: int = 0) -> Any:
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    scores = q @ k.transpose(1, 2) / 2
    scores = scores.masked_fill(~window(x.shape[1], 5, ahead), float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def heads(s: Any, x: torch.Tensor) -> Any:
    b, t = x.shape[0], x.shape[1]
    q, k, v = s.qkv(x).reshape(b, t, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=window(t, 6))
    return y.transpose(1, 2).reshape(b, t, 4)


def relative_bias(s: Any, x: torch.Tensor) -> Any:
    distance = distances(x.shape[1])
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    scores = q @ k.transpose(1, 2) / 2 + s.bias[distance.clamp(0, 6)]
    scores = scores.masked_fill((distance < 0) | (distance > 6), -1e9)
    return scores.softmax(-1) @ v


def linear_bias(s: Any, x: torch.Tensor) -> Any:
    distance = distances(x.shape[1])
    allowed = (distance >= 0) & (distance < 5)
    mask = torch.where(allowed, -0.3 * distance.float(), torch.tensor(float("-inf")))
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    return (q @ k.transpose(1, 2) / 2 + mask).softmax(-1) @ v


def stored_mask(s: Any, x: torch.Tensor) -> Any:
    t = x.shape[1]
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    return (q @ k.transpose(1, 2) + s.mask[:t, :t]).softmax(-1) @ v


def triangles(s: Any, x: torch.Tensor) -> Any:
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    band = torch.ones(x.shape[1], x.shape[1]).tril().triu(-4)
    return (q @ k.transpose(1, 2)).masked_fill(band == 0, -1e9).softmax(-1) @ v


def rotary(s: Any, x: torch.Tensor) -> Any:
    t = x.shape[1]
    angle = torch.arange(t).float()[:, None] * torch.tensor([1.0, 0.1])[None]

    def turned(z: torch.Tensor) -> torch.Tensor:
        a, b = z.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    q, k, v = s.qkv(x).chunk(3, dim=-1)
    scores = turned(q) @ turned(k).transpose(1, 2)
    return scores.masked_fill(~window(t, 5), -1e9).softmax(-1) @ v


def einsums(s: Any, x: torch.Tensor) -> Any:
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    scores = torch.einsum("btd,bsd->bts", q, k).masked_fill(~window(x.shape[1], 5), -1e9)
    return torch.einsum("bts,bsd->btd", scores.softmax(-1), v)


def per_query_scale(s: Any, x: torch.Tensor) -> Any:
    q, k, v = s.qkv(x).chunk(3, dim=-1)
    scores = q @ k.transpose(1, 2) * torch.sigmoid(x.mean(-1, keepdim=True))
    scores = scores + x.mean(-1).unsqueeze(1)  # and a bias per key
    return scores.masked_fill(~window(x.shape[1], 5), -1e9).softmax(-1) @ v


def table() -> torch.Tensor:
    return torch.where(window(256, 5), 0.0, float("-inf"))


CAUSAL: dict[str, tuple[Body, dict[str, torch.Tensor]]] = {
    "masked_fill": (attend, {}),
    "scaled_dot_product_attention": (heads, {}),
    "relative bias": (relative_bias, {"bias": torch.linspace(-1, 1, 7)}),
    "linear bias in the mask": (linear_bias, {}),
    "stored mask": (stored_mask, {"mask": table()}),
    "tril and triu": (triangles, {}),
    "rotary positions": (rotary, {}),
    "einsum": (einsums, {}),
    "scale per query, bias per key": (per_query_scale, {}),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_window(name: str) -> None:
    body, parts = CAUSAL[name]
    program = streams(Net(body, qkv=nn.Linear(5, 12), **parts), torch.randn(1, 8, 5), 1)
    assert program.delay == 0
    assert program.receptive_field in (5, 6, 7, None)  # None: rotary counts frames


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(need_weights: bool) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        mask = ~window(x.shape[1], 4)
        out: torch.Tensor = s.a(x, x, x, attn_mask=mask, need_weights=need_weights)[0]
        return out

    net = Net(body, a=nn.MultiheadAttention(8, 2, batch_first=True))
    streams(net, torch.randn(1, 8, 8), 1)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    net = Net(lambda s, x: s.a(x, mask=~window(x.shape[1], 4)), a=encoder)
    assert streams(net, torch.randn(1, 8, 8), 1).receptive_field == 7


def test_lookahead_in_the_mask_becomes_delay() -> None:
    net = Net(lambda s, x: attend(s, x, ahead=2) + x[..., :4], qkv=nn.Linear(5, 12))
    program = streams(net, torch.randn(1, 8, 5), 1)
    assert program.delay == 2
    assert program.receptive_field == 7


def test_after_a_symmetric_convolution() -> None:
    net = Net(
        lambda s, x: attend(s, s.c(x.transpose(1, 2)).transpose(1, 2)),
        c=nn.Conv1d(5, 5, 3, padding=1),
        qkv=nn.Linear(5, 12),
    )
    assert streams(net, torch.randn(1, 8, 5), 1).delay == 1


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_beside_a_stride(order: str, ahead: int) -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        def down(y: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = s.down(F.pad(y.transpose(1, 2), (1, 0))).transpose(1, 2)
            return z

        if order == "after":
            y = attend(s, down(x), ahead=ahead)
        else:
            y = down(attend(s, x, ahead=ahead))
        return s.up(y.transpose(1, 2)).transpose(1, 2)

    net = Net(
        body,
        down=nn.Conv1d(5 if order == "after" else 4, 5, 3, 2),
        up=nn.ConvTranspose1d(4 if order == "after" else 5, 5, 2, 2),
        qkv=nn.Linear(5, 12),
    )
    assert streams(net, torch.randn(1, 8, 5), 1).hop_multiple == 2


def test_per_band() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:  # [batch, frames, bands, features]
        b, t, f = x.shape[0], x.shape[1], x.shape[2]
        y = attend(s, x.permute(0, 2, 1, 3).reshape(b * f, t, 5))
        return y.reshape(b, f, t, 4).permute(0, 2, 1, 3)

    streams(Net(body, qkv=nn.Linear(5, 12)), torch.randn(1, 8, 3, 5), 1)


def test_over_bands_needs_no_window() -> None:
    def body(s: Any, x: torch.Tensor) -> Any:
        b, t, f = x.shape[0], x.shape[1], x.shape[2]
        q, k, v = s.qkv(x.reshape(b * t, f, 5)).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v).reshape(b, t, f, 4)

    assert not streams(Net(body, qkv=nn.Linear(5, 12)), torch.randn(1, 8, 6, 5), 1).states
