"""Print accuracy and speed of the integer DSP against NumPy, SciPy and C libraries, in one run.

    python benchmarks/dsp.py [--soxr-source DIR] [--quick | --instructions]

FFTW and kissfft are timed when their development packages are installed (``libfftw3-dev``,
``libkissfft-dev``); pffft when ``--soxr-source`` names the unpacked source package of soxr, which
holds a copy (``pip download --no-deps --no-binary :all: soxr``); CMSIS-DSP when ``cmsisdsp`` can be
imported (pip builds it from source, some minutes).

``--instructions`` prints only what ARM cores execute. Instructions are counted, not cycles: a small
plugin for qemu (``count_plugin.c``; Debian's ``qemu-user`` takes plugins, ``qemu-user-static`` does
not) adds up every run of instructions of a program that does 4 transforms, and of one that does 12.
The eighth part of the difference is exact and the same on every machine with the same compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_edge.dsp import BlockSpectrum, FixedDCT, FixedLogMel, FixedSTFT  # noqa: E402
from spectral_edge.dsp.blocks import block_engine  # noqa: E402
from spectral_edge.dsp.fixed import FrontendStream  # noqa: E402
from spectral_edge.dsp.stft import frames_of  # noqa: E402
from spectral_edge.dsp.tables import StftTables, stft_tables  # noqa: E402
from spectral_edge.frontend import StftFrontend, make_window  # noqa: E402
from spectral_edge.program import QParams  # noqa: E402
from tests.dsp.signals import SIGNALS, signal, speech_clips  # noqa: E402

SIZES = (256, 320, 400, 512, 1024)


def optional_libraries(soxr_source: str | None) -> list[str]:
    """Compiler arguments for the float libraries that are there."""
    arguments = []
    if soxr_source:
        arguments += ["-DWITH_PFFFT", f"-I{soxr_source}/libsoxr/src"]
    if Path("/usr/include/fftw3.h").exists():
        arguments += ["-DWITH_FFTW", "-lfftw3f"]
    if Path("/usr/include/kissfft/kiss_fftr.h").exists():
        arguments += ["-DWITH_KISSFFT", "-I/usr/include/kissfft", "-lkissfft-float"]
    return arguments


def speed_in_c(soxr_source: str | None) -> None:
    """FFT and complete frame in C, ns, and the ratio to pffft where it is known."""
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler):
        print("no C compiler: speed in C is left out")
        return
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/dsp_speed"
        sources = sorted(map(str, (ROOT / "runtimes/c/src").glob("*.c")))
        # the float frame rounds with lrintf, which these two flags turn into one instruction
        command = [compiler, "-O3", "-w", "-fno-math-errno", "-fno-trapping-math"]
        command += [f"-I{ROOT}/runtimes/c/include", f"{ROOT}/benchmarks/dsp_speed.c", *sources]
        command += [*optional_libraries(soxr_source), "-lm", "-o", program]
        subprocess.run(command, check=True)
        done = subprocess.run(
            [program, *map(str, SIZES)], check=True, capture_output=True, text=True
        )
    rows = [line.split() for line in done.stdout.splitlines()]
    pffft = {n: (float(a), float(b)) for name, n, a, b in rows if name.startswith("pffft")}
    print(
        "\nreal FFT | STFT + ISTFT frame (hop n/2), ns in C, best of 200; times pffft in brackets"
    )
    for name, n, fft, frame in rows:
        ratio = ""
        if n in pffft:
            ratio = f"  ({float(fft) / pffft[n][0]:.2f}x | {float(frame) / pffft[n][1]:.2f}x)"
        print(f"  {name:16} {n:>5} {fft:>7} | {frame:>7}{ratio}")


# name, compiler, its flags, emulator, and the most that FFT-512 and frame may take (None: no goal)
ARM = (
    ("aarch64 NEON", "aarch64-linux-gnu-gcc", "", "qemu-aarch64 -cpu cortex-a53", 7_000, 18_000),
    (
        *("armv7 NEON", "arm-linux-gnueabihf-gcc", "-mcpu=cortex-a7 -mfpu=neon"),
        *("qemu-arm -cpu cortex-a7", None, 27_000),
    ),
    (
        *(
            "SMMULR, no NEON",
            "arm-linux-gnueabihf-gcc",
            "-march=armv7-a+fp -mthumb -mtune=cortex-m4",
        ),
        *("qemu-arm -cpu cortex-a7", 30_000, 75_000),
    ),
)
PLUGIN_APIS = range(1, 9)  # qemu 7 takes 1, later ones take later ones


def instructions() -> None:
    """Instructions of a real FFT and of a complete frame on emulated ARM cores."""
    print("\ninstructions of a real FFT | STFT + ISTFT frame (hop n/2); the goal in brackets")
    with tempfile.TemporaryDirectory() as folder:
        for name, compiler, flags, emulator, *goals in ARM:
            missing = [tool for tool in (compiler, emulator.split()[0]) if not shutil.which(tool)]
            if missing:
                print(f"  {name}: {' and '.join(missing)} not installed")
                continue
            program = f"{folder}/dsp_count"
            sources = sorted(map(str, (ROOT / "runtimes/c/src").glob("*.c")))
            command = [compiler, *flags.split(), "-O3", "-static", "-w"]
            command += [f"-I{ROOT}/runtimes/c/include", f"{ROOT}/benchmarks/dsp_count.c", *sources]
            subprocess.run([*command, "-o", program], check=True)
            plugin = plugin_for(emulator, program, folder)
            if plugin is None:
                print(f"  {name}: {emulator.split()[0]} takes no plugin of these versions")
                continue
            for n in SIZES:
                line = f"  {name:16} {n:>5}"
                for what, goal in zip(("fft", "frame"), goals, strict=True):
                    few, many = (
                        count(emulator, plugin, [program, what, str(n), str(calls)], folder)
                        for calls in (4, 12)
                    )
                    line += f" {(many - few) / 8:8.0f}"
                    line += f" (<= {goal})" if n == 512 and goal else ""
                print(line)


def plugin_for(emulator: str, program: str, folder: str) -> str | None:
    """Build the counting plugin with the version number that this emulator accepts."""
    for api in PLUGIN_APIS:
        plugin = f"{folder}/count{api}.so"
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", f"-DPLUGIN_API={api}"]
        command += [f"{ROOT}/benchmarks/count_plugin.c", "-o", plugin]
        subprocess.run(command, check=True)
        if count(emulator, plugin, [program, "fft", "64", "1"], folder):
            return plugin
    return None


def count(emulator: str, plugin: str, command: list[str], folder: str) -> int:
    """Instructions that a program executes; 0 when the emulator refuses the plugin."""
    total = Path(folder, "total.txt")
    total.unlink(missing_ok=True)
    options = [*emulator.split(), "-plugin", f"{plugin},out={total}"]
    subprocess.run([*options, *command], check=False, capture_output=True)
    return int(total.read_text()) if total.exists() else 0


def best_us(call: Callable[[], object], calls: int = 500, repeats: int = 30) -> float:
    """Best time of one call in microseconds."""
    least = 1e30
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        least = min(least, (time.perf_counter() - start) / calls)
    return least * 1e6


def speed_in_python() -> None:
    """One hop from Python: core with bound buffers, NumPy hop by hop, SciPy per frame."""
    hop, n = 256, 512
    pcm = signal(0, hop * 64) // 4
    window = make_window("sqrt_hann", n)
    history, overlap = np.zeros(n), np.zeros(n)

    def numpy_hop() -> None:
        history[:-hop] = history[hop:]
        history[-hop:] = pcm[:hop]
        part = np.fft.irfft(np.fft.rfft(history * window)) * window
        overlap[:] += part
        np.clip(np.rint(overlap[:hop]), -32768, 32767).astype(np.int16)
        overlap[:-hop] = overlap[hop:]
        overlap[-hop:] = 0

    print("\none hop from Python, n_fft 512, hop 256, us (best of 30 x 500)")
    print(
        f"  numpy.fft.rfft of 512 float64            {best_us(lambda: np.fft.rfft(history)):7.2f}"
    )
    print(f"  numpy float64 STFT + ISTFT, hop by hop    {best_us(numpy_hop):7.2f}")
    try:
        from scipy.signal import ShortTimeFFT

        theirs, clip = ShortTimeFFT(window, hop, 16_000), pcm.astype(float)
        frames = theirs.stft(clip).shape[1]
        both = best_us(lambda: theirs.istft(theirs.stft(clip)), 5, 10) / frames
        print(f"  scipy ShortTimeFFT stft + istft, per frame {both:6.2f}")
    except ImportError:
        pass
    with contextlib.suppress(ImportError):
        print(f"  {'cmsisdsp: fixed-point q31 rfft of 512':41} {best_us(cmsis_rfft(pcm)):7.2f}")
    for line, cost in (transform_only(pcm), int8_hop(StftFrontend(), pcm)):
        print(f"  {line:54} {cost:6.2f}")


def cmsis_rfft(pcm: np.ndarray) -> Callable[[], object]:
    """CMSIS-DSP's real FFT on 32-bit integers, through its own Python package."""
    import cmsisdsp

    plan = cmsisdsp.arm_rfft_instance_q31()
    cmsisdsp.arm_rfft_init_q31(plan, 512, 0, 1)
    samples = pcm[:512].astype(np.int32) << 16
    return lambda: cmsisdsp.arm_rfft_q31(plan, samples.copy())


