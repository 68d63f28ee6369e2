"""How a bundle lies on disk: one zip or a directory, read into memory, written whole or not."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from spectral_edge.errors import BundleError
from spectral_edge.manifest import MANIFEST, check_member_name

__all__ = ["DAMAGE", "MAX_TOTAL_BYTES", "check_sizes", "read_contents", "write_contents"]

SUFFIX = ".seb"
MAX_MEMBERS = 64
MAX_MANIFEST_BYTES = 16 << 20
MAX_MEMBER_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 20
# what zipfile raises for a damaged archive (RuntimeError: a password is asked for)
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: equal content, equal bytes


def read_contents(path: Path) -> dict[str, bytes]:
    """Return every file of a bundle by name.

    Raises:
        BundleError: missing, truncated, damaged, oversized, or not made of plain files.
        ManifestError: a member name that is refused.
    """
    if path.is_dir():
        return _read_directory(path)
    if path.is_file():
        return _read_zip(path)
    raise BundleError(f"no bundle at {path}; give a {SUFFIX} file or a bundle directory")


def write_contents(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a bundle under its name at once: a ``.seb`` path makes one zip, any other a directory.

    Raises:
        BundleError: too large, or the target exists and is not a bundle.
    """
    check_sizes({name: len(data) for name, data in contents.items()}, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == SUFFIX:
        _write_zip(path, contents)
    else:
        _write_directory(path, contents)


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    if path.is_dir():
        raise BundleError(f"{path} is a directory; remove it or choose another name")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, data in contents.items():
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.create_system = 3  # Unix, whatever system writes it
                info.external_attr = 0o644 << 16
                archive.writestr(info, data, zipfile.ZIP_STORED)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_directory(path: Path, contents: Mapping[str, bytes]) -> None:
    if (
        path.exists()
        and not (path / MANIFEST).is_file()
        and (path.is_file() or any(path.iterdir()))
    ):
        raise BundleError(f"{path} exists and is not a bundle; remove it or choose another name")
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for name, data in contents.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            path.rename(old / "bundle")
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read_directory(path: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    files = sorted(p for p in path.rglob("*") if not p.is_dir() or p.is_symlink())
    names = {p: p.relative_to(path).as_posix() for p in files}
    for file, name in names.items():
        check_member_name(name)
        if file.is_symlink() or not file.is_file():
            raise BundleError(
                f"member {name!r} in {path} is not a plain file; copy the bundle again"
            )
    check_sizes({name: file.stat().st_size for file, name in names.items()}, path)
    for file, name in names.items():
        contents[name] = file.read_bytes()
    return contents


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, path)
            return {entry.filename: archive.read(entry) for entry in entries}
    except DAMAGE as error:
        raise BundleError(
            f"{path} ({path.stat().st_size} bytes) is no complete bundle ({error}); copy it again"
        ) from error


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    seen: set[str] = set()
    for entry in entries:
        # ZipInfo cuts names at a NUL and turns the system's separator round; the raw name counts
        check_member_name(entry.orig_filename)
        if entry.filename in seen:
            raise BundleError(f"member {entry.filename!r} is twice in {path}")
        seen.add(entry.filename)
        if entry.flag_bits & 0x1:
            raise BundleError(f"member {entry.filename!r} in {path} is encrypted; bundles are not")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(
                f"member {entry.filename!r} in {path} uses compression {entry.compress_type}, "
                "must be stored or deflated"
            )
    check_sizes({entry.filename: entry.file_size for entry in entries}, path)


def check_sizes(sizes: Mapping[str, int], path: Path) -> None:
    """Refuse too many members, too large ones, or too many bytes in all.

    Raises:
        BundleError: which limit, and the value seen.
    """
    if len(sizes) > MAX_MEMBERS + 1:
        raise BundleError(f"{path} has {len(sizes)} members, the limit is {MAX_MEMBERS}")
    for name, size in sizes.items():
        limit = MAX_MANIFEST_BYTES if name == MANIFEST else MAX_MEMBER_BYTES
        if size > limit:
            raise BundleError(f"member {name!r} in {path} has {size} bytes, the limit is {limit}")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        raise BundleError(
            f"{path} unpacks to {sum(sizes.values())} bytes, the limit is {MAX_TOTAL_BYTES}"
        )
