"""The compiled core and the NumPy golden model give the same bits, on every instruction set."""

from __future__ import annotations

import ctypes
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectral_edge import _native
from spectral_edge._native import ISA, core
from spectral_edge.dsp import FixedSTFT, fft
from spectral_edge.dsp.engine_c import CoreEngine
from spectral_edge.dsp.engine_numpy import GoldenEngine
from spectral_edge.dsp.features import CodeRule
from spectral_edge.dsp.fixed import Buffers
from spectral_edge.dsp.tables import exp2_table, log2_table, stft_tables
from spectral_edge.frontend import WINDOWS, is_smooth
from tests.conftest import ROOT
from tests.golden.regenerate import FRONTEND_CASES, frontend_hash, frontend_line, plan_of

if core() is None:
    pytest.skip(_native.absence(), allow_module_level=True)

ISAS = [name for name, index in ISA.items() if name != "auto" and core().se_isa_available(index)]
SIZES = [n for n in range(64, 4097, 2) if is_smooth(n)]


def test_every_exported_function_is_declared():
    header = (ROOT / "runtimes/c/include/spectral_edge.h").read_text()
    exported = set(re.findall(r"^SE_API .*?(se_\w+)\(", header, re.MULTILINE))
    assert exported == set(_native.SIGNATURES)


def test_the_header_says_what_overflows_and_what_is_in_place():
    """Every function that takes signals says so in the comment in front of it."""
    header = (ROOT / "runtimes/c/include/spectral_edge.h").read_text()
    silent = re.compile(r"_(available|size|init|reset|bind|isa|error|rule)$|^se_make_")
    for comment, prototypes in re.findall(
        r"/\*((?:(?!\*/).)*)\*/\n((?:SE_API [^;]*;\n)+)", header, re.DOTALL
    ):
        for name in re.findall(r"(se_\w+)\(", prototypes):
            if not silent.search(name):
                assert "Overflow" in comment, name
                assert "In place" in comment, name
    undocumented = re.findall(r"\n\nSE_API .*?(se_\w+)\(", header)
    assert not undocumented


