"""Print what streamify makes of the gallery's networks, and how fast engines run it.

    python benchmarks/streaming.py [NAME ...] [--float-only]     # markdown table, one thread
    python benchmarks/streaming.py --keywords                    # one step against a window per hop

Times are the model's step alone (no front end), median of 15 rounds of 0.1 s after a warm-up. Those
of `native` hold one call from Python into C unless it says otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import spectral_edge as se  # noqa: E402
from spectral_edge.models.window import window_program  # noqa: E402
from spectral_edge.runtimes.engines.compiler import library_for  # noqa: E402
from spectral_edge.runtimes.engines.registry import load_engine  # noqa: E402
from spectral_edge.step_c import bundle_source  # noqa: E402
from tests.streaming.gallery.catalogue import GALLERY  # noqa: E402
from tests.streaming.gallery.ds_cnn import DsCnn  # noqa: E402
from tests.streaming.gallery.tc_resnet import TcResNet  # noqa: E402
from tests.streaming.support import clip_like, randomised  # noqa: E402

ROUNDS, SECONDS = 15, 0.1


def step_us(bundle: Any, engine: str) -> float:
    """Median time of one step in microseconds."""
    loaded = load_engine(bundle, engine)
    for _ in range(20):
        loaded.step()
    rounds = []
    for _ in range(ROUNDS):
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < SECONDS:
            for _ in range(5):
                loaded.step()
            count += 5
        rounds.append(passed / count)
    return statistics.median(rounds) * 1e6


MANY = """
void many(step_state *s, int n)
{
    for (int i = 0; i < n; i++)
        step_step(s);
}
"""


def in_c_us(bundle: Any) -> float:
    """Median time of one step in microseconds, called from C as an app would."""
    made = bundle_source(bundle)
    library = ctypes.CDLL(str(library_for(made.source + MANY)[0]))
    memory = np.zeros(int(library.step_size()) + 64, np.uint8)
    state = ctypes.c_void_p(memory.ctypes.data + -memory.ctypes.data % 64)
    library.step_init(state)
    count, rounds = 1, []
    while len(rounds) < ROUNDS:
        start = time.perf_counter()
        library.many(state, count)
        passed = time.perf_counter() - start
        if passed < SECONDS / 2:
            count *= 2
        else:
            rounds.append(passed / count)
    return statistics.median(rounds) * 1e6


def clips(program: se.StepProgram, example: Sequence[torch.Tensor]) -> list[Any]:
    """Random clips for calibration: speed does not depend on them."""
    frames = 50 * program.hop_multiple
    axes = [spec.time_dim for spec in program.inputs]
    return [
        tuple(clip_like(x, axis, frames, 1) for x, axis in zip(example, axes, strict=True))
        for _ in range(2)
    ]


def operators(bundle: Any) -> int:
    """Operators of the TFLite file."""
    return int(bundle.manifest["formats"]["tflite"]["operators"])


def kernels(bundle: Any) -> int:
    """Kernels of the step as C."""
    return int(load_engine(bundle, "native").describe()["kernels"])


def gallery(names: Sequence[str], float_only: bool, folder: Path) -> None:
    """One row per network."""
    print(
        "| network | parameters | nodes before → after | transposes | state values | streamify s "
        "| TFLite operators | native kernels | LiteRT float32 µs | LiteRT w8a8 µs "
        "| ONNX Runtime float32 µs | native float32 µs | native w8a8 µs |"
    )
    print("|---|" + "---:|" * 12)
    for name in names:
        torch.manual_seed(0)
        entry = GALLERY[name]()
        model = randomised(entry.model)
        start = time.perf_counter()
        program = se.streamify(model, entry.example, entry.time_dim)
        seconds = time.perf_counter() - start
        graph = program.provenance["graph"]
        bundle = se.export(program, folder / "float.seb")
        w8a8 = {"litert": "–", "native": "–"}
        if not float_only:
            int8 = se.quantize(program, clips(program, entry.example))
            quantised = se.export(int8, folder / "int8.seb", formats=["tflite"])
            w8a8 = {engine: f"{step_us(quantised, engine):.1f}" for engine in w8a8}
        print(
            f"| {name} | {sum(p.numel() for p in model.parameters())} "
            f"| {graph['derived']['nodes']} → {graph['tidied']['nodes']} "
            f"| {graph['derived']['transposes']} → {graph['tidied']['transposes']} "
            f"| {graph['tidied']['state_values']} | {seconds:.1f} | {operators(bundle)} "
            f"| {kernels(bundle)} | {step_us(bundle, 'litert'):.1f} | {w8a8['litert']} "
            f"| {step_us(bundle, 'onnxruntime'):.1f} | {step_us(bundle, 'native'):.1f} "
            f"| {w8a8['native']} |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory of all of this: {peak:.0f} MiB.")


class Window(nn.Module):
    """A keyword network over a window of which only the last frame's result counts."""

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        self.network, self.axis = network, axis

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(features).select(self.axis, -1)
        return out


KEYWORDS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {  # network, frame, axis of results
    "tc-resnet": (TcResNet(), (1, 40, 1), 2),
    "ds-cnn, width 64": (DsCnn(bands=40, width=64), (1, 1, 1, 40), 1),
    "ds-cnn, width 172": (DsCnn(bands=40, width=172), (1, 1, 1, 40), 1),
}
WINDOW = 98  # frames of 10 ms: one second


def keywords(folder: Path) -> None:
    """Keyword networks once per hop: as one step, and over their last second."""
    print(
        "| network, 1 s window | engine | MACs window / step | µs window / step | ratio of MACs "
        "| of times |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for name, (network, frame, results) in KEYWORDS.items():
        model = randomised(network)
        window = torch.randn(frame).repeat_interleave(WINDOW, dim=2)
        step = se.streamify(model, window, 2)
        whole = window_program(Window(model, results), window)
        bundles = [
            se.export(p, folder / f"{kind}.seb", formats=["tflite"])
            for kind, p in (("window", whole), ("step", step))
        ]
        times = {e: [step_us(b, e) for b in bundles] for e in ("litert", "native")}
        times["native, called from C"] = [in_c_us(b) for b in bundles]
        times["best of each"] = [min(pair) for pair in zip(*times.values(), strict=True)]
        for engine, (window_us, hop_us) in times.items():
            print(
                f"| {name} | {engine} | {whole.macs} / {step.macs} "
                f"| {window_us:.2f} / {hop_us:.2f} | {whole.macs / step.macs:.1f} "
                f"| {window_us / hop_us:.1f} |",
                flush=True,
            )


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks of the gallery; all without a name")
    parser.add_argument("--float-only", action="store_true", help="leave w8a8 out")
    parser.add_argument("--keywords", action="store_true", help="step against window instead")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(GALLERY)
    if unknown:
        parser.error(f"no network {sorted(unknown)}; there are {', '.join(GALLERY)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.keywords:
            keywords(Path(folder))
        else:
            gallery(arguments.names or list(GALLERY), arguments.float_only, Path(folder))


if __name__ == "__main__":
    main()
