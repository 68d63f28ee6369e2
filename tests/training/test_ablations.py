"""Ablations: all 29 experiments exist and build; some run; tables are written and read back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spectral_edge.errors import SpecError
from spectral_edge.training import ablation_saf
from spectral_edge.training.ablation_dsm import _spectrum_sqnr
from spectral_edge.training.ablation_page import load_table, main, results_page
from spectral_edge.training.ablation_saf import TOY, Spectra, si_sdr
from spectral_edge.training.ablations import (
    EXPERIMENTS,
    AblationTable,
    Context,
    Row,
    experiment_ids,
    run_ablation,
)
from spectral_edge.training.clips import toy_noise, toy_speech
from spectral_edge.training.synthetic import toy_se

REGISTER = [*(f"S{i}" for i in range(1, 11)), *(f"D{i}" for i in range(1, 9)),
            *(f"F{i}" for i in range(1, 11)), "X1"]  # fmt: skip


def test_the_register_has_all_29() -> None:
    assert experiment_ids() == REGISTER
    assert len(REGISTER) == 29


@pytest.mark.parametrize("name", REGISTER)
def test_every_experiment_has_variants_with_distinct_labels(name: str) -> None:
    module = import_module(f"spectral_edge.training.{EXPERIMENTS[name].module}")
    labels = [v.label for v in module.variants(name, Context("toy", False))]
    assert len(labels) >= 2
    assert len(set(labels)) == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTER)
def test_every_experiment_runs(name: str) -> None:
    module = import_module(f"spectral_edge.training.{EXPERIMENTS[name].module}")
    labels = [v.label for v in module.variants(name, Context("toy", False))]
    quick = name in ("S5", "D3", "D4") or name[0] == "F"  # w8a8 of the others is the same code
    table = run_ablation(name, seeds=1, effort=0.05, only=[labels[0], labels[-1]], int8=quick)
    assert len(table.rows) == 2
    assert all(-100 < row.mean < 1e5 for row in table.rows)


def test_a_run_is_repeatable_and_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tables = [
        run_ablation(
            "f2", seeds=2, effort=0.1, only=["16x16", "64x4"], out=tmp_path,
            progress=lambda done, total, what: seen.append((done, total)),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert seen[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [r.values for r in tables[0].rows] == [r.values for r in tables[1].rows]
    row = tables[0].rows[1]
    assert (row.label, len(row.values), row.extras) == ("64x4", 2, {"tokens": 24.0})
    assert row.parameters
    assert row.macs
    stored = json.loads((tmp_path / "F2.json").read_text())
    assert stored["rows"][1]["mean"] == row.mean
    with (tmp_path / "F2.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["label"] == "16x16"
    assert "| 64x4 |" in (tmp_path / "F2.md").read_text()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Killed in the middle: finished runs are not done again, and the table is the same."""
    labels = ["16x16", "64x4"]
    whole = run_ablation("F2", seeds=2, effort=0.1, only=labels, out=tmp_path / "whole")

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"F2\.runs\.jsonl has the finished runs, go on"):
        run_ablation("F2", seeds=2, effort=0.1, only=labels, out=tmp_path, progress=stop)
    path = tmp_path / "F2.runs.jsonl"
    kept = path.read_text().splitlines()
    assert len(kept) == 1 + 3
    path.write_text("\n".join([*kept, '{"label": "64x4", "se']))  # cut short by a power failure
    table = run_ablation("F2", seeds=2, effort=0.1, only=labels, out=tmp_path, resume=True)
    after = path.read_text().splitlines()
    assert (after[:4], len(after)) == (kept, 5)
    assert [row.values for row in table.rows] == [row.values for row in whole.rows]
    assert [row.parameters for row in table.rows] == [row.parameters for row in whole.rows]
    assert table.seconds == round(sum(json.loads(line)["seconds"] for line in after[1:]), 1)

    started: list[int] = []
    more = run_ablation("F2", seeds=3, effort=0.1, only=labels, out=tmp_path, resume=True,
                        progress=lambda done, *_: started.append(done))  # fmt: skip
    assert [row.values[:2] for row in more.rows] == [row.values for row in whole.rows]
    assert len(path.read_text().splitlines()) == 7
    run_ablation("F2", seeds=1, effort=0.1, only=labels[:1], out=tmp_path)  # anew without resume
    assert len(path.read_text().splitlines()) == 2


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    run_ablation("F2", seeds=1, effort=0.05, only=["64x4"], out=tmp_path)
    path = tmp_path / "F2.runs.jsonl"
    with pytest.raises(SpecError, match=r"F2\.runs\.jsonl has runs with effort 0\.05, asked for"):
        run_ablation("F2", seeds=1, effort=0.1, only=["64x4"], out=tmp_path, resume=True)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", lines[1]]))
    with pytest.raises(SpecError, match=r"line 2 of .*F2\.runs\.jsonl is no run"):
        run_ablation("F2", seeds=1, effort=0.05, only=["64x4"], out=tmp_path, resume=True)
    path.write_text("something else")
    with pytest.raises(SpecError, match="holds no ablation runs"):
        run_ablation("F2", seeds=1, effort=0.05, only=["64x4"], out=tmp_path, resume=True)
    with pytest.raises(SpecError, match="resume needs out"):
        run_ablation("F2", resume=True)


