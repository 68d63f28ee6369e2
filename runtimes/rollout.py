"""Rollouts: an engine fed with a bundle's golden inputs, closed loop, codes in and codes out.

``python -m spectral_edge.runtimes.rollout BUNDLE ENGINE HOPS FOLDER`` does one in a process of its
own (HOPS 0: all) and leaves ``rollout.npz`` and ``rollout.json`` in FOLDER.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import spectral_edge
from spectral_edge import errors
from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.errors import RuntimeUnfit, SpecError

from .engines.registry import load_engine, pick_engine

__all__ = ["RolloutResult", "python_environment", "rollout"]

OWN_PROCESS = ("tflite-runtime", "tensorflow")  # their symbols clash when both are in one process
TIMEOUT_S = 600


@dataclass(frozen=True)
class RolloutResult:
    """What an engine made of the golden inputs.

    Attributes:
        engine: engine name.
        version: version of its library.
        description: what the engine says about itself.
        outputs: output name -> [hops, …one-hop logical shape], in the program's own dtype.
        states: state name -> value after the last hop, logical layout.
    """

    engine: str
    version: str
    description: Mapping[str, Any]
    outputs: Mapping[str, NDArray[Any]]
    states: Mapping[str, NDArray[Any]]

    @property
    def hops(self) -> int:
        """Number of hops run."""
        return len(next(iter(self.outputs.values())))


def rollout(
    bundle: str | os.PathLike[str] | Bundle,
    engine: str | None = None,
    hops: int | None = None,
    own_process: bool | None = None,
) -> RolloutResult:
    """Run the golden inputs of a bundle through an engine from the initial states.

    Args:
        bundle: path or loaded bundle.
        engine: engine name; None picks as :func:`spectral_edge.open` does.
        hops: run only this many; None runs all.
        own_process: run in a process of its own; None does so for the engines that need it.

    Raises:
        BundleError: no golden rollout.
        SpecError: an unknown engine, or hops out of range.
        RuntimeUnavailable, RuntimeUnfit: the engine is not there or cannot run the bundle.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    if hops is not None and hops < 1:
        raise SpecError(f"hops is {hops}, must be at least 1")
    name = pick_engine(bundle, engine).name
    if own_process is None:
        own_process = name in OWN_PROCESS
    if own_process:
        return _in_own_process(bundle, name, hops)
    return _run(bundle, name, hops)


def _run(bundle: Bundle, name: str, hops: int | None) -> RolloutResult:
    golden = bundle.golden()
    feeds = {t.name: golden[f"input.{t.name}"] for t in bundle.inputs}
    count = min(len(feed) for feed in feeds.values())
    if hops is not None and hops > count:
        raise SpecError(f"hops is {hops}, {bundle.path.name} has {count} golden hops")
    count = hops or count
    engine = load_engine(bundle, name)
    outputs = {t.name: np.empty((count, *t.shape), t.dtype) for t in bundle.outputs}
    # views in the stored layout of everything that is copied per hop
    sources = [(engine.inputs[n], engine.ports.inputs[n], feed) for n, feed in feeds.items()]
    targets = [
        (out, engine.ports.outputs[n].to_logical(engine.outputs[n])) for n, out in outputs.items()
    ]
    for hop in range(count):
        for bound, port, feed in sources:
            bound[...] = port.to_stored(feed[hop])
        engine.invoke()
        for out, bound in targets:
            out[hop] = bound
        engine.hand_over()
    description = engine.describe()
    return RolloutResult(name, description["version"], description, outputs, engine.state())


def python_environment() -> dict[str, str]:
    """Return an environment in which a fresh Python finds this very package."""
    root = str(Path(spectral_edge.__file__).resolve().parent.parent)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def _in_own_process(bundle: Bundle, name: str, hops: int | None) -> RolloutResult:
    with tempfile.TemporaryDirectory() as folder:
        path = bundle.path
        if not path.exists():
            path = write_bundle(Path(folder) / "b.seb", bundle.manifest, bundle.members).path
        command = [sys.executable, "-m", __name__, str(path), name, str(hops or 0), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, env=python_environment()
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeUnfit(f"{name} took more than {TIMEOUT_S} s for the rollout") from error
        report = Path(folder) / "rollout.json"
        if not report.exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeUnfit(
                f"{name} ended with {done.returncode} while running {bundle.path.name} ({said}); "
                "use another engine"
            )
        data = json.loads(report.read_text("utf-8"))
        if "error" in data:
            raise getattr(errors, data["error"])(data["message"])
        with np.load(Path(folder) / "rollout.npz", allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    return RolloutResult(
        name,
        data["description"]["version"],
        data["description"],
        {t.name: arrays[f"output.{t.name}"] for t in bundle.outputs},
        {s: arrays[f"state.{s}"] for s in bundle.states},
    )


def _main(arguments: list[str]) -> None:
    path, name, hops, folder = arguments
    data: dict[str, Any] = {}
    try:
        result = _run(Bundle.load(path), name, int(hops) or None)
        np.savez(
            Path(folder) / "rollout.npz",
            **{f"output.{n}": a for n, a in result.outputs.items()},
            **{f"state.{n}": a for n, a in result.states.items()},
        )
        data["description"] = dict(result.description)
    except errors.SpectralEdgeError as error:
        data = {"error": type(error).__name__, "message": str(error)}
    (Path(folder) / "rollout.json").write_text(json.dumps(data), "utf-8")


if __name__ == "__main__":
    _main(sys.argv[1:])
