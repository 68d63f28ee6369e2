"""Bundles that must be refused: damaged, forged, oversized, or from elsewhere."""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.errors import (
    BundleError,
    ChecksumMismatch,
    FrontendMismatch,
    ManifestError,
    VersionMismatch,
)
from spectral_edge.storage import MAX_MEMBER_BYTES
from tests.runtimes.tiny import tiny_bundle


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("good") / "good.seb", golden_hops=2)


def rezip(path: Path, contents: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip with exactly these entries, whatever they are called."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names are the point
        for name, data in contents:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def entries(bundle: Bundle) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(bundle.path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def directory_of(data: bytes | bytearray) -> int:
    """Return where the directory of a zip begins; its end record is the last 22 bytes."""
    return int.from_bytes(data[-6:-2], "little")


def with_manifest(
    bundle: Bundle, change: Callable[[dict[str, Any]], object]
) -> list[tuple[str, bytes]]:
    manifest = json.loads(json.dumps(bundle.manifest))
    change(manifest)
    text = json.dumps(manifest)
    return [(n, text.encode() if n == "manifest.json" else d) for n, d in entries(bundle)]


def test_truncated_anywhere(good: Bundle, tmp_path: Path) -> None:
    data = good.path.read_bytes()
    path = tmp_path / "short.seb"
    for length in [*range(0, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(BundleError, match="copy it again"):
            Bundle.load(path)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_noticed_or_harmless(good: Bundle, tmp_path: Path, seed: int) -> None:
    data = good.path.read_bytes()
    rng = np.random.default_rng(seed)
    path = tmp_path / "flipped.seb"
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            loaded = Bundle.load(path)
        except BundleError:
            refused += 1
            continue
        # what is left are fields of the zip that say nothing about content, such as dates
        assert loaded.sha256 == good.sha256
        assert dict(loaded.members) == dict(good.members)
    assert refused > 250


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "a\\b",
        "..\\evil",
        "C:evil",
        "a//b",
        "./a",
        "a/",
        "",
        "a\nb",
        "é",
        "a\x00b",
    ],
)
def test_member_names_stay_inside(good: Bundle, tmp_path: Path, name: str) -> None:
    path = rezip(tmp_path / "b.seb", [*entries(good), (name, b"x")])
    if name == "a\x00b":  # ZipInfo would cut it; put it in by hand
        path = rezip(path, [*entries(good), ("a_b", b"x")])
        path.write_bytes(path.read_bytes().replace(b"a_b", b"a\x00b"))
    with pytest.raises(BundleError, match="is refused: it must be relative"):
        Bundle.load(path)
    with pytest.raises(ManifestError, match="is refused"):
        write_bundle(tmp_path / "w.seb", good.manifest, {name: b"x"})
    assert [p.name for p in tmp_path.iterdir()] == ["b.seb"]


def test_a_name_twice(good: Bundle, tmp_path: Path) -> None:
    path = rezip(tmp_path / "b.seb", [*entries(good), ("card.md", b"other")])
    with pytest.raises(BundleError, match=r"member 'card.md' is twice"):
        Bundle.load(path)


def test_changed_member(good: Bundle, tmp_path: Path) -> None:
    changed = [(n, d.replace(b"tiny", b"TINY") if n == "card.md" else d) for n, d in entries(good)]
    with pytest.raises(ChecksumMismatch, match=r"member 'card.md' of .* was changed or damaged"):
        Bundle.load(rezip(tmp_path / "b.seb", changed))


def test_extra_and_missing_members(good: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds \['extra'\], which its manifest does not list"):
        Bundle.load(rezip(tmp_path / "a.seb", [*entries(good), ("extra", b"")]))
    with pytest.raises(BundleError, match=r"lacks \['model.onnx'\], which its manifest lists"):
        Bundle.load(rezip(tmp_path / "b.seb", [e for e in entries(good) if e[0] != "model.onnx"]))
    with pytest.raises(ManifestError, match=r"has no manifest.json: damaged"):
        Bundle.load(rezip(tmp_path / "c.seb", entries(good)[1:]))


def test_bombs(good: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "bomb.seb"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros", "w") as stream,
    ):
        for _ in range(MAX_MEMBER_BYTES // (1 << 20) + 1):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 3 << 20
    with pytest.raises(BundleError, match=r"member 'zeros' .* the limit is 268435456"):
        Bundle.load(path)
    many = rezip(tmp_path / "many.seb", [(f"m{i}", b"") for i in range(66)])
    with pytest.raises(BundleError, match="has 66 members, the limit is 64"):
        Bundle.load(many)
    # says it is small, is not: the size in the directory counts and the CRC then fails
    lie = rezip(tmp_path / "lie.seb", [("m", bytes(5000))], zipfile.ZIP_DEFLATED)
    data = bytearray(lie.read_bytes())
    at = directory_of(data) + 24
    data[at : at + 4] = (10).to_bytes(4, "little")
    lie.write_bytes(data)
    with pytest.raises(BundleError, match="copy it again"):
        Bundle.load(lie)


def test_encrypted_and_unknown_compression(good: Bundle, tmp_path: Path) -> None:
    path = rezip(tmp_path / "lzma.seb", entries(good), zipfile.ZIP_LZMA)
    with pytest.raises(BundleError, match="uses compression 14, must be stored or deflated"):
        Bundle.load(path)
    data = bytearray(good.path.read_bytes())
    data[directory_of(data) + 8] |= 1
    (tmp_path / "secret.seb").write_bytes(data)
    with pytest.raises(BundleError, match="is encrypted"):
        Bundle.load(tmp_path / "secret.seb")


def test_links_in_a_directory(good: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", good.manifest, good.members).path
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match=r"'card.md' in .* is not a plain file"):
        Bundle.load(folder)


def put(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (put("surprise", to=1), ManifestError, "unknown key 'surprise'"),
        (
            put("inputs", 0, "surprise", to=1),
            ManifestError,
            r"unknown key 'inputs\[0\].surp",
        ),
        (
            put("version", to=3),
            VersionMismatch,
            "format version is 3, this release reads 1 and 2",
        ),
        (put("format", to="tar"), ManifestError, "this is not a bundle"),
        (
            put("frontend_fingerprint", to="0" * 16),
            FrontendMismatch,
            "its front end gives",
        ),
        (put("frontend", "hop_length", to=128), FrontendMismatch, "its front end gives"),
        (put("frontend", "hop_length", to=0), ManifestError, "hop_length is 0"),
        (put("frontend", "extra", to=0), ManifestError, "unknown keys"),
        (put("frontend", "sample_rate", to="x"), ManifestError, "sample_rate is 'x'"),
        (put("inputs", 0, "scale", to=0.1), ManifestError, "which float32 cannot hold"),
        (put("inputs", 0, "scale", to=-0.5), ManifestError, "must be above 0"),
        (put("inputs", 0, "scale", to=None), ManifestError, "only one of scale"),
        (put("inputs", 0, "zero_point", to=300), ManifestError, "zero_point is 300"),
        (put("inputs", 0, "time_dim", to=4), ManifestError, "time_dim of 'features' is 4"),
        (
            put("inputs", 0, "name", to="mask"),
            ManifestError,
            "two tensors are named 'mask'",
        ),
        (put("states", 0, "initial_code", to=None), ManifestError, "either initial_code"),
        (put("states", 0, "initial_code", to=200), ManifestError, "must be -128…127"),
        (put("formats", "onnx", "member", to="gone"), ManifestError, "not in members"),
        (
            put("formats", "tflite", "layout", "mask", to=[0, 1]),
            ManifestError,
            "permutation",
        ),
        (put("formats", "tflite", "layout", "x", to=[0]), ManifestError, "no such tensor"),
        (put("formats", "core_ml", to={}), ManifestError, "unknown key 'formats.core_ml'"),
        (
            put("members", "../x", to={"sha256": "0" * 64, "bytes": 1}),
            ManifestError,
            "key",
        ),
        (
            put("precision", to="int8"),
            ManifestError,
            "precision is 'int8', must be one of",
        ),
        (put("delay", to=-1), ManifestError, "delay is -1, must be at least 0"),
        (put("members", to=[]), ManifestError, "must be object"),
    ],
)
def test_manifests_that_make_no_sense(
    good: Bundle,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    error: type[BundleError],
    words: str,
) -> None:
    path = rezip(tmp_path / "b.seb", with_manifest(good, change))
    with pytest.raises(error, match=words):
        Bundle.load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "this is not a bundle"),
        (b"null", "this is not a bundle"),
        (b'{"format": NaN}', "NaN is not a JSON number"),
        (b'{"format": 1, "format": 2}', "key 'format' appears twice"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{" + b" " * (17 << 20), "the limit is 16777216"),
    ],
)
def test_manifests_that_are_not_json(tmp_path: Path, text: bytes, words: str) -> None:
    path = rezip(tmp_path / "b.seb", [("manifest.json", text)], zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match=words):
        Bundle.load(path)


def test_write_refuses_what_load_would(good: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="unknown key"):
        write_bundle(tmp_path / "b.seb", good.manifest | {"x": 1}, good.members)
    for value in (math.nan, {1}):
        strange = good.manifest | {"metrics": {"x": value}}
        with pytest.raises(ManifestError, match="plain JSON"):
            write_bundle(tmp_path / "b.seb", strange, good.members)
    assert not list(tmp_path.iterdir())


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def lying_header() -> bytes:
    """An array that says it has a million million elements."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|i1", "fortran_order": False, "shape": (10**12,)}
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("input.features.npy", stream.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        (b"nonsense", "not a NumPy archive"),
        (npz(a=np.ones(3)), r"has unknown arrays \['a'\] and lacks \['input.features'"),
        (npz(a=np.array([{}], dtype=object)), "a in golden.npz says object"),
        (lying_header(), r"says int8\[1000000000000\] and holds 0 bytes"),
    ],
)
def test_golden_rollouts_that_lie(good: Bundle, tmp_path: Path, golden: bytes, words: str) -> None:
    bundle = write_bundle(
        tmp_path / "b.seb", good.manifest, dict(good.members) | {"golden.npz": golden}
    )
    with pytest.raises(BundleError, match=words):
        Bundle.load(bundle.path).golden()


def test_golden_rollout_of_another_shape(good: Bundle, tmp_path: Path) -> None:
    arrays = {n: a[..., :-1] for n, a in good.golden().items()}
    members = dict(good.members) | {"golden.npz": npz(**arrays)}
    bundle = write_bundle(tmp_path / "b.seb", good.manifest, members)
    with pytest.raises(BundleError, match=r"input.features is int8\[2, 1, 3, 1, 256\]"):
        bundle.golden()


def test_golden_floats_belong_to_hops(good: Bundle, tmp_path: Path) -> None:
    golden = good.golden()
    floats = {f"float.{t.name}": np.zeros((1, *t.shape), np.float32) for t in good.outputs}

    def with_floats(**more: Any) -> Bundle:
        members = dict(good.members) | {"golden.npz": npz(**golden, **more)}
        return write_bundle(tmp_path / "b.seb", good.manifest, members)

    hops = np.array([1], np.int32)
    assert set(with_floats(**floats, **{"float.hops": hops}).golden()) > set(golden)
    with pytest.raises(BundleError, match=r"lacks \['float.hops'\]"):
        with_floats(**floats).golden()
    with pytest.raises(BundleError, match=r"float.hops names hops 2…2, there are 2"):
        with_floats(**floats, **{"float.hops": hops + 1}).golden()
    with pytest.raises(BundleError, match=r"lacks \['float.bias'\]"):
        with_floats(**{"float.mask": floats["float.mask"], "float.hops": hops}).golden()