def test_round_trip_error_in_c_is_the_one_that_python_warns_of():
    library = core()
    for window in WINDOWS:
        for m, n in ((64, 64), (256, 256), (400, 512), (1000, 1000), (1500, 2048)):
            for hop in (m // 4, m // 2, m * 4 // 5, m * 9 // 10, m):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fixed = FixedSTFT(window, hop, 8_000, mfft=n, win_length=m)
                seen = library.se_round_trip_error(WINDOWS.index(window), m, n, hop)
                assert abs(seen - fixed.round_trip_error) <= 1
                assert (seen == 0) == (fixed.round_trip_error == 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("frontend", "delay"), FRONTEND_CASES, ids=lambda v: getattr(v, "fingerprint", v)
)
def test_frontend_of_core_has_the_golden_hash(frontend, delay, isa):
    line = frontend_line(frontend, delay)
    golden = (ROOT / "tests/golden/hashes.txt").read_text()
    expected = next(x for x in golden.splitlines() if x.startswith(line + " ")).split()[-1]
    plan = plan_of(frontend, delay)
    assert frontend_hash(CoreEngine(plan, isa), plan) == expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", SIZES)
def test_fft_of_every_size(n, isa):
    tables = stft_tables(n, n // 2, "sqrt_hann")
    rng = np.random.default_rng(n)
    library = core()
    memory, handle = _native.allocate(
        library.se_fft_size(n),
        library.se_fft_init,
        n,
        tables.cosine.ctypes.data,
        tables.sine.ctypes.data,
        ISA[isa],
    )
    bound = (2**29 - 2**18) // (n // 2)
    v = rng.integers(-bound, bound, n).astype(np.int32)
    spectrum = [np.empty(n // 2 + 1, np.int32) for _ in range(2)]
    library.se_fft_forward(handle, v.ctypes.data, *(s.ctypes.data for s in spectrum))
    golden = fft.forward(v.astype(np.int64), tables.cosine, tables.sine)
    np.testing.assert_array_equal(spectrum, golden)
    for wild in (0, 1, 12, 31):  # spectra of any size, up to the limits of int32
        x = rng.integers(-(2**wild), 2**wild, (2, n // 2 + 1)).astype(np.int32)
        y = np.empty(n, np.int32)
        shift = library.se_fft_inverse(handle, x[0].ctypes.data, x[1].ctypes.data, y.ctypes.data)
        expected, s = fft.inverse(*x.astype(np.int64), tables.cosine, tables.sine)
        np.testing.assert_array_equal(y, expected)
        assert shift == s
    del memory


@pytest.mark.parametrize("window", WINDOWS)
def test_tables_made_in_c_are_those_made_in_python(window):
    library = core()
    index = WINDOWS.index(window)
    for n in SIZES[:: 1 if window == "sqrt_hann" else 6]:
        a, b = np.empty(n, np.int32), np.empty(n, np.int32)
        exponent = ctypes.c_int32()
        for hop in (n // 2, n // 4) if n <= 512 else (n // 2,):
            tables = stft_tables(n, hop, window)
            status = library.se_make_dual(index, n, hop, a.ctypes.data, ctypes.byref(exponent))
            if tables.condition > 2e-6:
                assert status == 0
                np.testing.assert_array_equal(a, tables.dual)
                assert exponent.value == tables.dual_exponent
        assert library.se_make_circle(n, a.ctypes.data, b.ctypes.data) == 0
        np.testing.assert_array_equal(a, tables.cosine)
        np.testing.assert_array_equal(b, tables.sine)
        assert library.se_make_window(index, n, a.ctypes.data) == 0
        np.testing.assert_array_equal(a, tables.window)
        assert library.se_make_reference_log2(index, n) == tables.reference_log2


@pytest.mark.parametrize("window", WINDOWS)
def test_tables_of_short_windows(window):
    """Windows of any length in front of a longer transform."""
    for m, n, hop in (
        (400, 512, 160),
        (399, 512, 133),
        (25, 64, 10),
        (7, 90, 3),
        (1000, 4096, 250),
    ):
        tables = stft_tables(n, hop, window, m)
        a, exponent = np.empty(m, np.int32), ctypes.c_int32()
        index = WINDOWS.index(window)
        assert core().se_make_window(index, m, a.ctypes.data) == 0
        np.testing.assert_array_equal(a, tables.window)
        size = m, n, hop
        assert core().se_make_padded_dual(index, *size, a.ctypes.data, ctypes.byref(exponent)) == 0
        np.testing.assert_array_equal(a, tables.dual)
        assert exponent.value == tables.dual_exponent


def test_code_rules_made_in_c_are_those_made_in_python():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(-(2**31), 2**31, 300) >> s for s in (0, 8, 16, 24)])
    values = values.astype(np.int32)
    for bits, dtype in ((8, np.int8), (16, np.int16)):
        quantize = getattr(core(), f"se_quantize_int{bits}")
        for scale in (
            0.0125,
            1.0,
            2.0**-20,
            3.0,
            1 / 3,
            30000.0,
            2.0**-44,
            *2.0 ** np.arange(-40, 15),
        ):
            scale = float(np.float32(scale))
            golden = CodeRule.of(scale, -7, bits)
            mantissa, exponent = scale.as_integer_ratio()
            made = _native.CodeRuleStruct()
            power = exponent.bit_length() - 1
            assert core().se_make_code_rule(mantissa, power, -7, bits, ctypes.byref(made)) == 0
            fields = made.multiplier, made.shift, made.limit, made.zero_point
            assert fields == (golden.multiplier, golden.shift, golden.limit, golden.zero_point)
            codes = np.empty(len(values), dtype)
            status = quantize(
                ctypes.byref(made), values.ctypes.data, len(values), codes.ctypes.data
            )
            assert status == 0
            np.testing.assert_array_equal(codes, golden.codes(values.astype(np.int64)))


def test_log_tables_made_in_c_are_those_made_in_python():
    a, b = np.empty(257, np.int32), np.empty(257, np.int32)
    core().se_make_log_tables(a.ctypes.data, b.ctypes.data)
    np.testing.assert_array_equal(a, log2_table())
    np.testing.assert_array_equal(b, exp2_table())


def engines(plan, dtype):
    """Core engines of all instruction sets and the golden one, with buffers."""
    made = []
    for engine in (*(CoreEngine(plan, isa) for isa in ISAS), GoldenEngine(plan)):
        masks, biases = plan.head_channels
        buffers = Buffers(
            plan,
            np.zeros(plan.hop_length, np.int16),
            np.zeros((plan.channels, plan.bins), dtype),
            np.zeros((masks, plan.bins), dtype),
            np.zeros((biases, plan.bins), dtype),
            np.zeros(plan.hop_length, np.int16),
            "nchw",
        )
        engine.bind(buffers)
        made.append((engine, buffers))
    return made


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FRONTEND_CASES),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 15), min_size=1, max_size=6),
)
def test_any_input_any_network(case, as_float, seed, shifts):
    """Random PCM at random levels, random network outputs (also NaN and infinity)."""
    plan = plan_of(*case)
    rng = np.random.default_rng(seed)
    streams = engines(plan, np.float32 if as_float else np.int8)
    for shift in shifts:
        pcm = (rng.integers(-32768, 32768, plan.hop_length) >> shift).astype(np.int16)
        network = rng.integers(-128, 128, (4, plan.bins)).astype(np.int8)
        if as_float:
            network = network.astype(np.float32) * 10.0 ** rng.integers(-6, 7)
            network[rng.random(network.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
        for engine, buffers in streams:
            buffers.pcm_in[:] = pcm
            engine.analyze()
            if buffers.mask is not None:
                buffers.mask[:] = network[: len(buffers.mask)]
            if buffers.bias is not None:
                buffers.bias[:] = network[2 : 2 + len(buffers.bias)]
            engine.synthesize()
        _, golden = streams[-1]
        for engine, buffers in streams[:-1]:
            np.testing.assert_array_equal(buffers.features, golden.features)
            np.testing.assert_array_equal(buffers.pcm_out, golden.pcm_out)
            assert engine.state() == streams[-1][0].state()
