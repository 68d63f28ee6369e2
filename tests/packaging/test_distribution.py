"""What is installed is what is in the tree: sdist, wheel from it, and clean environments.

Everything here runs outside the checkout, so that the installed package is what gets tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import wave
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "spectral_edge": "spectral_edge",
    "calibration": "spectral_edge/calibration",
    "converters": "spectral_edge/converters",
    "runtimes": "spectral_edge/runtimes",
}
SHIPPED = {
    ".py", ".yaml", ".json", ".h", ".c", ".md", ".seb", ".pt", ".wav", ".flac", ".jinja", ".typed",
}  # fmt: skip
CONSTRAINTS = ["-c", str(ROOT / "constraints.txt")] if sys.version_info[:2] == (3, 11) else []

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed; a failure shows all of it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} returned {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def tree_files() -> list[Path]:
    """Files of the project, as git sees them, relative to ROOT."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    return sorted(Path(line) for line in listed if (ROOT / line).is_file())


@dataclass(frozen=True)
class Environment:
    """A virtual environment without this project's checkout on any path."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "spectral-edge"

    def install(self, *requirements: object, **environment: str) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", *CONSTRAINTS, *requirements]
        run(*command, cwd=self.folder, **environment)

    def evaluate(self, code: str, warnings: str = "error") -> str:
        """Run code and return the last line that it printed."""
        return run(self.python, "-W", warnings, "-c", code, cwd=self.folder).splitlines()[-1]

    def distributions(self) -> set[str]:
        listed = run(self.python, "-m", "pip", "list", "--format", "json", cwd=self.folder)
        return {entry["name"].lower() for entry in json.loads(listed.splitlines()[0])}


def new_environment(folder: Path) -> Environment:
    venv.create(folder, with_pip=True, symlinks=True)
    return Environment(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without build outputs: building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for path in tree_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((ROOT / path).read_bytes())
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with what it depends on, and nothing else."""
    environment = new_environment(tmp_path_factory.mktemp("bare"))
    environment.install(wheel)
    return environment


def expected_in_wheel() -> set[str]:
    """Where every shipped file of the tree belongs in the wheel."""
    return {
        "/".join([FOLDERS[path.parts[0]], *path.parts[1:]])
        for path in tree_files()
        if path.parts[0] in FOLDERS and (path.suffix in SHIPPED or path.name == "py.typed")
    }


def test_sdist_holds_the_tree(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    left_out = {".gitignore", ".gitattributes"}
    missing = {p.as_posix() for p in tree_files()} - names - left_out
    assert not missing


def test_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/", 1)[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"spectral_edge"}


def test_wheel_is_the_tree(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert not expected_in_wheel() - names, "in the tree and not in the wheel"
    unknown = names - expected_in_wheel() - {"spectral_edge/_native/_core.so"}
    assert {n for n in unknown if not n.endswith("CMakeLists.txt")} == set(), "not from the tree"


def test_wheel_fits_every_python_of_the_platform(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name


def test_bare_install_is_numpy_only(bare: Environment) -> None:
    assert bare.distributions() <= {"numpy", "pip", "setuptools", "spectral-edge"}


def test_bare_install_imports_without_torch(bare: Environment) -> None:
    code = (
        "import sys, spectral_edge as se, spectral_edge.runtimes, spectral_edge.cli\n"
        "assert 'site-packages' in se.__file__, se.__file__\n"
        "print(se.StftFrontend().fingerprint, 'torch' in sys.modules)"
    )
    assert bare.evaluate(code).endswith("False")


def test_bare_names_are_not_importable(bare: Environment) -> None:
    code = (
        "import importlib.util as u\n"
        "print([n for n in ('converters', 'runtimes', 'calibration', 'tests') if u.find_spec(n)])"
    )
    assert bare.evaluate(code) == "[]"


def test_bare_install_has_the_core(bare: Environment) -> None:
    assert bare.evaluate(BACKEND) == "c"


def test_install_without_compiler_falls_back_to_numpy(
    source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("no-compiler")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, source]
    run(*build, cwd=out, CC="/bin/false")
    environment = new_environment(out / "venv")
    environment.install(*out.glob("*.whl"))
    assert environment.evaluate(BACKEND, warnings="ignore") == "numpy"
    with pytest.raises(AssertionError, match=r"the compiled core .* is not built"):
        environment.evaluate(BACKEND)  # the fallback says so


BACKEND = (
    "from spectral_edge import StftFrontend\n"
    "from spectral_edge.dsp.fixed import FrontendStream\n"
    "print(FrontendStream(StftFrontend(), None, None, None).backend)"
)


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What a Raspberry Pi gets: the wheel and one engine."""
    environment = new_environment(tmp_path_factory.mktemp("device"))
    environment.install(f"spectral-edge[litert] @ {wheel.as_uri()}")
    return environment


def test_device_install_has_one_engine(device: Environment) -> None:
    unwanted = {"torch", "torchao", "lightning", "onnx", "onnxruntime", "tensorflow", "scipy"}
    assert not device.distributions() & {*unwanted, "soundfile", "soxr", "rich", "matplotlib"}


def test_device_install_enhances_a_file(device: Environment, tmp_path: Path) -> None:
    bundle = "saf_edge_s.seb"
    noisy = ROOT / "spectral_edge" / "data" / "demo" / "noisy.wav"
    out = tmp_path / "enhanced.wav"
    shipped = device.evaluate(
        "from pathlib import Path; import spectral_edge as se\n"
        f"print(Path(se.__file__).parent / 'zoo' / {bundle!r})"
    )
    run(device.program, "run", shipped, noisy, out, cwd=tmp_path)
    before, after = read_wav(noisy), read_wav(out)
    assert after.shape == before.shape
    assert 0.05 < np.std(after) / np.std(before) < 1.0  # quieter, and not silent


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
