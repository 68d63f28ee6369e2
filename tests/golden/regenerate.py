"""Write the golden files of this folder: ``python -m tests.golden.regenerate``.

A changed golden is a changed meaning of every deployed front end: explain it in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.dsp import BlockSpectrum, FixedDCT, FixedLogMel, FixedPCEN, FixedSTFT
from spectral_edge.dsp.blocks import block_engine
from spectral_edge.dsp.engine_numpy import GoldenEngine
from spectral_edge.dsp.features import CodeRule
from spectral_edge.dsp.fixed import Buffers
from spectral_edge.dsp.plan import FrontendPlan
from spectral_edge.dsp.qformat import Ints
from spectral_edge.dsp.stft import analyse, frames_of, overlap_add
from spectral_edge.dsp.tables import StftTables, stft_tables
from spectral_edge.frontend import StftFrontend
from spectral_edge.program import QParams
from tests.dsp.signals import SIGNALS, Codes, generator, hops_of, signal

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
# m, n, hop, window: transforms longer than the window
PADDED_CASES = [
    *((400, 512, 160, "hann"), (399, 512, 133, "hamming"), (25, 64, 10, "sqrt_hann")),
    *((320, 1024, 80, "sqrt_hann"), (1, 64, 1, "rect"), (641, 2048, 320, "hamming")),
]


LN_INT8, LN_INT16 = QParams(0.115, 100), QParams(0.0007, 0)


@dataclass(frozen=True)
class MelCase:
    """One log-mel front end, with PCEN where its options are not None."""

    n_fft: int
    hop_length: int
    window: str
    win_length: int
    mel: dict[str, Any]
    pcen: dict[str, Any] | None = None
    int8: QParams = LN_INT8
    int16: QParams = LN_INT16

    def stft(self) -> FixedSTFT:
        """The transform in front."""
        size = {"mfft": self.n_fft, "win_length": self.win_length}
        return FixedSTFT(self.window, self.hop_length, 16_000, **size)

    def front_end(self, backend: str) -> FixedLogMel:
        """The log-mel on one backend."""
        return FixedLogMel(self.stft(), **self.mel, backend=backend)


MEL_CASES = [
    MelCase(512, 160, "hann", 400, {"n_mels": 23, "mel": "kaldi", "full_scale": 1, "floor": -16}),
    MelCase(
        *(512, 256, "sqrt_hann", 512),
        {"n_mels": 40, "mel": "slaney", "norm": "slaney", "power": 1, "log": "dB", "floor": -120},
        int8=QParams(0.5, 100),
        int16=QParams(1 / 256, -3),
    ),
    MelCase(
        *(320, 160, "hamming", 320),
        {"n_mels": 16, "log": "log2", "full_scale": 1, "floor": -30},
        {},
    ),
    MelCase(
        *(1024, 256, "hann", 1024),
        {"n_mels": 64, "log": "log2", "full_scale": 1, "floor": -30, "fmin": 60.0},
        {"s": 0.5, "alpha": 0.8, "delta": 10.0, "r": 0.25, "eps": 1.0},
    ),
]
DCT_CASES = [(2, 14, 7), (7, 14, 7), (8, 14, 7), (8, 7, 3), (14, 14, 7), (16, 14, 7), (16, 12, 0)]
DCT_CASES += [(31, 14, 7), (40, 13, 8), (64, 14, 13)]
HEAD = {"logits": 0, "mask": 1, "mask_bias": 2, "complex_mask": 3}


def plan_of(frontend: StftFrontend, delay: int) -> FrontendPlan:
    """The plan with the qparams of the golden files."""
    mask = COMPLEX if frontend.head == "complex_mask" else MASK
    return FrontendPlan(frontend, INPUT, mask, BIAS, delay)


def spectra(pcm: NDArray[np.int16], tables: StftTables) -> tuple[Ints, Ints, Ints]:
    """Frames of a clip behind silence: re, im [hops, bins], e [hops]."""
    silence = np.zeros(len(tables.window), np.int16)
    return analyse(frames_of(pcm, silence, tables.hop_length), tables)


def stft_hash(
    n_fft: int,
    hop_length: int,
    window: str,
    win_length: int | None = None,
    transform: Callable[[NDArray[np.int16], StftTables], tuple[Ints, Ints, Ints]] = spectra,
) -> str:
    """SHA-256 of spectra, exponents and PCM of all signals, frame by frame."""
    tables = stft_tables(n_fft, hop_length, window, win_length)
    m, digest = len(tables.window), hashlib.sha256()
    for kind in range(len(SIGNALS)):
        pcm = signal(kind, hops_of(n_fft, hop_length) * hop_length)
        re, im, e = transform(pcm, tables)
        out = overlap_add(re, im, e, tables, np.zeros(m, np.int64)).reshape(len(e), -1)
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


def mel_line(case: MelCase) -> str:
    """Parameters of a log-mel front end as the C test reads them."""
    mel = case.front_end("numpy")
    bank, rule, at, numbers = mel.bank, mel.rule, 0, []
    numbers += [len(bank.first), mel.power, rule.whole, rule.fraction, rule.reference, rule.floor]
    numbers.append(bank.total_bits)
    for q, bits in ((case.int8, 8), (case.int16, 16)):
        codes = CodeRule.of(q.scale, q.zero_point, bits)
        numbers += [codes.multiplier, codes.shift, codes.limit, codes.zero_point]
    numbers.append(int(case.pcen is not None))
    if case.pcen is not None:
        config = FixedPCEN(mel.n_mels, **case.pcen, backend="numpy")._config
        numbers += [getattr(config, name) for name, _ in config._fields_[1:8]]
    for first, count, offset in zip(bank.first, bank.count, bank.offset, strict=True):
        numbers += [first, count, offset, *bank.weight[at : at + count]]
        at += count
    size = f"{case.win_length} {case.n_fft} {case.hop_length} {case.window}"
    return f"logmel {size} {' '.join(map(str, numbers))}"


def mel_frames(
    case: MelCase, mel: FixedLogMel, pcm: NDArray[np.int16]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs of a clip, frame by frame, from silence."""
    re, im, e = block_engine(case.stft().tables, mel.backend).push(pcm)
    values = mel.transform(BlockSpectrum(re.T, im.T, e))
    parts = {
        "mel": values,
        "int8": mel.codes(values, case.int8),
        "int16": mel.codes(values, case.int16, 16),
    }
    if case.pcen is not None:
        parts["pcen"] = FixedPCEN(mel.n_mels, **case.pcen, backend=mel.backend).push(values)
    for t in range(len(e)):
        yield {name: part[:, t] for name, part in parts.items()}


