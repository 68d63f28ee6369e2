"""What is in a bundle, for people: manifest, tensors, states, sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from spectral_edge.bundle import Bundle
from spectral_edge.image_frontend import ImageFrontend
from spectral_edge.logmel_frontend import LogMelFrontend
from spectral_edge.manifest import StateEntry, TensorEntry
from spectral_edge.table import text_table

__all__ = ["Inspection", "inspect_bundle"]


@dataclass(frozen=True)
class Inspection:
    """A verified bundle, ready to be shown."""

    bundle: Bundle

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest and the hash of the bundle as plain data."""
        return {"bundle_sha256": self.bundle.sha256, "manifest": self.bundle.manifest}

    def table(self) -> str:
        """Return the essentials as readable text."""
        b, m = self.bundle, self.bundle.manifest
        tensors = [
            *(_tensor_row("in", t.name, t) for t in b.inputs),
            *(_tensor_row("out", t.name, t) for t in b.outputs),
            *(_tensor_row("state", s.name, s) for s in b.states.values()),
        ]
        members = [
            [n, f"{d['bytes']:,}", d["sha256"][:16]] for n, d in sorted(m["members"].items())
        ]
        return "\n".join(
            [
                f"{b.name}: {b.precision}, recipe {m['recipe']}, {m['node_count']} nodes, "
                f"{m['macs']:,} MAC per hop, {m['state_bytes']:,} bytes of state",
                f"delay {b.delay} frames, receptive field {m['receptive_field'] or 'unbounded'}, "
                f"{m['hop_multiple']} frame(s) per step",
                *self._frontend_lines(),
                *(f"{kind}: {_file_text(f)}" for kind, f in sorted(m["formats"].items())),
                "",
                text_table(["", "tensor", "shape", "dtype", "scale", "zero point"], tensors),
                "",
                text_table(["member", "bytes", "SHA-256"], members),
                "",
                *(f"{group}: {_flat(m[group])}" for group in ("metrics", "provenance") if m[group]),
            ]
        ).rstrip()

    def _frontend_lines(self) -> list[str]:
        f = self.bundle.frontend
        if f is None:
            return ["no front end"]
        if isinstance(f, ImageFrontend):
            return [
                f"front end {f.fingerprint}: pictures, {f.height}×{f.width} pixels, "
                f"{f.channels} channel(s), crop {f.crop:g}, mean {f.mean}, std {f.std}",
                *self._label_lines(),
            ]
        if isinstance(f, LogMelFrontend):
            what = "PCEN" if f.pcen else f"{f.log} of {'power' if f.power == 2 else 'magnitude'}"
            return [
                f"front end {f.fingerprint}: {f.sample_rate} Hz, {f.window} {f.win_length} in "
                f"n_fft {f.n_fft}, hop {f.hop_length}, {f.n_mels} {f.mel} bands "
                f"{f.fmin:g}…{f.fmax:g} Hz, {what}, mean {f.mean:g}, std {f.std:g}",
                *self._label_lines(),
            ]
        return [
            f"front end {f.fingerprint}: {f.sample_rate} Hz, n_fft {f.n_fft}, hop {f.hop_length}, "
            f"{f.window}, {'+'.join(f.features)}^{f.compression}, head {f.head}, level {f.level}"
        ]

    def _label_lines(self) -> list[str]:
        c = self.bundle.classifier
        if c is None:
            return ["no labels"]
        shown = ", ".join(c.labels[:20]) + (", …" if len(c.labels) > 20 else "")
        p = c.policy
        every = f", a window every {c.window_hop} frames" if c.window_hop else ""
        return [
            f"{len(c.labels)} labels ({c.activation}): {shown}{every}",
            f"detects: score ≥ {p.threshold:g}, smoothing {p.smoothing} {p.smoothing_seconds:g} s, "
            f"refractory {p.refractory:g} s"
            + (f", never {', '.join(p.ignore)}" if p.ignore else ""),
        ]


def inspect_bundle(path: str | os.PathLike[str]) -> Inspection:
    """Load and verify a bundle.

    Raises:
        BundleError: see :meth:`spectral_edge.Bundle.load`.
    """
    return Inspection(Bundle.load(path))


def _tensor_row(kind: str, name: str, t: TensorEntry | StateEntry) -> list[str]:
    shape = "x".join(str(n) for n in t.shape)
    q = t.qparams
    return [
        kind,
        name,
        shape,
        t.dtype,
        f"{q.scale:.6g}" if q else "–",
        str(q.zero_point) if q else "–",
    ]


def _file_text(file: dict[str, Any]) -> str:
    words = [file["member"]]
    words += [f"{file[key]} {key}" for key in ("operators", "nodes") if key in file]
    words += [f"{key} {_flat(file[key])}" for key in ("opset", "runtime_floor") if key in file]
    return ", ".join(words)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