def transform_only(pcm: np.ndarray) -> tuple[str, float]:
    """STFT and ISTFT alone, through bound buffers."""
    stream = FixedSTFT("sqrt_hann", 256, 16_000, mfft=512).stream()
    block, out = pcm[:256].copy(), np.empty(256, np.int16)
    re, im = np.empty(257, np.int32), np.empty(257, np.int32)
    analyze, synthesize = stream.bind(block, re, im, out)
    return f"{stream.backend}: STFT + ISTFT", best_us(lambda: synthesize(analyze()))


def int8_hop(frontend: StftFrontend, pcm: np.ndarray) -> tuple[str, float]:
    """The whole front end of a denoiser with int8 codes."""
    stream = FrontendStream(
        frontend, QParams(0.0125, -90), QParams(1 / 256, -128), QParams(0.01, 0)
    )
    rng = np.random.default_rng(0)
    codes = [rng.integers(-128, 128, (1, 1, 257, c)).astype(np.int8) for c in (3, 1, 2)]
    stream.bind(pcm[:256].copy(), *codes, np.zeros(256, np.int16))

    def hop() -> None:
        stream.analyze()
        stream.synthesize()

    return f"{stream.backend}: STFT, features, codes, mask + bias, ISTFT", best_us(hop)


# window and hop as a fraction of it: every pair whose round trip has to be exact
PAIRS = (("sqrt_hann", 2), ("sqrt_hann", 4), ("hann", 4), ("hann", 3), ("hamming", 2), ("rect", 1))


