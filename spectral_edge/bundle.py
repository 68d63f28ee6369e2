"""Bundles: what is shipped. A directory or one zip (``.seb``) that carries its own proof.

``docs/bundle-format.md`` is the specification. Loading verifies everything (names, sizes, hashes,
versions, fingerprint) before a single byte reaches an engine, and never extracts to disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.classifier import Classifier
from spectral_edge.errors import BundleError, ChecksumMismatch, ManifestError
from spectral_edge.frontend import Frontend
from spectral_edge.manifest import (
    MANIFEST,
    StateEntry,
    TensorEntry,
    check_manifest,
    check_member_name,
    dump_manifest,
    parse_manifest,
    read_classifier,
    read_frontend,
    read_states,
    read_tensors,
)
from spectral_edge.npz import read_npz
from spectral_edge.storage import MAX_TOTAL_BYTES, read_contents, write_contents

__all__ = ["Bundle", "write_bundle"]

GOLDEN = "golden.npz"
INITIAL = "initial.npz"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, in memory.

    Attributes:
        manifest: plain data, checked against the schema; treat it as read-only.
        members: contents by member name, without the manifest.
        path: where it was loaded from or written to.
    """

    manifest: dict[str, Any]
    members: Mapping[str, bytes] = field(repr=False)
    path: Path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and verify a bundle, a ``.seb`` file or a directory.

        Raises:
            BundleError: missing, truncated, oversized, or with members the manifest does not list.
            ManifestError: a manifest that is not understood, or a member name that is refused.
            ChecksumMismatch: a member that differs from its hash.
            FrontendMismatch, VersionMismatch: made by or for something else.
        """
        path = Path(path)
        contents = read_contents(path)
        if MANIFEST not in contents:
            raise ManifestError(
                f"{path} has no {MANIFEST}: damaged, or not a bundle; copy it again"
            )
        manifest = parse_manifest(contents.pop(MANIFEST))
        _check_members(manifest, contents, path)
        return cls(manifest, contents, path)

    def member(self, name: str) -> bytes:
        """Return the content of member ``name``.

        Raises:
            BundleError: the bundle has no such member.
        """
        if name not in self.members:
            raise BundleError(f"no member {name!r} in {self.path}, it has {sorted(self.members)}")
        return self.members[name]

    def golden(self) -> dict[str, NDArray[Any]]:
        """Return the golden rollout by name.

        ``input.<name>`` and ``output.<name>`` are [hops, …one-hop shape], ``state.<name>`` is the
        state after the last hop; dtypes as in the manifest. A quantised bundle may add what the
        float program gave: ``float.<output>`` float32 on the hops ``float.hops`` int32.

        Raises:
            BundleError: no golden rollout, or arrays that do not fit the manifest.
        """
        arrays = read_npz(self.member(GOLDEN), GOLDEN, MAX_TOTAL_BYTES)
        _check_golden(self, arrays)
        return arrays

    @cached_property
    def frontend(self) -> Frontend | None:
        """The front end the program was trained with, None when it starts from plain tensors."""
        return read_frontend(self.manifest)

    @cached_property
    def classifier(self) -> Classifier | None:
        """Labels and detection policy, None when the program is no classifier."""
        return read_classifier(self.manifest)

    @cached_property
    def inputs(self) -> tuple[TensorEntry, ...]:
        """Inputs in call order."""
        return read_tensors(self.manifest["inputs"])

    @cached_property
    def outputs(self) -> tuple[TensorEntry, ...]:
        """Outputs in return order."""
        return read_tensors(self.manifest["outputs"])

    @cached_property
    def states(self) -> OrderedDict[str, StateEntry]:
        """States by name, in call order."""
        return read_states(self.manifest["states"])

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical manifest, which holds the hash of every member."""
        return hashlib.sha256(dump_manifest(self.manifest)).hexdigest()

    @property
    def name(self) -> str:
        """Name given at export."""
        return str(self.manifest["name"])

    @property
    def precision(self) -> str:
        """One of ``float32 float16 w8a8 w8a16 w8a32-dynamic``."""
        return str(self.manifest["precision"])

    @property
    def delay(self) -> int:
        """Frames of lookahead."""
        return int(self.manifest["delay"])

    def initial_states(self) -> dict[str, NDArray[Any]]:
        """Return every state before the first hop, in its logical shape and stored dtype.

        Raises:
            BundleError: ``initial.npz`` lacks an array or holds one that does not fit.
        """
        stored: dict[str, NDArray[Any]] = {}
        if any(s.initial for s in self.states.values()):
            stored = read_npz(self.member(INITIAL), INITIAL, MAX_TOTAL_BYTES)
        result = {}
        for name, spec in self.states.items():
            if spec.initial is None:
                result[name] = np.full(spec.shape, spec.initial_code, spec.dtype)
                continue
            value = stored.get(spec.initial)
            if value is None or value.shape != spec.shape or value.dtype != spec.dtype:
                seen = "missing" if value is None else f"{value.dtype}{list(value.shape)}"
                raise BundleError(
                    f"initial value of state {name!r} is {seen}, "
                    f"must be {spec.dtype}{list(spec.shape)}"
                )
            result[name] = value.copy()
        return result

    def layout(self, kind: str, tensor: str, rank: int) -> tuple[int, ...]:
        """Return the permutation with which format ``kind`` stores ``tensor``.

        Axis i of the stored array is logical axis ``layout[i]``.
        """
        axes = self.manifest["formats"].get(kind, {}).get("layout", {}).get(tensor)
        return tuple(axes) if axes is not None else tuple(range(rank))


