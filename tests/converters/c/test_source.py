"""The text: the same every time, clean under strict warnings, callable from C, free of names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spectral_edge.bundle import Bundle
from spectral_edge.cli import main
from spectral_edge.converters.c import compile_step
from spectral_edge.errors import ConversionError, RuntimeUnfit, SpecError
from spectral_edge.runtimes.rollout import python_environment
from spectral_edge.step_c import bundle_source, write_source
from tests.converters.c.running import STRICT, built, command
from tests.runtimes.tiny import tiny_bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("c") / "tiny.seb")


@pytest.fixture(scope="module")
def content(tiny: Bundle) -> bytes:
    return tiny.member("model.tflite")


def test_the_same_file_gives_the_same_bytes(content: bytes) -> None:
    assert compile_step(content) == compile_step(content)


def test_processes_write_the_same_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    code = (
        "import hashlib, pathlib, sys; from spectral_edge.converters.c import compile_step\n"
        "source = compile_step(pathlib.Path(sys.argv[1]).read_bytes()).source\n"
        "print(hashlib.sha256(source.encode()).hexdigest())"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "model.tflite")]
    seen = {
        subprocess.run(
            line,
            env=python_environment() | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize("flags", [("-O3", "-march=native"), ("-O2",), ("-O0",)])
def test_source_compiles_without_warnings(
    content: bytes, flags: tuple[str, ...], tmp_path: Path
) -> None:
    built(compile_step(content).source, tmp_path, *flags)


def test_source_needs_only_the_c_library(content: bytes) -> None:
    source = compile_step(content).source
    includes = {line for line in source.splitlines() if line.startswith("#include")}
    own = {f"#include <{n}.h>" for n in ("math", "stdint", "string", "immintrin", "arm_neon")}
    assert includes <= own  # the last two belong to the compiler
    assert "malloc" not in source


@pytest.mark.parametrize("prefix", ["", "1a", "a b", "a;b", "ü", "x" * 60])
def test_a_prefix_must_be_an_identifier(content: bytes, prefix: str) -> None:
    with pytest.raises(ConversionError, match="must be a C identifier"):
        compile_step(content, prefix)


def test_names_of_the_file_do_not_get_into_the_source(content: bytes) -> None:
    evil = content.replace(b"features", b'*/"\\n;#{')
    assert evil != content
    source = compile_step(evil).source
    assert source.isascii()
    assert "#{" not in source
    assert "step_input_n(" in source


def test_written_files_work_from_c(tiny: Bundle, tmp_path: Path) -> None:
    written = write_source(tiny, tmp_path / "my-step.c")
    assert written["kernels"] == bundle_source(tiny).kernels
    feed, out = written["inputs"]["features"], written["outputs"]["mask"]
    main_text = (
        '#include "my-step.h"\n#include <stdio.h>\nint main(void)\n{\n'
        f"    static my_step_state s;\n    my_step_init(&s);\n    {feed}(&s)[0] = 3;\n"
        f'    my_step_step(&s);\n    printf("%d\\n", {out}(&s)[0]);\n    return 0;\n}}\n'
    )
    (tmp_path / "main.c").write_text(main_text)
    line = [*command(), *STRICT, "main.c", "my-step.c", "-o", "program", "-lm"]
    subprocess.run(line, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True)
    assert -128 <= int(done.stdout) <= 127


def test_the_verb_writes_both_files(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(tiny.path), "-o", str(tmp_path / "step.c")]) == 0
    assert "step_init(&s);" in capsys.readouterr().out
    assert (tmp_path / "step.h").read_text().startswith("#ifndef STEP_H")
    assert main(["compile", str(tiny.path), "-o", str(tmp_path / "step.txt")]) == 2
    assert "must end in .c" in capsys.readouterr().err


def test_a_bundle_without_tflite_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "onnx.seb", formats=("onnx",))
    with pytest.raises(RuntimeUnfit, match="C is written from tflite"):
        bundle_source(bundle)


def test_a_file_that_cannot_be_written_is_an_error(tiny: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot write"):
        write_source(tiny, tmp_path / "missing" / "step.c")
