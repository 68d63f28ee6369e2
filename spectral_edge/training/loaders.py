"""Readers of public data set layouts. Nothing is downloaded: every function takes a folder.

Files are listed first and read on demand; what is listed but not there, broken, or not in the
official lists is an error that names it (AudioSet reports it instead, because its clips vanish).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import RuntimeUnavailable, SpecError

from .clips import read_clip
from .labelled import LabelledSet, Progress

__all__ = [
    "audioset",
    "cifar",
    "csv_set",
    "esc50",
    "fashion_mnist",
    "folder_set",
    "speech_commands",
    "verify_sums",
    "voicebank",
]

AUDIO = (".wav", ".flac", ".ogg")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
SPLITS = ("train", "val", "test")
KEYWORDS_10 = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
ESC10_KEY = "esc10"


def _folder(root: str | Path, *parts: str) -> Path:
    path = Path(root, *parts).expanduser()
    if not path.is_dir():
        raise SpecError(f"folder {path} does not exist: give the unpacked data set")
    return path


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise SpecError(f"{path} is missing, it is {what}: is this the right folder?")
    return path


def _rows(path: Path, what: str, needed: set[str]) -> list[dict[str, str]]:
    """Read a CSV with a header; every row must have the needed columns."""
    try:
        with _file(path, what).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path} is no CSV table in UTF-8: {error}") from None
    if needed - columns:
        raise SpecError(f"{path} lacks the columns {', '.join(sorted(needed - columns))}")
    for number, row in enumerate(rows, start=1):
        absent = sorted(name for name in needed if row[name] is None)
        if absent:
            raise SpecError(f"row {number} of {path} ends before its {absent[0]}")
    return rows


def _number(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise SpecError(f"{where} is {text!r}, must be a whole number")
    return int(text)


def _split(split: str) -> str:
    if split not in SPLITS:
        raise SpecError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    return split


def verify_sums(root: str | Path, progress: Progress | None = None) -> int:
    """Check every file that ``SHA256SUMS`` of a folder lists.

    Returns:
        Number of files checked.

    Raises:
        SpecError: no list, a missing file, or a file whose hash differs.
    """
    folder = _folder(root)
    lines = _file(folder / "SHA256SUMS", "the list of hashes").read_text("utf-8").splitlines()
    if not lines:
        raise SpecError(f"{folder}/SHA256SUMS is empty: nothing there proves the files")
    for done, line in enumerate(lines, start=1):
        expected, _, name = line.partition("  ")
        path = folder / name.lstrip("*")
        digest = hashlib.sha256(_file(path, "listed in SHA256SUMS").read_bytes()).hexdigest()
        if digest != expected:
            raise SpecError(f"{path} has hash {digest[:12]}…, SHA256SUMS says {expected[:12]}…")
        if progress is not None:
            progress(done, len(lines), f"hash of {name}")
    return len(lines)


def _clips(
    name: str, paths: list[Path], targets: NDArray[Any], classes: Iterable[str], rate: int,
    missing: tuple[str, ...] = (),
) -> LabelledSet:  # fmt: skip
    if not paths:
        raise SpecError(f"{name} has no clips: check the folder")
    return LabelledSet(
        name, "audio", tuple(classes), targets, lambda i: read_clip(paths[i], rate), rate, missing
    )


def _indices(labels: list[str], classes: tuple[str, ...], name: str) -> NDArray[np.int64]:
    table = {label: i for i, label in enumerate(classes)}
    for label in labels:
        if label not in table:
            raise SpecError(f"{name} has label {label!r}, classes are {', '.join(classes)}")
    return np.array([table[label] for label in labels], dtype=np.int64)


# -- tables and folders ---------------------------------------------------------------------------


def csv_set(
    table: str | Path,
    split: str | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    sample_rate: int = 16_000,
) -> LabelledSet:
    """Return audio clips listed in a CSV with columns ``path``, ``label`` and maybe ``split``.

    Paths are relative to the table. Several labels of one clip are separated by ``;``, which makes
    every target a 0/1 vector.

    Args:
        table: the CSV file.
        split: rows to take; None takes all.
        classes: label names in order; None: those of the whole table, sorted.
        sample_rate: Hz that every clip must have.

    Raises:
        SpecError: a missing column, file or label, or no row of that split.
        AudioError: on reading, a clip that is not mono audio of that rate.
    """
    path = Path(table).expanduser()
    rows = _rows(path, "the table", {"path", "label"} | ({"split"} if split else set()))
    labels = [row["label"].split(";") for row in rows]
    names = classes or tuple(sorted({one for each in labels for one in each}))
    chosen = [i for i, row in enumerate(rows) if split is None or row["split"] == split]
    if not chosen:
        have = ", ".join(sorted({row["split"] for row in rows})) if split else "none"
        raise SpecError(f"{path} has no row of split {split!r}; its splits: {have or 'none'}")
    files = [path.parent / rows[i]["path"] for i in chosen]
    for file in files:
        _file(file, f"listed in {path.name}")
    where = f"{path.stem}-{split or 'all'}"
    if any(len(each) > 1 for each in labels):
        targets = _multi_hot([labels[i] for i in chosen], names, where)
        return _clips(where, files, targets, names, sample_rate)
    singles = [labels[i][0] for i in chosen]
    return _clips(where, files, _indices(singles, names, where), names, sample_rate)


def _multi_hot(labels: list[list[str]], classes: tuple[str, ...], name: str) -> NDArray[np.float32]:
    targets = np.zeros((len(labels), len(classes)), dtype=np.float32)
    for row, each in zip(targets, labels, strict=True):
        row[_indices(each, classes, name)] = 1.0
    return targets


def folder_set(
    root: str | Path,
    *,
    kind: str = "image",
    side: int = 224,
    channels: int = 3,
    sample_rate: int = 16_000,
) -> LabelledSet:
    """Return a folder with one sub-folder per class (ImageNet's layout, or audio).

    Images are resized so that the short side is side/0.875, cut to the central square, and read
    with Pillow.

    Args:
        root: for ImageNet, its ``train`` or ``val`` folder.
        kind: ``image`` or ``audio``.
        side: side of the square.
        channels: 3, or 1 for grey.
        sample_rate: Hz that audio must have.

    Raises:
        SpecError: no class folder, or a class without files.
    """
    folder = _folder(root)
    classes = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir()))
    if not classes:
        raise SpecError(f"{folder} has no sub-folders: one per class is expected")
    endings = IMAGES if kind == "image" else AUDIO
    files: list[Path] = []
    labels: list[str] = []
    for label in classes:
        found = sorted(p for p in (folder / label).rglob("*") if p.suffix.lower() in endings)
        if not found:
            raise SpecError(f"class folder {folder / label} has no {kind} file ({endings})")
        files += found
        labels += [label] * len(found)
    targets = _indices(labels, classes, folder.name)
    if kind == "audio":
        return _clips(folder.name, files, targets, classes, sample_rate)
    return LabelledSet(
        f"{folder.name}{side}",
        "image",
        classes,
        targets,
        lambda i: _image(files[i], side, channels),
    )


def _image(path: Path, side: int, channels: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeUnavailable("image files need Pillow: pip install pillow") from None
    try:
        with Image.open(path) as image:
            ready = image.convert("RGB" if channels == 3 else "L")
    except OSError as error:
        raise SpecError(f"{path} is no image that Pillow reads: {error}") from None
    short = side / 0.875
    factor = short / min(ready.size)
    size = tuple(max(side, round(n * factor)) for n in ready.size)
    ready = ready.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = np.asarray(ready.crop((left, top, left + side, top + side)), dtype=np.uint8)
    return pixels.reshape(side, side, channels)


# -- audio sets ------------------------------------------------------------------------------------


def speech_commands(root: str | Path, split: str, *, classes: int = 35) -> LabelledSet:
    """Return Speech Commands V2 by its official lists.

    With 12 classes the other 25 words are ``_unknown_`` and one-second cuts of
    ``_background_noise_`` are ``_silence_``, both as many as a tenth of the keywords' clips.

    Args:
        root: unpacked archive with ``validation_list.txt`` and ``testing_list.txt``.
        split: ``train``, ``val`` or ``test``.
        classes: 35 or 12.

    Raises:
        SpecError: a missing list, or a listed clip that is not there.
    """
    folder = _folder(root)
    lists = {}
    for key, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        lists[key] = _file(folder / name, "an official list").read_text("utf-8").split()
    if _split(split) == "train":
        taken = {*lists["val"], *lists["test"]}
        found = sorted(p.relative_to(folder).as_posix() for p in folder.glob("[!_]*/*.wav"))
        names = [name for name in found if name not in taken]
    else:
        names = sorted(lists[split])
        for name in names:
            _file(folder / name, f"in the official {split} list")
    labels = [name.split("/")[0] for name in names]
    where = f"speech_commands{classes}-{split}"
    if classes == 35:
        words = tuple(sorted({p.name for p in folder.glob("[!_]*") if p.is_dir()}))
        return _clips(
            where, [folder / n for n in names], _indices(labels, words, where), words, 16_000
        )
    if classes != 12:
        raise SpecError(f"classes is {classes}, Speech Commands has 35 or 12")
    return _twelve(folder, names, labels, where)


def _twelve(folder: Path, names: list[str], labels: list[str], where: str) -> LabelledSet:
    rng = np.random.default_rng(0)
    known = [i for i, label in enumerate(labels) if label in KEYWORDS_10]
    others = np.array([i for i, label in enumerate(labels) if label not in KEYWORDS_10])
    extra = max(1, len(known) // 10)
    chosen = [*known, *sorted(rng.permutation(others)[:extra].tolist())]
    words = (*KEYWORDS_10, UNKNOWN, SILENCE)
    kinds = [labels[i] if labels[i] in KEYWORDS_10 else UNKNOWN for i in chosen]
    noises = [read_clip(p, 16_000) for p in sorted((folder / "_background_noise_").glob("*.wav"))]
    if not noises:
        raise SpecError(f"{folder}/_background_noise_ has no .wav: 12 classes need it for silence")
    silences = []
    for _ in range(extra):
        noise = noises[int(rng.integers(len(noises)))]
        start = int(rng.integers(0, max(1, len(noise) - 16_000)))
        silences.append((rng.uniform(0, 1) * noise[start : start + 16_000]).astype(np.int16))
    targets = _indices([*kinds, *[SILENCE] * extra], words, where)
    files = [folder / names[i] for i in chosen]

    def load(i: int) -> NDArray[Any]:
        return read_clip(files[i], 16_000) if i < len(files) else silences[i - len(files)]

    return LabelledSet(where, "audio", words, targets, load, 16_000)


def esc50(
    root: str | Path, split: str, *, fold: int = 5, only_esc10: bool = False, rate: int = 16_000
) -> LabelledSet:
    """Return ESC-50 (or its ESC-10 subset) from ``meta/esc50.csv`` and ``audio/``.

    Args:
        root: unpacked repository.
        split: ``test`` is ``fold``, ``val`` the fold before it, ``train`` the other three.
        fold: 1…5.
        only_esc10: the ten classes of ESC-10.
        rate: Hz; the published files have 44 100, resample them once for 16 000.

    Raises:
        SpecError: a missing file, or a fold outside 1…5.
    """
    if not 1 <= fold <= 5:
        raise SpecError(f"fold is {fold}, must be 1…5")
    folder = _folder(root)
    table = folder / "meta" / "esc50.csv"
    rows = _rows(table, "ESC-50's index", {"filename", "fold", "category", ESC10_KEY})
    rows = [row for row in rows if not only_esc10 or row[ESC10_KEY] == "True"]
    before = (fold - 2) % 5 + 1
    folds = {"test": {fold}, "val": {before}, "train": set(range(1, 6)) - {fold, before}}
    classes = tuple(sorted({r["category"] for r in rows}))
    wanted = folds[_split(split)]
    chosen = [r for r in rows if _number(r["fold"], f"a fold in {table}") in wanted]
    files = [_file(folder / "audio" / r["filename"], "in esc50.csv") for r in chosen]
    where = f"esc{'10' if only_esc10 else '50'}-fold{fold}-{split}"
    targets = _indices([r["category"] for r in chosen], classes, where)
    return _clips(where, files, targets, classes, rate)


def audioset(table: str | Path, labels: str | Path, clips: str | Path) -> LabelledSet:
    """Return AudioSet clips of one segment list; absent clips are reported, not an error.

    Args:
        table: such as ``balanced_train_segments.csv`` (``YTID, start, end, "mid,mid"``).
        labels: ``class_labels_indices.csv`` (index, mid, display_name).
        clips: folder with ``YTID.wav`` or ``YTID.flac`` (also with a leading ``Y``), 16 kHz mono.

    Returns:
        Multi-label clips; ``missing`` lists the ids without a file.

    Raises:
        SpecError: a missing list, an unknown label, or no clip at all.
    """
    folder = _folder(clips)
    kinds = _rows(Path(labels), "the list of classes", {"index", "mid", "display_name"})
    number = {row["mid"]: _number(row["index"], f"an index in {labels}") for row in kinds}
    if sorted(number.values()) != list(range(len(kinds))):
        raise SpecError(f"{labels} must number its {len(kinds)} classes from 0 on, each once")
    have = {p.stem: p for p in folder.iterdir() if p.suffix in AUDIO}
    files, rows, missing = [], [], []
    with _file(Path(table), "the list of segments").open(newline="", encoding="utf-8") as stream:
        lines = (line for line in stream if not line.startswith("#"))
        for row in csv.reader(lines, skipinitialspace=True):
            if len(row) < 4:
                raise SpecError(f"{table} has the line {','.join(row)!r}, which names no labels")
            path = have.get(row[0]) or have.get(f"Y{row[0]}")
            if path is None:
                missing.append(row[0])
                continue
            target = np.zeros(len(kinds), dtype=np.float32)
            for mid in row[3].split(","):
                if mid not in number:
                    raise SpecError(f"clip {row[0]} has label {mid!r}, which {labels} lacks")
                target[number[mid]] = 1.0
            files.append(path)
            rows.append(target)
    names = [row["display_name"] for row in sorted(kinds, key=lambda r: int(r["index"]))]
    targets = np.stack(rows) if rows else np.zeros((0, len(kinds)), dtype=np.float32)
    return _clips(f"audioset-{Path(table).stem}", files, targets, names, 16_000, tuple(missing))


def voicebank(
    root: str | Path, split: str, *, held_out: tuple[str, ...] = ("p226", "p287")
) -> list[tuple[Path, Path]]:
    """Return (noisy, clean) files of VoiceBank+DEMAND, 28 speakers.

    Args:
        root: folder with ``noisy_trainset_28spk_wav``, ``clean_trainset_28spk_wav`` and the two
            ``…_testset_wav``.
        split: ``val`` is the held-out training speakers (our choice), ``train`` the others.
        held_out: speakers of ``val``.

    Raises:
        SpecError: a missing folder, or a noisy file without its clean file.
    """
    part = "testset_wav" if _split(split) == "test" else "trainset_28spk_wav"
    noisy, clean = _folder(root, f"noisy_{part}"), _folder(root, f"clean_{part}")
    pairs = []
    for path in sorted(noisy.glob("*.wav")):
        speaker = path.name.split("_")[0]
        if split != "test" and (speaker in held_out) != (split == "val"):
            continue
        pairs.append((path, _file(clean / path.name, f"the clean file of {path.name}")))
    if not pairs:
        raise SpecError(f"{noisy} has no clip of the {split} split")
    return pairs


# -- image sets ------------------------------------------------------------------------------------

FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_VALIDATION = 5000  # the last of the training file
CIFAR_SIDE = 32


def _idx(path: Path) -> NDArray[np.uint8]:
    _file(path, "a Fashion-MNIST file")
    try:
        with gzip.open(path) as stream:
            data = stream.read()
        zero, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise SpecError(f"{path} is not a whole gzipped idx file: {error}") from None
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank)
    if zero or kind != 8 or body.size != int(np.prod(shape)):
        raise SpecError(f"{path} holds {body.size} bytes, its header says {shape} of type {kind}")
    return body.reshape(shape)


def fashion_mnist(root: str | Path, split: str) -> LabelledSet:
    """Return Fashion-MNIST (or MNIST) from its four gzipped idx files, uint8[28, 28, 1].

    ``train`` is 0…54 999 and ``val`` 55 000…59 999 of the training file.

    Raises:
        SpecError: a missing or broken file.
    """
    folder = _folder(root)
    part = "t10k" if _split(split) == "test" else "train"
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz")[..., None]
    labels = _known(_idx(folder / f"{part}-labels-idx1-ubyte.gz"), FASHION, folder)
    if len(images) != len(labels):
        raise SpecError(f"{folder} has {len(images)} {part} images but {len(labels)} labels")
    if split != "test":
        cut = len(images) - FASHION_VALIDATION
        where = slice(0, cut) if split == "train" else slice(cut, None)
        images, labels = images[where], labels[where]
    return LabelledSet(
        f"fashion_mnist-{split}", "image", FASHION, labels, lambda i: np.asarray(images[i])
    )


def cifar(root: str | Path, split: str, *, classes: int = 10) -> LabelledSet:
    """Return CIFAR-10 or CIFAR-100 (fine labels) from the *binary* version, uint8[32, 32, 3].

    ``val`` is the last tenth of the training images. The Python version is not read, because it is
    pickled.

    Raises:
        SpecError: a missing or cut file.
    """
    folder = _folder(root)
    test = _split(split) == "test"
    if classes == 10:
        parts = ["test_batch"] if test else [f"data_batch_{i}" for i in range(1, 6)]
        names, lead = _lines(folder / "batches.meta.txt"), 1
    elif classes == 100:
        parts, lead = (["test"] if test else ["train"]), 2
        names = _lines(folder / "fine_label_names.txt")
    else:
        raise SpecError(f"classes is {classes}, CIFAR has 10 or 100")
    record = lead + 3 * CIFAR_SIDE**2
    rows = []
    for part in parts:
        data = np.fromfile(_file(folder / f"{part}.bin", "of CIFAR's binary version"), np.uint8)
        if data.size == 0 or data.size % record:
            raise SpecError(f"{folder / part}.bin has {data.size} bytes, no multiple of {record}")
        rows.append(data.reshape(-1, record))
    table = np.concatenate(rows)
    if not test:
        cut = len(table) - len(table) // 10
        table = table[:cut] if split == "train" else table[cut:]
    labels = _known(table[:, lead - 1], names, folder)
    pixels = table[:, lead:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return LabelledSet(
        f"cifar{classes}-{split}", "image", names, labels, lambda i: np.asarray(pixels[i])
    )


def _known(labels: NDArray[np.uint8], classes: tuple[str, ...], folder: Path) -> NDArray[np.int64]:
    if labels.size and int(labels.max()) >= len(classes):
        raise SpecError(f"{folder} has label {labels.max()}, its classes are {len(classes)}")
    return labels.astype(np.int64)


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(_file(path, "the list of classes").read_text("utf-8").split())
