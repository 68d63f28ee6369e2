"""Training speed of the small networks on this machine, as a table.

As a command: ``python -m spectral_edge.training.speed [--threads 1] [--seconds 3]``. A step is the
forward pass, the loss, the backward pass and AdamW, without data and augmentation.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_edge.frontend import StftFrontend
from spectral_edge.models.classifiers import build_classifier
from spectral_edge.models.registry import build
from spectral_edge.models.saf_paper import paper_frontend
from spectral_edge.table import text_table

__all__ = ["Speed", "main", "measure", "training_speed"]

SECONDS_OF_SPEECH = 2.0


@dataclass(frozen=True)
class Speed:
    """One network of the table.

    Attributes:
        name: of the network.
        input: shape of one example.
        batch: examples per step.
        clips_per_second: examples that a second of training takes in.
    """

    name: str
    input: tuple[int, ...]
    batch: int
    clips_per_second: float


CLASSIFIERS: dict[str, tuple[tuple[int, int, int], int]] = {
    "dsm_kws_s": ((1, 96, 64), 32),
    "dsm_kws_m": ((1, 96, 64), 32),
    "dsm_tag": ((1, 256, 64), 16),
    "dsm_img96": ((3, 96, 96), 32),
    "dsm_stream": ((1, 96, 64), 32),
    "fftp_ast_xs": ((1, 100, 40), 32),
    "fftp_ast_s": ((1, 100, 64), 32),
    "fftp_ast_m": ((1, 100, 64), 32),
    "fftp_ast_stream": ((1, 100, 64), 32),
    "fftp_aum_xs": ((1, 100, 40), 32),
    "fftp_aum_s": ((1, 100, 64), 32),
    "fftp_aum_m": ((1, 100, 64), 16),
}
ENHANCERS = {
    "saf_edge_nano": 4, "saf_edge_xs": 4, "saf_edge_s": 4, "saf_edge_m": 2, "saf_paper": 1,
}  # fmt: skip


def measure(step: Callable[[], None], batch: int, seconds: float) -> float:
    """Return examples per second of ``step``, after one call that does not count.

    With one thread the seconds are those of the processor, so that other work on the machine counts
    less.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    step()
    count, started = 0, clock()
    while count < 2 or clock() - started < seconds:
        step()
        count += 1
    return batch * count / (clock() - started)


def _step(model: nn.Module, x: Tensor, loss: Callable[[object], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def training_speed(names: Sequence[str] = (), seconds: float = 3.0) -> list[Speed]:
    """Measure every network of the table, or the named ones.

    Args:
        names: networks; none means all.
        seconds: to measure each.
    """
    rows = []
    for name, (shape, batch) in CLASSIFIERS.items():
        if names and name not in names:
            continue
        model, x = build_classifier(name, 12, shape), torch.randn(batch, *shape)
        labels = torch.randint(0, 12, (batch,))

        def loss(out: object, labels: Tensor = labels) -> Tensor:
            assert isinstance(out, Tensor)
            return F.cross_entropy(out if out.ndim == 2 else out[:, -1], labels)

        rows.append(Speed(name, shape, batch, measure(_step(model, x, loss), batch, seconds)))
    for name, batch in ENHANCERS.items():
        if names and name not in names:
            continue
        frontend = paper_frontend() if name == "saf_paper" else StftFrontend()
        frames = round(SECONDS_OF_SPEECH * frontend.hops_per_second)
        shape = (frontend.channels, frames, frontend.bins)
        x = torch.randn(batch, *shape)

        def error(out: object) -> Tensor:
            assert isinstance(out, dict)
            return sum((v.square().mean() for v in out.values()), torch.zeros(()))

        step = _step(build(name, frontend), x, error)
        rows.append(Speed(name, shape, batch, measure(step, batch, seconds)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description="Training speed of the small networks here.")
    parser.add_argument("names", nargs="*", help="networks (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each (default: 3)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = training_speed(args.names, args.seconds)
    cells = [
        [r.name, "×".join(map(str, r.input)), str(r.batch), f"{r.clips_per_second:.1f}"]
        for r in rows
    ]
    sys.stdout.write(text_table(["network", "input", "batch", "clips/s"], cells) + "\n")
    machine = platform.processor() or platform.machine()
    sys.stdout.write(f"{args.threads} thread(s), torch {torch.__version__}, {machine}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
