"""Write the golden files of this folder: ``python -m tests.golden.regenerate``.

A changed golden is a changed meaning of every deployed front end: explain it in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spectral_edge.dsp.engine_numpy import GoldenEngine
from spectral_edge.dsp.fixed import Buffers
from spectral_edge.dsp.plan import FrontendPlan
from spectral_edge.dsp.stft import analyse, frames_of, overlap_add
from spectral_edge.dsp.tables import stft_tables
from spectral_edge.frontend import StftFrontend
from spectral_edge.program import QParams
from tests.dsp.signals import SIGNALS, Codes, hops_of, signal

HERE = Path(__file__).parent
SIZES = (
    *(64, 90, 96, 120, 128, 160, 192, 240, 256, 320, 384, 400),
    *(480, 512, 640, 768, 800, 960, 1024, 2048, 4096),
)
STFT_CASES = [
    *((n, n // 2, "sqrt_hann") for n in SIZES),
    *((n, n // 4, "hann") for n in (64, 320, 400, 512)),
    *((400, 160, "hamming"), (512, 160, "hamming"), (100, 33, "hamming"), (250, 250, "rect")),
    *((4096, 4096, "rect"), (512, 512, "rect")),
]
INPUT, MASK, BIAS = QParams(0.0123, -100), QParams(1 / 256, -128), QParams(1 / 64, 0)
COMPLEX = QParams(1 / 128, 0)
FRONTEND_CASES = [
    (StftFrontend(n_fft=512, hop_length=256), 0),
    (StftFrontend(n_fft=512, hop_length=256, head="mask", compression=0.5), 2),
    (StftFrontend(n_fft=512, hop_length=128, head="mask", level="none", window="hann"), 0),
    (StftFrontend(n_fft=320, hop_length=160, head="complex_mask", compression=1.0), 1),
    (StftFrontend(n_fft=400, hop_length=200, compression=1.0, level="none"), 3),
    (StftFrontend(n_fft=480, hop_length=240, compression=0.5), 0),
    (StftFrontend(n_fft=64, hop_length=16, head="logits"), 0),
    (StftFrontend(n_fft=1024, hop_length=256, sample_rate=48_000), 1),
    (StftFrontend(n_fft=90, hop_length=45, head="complex_mask", level="none"), 0),
]
HEAD = {"logits": 0, "mask": 1, "mask_bias": 2, "complex_mask": 3}


def plan_of(frontend: StftFrontend, delay: int) -> FrontendPlan:
    """The plan with the qparams of the golden files."""
    mask = COMPLEX if frontend.head == "complex_mask" else MASK
    return FrontendPlan(frontend, INPUT, mask, BIAS, delay)


def stft_hash(n_fft: int, hop_length: int, window: str) -> str:
    """SHA-256 of spectra, exponents and PCM of all signals, frame by frame."""
    tables = stft_tables(n_fft, hop_length, window)
    digest = hashlib.sha256()
    for kind in range(len(SIGNALS)):
        pcm = signal(kind, hops_of(n_fft, hop_length) * hop_length)
        frames = frames_of(pcm, np.zeros(n_fft, np.int16), hop_length)
        re, im, e = analyse(frames, tables)
        out = overlap_add(re, im, e, tables, np.zeros(n_fft, np.int64)).reshape(len(e), -1)
        for t in range(len(e)):
            digest.update(np.concatenate([re[t], im[t], e[t : t + 1]]).astype("<i4").tobytes())
            digest.update(out[t].astype("<i2").tobytes())
    return digest.hexdigest()


def frontend_hash(engine: GoldenEngine, plan: FrontendPlan) -> str:
    """SHA-256 of Q16 features, codes and PCM of all signals through one stream."""
    bins, hop = plan.bins, plan.hop_length
    masks, biases = plan.head_channels
    network = np.zeros((bins, 3), np.int8)
    mask, bias = np.zeros((bins, masks), np.int8), np.zeros((bins, biases), np.int8)
    pcm_in, pcm_out = np.zeros(hop, np.int16), np.zeros(hop, np.int16)
    engine.bind(Buffers(plan, pcm_in, network, mask, bias, pcm_out, "nhwc"))
    codes, digest = Codes(), hashlib.sha256()
    for kind in range(len(SIGNALS)):
        engine.reset()
        clip = signal(kind, hops_of(plan.n_fft, hop) * hop)
        features = engine.clip(clip)
        engine.reset()
        for t in range(len(clip) // hop):
            pcm_in[:] = clip[t * hop : (t + 1) * hop]
            engine.analyze()
            made = codes.take(4 * bins)
            mask[:] = made[: 2 * bins].reshape(2, bins).T[:, :masks]
            bias[:] = made[2 * bins :].reshape(bins, 2)[:, :biases]
            engine.synthesize()
            digest.update(features[:, t].astype("<i4").tobytes())
            digest.update(network.reshape(-1).astype("<i4").tobytes())
            digest.update(pcm_out.astype("<i2").tobytes())
    return digest.hexdigest()


def frontend_line(frontend: StftFrontend, delay: int) -> str:
    """Parameters of one front end as the C test reads them."""
    plan = plan_of(frontend, delay)
    rule, level, tables = plan.codes, plan.level, plan.tables
    mask_step = 1 << 24 if frontend.head == "complex_mask" else 1 << 23
    integers = (
        *(plan.exponent, plan.inverse_whole, plan.inverse_fraction, tables.reference_log2),
        *(int(level.running), level.alpha_mantissa, level.alpha_shift, level.start, level.floor),
        *(rule.multiplier, rule.shift, rule.limit, rule.zero_point),
        *((COMPLEX if frontend.head == "complex_mask" else MASK).zero_point, mask_step, 1024),
    )
    size = f"{frontend.n_fft} {frontend.hop_length} {frontend.window}"
    return f"frontend {size} {HEAD[frontend.head]} {delay} {' '.join(map(str, integers))}"


def hash_lines() -> Iterable[str]:
    """Lines of hashes.txt."""
    for n_fft, hop, window in STFT_CASES:
        yield f"stft {n_fft} {hop} {window} {stft_hash(n_fft, hop, window)}"
    for frontend, delay in FRONTEND_CASES:
        plan = plan_of(frontend, delay)
        yield f"{frontend_line(frontend, delay)} {frontend_hash(GoldenEngine(plan), plan)}"


def vector_lines() -> Iterable[str]:
    """Lines of stft_vectors.txt: parameters, then pairs of input and expected output."""
    for n_fft, hop, window, kind in (
        (64, 32, "sqrt_hann", 5),
        (90, 45, "hann", 8),
        (80, 20, "hann", 3),
    ):
        tables = stft_tables(n_fft, hop, window)
        pcm = signal(kind, 6 * hop)
        re, im, e = analyse(frames_of(pcm, np.zeros(n_fft, np.int16), hop), tables)
        out = overlap_add(re, im, e, tables, np.zeros(n_fft, np.int64)).reshape(6, hop)
        yield f"case {n_fft} {hop} {window} {len(e)}"
        for t, block in enumerate(pcm.reshape(6, hop)):
            yield " ".join(map(str, ["push", *block]))
            yield " ".join(map(str, ["spectrum", e[t], *re[t], *im[t]]))
            yield " ".join(map(str, ["pull", *out[t]]))


if __name__ == "__main__":
    (HERE / "hashes.txt").write_text("\n".join(hash_lines()) + "\n")
    (HERE / "stft_vectors.txt").write_text("\n".join(vector_lines()) + "\n")
