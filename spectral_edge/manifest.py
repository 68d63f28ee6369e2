"""What ``manifest.json`` of a bundle may say, and the values it is read into.

The shape of the data is given by ``schemas/bundle.schema.json``; here are the rules that a schema
cannot say: names that agree with each other, scales that float32 holds exactly, layouts that fit.
``docs/bundle-format.md`` describes all of it in prose.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectral_edge.classifier import Classifier
from spectral_edge.errors import FrontendMismatch, ManifestError, SpecError, VersionMismatch
from spectral_edge.frontend import Frontend, StftFrontend, any_frontend_from_dict
from spectral_edge.qparams import QParams
from spectral_edge.schema import first_violation, load_schema, strict_json

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "StateEntry",
    "TensorEntry",
    "check_manifest",
    "check_member_name",
    "dump_manifest",
    "parse_manifest",
    "read_classifier",
    "read_frontend",
    "read_states",
    "read_tensors",
]

FORMAT = "spectral-edge bundle"
FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)  # 2 adds classifiers: their front ends, labels and policy
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of the step: logical one-hop shape (batch 1), dtype, quantisation."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    time_dim: int | None
    qparams: QParams | None


@dataclass(frozen=True)
class StateEntry:
    """A state of the step: logical shape, dtype, quantisation and how it starts.

    Attributes:
        initial_code: the value (a code when quantised) every element starts with, or None.
        initial: key of the starting array in the member ``initial.npz``, or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    qparams: QParams | None
    initial_code: float | None
    initial: str | None

    @property
    def nbytes(self) -> int:
        """Bytes this state takes between hops."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def dump_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a manifest: UTF-8, sorted keys, two-space indent.

    Raises:
        ManifestError: a value that JSON cannot hold (NaN, an array, an object).
    """
    try:
        text = json.dumps(manifest, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"manifest is not plain JSON data: {error}") from error
    return text.encode() + b"\n"


def parse_manifest(data: bytes) -> dict[str, Any]:
    """Parse and check the bytes of ``manifest.json``.

    Raises:
        ManifestError: not JSON, an unknown or missing key, or a value that contradicts another.
        VersionMismatch: a format version that this release does not read.
        FrontendMismatch: front end and fingerprint disagree.
    """
    try:
        manifest = strict_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{MANIFEST} is not valid JSON ({error}); copy the bundle again"
        ) from error
    check_manifest(manifest)
    assert isinstance(manifest, dict)
    return manifest


def check_manifest(manifest: Any) -> None:
    """Check manifest data; see :func:`parse_manifest` for what is raised."""
    _check_version(manifest)
    if bad := first_violation(manifest, load_schema("bundle")):
        raise ManifestError(f"{MANIFEST}: {bad}")
    for name in manifest["members"]:
        check_member_name(name)
    for entry in (*manifest["inputs"], *manifest["outputs"], *manifest["states"]):
        _read_qparams(entry)
    shapes = _tensor_shapes(manifest)
    for state in manifest["states"]:
        _check_initial(state)
    for kind, file in manifest["formats"].items():
        if file["member"] not in manifest["members"]:
            raise ManifestError(
                f"{MANIFEST}: formats.{kind}.member is {file['member']!r}, which is not in members"
            )
        for name, axes in file.get("layout", {}).items():
            if name not in shapes:
                raise ManifestError(
                    f"{MANIFEST}: formats.{kind}.layout names {name!r}, no such tensor"
                )
            if sorted(axes) != list(range(len(shapes[name]))):
                raise ManifestError(
                    f"{MANIFEST}: formats.{kind}.layout.{name} is {axes}, "
                    f"must be a permutation of {len(shapes[name])} axes"
                )
    _check_frontend(manifest)
    _check_classifier(manifest)


