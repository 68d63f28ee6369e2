"""Synthetic sets are deterministic; loaders read the layouts and say what is wrong with them."""

from __future__ import annotations

import csv
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectral_edge.errors import AudioError, SpecError
from spectral_edge.training.classify_recipe import ClassifyData, FeatureRecipe
from spectral_edge.training.examples import LazyFeatures, load_examples, report_missing
from spectral_edge.training.loaders import (
    KEYWORDS_10,
    audioset,
    cifar,
    csv_set,
    esc50,
    fashion_mnist,
    folder_set,
    speech_commands,
    verify_sums,
    voicebank,
)
from spectral_edge.training.synthetic import NOISE_FAMILIES, TOY_SETS, toy_kws, toy_se, toy_set

SHORT = {"toy_kws": {"seconds": 0.3}, "toy_tag": {"seconds": 0.5}, "toy_img": {"side": 16}}


@pytest.mark.parametrize("name", TOY_SETS)
def test_toy_sets_are_deterministic_and_splits_differ(name: str) -> None:
    a, b = (toy_set(name, 4, **SHORT[name]) for _ in range(2))
    longer = toy_set(name, 6, **SHORT[name])
    other = toy_set(name, 4, split="test", **SHORT[name])
    for i in range(4):
        assert np.array_equal(a.load(i), b.load(i))
        assert np.array_equal(a.load(i), longer.load(i))  # an example does not depend on the count
        assert not np.array_equal(a.load(i), other.load(i))
    assert a.targets.shape[0] == 4


def test_toy_speech_pairs_have_the_asked_snr() -> None:
    for family in NOISE_FAMILIES:
        noisy, clean = toy_se(3, seconds=0.5, sample_rate=8000, snr_db=(5, 5), families=(family,))
        again, _ = toy_se(3, seconds=0.5, sample_rate=8000, snr_db=(5, 5), families=(family,))
        assert np.array_equal(noisy, again)
        power = [np.mean(x.astype(np.float64) ** 2, axis=1) for x in (clean, noisy - clean)]
        np.testing.assert_allclose(10 * np.log10(power[0] / power[1]), 5.0, atol=0.05)


def test_toy_mistakes_are_named() -> None:
    with pytest.raises(SpecError, match="split is 'dev'"):
        toy_kws(2, split="dev")
    with pytest.raises(SpecError, match="must be 2…35"):
        toy_kws(2, classes=36)
    with pytest.raises(SpecError, match="choose from stationary"):
        toy_se(1, families=("wind",))
    with pytest.raises(SpecError, match="one of toy_kws"):
        toy_set("toy_video", 3)


def tone(path: Path, rate: int = 16_000, samples: int = 400, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = (3000 * np.sin(np.arange(samples) / 7)).astype(np.int16)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)