def mel_hash(case: MelCase, backend: str) -> str:
    """SHA-256 of log-mel, codes and PCEN of all signals, frame by frame."""
    mel, digest = case.front_end(backend), hashlib.sha256()
    hop = case.hop_length
    for kind in range(len(SIGNALS)):
        for frame in mel_frames(case, mel, signal(kind, hops_of(case.n_fft, hop) * hop)):
            for part in frame.values():
                digest.update(part.astype("<i4").tobytes())
    return digest.hexdigest()


def dct_hash(n: int, coeff_bits: int, fraction_bits: int) -> str:
    """SHA-256 of the matrix, then of blocks of 8 and of 20 bits there and back."""
    dct, state = FixedDCT(n, coeff_bits, fraction_bits), 9
    digest = hashlib.sha256(dct.matrix.astype("<i2").tobytes())
    for size in (24, 12):
        values = generator(state, n * n)
        state = int(values[-1])
        x = ((values >> size) - (1 << (31 - size))).reshape(n, n)
        row, block = dct.forward(x[0]), dct.forward_2d(x)
        for part in (row, dct.inverse(row), block, dct.inverse_2d(block)):
            digest.update(part.astype("<i4").tobytes())
    return digest.hexdigest()


def hash_lines() -> Iterable[str]:
    """Lines of hashes.txt."""
    for n_fft, hop, window in STFT_CASES:
        yield f"stft {n_fft} {hop} {window} {stft_hash(n_fft, hop, window)}"
    for frontend, delay in FRONTEND_CASES:
        plan = plan_of(frontend, delay)
        yield f"{frontend_line(frontend, delay)} {frontend_hash(GoldenEngine(plan), plan)}"
    for m, n_fft, hop, window in PADDED_CASES:
        yield f"padded {m} {n_fft} {hop} {window} {stft_hash(n_fft, hop, window, m)}"
    for mel in MEL_CASES:
        yield f"{mel_line(mel)} {mel_hash(mel, 'numpy')}"
    for dct in DCT_CASES:
        yield f"dct {' '.join(map(str, dct))} {dct_hash(*dct)}"


def feature_vector_lines() -> Iterable[str]:
    """Lines of feature_vectors.txt: log-mel, codes and PCEN of some frames, DCTs of one block."""
    for case, kind in (
        (MelCase(64, 16, "hann", 40, {"n_mels": 6, "fmin": 200.0, "floor": -20}), 8),
        (
            MelCase(
                *(128, 64, "sqrt_hann", 128),
                {"n_mels": 8, "log": "log2", "full_scale": 1, "floor": -30, "fmin": 100.0},
                {},
            ),
            5,
        ),
        (
            MelCase(
                *(64, 32, "hamming", 64),
                {"n_mels": 5, "power": 1, "log": "dB", "floor": -130, "fmin": 200.0},
                int8=QParams(0.5, 100),
                int16=QParams(1 / 256, -3),
            ),
            3,
        ),
    ):
        mel, hop = case.front_end("numpy"), case.hop_length
        pcm = signal(kind, 8 * hop)
        pcm[5 * hop :] = 0  # ends in silence
        yield f"{mel_line(case)} 8"
        for block, frame in zip(pcm.reshape(8, hop), mel_frames(case, mel, pcm), strict=True):
            yield " ".join(map(str, ["push", *block]))
            for name, values in frame.items():
                yield " ".join(map(str, [name, *values]))
    for n, bits, fraction in ((8, 14, 7), (7, 12, 3), (14, 14, 7), (16, 7, 0)):
        dct = FixedDCT(n, bits, fraction)
        x = (generator(n, n * n) >> 24).reshape(n, n) - 128
        yield f"dct {n} {bits} {fraction}"
        row, block = dct.forward(x[0]), dct.forward_2d(x)
        for name, values in (
            *(("x", x[0]), ("forward", row), ("inverse", dct.inverse(row))),
            *(("x2d", x), ("forward2d", block), ("inverse2d", dct.inverse_2d(block))),
        ):
            yield " ".join(map(str, [name, *values.reshape(-1)]))


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
    (HERE / "feature_vectors.txt").write_text("\n".join(feature_vector_lines()) + "\n")