def _check_version(manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ManifestError(f"{MANIFEST} has no format {FORMAT!r}; this is not a bundle")
    version = manifest.get("version")
    if isinstance(version, bool) or version not in READ_VERSIONS:
        raise VersionMismatch(
            f"bundle format version is {version!r}, this release reads "
            f"{' and '.join(map(str, READ_VERSIONS))}; "
            "install a matching spectral-edge or export the bundle again"
        )


def _check_frontend(manifest: Mapping[str, Any]) -> None:
    frontend, fingerprint = read_frontend(manifest), manifest["frontend_fingerprint"]
    expected = frontend.fingerprint if frontend else None
    if fingerprint != expected:
        raise FrontendMismatch(
            f"frontend_fingerprint is {fingerprint!r}, its front end gives {expected!r}; "
            "export the bundle again"
        )


def _check_classifier(manifest: Mapping[str, Any]) -> None:
    """Front end, labels, outputs and version of a classifier must agree."""
    frontend, classifier = read_frontend(manifest), read_classifier(manifest)
    newer = classifier is not None or not isinstance(frontend, (StftFrontend, type(None)))
    if manifest["version"] == 1 and newer:
        kind = frontend.kind if frontend else "no"
        raise ManifestError(
            f"{MANIFEST}: version is 1, labels and {kind!r} front ends need version 2"
        )
    if classifier is None:
        return
    if frontend is None or frontend.head != "logits":
        raise ManifestError(f"{MANIFEST}: classifier needs a front end with head 'logits'")
    logits = manifest["outputs"][0]
    count = logits["shape"][-1] if logits["shape"] else 0
    if count != len(classifier.labels):
        raise ManifestError(
            f"{MANIFEST}: classifier has {len(classifier.labels)} labels, output "
            f"{logits['name']!r} has {count} values"
        )


def read_classifier(manifest: Mapping[str, Any]) -> Classifier | None:
    """Return labels and policy of a manifest, None when it is no classifier's."""
    data = manifest.get("classifier")
    if data is None:
        return None
    try:
        return Classifier.from_dict(data)
    except (SpecError, TypeError) as error:
        raise ManifestError(f"{MANIFEST}: classifier: {error}") from error


def read_frontend(manifest: Mapping[str, Any]) -> Frontend | None:
    """Return the front end of a manifest, None for a program that starts from plain tensors."""
    if manifest["frontend"] is None:
        return None
    try:
        return any_frontend_from_dict(manifest["frontend"])
    except (SpecError, TypeError) as error:
        raise ManifestError(f"{MANIFEST}: frontend: {error}") from error


def check_member_name(name: str) -> None:
    """Refuse a member name that could leave the bundle or that two systems would read differently.

    Raises:
        ManifestError: absolute, ``..``, backslash, drive letter, empty part or control character.
    """
    parts = name.split("/")
    ok = name.isascii() and name.isprintable() and not set(name) & set('\\:*?"<>|')
    if not ok or any(part in ("", ".", "..") for part in parts):
        raise ManifestError(
            f"member name {name!r} is refused: it must be relative, stay inside the bundle, and "
            "use letters, digits, '.', '_', '-' and '/'"
        )


def _tensor_shapes(manifest: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the shape of every boundary tensor by name; names must be distinct."""
    shapes: dict[str, list[int]] = {}
    named = [(entry["name"], entry) for entry in (*manifest["inputs"], *manifest["outputs"])]
    for state in manifest["states"]:
        named += [(f"state.{state['name']}", state), (f"state.{state['name']}.next", state)]
    for name, entry in named:
        if name in shapes:
            raise ManifestError(f"{MANIFEST}: two tensors are named {name!r}")
        shapes[name] = entry["shape"]
        time_dim = entry.get("time_dim")
        if time_dim is not None and time_dim >= len(entry["shape"]):
            raise ManifestError(
                f"{MANIFEST}: time_dim of {name!r} is {time_dim}, it has {len(entry['shape'])} axes"
            )
    return shapes


def _check_initial(state: Mapping[str, Any]) -> None:
    code, key = state["initial_code"], state["initial"]
    if (code is None) == (key is None):
        raise ManifestError(
            f"{MANIFEST}: state {state['name']!r} must have either initial_code or initial"
        )
    if code is not None and np.issubdtype(np.dtype(state["dtype"]), np.integer):
        info = np.iinfo(state["dtype"])
        if code != int(code) or not info.min <= code <= info.max:
            raise ManifestError(
                f"{MANIFEST}: initial_code of state {state['name']!r} is {code}, "
                f"must be {info.min}…{info.max}"
            )


def _read_qparams(entry: Mapping[str, Any]) -> QParams | None:
    scale, zero_point, dtype = entry["scale"], entry["zero_point"], entry["dtype"]
    name = entry["name"]
    if (scale is None) != (zero_point is None):
        raise ManifestError(f"{MANIFEST}: {name!r} has only one of scale and zero_point")
    if scale is None:
        if dtype in ("int8", "uint8"):
            raise ManifestError(f"{MANIFEST}: {name!r} is {dtype} without scale and zero_point")
        return None
    if float(np.float32(scale)) != scale:
        raise ManifestError(f"{MANIFEST}: scale of {name!r} is {scale}, which float32 cannot hold")
    try:
        return QParams(scale, zero_point, dtype)
    except (SpecError, ValueError) as error:
        raise ManifestError(f"{MANIFEST}: {name!r}: {error}") from error


def read_tensors(entries: Iterable[Mapping[str, Any]]) -> tuple[TensorEntry, ...]:
    """Return checked ``inputs`` or ``outputs`` of a manifest as values."""
    return tuple(
        TensorEntry(e["name"], tuple(e["shape"]), e["dtype"], e["time_dim"], _read_qparams(e))
        for e in entries
    )


def read_states(entries: Iterable[Mapping[str, Any]]) -> OrderedDict[str, StateEntry]:
    """Return checked ``states`` of a manifest as values, in call order."""
    return OrderedDict(
        (
            e["name"],
            StateEntry(
                e["name"],
                tuple(e["shape"]),
                e["dtype"],
                _read_qparams(e),
                e["initial_code"],
                e["initial"],
            ),
        )
        for e in entries
    )
