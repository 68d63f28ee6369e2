"""AST and Audio Mamba: published counts, the FFTP table, resizing, equality of scan and step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import spectral_edge as se
from spectral_edge.errors import SpecError
from spectral_edge.layers.patch import resize_kernel, resize_positions
from spectral_edge.layers.selective_scan import (
    ExponentialMean,
    SelectiveScan,
    doubling_scan,
    linear_scan,
    selective_step,
)
from spectral_edge.models import ast, aum
from spectral_edge.models.ast import Ast, AstSize
from spectral_edge.models.aum import Aum, AumSize
from spectral_edge.models.counters import ast_macs, aum_macs, measured_macs, parameter_count
from spectral_edge.models.window import window_program

UNUSED_DEIT_HEADS = 2 * (768 * 1000 + 1000)  # counted in AST's training log


def count(size: AstSize | AumSize) -> int:
    with torch.device("meta"):
        return parameter_count(Ast(size) if isinstance(size, AstSize) else Aum(size))


BASE, SMALL = aum.SIZES["aum_base"], aum.SIZES["aum_small"]
KWS = {"window": (128, 128), "classes": 35}
PUBLISHED_AUM = [
    (BASE, 92.11), (replace(BASE, classes=309), 91.94), (replace(BASE, classes=1251), 92.66),
    (replace(BASE, **KWS), 91.39), (replace(BASE, classes=44), 91.74),
    (SMALL, 25.54), (replace(SMALL, **KWS), 25.18), (replace(SMALL, classes=1251), 25.82),
]  # fmt: skip


@pytest.mark.parametrize(("size", "millions"), PUBLISHED_AUM)
def test_aum_has_the_published_parameters(size: AumSize, millions: float) -> None:
    assert round(count(size) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("changes", "millions"), [({}, 88.132), (KWS, 86.933)], ids=("AudioSet", "SC-V2")
)
def test_ast_has_the_published_parameters(changes: dict[str, object], millions: float) -> None:
    size = replace(ast.SIZES["ast_base"], stride=(10, 10), **changes)
    assert round((count(size) + UNUSED_DEIT_HEADS) / 1e6, 3) == millions


EDGE = {
    "fftp_ast_xs": (151e3, 3.1e6), "fftp_ast_s": (330e3, 8.5e6), "fftp_ast_m": (836e3, 21.4e6),
    "fftp_ast_tag": (1.1e6, 161e6), "fftp_aum_xs": (131e3, 0.151e6), "fftp_aum_s": (410e3, 0.454e6),
    "fftp_aum_m": (970e3, 1.13e6), "fftp_aum_tag": (2.2e6, 2.45e6),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGE)
def test_edge_sizes_are_as_specified(name: str) -> None:
    parameters, macs = EDGE[name]
    if name in ast.SIZES:
        assert count(ast.SIZES[name]) == pytest.approx(parameters, rel=0.007)
        assert ast_macs(ast.SIZES[name]) == pytest.approx(macs, rel=0.007)
    else:
        size = aum.SIZES[name]
        assert count(size) == pytest.approx(parameters, rel=0.007)
        assert aum_macs(size) / size.tokens == pytest.approx(macs, rel=0.007)


# patch frames (0: square, its stride) -> tokens, AST M parameters and GMAC, AuM the same
AUDIOSET = [
    ((16, 16), 16, 512, 86.06, 48.63, 92.11, 49.88), ((16, 16), 10, 1212, 86.59, 130.5, 92.65,
    117.9), ((2, 128), 2, 512, 86.06, 48.63, 92.11, 49.88), ((4, 128), 4, 256, 86.06, 23.24, 92.11,
    25.04), ((5, 128), 5, 204, 86.11, 18.38, 92.17, 19.99), ((8, 128), 8, 128, 86.35, 11.45, 92.40,
    12.62), ((11, 128), 11, 93, 86.62, 8.34, 92.67, 9.22), ((12, 128), 12, 85, 86.71, 7.63, 92.76,
    8.44), ((16, 128), 16, 64, 87.09, 5.79, 93.14, 6.41),
]  # fmt: skip


@pytest.mark.parametrize("row", AUDIOSET, ids=lambda r: f"{r[0][1]}x{r[0][0]}s{r[1]}")
def test_token_and_gmac_table_of_audioset(
    row: tuple[tuple[int, int], int, int, float, float, float, float],
) -> None:
    patch, s, tokens, ast_m, ast_g, aum_m, aum_g = row
    stride = (s, s if patch[1] == 16 else 128)
    a = replace(ast.SIZES["ast_base"], patch=patch, stride=stride)
    m = replace(BASE, patch=patch, stride=stride)
    print(f"{patch[1]}x{patch[0]} s{s}: {a.tokens} tokens, AST {count(a) / 1e6:.2f} M "
          f"{ast_macs(a) / 1e9:.2f} G")  # fmt: skip
    print(f"    AuM {count(m) / 1e6:.2f} M {aum_macs(m) / 1e9:.2f} G")
    assert a.tokens == m.tokens == tokens
    assert (round(count(a) / 1e6, 2), round(count(m) / 1e6, 2)) == (ast_m, aum_m)
    assert ast_macs(a) / 1e9 == pytest.approx(ast_g, abs=0.051 if ast_g > 100 else 0.0051)
    assert aum_macs(m) / 1e9 == pytest.approx(aum_g, abs=0.051 if aum_g > 100 else 0.0051)


@pytest.mark.parametrize(
    ("patch", "s", "tokens", "ast_g", "aum_g"),
    [
        ((16, 16), 16, 64, 5.70, 6.32), ((16, 16), 10, 144, 12.82, 14.10),
        ((4, 128), 4, 32, 2.92, 3.21), ((5, 128), 5, 25, 2.32, 2.53),
        ((8, 128), 8, 16, 1.55, 1.66), ((12, 128), 12, 10, 1.03, 1.08),
    ],
)  # fmt: skip
def test_token_and_gmac_table_of_speech_commands(
    patch: tuple[int, int], s: int, tokens: int, ast_g: float, aum_g: float
) -> None:
    stride = (s, s if patch[1] == 16 else 128)
    a = replace(ast.SIZES["ast_base_kws"], patch=patch, stride=stride)
    m = replace(aum.SIZES["aum_base_kws"], patch=patch, stride=stride)
    assert a.tokens == m.tokens == tokens
    assert (round(ast_macs(a) / 1e9, 2), round(aum_macs(m) / 1e9, 2)) == (ast_g, aum_g)


def test_closed_form_of_ast_is_what_torch_counts() -> None:
    with torch.device("meta"):
        for name in ("fftp_ast_m", "fftp_ast_xs", "ast_tiny"):
            size = ast.SIZES[name]
            assert measured_macs(Ast(size), (1, 1, *size.window)) == ast_macs(size)


# -- kernels and positions from square checkpoints -------------------------------------------------


@pytest.mark.parametrize("new", [(16, 128), (32, 32), (20, 16)])
def test_resized_kernel_gives_the_same_tokens_on_resized_patches(new: tuple[int, int]) -> None:
    torch.manual_seed(0)
    kernel, patch = torch.randn(5, 1, 16, 16).double(), torch.randn(7, 1, 16, 16).double()
    bigger = F.interpolate(patch, new, mode="bilinear", align_corners=False)
    resized = resize_kernel(kernel, new)
    assert resized.shape == (5, 1, *new)
    torch.testing.assert_close(F.conv2d(bigger, resized), F.conv2d(patch, kernel))


def test_position_table_averages_over_mel_and_keeps_the_prefix() -> None:
    table = torch.randn(1, 2 + 6 * 4, 8)
    new = resize_positions(table, (6, 4), (6, 1), prefix=2)
    assert torch.equal(new[:, :2], table[:, :2])
    torch.testing.assert_close(new[:, 2:], table[:, 2:].reshape(1, 6, 4, 8).mean(2))
    assert resize_positions(table, (6, 4), (11, 1), prefix=2).shape == (1, 13, 8)
    with pytest.raises(SpecError, match="26 rows, expected 2"):
        resize_positions(table, (5, 4), (5, 1), prefix=2)


def test_square_checkpoint_starts_a_full_frequency_model() -> None:
    torch.manual_seed(0)
    small = {"width": 32, "layers": 2, "window": (64, 32), "patch": (8, 8), "stride": (8, 8)}
    for square, resized in (
        (Ast(replace(ast.SIZES["ast_tiny"], heads=2, **small)), ast.resized_from_square),
        (Aum(replace(aum.SIZES["aum_tiny"], **small)), aum.resized_from_square),
    ):
        model = resized(square, 4, 2)
        assert model.size.tokens == 31
        assert model(torch.randn(2, 1, 64, 32)).shape == (2, 527)
        for name, value in square.state_dict().items():
            if name not in ("patch.conv.weight", "positions"):
                assert torch.equal(value, model.state_dict()[name])


# -- selective scan --------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 33, 100])
def test_parallel_scan_is_the_recurrence(frames: int) -> None:
    torch.manual_seed(frames)
    a, b = torch.rand(frames, 2, 5).double(), torch.randn(frames, 2, 5).double()
    h, rows = torch.zeros(2, 5).double(), []
    for t in range(frames):
        h = a[t] * h + b[t]
        rows.append(h)
    for scan in (linear_scan, doubling_scan):
        torch.testing.assert_close(scan(a, b), torch.stack(rows), rtol=1e-12, atol=1e-12)


def test_gradient_of_the_parallel_scan() -> None:
    torch.manual_seed(0)
    a = torch.rand(13, 2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(13, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_scan, (a, b))


def selective_inputs(frames: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    u, delta = torch.randn(2, frames, 12), F.softplus(torch.randn(2, frames, 12) - 2)
    return u, delta, torch.randn(2, frames, 8), torch.randn(2, frames, 8)


def test_selective_scan_is_the_step_to_1e_5() -> None:
    scan = SelectiveScan(12, 8)
    u, delta, b, c = selective_inputs(200)
    with torch.no_grad():
        whole = scan(u, delta, b, c)
        state, a = torch.zeros(2, 12, 8), -torch.exp(scan.log_decay)
        for t in range(200):
            y, state = selective_step(u[:, t], delta[:, t], b[:, t], c[:, t], a, state)
            assert (y + scan.skip * u[:, t] - whole[:, t]).abs().max() < 1e-5


def test_reversed_scan_is_the_scan_of_the_reversed_sequence() -> None:
    inputs = selective_inputs(40)
    ahead, behind = SelectiveScan(12, 8), SelectiveScan(12, 8, reverse=True)
    expected = ahead(*(x.flip(1) for x in inputs)).flip(1)
    torch.testing.assert_close(behind(*inputs), expected)


def test_exponential_mean_is_the_recurrence() -> None:
    mean, x = ExponentialMean(5.0), torch.randn(2, 30, 4)
    y = torch.zeros(2, 4)
    out = mean(x)
    for t in range(30):
        y = y + mean.alpha * (x[:, t] - y)
        torch.testing.assert_close(out[:, t], y, atol=1e-6, rtol=1e-5)


# -- streaming -------------------------------------------------------------------------------------

STREAMS = {
    "aum": lambda: aum.aum_model("fftp_aum_xs", layers=2, classes=5),
    "aum_bn": lambda: aum.aum_model(
        "fftp_aum_xs", layers=2, classes=5, norm="bn", activation="hardswish"
    ),
    "aum_overlap": lambda: aum.aum_model("fftp_aum_xs", layers=1, classes=5, patch=(8, 40)),
    "ast": lambda: ast.ast_model("fftp_ast_stream", layers=2, classes=5, recent=6),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streaming_forms_are_derived_and_proved(name: str) -> None:
    torch.manual_seed(0)
    model = STREAMS[name]()
    mels = model.size.window[1]
    with torch.no_grad():
        model(torch.randn(4, 1, 64, mels))  # moves the BatchNorm statistics
    ready = model.deployable()
    x = torch.randn(2, 1, 64, mels)
    torch.testing.assert_close(ready(x), model.eval()(x), atol=1e-5, rtol=1e-4)
    # compares with the model on random clips, raises otherwise
    program = se.streamify(ready, x, time_dim=2, check_lengths=(1, 9))
    assert (program.delay, program.hop_multiple) == (0, 4)
    longer = torch.randn(1, 1, 200, mels)
    torch.testing.assert_close(program.run(longer), ready(longer), atol=1e-5, rtol=1e-4)


def test_states_of_the_edge_stream_are_as_counted() -> None:
    size = aum.SIZES["fftp_aum_xs"]
    program = se.streamify(
        Aum(replace(size, layers=1)), torch.randn(1, 1, 48, 40), time_dim=2, check_lengths=()
    )
    per_layer = 3 * size.inner + size.inner * size.order
    assert program.state_elements == per_layer + size.width  # the running mean
    assert size.layers * per_layer == 5632


@pytest.mark.parametrize("directions", aum.DIRECTIONS)
def test_only_one_direction_is_causal(directions: str) -> None:
    torch.manual_seed(0)
    model = aum.aum_model("fftp_aum_xs", layers=2, directions=directions).eval()
    x = torch.randn(1, 1, 80, 40)
    changed = x.clone()
    changed[:, :, 40:] += 1.0
    with torch.no_grad():
        a, b = model(x)[:, :10], model(changed)[:, :10]
    assert torch.equal(a, b) == (directions == "fo_fo")


@pytest.mark.parametrize(
    "model",
    [ast.ast_model("fftp_ast_xs", norm="bn"), ast.ast_model("fftp_ast_xs", prefix=2)],
    ids=("bn", "prefix"),
)
def test_windows_become_programs_without_states(model: Ast) -> None:
    with torch.no_grad():
        model(torch.randn(4, 1, 100, 40))
    ready = model.deployable()
    x = torch.randn(1, 1, 100, 40)
    torch.testing.assert_close(ready(x), model.eval()(x), atol=1e-5, rtol=1e-4)
    program = window_program(model, x)
    torch.testing.assert_close(program.step((x,), ())[0][0], ready(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ast.ast_model("ast_huge"), "must be one of ast_base"),
        (lambda: ast.ast_model("fftp_ast_s", norm="rms"), "must be ln or bn"),
        (lambda: ast.ast_model("ast_tiny", recent=4), "full-frequency patches"),
        (lambda: aum.aum_model("aum_base", patch=(16, 256)), "patch has 256 mels"),
        (lambda: aum.aum_model("aum_tiny", directions="up"), "must be one of fo_fo"),
        (lambda: aum.aum_model("fftp_aum_s", patch=(2, 64)), "leaves gaps"),
    ],
)
def test_contradictions_are_refused(make: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()  # type: ignore[operator]
