"""The C tests and examples, built by plain ``cc``, by CMake, with sanitizers, and for ARM."""

from __future__ import annotations

import os
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.dsp.signals import signal

CC = os.environ.get("CC", "cc").split()[0]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Werror"]
SOURCES = sorted(map(str, (ROOT / "runtimes/c/src").glob("*.c")))
GOLDEN = ROOT / "tests/golden"

pytestmark = pytest.mark.skipif(not shutil.which(CC), reason="no C compiler")


def build(folder: Path, *flags: str, compiler: str = CC) -> dict[str, str]:
    """Compile the core once and both test programs with it; returns their paths."""
    command = [compiler, *STRICT, *flags, f"-I{ROOT}/runtimes/c/include"]
    subprocess.run([*command, "-c", *SOURCES], check=True, cwd=folder)
    objects = [f"{Path(source).stem}.o" for source in SOURCES]
    programs = {}
    for name in ("test_hashes", "test_vectors"):
        source = f"{ROOT}/runtimes/c/test/{name}.c"
        subprocess.run([*command, source, *objects, "-o", name], check=True, cwd=folder)
        programs[name] = str(folder / name)
    return programs


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 77), done.stderr
    return done.stdout


def check_golden(programs: dict[str, str]) -> None:
    for isa in ("scalar", "sse41", "avx2", "neon"):
        said = run(programs["test_hashes"], f"{GOLDEN}/hashes.txt", isa)
        assert said.split()[-1] in ("equal", "CPU")
    for name, cases in (("stft", 3), ("feature", 7)):
        said = run(programs["test_vectors"], f"{GOLDEN}/{name}_vectors.txt")
        assert f"{cases} cases equal" in said


def test_golden_files_in_c(tmp_path):
    check_golden(build(tmp_path, "-O1"))


def test_example_filters_a_wav(tmp_path):
    """The command of the how-to page; without a band the file comes back as it was."""
    command = [CC, *STRICT, "-O1", "-Iinclude", "example/wav_filter.c", *SOURCES]
    program = str(tmp_path / "wav_filter")
    subprocess.run([*command, "-o", program], check=True, cwd=ROOT / "runtimes/c")
    stereo = np.stack([signal(0, 5000), signal(5, 5000)], axis=1) // 2
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(stereo.astype("<i2").tobytes())
    for band in ((), ("300", "3400")):
        run(program, str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), *band)
        with wave.open(str(tmp_path / "out.wav")) as file:
            out = np.frombuffer(file.readframes(9999), "<i2").reshape(-1, 2)
        assert out.shape == stereo.shape
        assert (out == stereo).all() == (not band)
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    done = subprocess.run([program, str(tmp_path / "bad.wav"), str(tmp_path / "o")], check=False)
    assert done.returncode == 1


def build_fuzzer(folder: Path, compiler: str, *flags: str) -> str | None:
    """Path of the fuzz program, None when the compiler cannot make it."""
    program = str(folder / "fuzz_core")
    command = [compiler, *STRICT, "-g", "-O1", "-fno-sanitize-recover=all", *flags]
    command += [f"-I{ROOT}/runtimes/c/include", f"{ROOT}/runtimes/c/test/fuzz_core.c", *SOURCES]
    done = subprocess.run([*command, "-o", program], check=False, capture_output=True)
    return None if done.returncode else program


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
def test_short_fuzz(tmp_path):
    program = build_fuzzer(tmp_path, "clang", "-fsanitize=fuzzer,address,undefined")
    if program is None:
        pytest.skip("clang has no libFuzzer")
    subprocess.run([program, "-max_total_time=10", "-max_len=8192"], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_random_inputs_under_sanitizers(tmp_path):
    """The same target without coverage to guide it, for any compiler."""
    program = build_fuzzer(tmp_path, CC, "-DSE_FUZZ_ALONE", "-fsanitize=address,undefined")
    assert program is not None
    assert "nothing found" in run(program, "5")


@pytest.mark.slow
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_golden_files_in_c_at_other_levels(tmp_path, optimise):
    check_golden(build(tmp_path, optimise))


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    check_golden(build(tmp_path, *flags))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_cmake_and_ctest(tmp_path):
    source = str(ROOT / "runtimes/c")
    run("cmake", "-S", source, "-B", str(tmp_path))
    run("cmake", "--build", str(tmp_path), "-j2")
    assert "100% tests passed" in run("ctest", "--test-dir", str(tmp_path))


@pytest.mark.slow
def test_microcontrollers_need_nothing_but_memory_copies(tmp_path):
    """A Cortex-M4 build: no libm, no allocation, no variables, and the one-instruction product."""
    compiler = "arm-linux-gnueabihf-gcc"
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} or qemu-arm is not installed")
    flags = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-fno-pie", "-O2"]
    command = [compiler, *STRICT, *flags, f"-I{ROOT}/runtimes/c/include", "-c", *SOURCES]
    subprocess.run(command, check=True, cwd=tmp_path)
    objects = sorted(map(str, tmp_path.glob("*.o")))
    lines = [line.split() for line in run("arm-linux-gnueabihf-nm", *objects).splitlines()]
    symbols = [line[-2:] for line in lines if len(line) > 1]
    missing = {name for kind, name in symbols if kind == "U" and not name.startswith("se_")}
    assert missing <= {"memcpy", "memmove", "memset", "__aeabi_ldivmod", "__aeabi_uldivmod"}
    assert not [name for kind, name in symbols if kind in "BbCDd" and not name.startswith("$")]
    code = run("arm-linux-gnueabihf-objdump", "-d", str(tmp_path / "se_kernels_scalar.o"))
    assert "smmulr" in code


ARM = [
    ("aarch64-linux-gnu-gcc", (), ["qemu-aarch64", "-cpu", "cortex-a53"]),
    (
        "arm-linux-gnueabihf-gcc",
        ("-mcpu=cortex-a7", "-mfpu=neon"),
        ["qemu-arm", "-cpu", "cortex-a7"],
    ),
    # no NEON; the frame runs on SMMULR, as on a Cortex-M4
    ("arm-linux-gnueabihf-gcc", ("-march=armv7-a+fp",), ["qemu-arm", "-cpu", "cortex-a7"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags", "emulator"), ARM, ids=["aarch64", "neon", "smmulr"])
def test_golden_hashes_on_arm(tmp_path, compiler, flags, emulator):
    if not shutil.which(compiler) or not shutil.which(emulator[0]):
        pytest.skip(f"{compiler} or {emulator[0]} is not installed")
    programs = build(tmp_path, "-O3", "-static", *flags, compiler=compiler)
    assert "hashes equal" in run(*emulator, programs["test_hashes"], f"{GOLDEN}/hashes.txt", "auto")
    said = run(*emulator, programs["test_vectors"], f"{GOLDEN}/feature_vectors.txt")
    assert "7 cases equal" in said