def test_enhancement_and_int8_column() -> None:
    table = run_ablation("S2", seeds=1, effort=0.03, int8=True, only=["3 bands"])
    assert table.rows[0].int8_delta is not None
    assert table.rows[0].int8_delta > -6.0


@pytest.mark.parametrize("name", ["S6", "S9"])
def test_int8_column_of_denoising(name: str) -> None:
    """Every trained denoiser has the column where it is asked for, also S6 and S9."""
    module = import_module(f"spectral_edge.training.{EXPERIMENTS[name].module}")
    labels = [v.label for v in module.variants(name, Context("toy", True))]
    table = run_ablation(name, seeds=1, effort=0.03, int8=True, only=[labels[0], labels[-1]])
    deltas = [row.int8_delta for row in table.rows]
    assert all(delta is not None and abs(delta) < 3.0 for delta in deltas), deltas
    assert any(deltas)  # the integer form is not the float network again
    assert "--int8" in table.command


def test_real_denoising_has_the_int8_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ablate S9 --preset full --int8` at toy size, on folders as the real ones are laid out."""
    rng = np.random.default_rng(0)
    for name in ("clean_train", "clean_val", "noise_train", "noise_val"):
        (tmp_path / "denoise" / name).mkdir(parents=True)
        make = toy_speech if "clean" in name else lambda r, n, _: toy_noise(r, n)
        for i in range(2):
            wave = make(rng, 16_000, 16_000)
            soundfile.write(tmp_path / "denoise" / name / f"{i}.flac", wave, 16_000)
    small = replace(ablation_saf.FULL, seconds=0.5, train=8, test=2, steps=4, batch=2, channels=8)
    monkeypatch.setattr(ablation_saf, "FULL", small)
    labels = ["mask", "complex mask"]
    arguments = {"preset": "full", "data_root": tmp_path, "only": labels, "out": tmp_path / "out"}
    table = run_ablation("S9", seeds=1, int8=True, **arguments)  # type: ignore[arg-type]
    assert [row.label for row in table.rows] == labels
    assert all(row.int8_delta is not None for row in table.rows)
    assert "int8 delta" in (tmp_path / "out" / "S9-full.md").read_text()
    assert all({"SSNR gain (dB)"} <= set(row.extras) for row in table.rows)


def test_measurements_run_once() -> None:
    table = run_ablation("D5", seeds=3, only=["FFT, 16×16", "FFT, 32×32"])
    assert table.seeds == 1
    assert all(row.mean > 0 for row in table.rows)


def test_mistakes_are_named() -> None:
    with pytest.raises(SpecError, match="experiment is 'S11', must be one of S1, S2"):
        run_ablation("S11")
    with pytest.raises(SpecError, match="must be one of toy, full"):
        run_ablation("S1", preset="tiny")
    with pytest.raises(SpecError, match="'full' needs data_root"):
        run_ablation("S1", preset="full")
    with pytest.raises(SpecError, match="F2 has no variant '4x4'; it has 8x32"):
        run_ablation("F2", only=["4x4"])
    with pytest.raises(SpecError, match="at least 1"):
        run_ablation("F2", seeds=0)


def test_real_data_is_named_in_files_and_command() -> None:
    table = AblationTable("F3", "?", "accuracy", "full", 2, [], 1.0, effort=0.2, audio="esc10")
    assert table.stem == "F3-full-esc10"
    assert table.command == (
        "spectral-edge ablate F3 --preset full --seeds 2 --effort 0.2 --data DATA --audio esc10"
    )
    with pytest.raises(SpecError, match="audio is 'birds', must be one of keywords, esc10"):
        run_ablation("F3", preset="full", data_root="x", audio="birds")


def test_reading_knows_the_spread() -> None:
    def rows(sd: float) -> list[Row]:
        means = {"a": 0.5, "b": 0.9, "c": 0.88}
        return [Row(n, [m, m], m, sd, None, None, None, None, {}) for n, m in means.items()]

    noisy, calm = (AblationTable("D1", "?", "x", "toy", 2, rows(sd), 1.0) for sd in (0.05, 0.001))
    assert noisy.reading() == "Highest: b. Within two standard errors (0.1) of it: c."
    assert "Every other variant is lower" in calm.reading()
    assert AblationTable("X1", "?", "ms", "toy", 1, rows(0.0), 1.0).reading() == ""


def test_text_drops_empty_columns() -> None:
    row = Row("a", [1.0, 2.0], 1.5, 0.5, None, None, None, None, {"x": 3.0})
    table = AblationTable("S1", "why?", "dB", "toy", 2, [row], 1.0)
    text = table.to_text()
    assert "params" not in text
    assert "1.500 ± 0.500" in text


def test_dc_split_and_band_scale_rescue_the_integer_spectrum() -> None:
    """The reason for the int8 recipe: high bands in 8 bits, on 1/f fields."""
    naive, naive_high = _spectrum_sqnr(0, split=False, scaled=False, bits=8)
    both, both_high = _spectrum_sqnr(0, split=True, scaled=True, bits=8)
    print(f"naive {naive:.1f}/{naive_high:.1f} dB, both {both:.1f}/{both_high:.1f} dB")
    assert both > naive + 6
    assert both_high > naive_high + 10


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.3, 0.0])
def test_spectra_come_back(exponent: float) -> None:
    noisy, _ = toy_se(2, seconds=TOY.seconds, sample_rate=TOY.sample_rate)
    wave = torch.from_numpy(noisy)
    spectra = Spectra(TOY, exponent)
    back = spectra.wave(spectra.features(wave)[:, 1:], wave.shape[1])
    assert (si_sdr(back, wave) > 50).all()


def test_page_of_results(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no ablation table"):
        results_page(tmp_path)
    row = Row("a", [1.0], 1.0, 0.0, 10, 20, 0.5, None, {})
    table = AblationTable("S1", "why?", "dB", "toy", 1, [row], 1.0)
    table.write(tmp_path)
    assert load_table(tmp_path / "S1.json") == table
    page = results_page(tmp_path)
    assert "### S1: why?" in page
    assert "our reconstructions" in page
    assert "`spectral-edge ablate S1 --preset toy --seeds 1`: 1 s." in page
    assert "Not run for this page: S2" in page
    assert main([str(tmp_path), "-o", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page
    assert main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "page.md")]) == 2
    (tmp_path / "S2.json").write_text("{}")
    with pytest.raises(SpecError, match=r"S2\.json is no ablation table"):
        results_page(tmp_path)


def test_a_page_keeps_tables_that_the_folder_lacks(tmp_path: Path) -> None:
    """Real tables are made again without the synthetic ones, which stay as they are."""

    def table(name: str, preset: str, audio: str = "", value: float = 1.0) -> AblationTable:
        row = Row("a", [value], value, 0.0, 10, 20, 0.5, None, {})
        return AblationTable(name, "why?", "x", preset, 1, [row], 3600.0, audio=audio)

    old = [table("S1", "toy"), table("F3", "full", "keywords"), table("S9", "full"),
           table("F3", "full", "esc10")]  # fmt: skip
    for one in old:
        one.write(tmp_path / "old")
    page = tmp_path / "page.md"
    assert main([str(tmp_path / "old"), "-o", str(page)]) == 0
    before = page.read_text()
    assert "took about 4.0 hours on one core" in before
    table("F3", "full", "esc10", value=2.0).write(tmp_path / "new")
    table("D1", "full", "keywords").write(tmp_path / "new")
    assert main([str(tmp_path / "new"), "-o", str(page), "--keep", str(page)]) == 0
    after = page.read_text()
    assert "4 tables, 240 minutes in all" in after
    assert [line for line in after.splitlines() if line.startswith("#")] == [
        "# Ablations", "## Synthetic data", "### S1: why?", "## Real data",
        "### S9: why?", "### D1: why?", "### F3: why?", "### F3: why?",
    ]  # fmt: skip
    assert after.count("| a | 2.000 |") == 1
    changed = {line for line in before.splitlines() if line not in after.splitlines()}
    assert len(changed) == 2  # hours of the page, tables of the section
    again = results_page(tmp_path / "old", tmp_path / "new")
    assert again == after
    assert results_page(tmp_path / "new", keep=page) == after
    with pytest.raises(SpecError, match="does not exist: leave keep out"):
        results_page(tmp_path / "old", keep=tmp_path / "none.md")
    (tmp_path / "other.md").write_text("# Something else")
    with pytest.raises(SpecError, match="holds no ablation table"):
        results_page(tmp_path / "old", keep=tmp_path / "other.md")
    (tmp_path / "other.md").write_text("### S1: why?\n\nno command\n")
    with pytest.raises(SpecError, match="without the command that made it"):
        results_page(tmp_path / "old", keep=tmp_path / "other.md")
