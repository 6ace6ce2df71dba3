"""What holds for the tests themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from slow_list import is_slow

TESTS = Path(__file__).resolve().parent
while not (TESTS / "conftest.py").exists():  # wherever in the tree this file lies
    TESTS = TESTS.parent
FILES = sorted(TESTS.rglob("*.py"))


def imports(source: str) -> set[str]:
    """The first names of the modules that a file imports, and those that a text in it would."""
    tree = ast.parse(source)
    found = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            found |= {b for a, b in zip(words, words[1:], strict=False) if a in ("from", "import")}
    return found


def test_no_test_imports_another() -> None:
    """What several need lies in a module of its own, which a change of a test cannot break."""
    tests = {file.stem for file in FILES if file.stem.startswith("test_")}
    for file in FILES:
        others = imports(file.read_text(encoding="utf-8")) & tests
        assert not others, f"{file.name} imports {sorted(others)}"


TEXT = 'CODE = "from test_x import a"'


@pytest.mark.parametrize(
    "source", ["import test_x", "from test_x import a", "def f():\n    from test_x import *", TEXT]
)
def test_a_planted_import_is_found(source: str) -> None:
    assert "test_x" in imports(source)


def test_every_slow_test_is_there() -> None:
    """A name in slow.txt that no test has any more was renamed; time its file again (benchmarks/slow_tests.py)."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES]
    names = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    listed = (TESTS / "slow.txt").read_text(encoding="utf-8").splitlines()
    assert listed == sorted(set(listed)) and len(listed) > 20
    assert {name.partition("[")[0] for name in listed} <= names


def test_a_slow_test_is_marked(request: pytest.FixtureRequest) -> None:
    listed = frozenset(["test_a", "test_b[x-1]", "test_c[*-2]"])
    for name in ("test_a", "test_a[x]", "test_b[x-1]", "test_c[y-2]", "test_c[x-y-2]"):
        assert is_slow(name, listed)
    for name in ("test_ab", "test_b", "test_b[y-1]", "test_c[x-3]", "test_c[2-x]", "test_d[x-2]"):
        assert not is_slow(name, listed)
    assert request.node.get_closest_marker("slow") is None