def test_csv_table(tmp_path: Path) -> None:
    rows = [("a/1.wav", "x", "train"), ("a/2.wav", "y", "train"), ("b/3.wav", "x", "test")]
    for name, _, _ in rows:
        tone(tmp_path / name)
    table = tmp_path / "list.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "split"), *rows])
    train = csv_set(table, "train")
    assert (train.classes, train.targets.tolist()) == (("x", "y"), [0, 1])
    assert train.load(0).dtype == np.int16
    assert len(csv_set(table, "test")) == 1
    (tmp_path / "a/2.wav").unlink()
    with pytest.raises(SpecError, match=r"2\.wav is missing, it is listed in list\.csv"):
        csv_set(table, "train")
    with pytest.raises(SpecError, match="no row of split 'val'; its splits: test, train"):
        csv_set(table, "val")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path,label,split\na.wav,x\n", r"row 1 of .*t\.csv ends before its split"),
        (b"path,lable,split\n", "lacks the columns label"),
        (b"", "lacks the columns label, path, split"),
        (b"path,label,split\n\xff\xfe,x,train\n", "no CSV table in UTF-8"),
        (b"path,label,split\n", "no row of split 'train'; its splits: none"),
        (b"path,label,split\nnone.wav,x,train\n", r"none\.wav is missing, it is listed in t\.csv"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(SpecError, match=words):
        csv_set(tmp_path / "t.csv", "train")


def test_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    """Spreadsheets put a byte order mark in front of UTF-8."""
    tone(tmp_path / "1.wav")
    (tmp_path / "t.csv").write_text("path,label\n1.wav,dog\n", encoding="utf-8-sig")
    assert csv_set(tmp_path / "t.csv").classes == ("dog",)


def test_csv_with_several_labels(tmp_path: Path) -> None:
    tone(tmp_path / "1.wav")
    (tmp_path / "t.csv").write_text("path,label\n1.wav,dog;rain\n")
    examples = csv_set(tmp_path / "t.csv", classes=("cat", "dog", "rain"))
    assert examples.multi_label
    assert examples.targets.tolist() == [[0, 1, 1]]
    with pytest.raises(SpecError, match="label 'rain', classes are cat, dog"):
        csv_set(tmp_path / "t.csv", classes=("cat", "dog"))


def test_wrong_rate_and_channels_are_errors_on_reading(tmp_path: Path) -> None:
    tone(tmp_path / "a/1.wav", rate=8000)
    tone(tmp_path / "b/1.wav", channels=2)
    examples = folder_set(tmp_path, kind="audio")
    with pytest.raises(AudioError, match="8000 Hz, training needs 16000"):
        examples.load(0)
    with pytest.raises(AudioError, match="2 channels"):
        examples.load(1)


def make_commands(root: Path) -> None:
    for word in (*KEYWORDS_10, "bed", "cat"):
        for i in range(4):
            tone(root / word / f"s{i}_nohash_0.wav")
    tone(root / "_background_noise_" / "hiss.wav", samples=20_000)
    words = (*KEYWORDS_10, "bed", "cat")
    (root / "validation_list.txt").write_text("".join(f"{w}/s2_nohash_0.wav\n" for w in words))
    (root / "testing_list.txt").write_text("".join(f"{w}/s3_nohash_0.wav\n" for w in words))


def test_speech_commands_by_the_official_lists(tmp_path: Path) -> None:
    make_commands(tmp_path)
    assert [len(speech_commands(tmp_path, s)) for s in ("train", "val", "test")] == [24, 12, 12]
    twelve = speech_commands(tmp_path, "train", classes=12)
    assert twelve.classes[-2:] == ("_unknown_", "_silence_")
    assert np.bincount(twelve.targets).tolist() == [2] * 10 + [2, 2]
    assert len(twelve.load(len(twelve) - 1)) == 16_000
    (tmp_path / "cat/s3_nohash_0.wav").unlink()
    with pytest.raises(SpecError, match="in the official test list"):
        speech_commands(tmp_path, "test")
    with pytest.raises(SpecError, match="35 or 12"):
        speech_commands(tmp_path, "train", classes=20)


def test_esc_folds(tmp_path: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for kind, small in (("dog", True), ("cat", False)):
            name = f"{fold}-{kind}.wav"
            tone(tmp_path / "audio" / name)
            lines.append(f"{name},{fold},0,{kind},{small},x,A")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines))
    assert [len(esc50(tmp_path, s)) for s in ("train", "val", "test")] == [6, 2, 2]
    assert esc50(tmp_path, "train", only_esc10=True).classes == ("dog",)
    with pytest.raises(SpecError, match="1…5"):
        esc50(tmp_path, "test", fold=6)
    table = tmp_path / "meta/esc50.csv"
    table.write_text(lines[0] + "\n1-dog.wav,one,0,dog,True,x,A\n")
    with pytest.raises(SpecError, match=r"a fold in .*esc50\.csv is 'one', must be a whole number"):
        esc50(tmp_path, "test")
    table.write_text("filename,fold,category\n")
    with pytest.raises(SpecError, match="lacks the columns esc10"):
        esc50(tmp_path, "test")


def test_audioset_reports_missing_clips(tmp_path: Path) -> None:
    tone(tmp_path / "clips" / "Yaaa.wav")
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/1,Speech\n1,/m/2,Music\n")
    table = tmp_path / "balanced.csv"
    table.write_text('# made up\naaa, 0.000, 10.000, "/m/1,/m/2"\nbbb, 0.000, 10.000, "/m/2"\n')
    examples = audioset(table, tmp_path / "labels.csv", tmp_path / "clips")
    assert examples.missing == ("bbb",)
    assert examples.targets.tolist() == [[1, 1]]
    assert examples.classes == ("Speech", "Music")
    table.write_text("aaa, 0.000, 10.000\n")
    with pytest.raises(SpecError, match="which names no labels"):
        audioset(table, tmp_path / "labels.csv", tmp_path / "clips")
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/1,Speech\n2,/m/2,Music\n")
    with pytest.raises(SpecError, match="must number its 2 classes from 0 on, each once"):
        audioset(table, tmp_path / "labels.csv", tmp_path / "clips")


def test_audioset_recipe_never_chooses_by_the_evaluation_list(tmp_path: Path) -> None:
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/1,Speech\n")
    for name, part, count in (("balanced_train", "train", 40), ("eval", "eval", 3)):
        for i in range(count):
            tone(tmp_path / name / f"{part}{i:02}.wav")
        lines = [f'{part}{i:02}, 0.000, 10.000, "/m/1"' for i in range(count + 1)]
        (tmp_path / f"{name}_segments.csv").write_text("\n".join(lines))
    data = ClassifyData("audioset", str(tmp_path))
    sets = {split: load_examples(data, split) for split in ("train", "val", "test")}
    assert [len(s) for s in sets.values()] == [38, 2, 3]
    seen: list[str] = []
    report_missing(sets["train"], lambda done, total, what: seen.append(f"{done}/{total} {what}"))
    assert seen == ["38/39 audioset-balanced_train_segments-train: 1 listed clips are not there"]


