"""What a bundle is: the same content gives the same bytes, and the two forms are one."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from spectral_edge.bundle import Bundle, write_bundle
from spectral_edge.errors import BundleError, ManifestError
from spectral_edge.manifest import check_manifest
from spectral_edge.schema import first_violation, load_schema
from tests.runtimes.tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.seb")


def test_load_gives_what_was_written(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.path)
    assert loaded.manifest == bundle.manifest
    assert dict(loaded.members) == dict(bundle.members)
    assert loaded.sha256 == bundle.sha256
    assert loaded.frontend == bundle.frontend
    assert [t.name for t in loaded.inputs] == ["features"]
    assert [t.name for t in loaded.outputs] == ["mask", "bias"]
    assert list(loaded.states) == ["past"]
    assert (loaded.name, loaded.precision, loaded.delay) == ("tiny", "w8a8", 0)


def test_zip_and_directory_are_the_same_bundle(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny", bundle.manifest, bundle.members)
    assert folder.path.is_dir()
    assert Bundle.load(folder.path).sha256 == bundle.sha256


def test_equal_content_gives_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    backwards = dict(reversed(list(bundle.members.items())))
    manifest = dict(reversed(list(bundle.manifest.items())))
    again = write_bundle(tmp_path / "b.seb", manifest, backwards)
    assert again.path.read_bytes() == bundle.path.read_bytes()


@pytest.mark.parametrize("name", ["b.seb", "folder"])
def test_an_old_bundle_is_replaced_and_nothing_is_left_behind(
    bundle: Bundle, tmp_path: Path, name: str
) -> None:
    for extra in (b"1", b"22"):
        members = dict(bundle.members) | {"note.txt": extra}
        write_bundle(tmp_path / name, bundle.manifest, members)
    assert Bundle.load(tmp_path / name).member("note.txt") == b"22"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_is_not_a_bundle_is_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    precious = tmp_path / "folder"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_bundle(precious, bundle.manifest, bundle.members)
    (tmp_path / "d.seb").mkdir()
    with pytest.raises(BundleError, match="is a directory"):
        write_bundle(tmp_path / "d.seb", bundle.manifest, bundle.members)
    assert (precious / "thesis.tex").exists()


def test_members_are_found_by_name(bundle: Bundle) -> None:
    assert bundle.member("card.md").startswith(b"# tiny")
    with pytest.raises(BundleError, match=r"no member 'model.c' in .*it has \['card.md'"):
        bundle.member("model.c")
    with pytest.raises(ManifestError, match="do not pass it as a member"):
        write_bundle("x.seb", bundle.manifest, {"manifest.json": b"{}"})


def test_a_compressed_zip_is_the_same_bundle(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "packed.seb"
    with zipfile.ZipFile(bundle.path) as old, zipfile.ZipFile(path, "w") as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    assert Bundle.load(path).sha256 == bundle.sha256


def test_initial_states_may_be_arrays(tmp_path: Path) -> None:
    start = np.random.default_rng(0).integers(-9, 9, (1, 3, 1, 257)).astype(np.int8)
    stream = io.BytesIO()
    np.savez(stream, past=start, short=start[:, :2])
    state = {"name": "past", "shape": [1, 3, 1, 257], "dtype": "int8", "scale": 4 / 128}
    state |= {"zero_point": 0, "initial_code": None, "initial": "past"}
    made = tiny_bundle(tmp_path / "a.seb", changes={"states": [state]})
    members = dict(made.members) | {"initial.npz": stream.getvalue()}
    bundle = write_bundle(tmp_path / "b.seb", made.manifest, members)
    assert np.array_equal(bundle.initial_states()["past"], start)
    for key, words in (("gone", "is missing"), ("short", r"is int8\[1, 2, 1, 257\]")):
        manifest = made.manifest | {"states": [state | {"initial": key}]}
        wrong = write_bundle(tmp_path / "c.seb", manifest, members)
        with pytest.raises(BundleError, match=words):
            wrong.initial_states()


def changes_of_every_value(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return manifests with one thing changed each: removed, added, or of another type or range."""
    substitutes: list[Any] = [None, True, -1, 0, 1.5, 1e-3, "", "x", "../x", [], [1], {}, {"x": 1}]
    changed = []

    def walk(path: list[Any], value: Any) -> None:
        for new in substitutes:
            other = copy.deepcopy(manifest)
            place: Any = other
            for key in path[:-1]:
                place = place[key]
            if path:
                place[path[-1]] = new
                changed.append(other)
        children: list[tuple[Any, Any]] = []
        if isinstance(value, dict):
            children = list(value.items())
            other = copy.deepcopy(manifest)
            place = other
            for key in path:
                place = place[key]
            place["unknown key"] = 1
            changed.append(other)
            for name in value:
                other = copy.deepcopy(manifest)
                place = other
                for key in path:
                    place = place[key]
                del place[name]
                changed.append(other)
        elif isinstance(value, list):
            children = list(enumerate(value))[:2]
        for key, child in children:
            walk([*path, key], child)

    walk([], manifest)
    return changed


def test_own_checks_agree_with_jsonschema(bundle: Bundle) -> None:
    schema = load_schema("bundle")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    manifests = changes_of_every_value(bundle.manifest)
    refused = 0
    for manifest in manifests:
        theirs = validator.is_valid(manifest)
        assert (first_violation(manifest, schema) is None) == theirs, json.dumps(manifest)
        if not theirs:
            refused += 1
            with pytest.raises(BundleError):
                check_manifest(manifest)
    assert refused > 500
    assert len(manifests) - refused > 50  # and some are allowed


def test_the_shipped_example_is_valid(bundle: Bundle) -> None:
    check_manifest(bundle.manifest)
    jsonschema.Draft202012Validator(load_schema("bundle")).validate(bundle.manifest)