def accuracy() -> None:
    """SNR against float64, worst frame and round trip over levels and hostile signals."""
    print(
        "\nSTFT against float64: SNR dB of espeak-ng speech at 0/-20/-40/-60 dBFS, clipped speech;"
    )
    print("worst frame and largest error of the round trip in int16 steps over these, the hostile")
    print("signals, and " + ", ".join(f"{w} hop n/{p}" for w, p in PAIRS))
    hostile = [signal(kind, 20_000) for kind in range(len(SIGNALS))]
    spoken = list(speech_clips().values())
    for n in (64, 128, 256, 320, 400, 480, 512, 640, 960, 1024, 2048, 4096):
        levels, worst, trip = [], 1e9, 0
        for window, part in PAIRS:
            tables = stft_tables(n, n // part, window)
            for i, pcm in enumerate((*spoken, *hostile)):
                snr, frame, error = against_float(pcm, tables, make_window(window, n))
                worst, trip = min(worst, frame), max(trip, error)
                if i < len(spoken) and (window, part) == PAIRS[0]:
                    levels.append(f"{snr:.1f}")
        print(f"  {n:5} {' / '.join(levels)}   worst {worst:.1f}   round trip {trip}")


def against_float(
    pcm: np.ndarray, tables: StftTables, window: np.ndarray
) -> tuple[float, float, int]:
    """SNR in dB, SNR of the worst frame, largest error of the round trip in int16 steps."""
    n, hop = tables.n_fft, tables.hop_length
    pcm = pcm[: len(pcm) // hop * hop]
    engine = block_engine(tables, "auto")
    re, im, e = engine.push(pcm)
    out = engine.pull(re, im, e).astype(int)
    windowed = frames_of(pcm, np.zeros(n, np.int16), hop) * window
    ideal = np.fft.rfft(windowed)
    error = (np.abs((re + 1j * im) * 2.0 ** -e[:, None] - ideal) ** 2).sum(axis=1)
    power = (np.abs(ideal) ** 2).sum(axis=1)
    heard = np.abs(windowed).max(axis=1) >= 2.0**-9  # docs/numerics.md, section 3
    frame = power[heard] / np.maximum(error[heard], 1e-30)
    late = n - hop  # and as many samples to warm up
    trip = np.abs(out[2 * late :] - pcm[late : len(out) - late]).max(initial=0)
    return (
        10 * np.log10(power.sum() / max(error.sum(), 1e-30)),
        10 * np.log10(frame.min()),
        int(trip),
    )


def log_mel() -> None:
    """Largest error of log-mel cells and share of different int8 codes, on speech."""
    print(
        "\nlog-mel (40 bands, n 512, hop 256) of speech: largest error in dB over non-zero cells,"
    )
    print("int8 codes (step 0.5 dB) that differ from float64, largest difference")
    stft = FixedSTFT("hann", 256, 16_000, mfft=512)
    mel, at = FixedLogMel(stft, 40, log="dB", floor=-200), 0
    weights = np.zeros((40, 257))
    for row, first, taps in zip(weights, mel.bank.first, mel.bank.count, strict=True):
        row[first : first + taps] = mel.bank.weight[at : at + taps] / 32768
        at += taps
    for name, pcm in speech_clips().items():
        frames = frames_of(pcm[: len(pcm) // 256 * 256], np.zeros(512, np.int16), 256)
        engine = block_engine(stft.tables, "auto")
        re, im, e = engine.push(pcm[: len(pcm) // 256 * 256])
        values = mel.transform(BlockSpectrum(re.T, im.T, e))
        power = np.abs(np.fft.rfft(frames * stft.win).T / 32768) ** 2
        energy = weights @ power
        ideal = np.where(energy > 0, 10 * np.log10(np.maximum(energy, 1e-300)), -200)
        error = np.abs(values / 65536 - np.maximum(ideal, -200))[energy > 0].max()
        exact = ideal / 0.5
        exact = np.clip(np.sign(exact) * np.floor(np.abs(exact) + 0.5) + 100, -128, 127)
        off = np.abs(mel.codes(values, QParams(0.5, 100)) - exact)
        print(f"  {name:9} {error:.4f} dB   {100 * (off > 0).mean():.4f} %   {off.max():.0f}")


def dct() -> None:
    """Forward SNR and round trip of the integer DCT."""
    print("\ninteger DCT (Q14, 7 fraction bits) of random int8: forward dB, 2-D dB, exact back")
    for n in (7, 8, 14, 16):
        transform, i = FixedDCT(n), np.arange(n)
        x = np.random.default_rng(n).integers(-128, 128, (500, n, n))
        ideal = np.sqrt(2 / n) * np.cos(np.pi * i[:, None] * (2 * i + 1) / (2 * n))
        ideal[0] = np.sqrt(1 / n)
        figures = []
        for seen, exact in (
            (transform.forward(x), x @ ideal.T),
            (transform.forward_2d(x), ideal @ x @ ideal.T),
        ):
            error = seen / 128 - exact
            figures.append(10 * np.log10((exact**2).sum() / (error**2).sum()))
        same = (transform.inverse_2d(transform.forward_2d(x)) == x).mean()
        print(f"  {n:3} {figures[0]:.1f} {figures[1]:.1f} {100 * same:.1f} %")


def golden_model() -> None:
    """Whole-clip speed of the NumPy model and the core."""
    pcm = signal(0, 160_000 - 160_000 % 256) // 4
    for backend in ("c", "numpy"):
        try:
            fixed = FixedSTFT("sqrt_hann", 256, 16_000, mfft=512, backend=backend)
            cost = best_us(lambda f=fixed: f.istft(f.stft(pcm)), 1, 3)
        except ImportError as error:
            print(f"  {backend}: {error}")
            continue
        print(f"  FixedSTFT stft + istft of 10 s, {backend:5}: {cost / 1000:8.1f} ms")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--soxr-source", help="unpacked source package of soxr, for pffft")
    parser.add_argument("--quick", action="store_true", help="leave accuracy out")
    parser.add_argument("--instructions", action="store_true", help="instructions on ARM only")
    options = parser.parse_args()
    if options.instructions:
        instructions()
        return
    speed_in_c(options.soxr_source)
    speed_in_python()
    golden_model()
    if not options.quick:
        accuracy()
        log_mel()
        dct()
        instructions()


if __name__ == "__main__":
    main()