def test_image_folder_without_test_reports_on_val(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for split, count in (("train", 2), ("val", 1)):
        (tmp_path / split / "n01").mkdir(parents=True)
        for i in range(count):
            picture = image.fromarray(np.full((8, 8, 3), 9, np.uint8))
            picture.save(tmp_path / split / "n01" / f"{i}.png")
    data = ClassifyData("folder_image", str(tmp_path), options={"side": 8})
    assert [len(load_examples(data, s)) for s in ("train", "val", "test")] == [2, 1, 1]
    rows = LazyFeatures(load_examples(data, "train"), FeatureRecipe())
    ((x, y),) = rows.batches(4)
    assert (x.shape, y.tolist(), rows.classes) == ((2, 3, 8, 8), [0, 0], ("n01",))


def test_voicebank_holds_out_speakers(tmp_path: Path) -> None:
    for kind in ("noisy", "clean"):
        for name in ("p226_001", "p230_001", "p287_003"):
            tone(tmp_path / f"{kind}_trainset_28spk_wav" / f"{name}.wav")
        tone(tmp_path / f"{kind}_testset_wav" / "p232_001.wav")
    assert [len(voicebank(tmp_path, s)) for s in ("train", "val", "test")] == [1, 2, 1]
    (tmp_path / "clean_testset_wav/p232_001.wav").unlink()
    with pytest.raises(SpecError, match="the clean file of p232_001"):
        voicebank(tmp_path, "test")


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_idx_files(tmp_path: Path) -> None:
    images = np.arange(5002 * 28 * 28).reshape(5002, 28, 28) % 251
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(5002) % 10)
    train, val = (fashion_mnist(tmp_path, s) for s in ("train", "val"))
    assert (len(train), len(val)) == (2, 5000)
    assert np.array_equal(val.load(0)[..., 0], images[2])
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(path, np.arange(5002) % 11)
    with pytest.raises(SpecError, match="has label 10, its classes are 10"):
        fashion_mnist(tmp_path, "train")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes(200) + whole[5200:])
    with pytest.raises(SpecError, match="not a whole gzipped idx file"):
        fashion_mnist(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SpecError, match="not a whole gzipped idx file"):
        fashion_mnist(tmp_path, "train")
    with pytest.raises(SpecError, match="a Fashion-MNIST file"):
        fashion_mnist(tmp_path, "test")


def test_cifar_binary(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 255, (20, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    for i in range(1, 6):
        rows.tofile(tmp_path / f"data_batch_{i}.bin")
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    train, val = (cifar(tmp_path, s) for s in ("train", "val"))
    assert (len(train), len(val), train.classes[3]) == (90, 10, "c3")
    image = train.load(1)
    assert image.shape == (32, 32, 3)
    assert image[0, 0, 1] == rows[1, 1 + 1024]
    (tmp_path / "data_batch_5.bin").write_bytes(b"cut")
    with pytest.raises(SpecError, match="3 bytes, no multiple of 3073"):
        cifar(tmp_path, "train")


def test_image_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label, value in (("n01", 10), ("n02", 240)):
        (tmp_path / label).mkdir()
        image.fromarray(np.full((40, 60, 3), value, np.uint8)).save(tmp_path / label / "a.png")
    examples = folder_set(tmp_path, side=32)
    assert examples.classes == ("n01", "n02")
    assert examples.load(1).shape == (32, 32, 3)
    assert abs(int(examples.load(1).mean()) - 240) < 3
    (tmp_path / "n03").mkdir()
    with pytest.raises(SpecError, match="n03 has no image file"):
        folder_set(tmp_path)
    (tmp_path / "n03" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SpecError, match=r"broken\.jpg is no image that Pillow reads"):
        folder_set(tmp_path).load(2)


def test_sums(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "SHA256SUMS").write_text(
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  x.txt\n"
    )
    seen: list[tuple[int, int, str]] = []
    assert verify_sums(tmp_path, lambda *a: seen.append(a)) == 1
    assert seen == [(1, 1, "hash of x.txt")]
    (tmp_path / "x.txt").write_text("hallo")
    with pytest.raises(SpecError, match="SHA256SUMS says 2cf24dba5fb0"):
        verify_sums(tmp_path)
    (tmp_path / "x.txt").unlink()
    with pytest.raises(SpecError, match=r"x\.txt is missing, it is listed in SHA256SUMS"):
        verify_sums(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("")
    with pytest.raises(SpecError, match="SHA256SUMS is empty"):
        verify_sums(tmp_path)


def test_real_layouts(data_root: Path) -> None:
    keywords = csv_set(data_root / "keywords/gsc12.csv", "val")
    assert (len(keywords), len(keywords.classes)) == (446, 12)
    assert keywords.load(0).shape == (16_000,)
    sounds = csv_set(data_root / "esc/esc10.csv", "test")
    assert (len(sounds), len(sounds.classes), len(sounds.load(3))) == (80, 10, 80_000)
    assert len(fashion_mnist(data_root / "images", "val")) == 5000
    assert verify_sums(data_root / "images") == 6
