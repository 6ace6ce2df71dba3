"""The wheel as a stranger installs it: one name, in an environment of its own, used elsewhere.

The environment sees the dependencies of this one through a path file, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import searchkit

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment with searchkit, and a folder to stand in."""

    python: Path
    folder: Path

    def __call__(self, *words: object, status: int = 0) -> str:
        """A command of the environment; what it printed on stdout."""
        first, *others = map(str, words)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLUMNS": "200"}
        done = subprocess.run(
            [str(self.python.parent / first), *others], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


def source(folder: Path) -> Path:
    """A copy of the checkout: setuptools writes its build folders beside the source."""
    kept = ("pyproject.toml", "README.md", "LICENSE", "cli.py")
    for name in kept:
        shutil.copy(ROOT / name, folder / name)
    for name in ("searchkit", "spaces"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def environment(folder: Path) -> Installed:
    """A new environment without pip that sees this one's packages after its own."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    own = Path(
        subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
    )  # fmt: skip
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "dependencies.pth").write_text("\n".join(shared) + "\n")
    (folder / "elsewhere").mkdir()
    return Installed(python, folder / "elsewhere")


def install(into: Installed, *what: object) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(into.python), "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, *map(str, what)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "-w", str(folder), str(source(tmp_path_factory.mktemp("source")))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = environment(tmp_path_factory.mktemp("installed"))
    install(made, "--force-reinstall", wheel)
    return made


def test_it_installs_one_name_with_every_file(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"searchkit", f"searchkit-{searchkit.__version__}.dist-info"}
    ours = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "searchkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip
    families = {f"searchkit/spaces/{path.name}" for path in (ROOT / "spaces").glob("*.py")}
    assert ours | families <= set(names)
    assert "searchkit/py.typed" in names


def test_its_metadata_say_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    text = archive.read(name).decode()
    for line in (
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Operating System :: MacOS",
        "Classifier: Typing :: Typed",
        "Keywords: ",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.11",
        "Provides-Extra: demo",
    ):
        assert f"\n{line}" in text, line
    assert 'Requires-Dist: mnist1d>=0.0.2; extra == "demo"' in text and "\nRequires-Dist: mnist1d>=0.0.2\n" not in text


def test_the_command_runs_elsewhere(installed: Installed) -> None:
    """A search with the families of the package, and a bundle that verifies."""
    assert installed("python", "-m", "searchkit", "--version").strip() == searchkit.__version__
    assert installed("searchkit", "--version").strip() == searchkit.__version__
    where = installed("python", "-c", "import searchkit; print(searchkit.__file__)").strip()
    assert Path(where).is_relative_to(installed.python.parents[1])
    listed = json.loads(installed("searchkit", "spaces", "--json"))["spaces"]
    assert {row["name"] for row in listed} == set(searchkit.list_spaces())
    told = installed(
        "searchkit", "search", "--space", "cnn", "--trials", 1, "--epochs", 1, "--rungs", 1, "--workers", 1,
        "--recipe", "none", "--json",
    )  # fmt: skip
    assert json.loads(told)["run"] == "cnn-digits-1"
    installed("searchkit", "export", "cnn-digits-1", "--trial", 0, "--to", "bundle")
    assert "verified" in installed("python", "bundle/verify.py")


PROGRAM = """
import searchkit
from searchkit import Result, search
result = search("mlp", [[0.0]], [1], budget={"trials": 1}, recipe="none")
reveal_type(result)
reveal_type(searchkit.search)
reveal_type(result.best.value)
result.bundel
search("mlp", recipee="none")
"""


def test_type_checkers_see_it(installed: Installed) -> None:
    (installed.folder / "program.py").write_text(PROGRAM)
    others = ",".join(f"{name}.*" for name in ("torch", "optuna", "onnx", "sklearn", "jinja2", "sqlalchemy", "rich"))
    (installed.folder / "mypy.ini").write_text(f"[mypy]\n[mypy-{others}]\nfollow_imports = skip\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(installed.folder / "cache"),
         "--python-executable", str(installed.python), "program.py"],
        cwd=installed.folder, capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert 'program.py:5: note: Revealed type is "searchkit.api.result.Result"' in lines, done.stdout
    assert any('program.py:6: note: Revealed type is "def (space:' in line for line in lines), done.stdout
    assert any(line.startswith("program.py:7:") and "float | None" in line for line in lines), done.stdout
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 2 and '"bundel"' in errors[0] and '"recipee"' in errors[1], done.stdout


def test_an_editable_install_finds_the_families_in_the_checkout(tmp_path: Path) -> None:
    made, checkout = environment(tmp_path), tmp_path / "checkout"
    checkout.mkdir()
    install(made, "--no-build-isolation", "-e", source(checkout))
    where = made("python", "-c", "import searchkit; print(searchkit.__file__)").strip()
    assert Path(where) == checkout / "searchkit" / "__init__.py"
    (checkout / "spaces" / "added.py").write_text('"""A family of one\'s own."""\n')
    names = [row["name"] for row in json.loads(made("searchkit", "spaces", "--json"))["spaces"]]
    assert names == sorted({*searchkit.list_spaces(), "added"})


def test_a_checkout_runs_without_an_install(tmp_path: Path) -> None:
    for words in (["cli.py"], ["-m", "searchkit"]):
        done = subprocess.run(
            [sys.executable, *words, "--version"], cwd=source_of(tmp_path), capture_output=True, text=True
        )
        assert done.stdout.strip() == searchkit.__version__, done.stderr


def source_of(folder: Path) -> Path:
    """The copy of the checkout in this folder; made once."""
    return folder if (folder / "cli.py").exists() else source(folder)