def write_bundle(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], members: Mapping[str, bytes]
) -> Bundle:
    """Write a bundle; a ``.seb`` path makes one zip, any other a directory.

    The result appears under its name complete or not at all. Equal content gives equal bytes.

    Args:
        path: target; an existing bundle is replaced, anything else is not.
        manifest: all keys but ``members``, which is filled in here.
        members: content by name, without the manifest.

    Returns:
        The bundle as :meth:`Bundle.load` would return it.

    Raises:
        ManifestError: a manifest or member name that a reader would refuse.
        BundleError: too large, or the target exists and is not a bundle.
    """
    path = Path(path)
    members = dict(sorted(members.items()))
    for name in members:
        check_member_name(name)
    if MANIFEST in members:
        raise ManifestError(f"{MANIFEST} is written from the manifest, do not pass it as a member")
    complete = dict(manifest) | {
        "members": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in members.items()
        }
    }
    check_manifest(complete)
    contents = {MANIFEST: dump_manifest(complete), **members}
    write_contents(path, contents)
    return Bundle(parse_manifest(contents[MANIFEST]), members, path)


def _check_members(manifest: Mapping[str, Any], contents: Mapping[str, bytes], path: Path) -> None:
    listed = manifest["members"]
    if extra := sorted(set(contents) - set(listed)):
        raise BundleError(f"{path} holds {extra}, which its manifest does not list; remove them")
    if missing := sorted(set(listed) - set(contents)):
        raise BundleError(f"{path} lacks {missing}, which its manifest lists; copy it again")
    for name, data in contents.items():
        digest = hashlib.sha256(data).hexdigest()
        if len(data) != listed[name]["bytes"] or digest != listed[name]["sha256"]:
            raise ChecksumMismatch(
                f"member {name!r} of {path} has {len(data)} bytes and SHA-256 {digest[:12]}…, the "
                f"manifest says {listed[name]['bytes']} and {listed[name]['sha256'][:12]}…; "
                "it was changed or damaged, copy the bundle again"
            )


def _check_golden(bundle: Bundle, arrays: Mapping[str, NDArray[Any]]) -> None:
    source = arrays.get(f"input.{bundle.inputs[0].name}")
    hops = 0 if source is None or not source.ndim else len(source)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for group, tensors in (("input", bundle.inputs), ("output", bundle.outputs)):
        expected |= {f"{group}.{t.name}": (t.dtype, (hops, *t.shape)) for t in tensors}
    expected |= {f"state.{s.name}": (s.dtype, s.shape) for s in bundle.states.values()}
    if any(name.startswith("float.") for name in arrays):  # the float program on some of the hops
        index = arrays.get("float.hops", np.zeros(0, np.int32))
        expected["float.hops"] = ("int32", (index.size,))
        expected |= {f"float.{t.name}": ("float32", (index.size, *t.shape)) for t in bundle.outputs}
        if index.size and not 0 <= index.min() <= index.max() < hops:
            raise BundleError(
                f"{GOLDEN} of {bundle.path}: float.hops names hops {index.min()}…{index.max()}, "
                f"there are {hops}"
            )
    if set(arrays) != set(expected):
        extra, missing = sorted(set(arrays) - set(expected)), sorted(set(expected) - set(arrays))
        raise BundleError(
            f"{GOLDEN} of {bundle.path} has unknown arrays {extra} and lacks {missing}; "
            "export the bundle again"
        )
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise BundleError(
                f"{GOLDEN} of {bundle.path}: {name} is {array.dtype}{list(array.shape)}, "
                f"must be {dtype}{list(shape)}"
            )
