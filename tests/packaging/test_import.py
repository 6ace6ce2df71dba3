"""`import searchkit`: what it offers, and that it loads nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import logging
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import searchkit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"torch", "optuna", "numpy", "onnx", "onnxruntime", "sklearn", "typer", "rich", "jinja2", "pandas"}


def modules_after(code: str) -> set[str]:
    """The first names of the modules that a fresh Python has after this code."""
    told = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import searchkit", "import searchkit; dir(searchkit), searchkit.__version__"])
def test_importing_loads_neither_torch_nor_optuna_nor_numpy(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_listing_loads_no_torch() -> None:
    assert "torch" not in modules_after("import searchkit; searchkit.list_spaces(), searchkit.list_tasks()")


def test_every_public_name_is_there_typed_and_documented() -> None:
    """The names for type checkers, those that are loaded, and `__all__` are the same."""
    tree = ast.parse(Path(searchkit.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname: node.module.removeprefix("searchkit.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if alias.asname == alias.name
    }
    assert typed == searchkit._HOMES
    assert searchkit.__all__ == ["__version__", *sorted(typed)]
    assert set(searchkit.__all__) <= set(dir(searchkit))
    for name in typed:
        value = getattr(searchkit, name)
        assert value.__doc__ and value.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = searchkit.serach


@pytest.mark.parametrize(
    "code",
    [
        "import searchkit; searchkit.search; import searchkit.search.settings",
        "import searchkit.search.settings; import searchkit",
        "from searchkit.search.settings import StopSearch; from searchkit import search; import searchkit",
    ],
)
def test_search_is_the_function_whatever_was_imported(code: str) -> None:
    told = f"{code}\nprint(type(searchkit.search).__name__, searchkit.search.__module__)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["function", "searchkit.api.runs"]
    settings = importlib.import_module("searchkit.search.settings")  # the sub-package is found all the same
    assert settings.StopSearch is searchkit.StopSearch


def test_the_logger_is_silent_until_it_is_configured() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("searchkit").handlers)
    told = "import searchkit, logging; logging.getLogger('searchkit').error('a line')"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_the_library_prints_nothing() -> None:
    """Results and progress go through the command line, displays and the logger. Scripts of bundles print."""
    for path in (ROOT / "searchkit").rglob("*.py"):
        if {"cli", "bundle"} & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Name) and node.id == "print"
            assert not named, f"{path.relative_to(ROOT)} line {node.lineno} names print"


def test_the_packages_are_the_folders() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "searchkit").rglob("*.py")
        if "bundle" not in path.parts  # scripts that bundles carry: data of the package
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({*folders, "searchkit.spaces"})
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"searchkit.spaces": "spaces"}


@pytest.mark.parametrize("name", ["torch", "optuna", "torch-pruning", "onnxscript", "onnxruntime"])
def test_a_dependency_with_private_members_in_use_has_a_cap(name: str) -> None:
    wanted = {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}[name]
    assert any(part.operator == "<" for part in wanted.specifier)
    assert wanted.specifier.contains(version(name).partition("+")[0])


def test_extras_say_what_the_sentences_name() -> None:
    """A sentence that says "pip install 'searchkit[x]'" names an extra that there is."""
    import re

    extras = set(PROJECT["project"]["optional-dependencies"])
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "searchkit").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"searchkit\[(\w+)\]", text)}
    assert named and named <= extras


@pytest.mark.parametrize(
    ("package", "task", "says"),
    [("mnist1d.data", "mnist1d", "package mnist1d, which is not installed"),
     ("networkx", "karate", "package networkx, which is not installed")],
)  # fmt: skip
def test_a_packaged_task_whose_package_is_absent_is_a_sentence(
    package: str, task: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchkit.tasks import registry
    from searchkit.tasks.modalities import series

    series._mnist1d.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(searchkit.NotInstalled, match=says):
        registry.load({"task": task})


def test_a_system_without_file_locks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(searchkit.BadInput, match=r"Linux and macOS.*WSL"):
        searchkit.search("mlp", task="iris", runs=tmp_path / "runs", progress="none")
    assert not (tmp_path / "runs").exists()
