"""The mutation tester: what it changes and leaves alone, which tests it runs, and a whole run on a small project."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import search_driver

ROOT = Path(search_driver.__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

pytest.importorskip("coverage", reason="the mutation tester needs coverage.py")

import covering  # noqa: E402
import mutants  # noqa: E402
import mutations  # noqa: E402

SOURCE = '''
"""A docstring of 1 word."""
__all__ = ["area"]

LIMIT = 3


def area(width: float, height: float = 2.0, *, scale: int = 1) -> float:
    """Of a rectangle, 2 numbers."""
    if width < 0 and not LIMIT > 4:
        raise ValueError(f"no {width + 1} of {2}")
    assert scale == 1
    print("told", 5)
    total = max(width * height, key=None)
    return total if scale else -total
'''


def changes(source: str) -> list[tuple[str, str, str]]:
    found = mutations.find("a.py", source)
    return [(m.kind, m.before, m.after) for m in found if mutations.is_real(m, source)]


def test_every_kind_of_edit_is_found_and_nothing_that_no_test_should_notice() -> None:
    assert sorted(changes(SOURCE)) == sorted([
        ("constant", "3", "4"),
        ("constant", "2.0", "4.0"),
        ("constant", "1", "2"),
        ("negated condition", "width < 0 and not LIMIT > 4", "not (width < 0 and not LIMIT > 4)"),
        ("boolean", "width < 0 and not LIMIT > 4", "width < 0 or not LIMIT > 4"),
        ("comparison", "width < 0", "width <= 0"),
        ("comparison", "width < 0", "width >= 0"),
        ("constant", "0", "1"),
        ("dropped operator", "not LIMIT > 4", "LIMIT > 4"),
        ("comparison", "LIMIT > 4", "LIMIT >= 4"),
        ("comparison", "LIMIT > 4", "LIMIT <= 4"),
        ("constant", "4", "5"),
        ("dropped statement", 'raise ValueError(f"no {width + 1} of {2}")', "pass"),
        ("arithmetic", "width * height", "width / height"),
        ("dropped argument", "max(width * height, key=None)", "max(width * height, )"),
        ("returned default", "return total if scale else -total", "return 0.0"),
        ("negated condition", "scale", "not (scale)"),
        ("dropped operator", "-total", "total"),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("x = a is not b", ("comparison", "a is not b", "a is b")),
        ("x = a not in b", ("comparison", "a not in b", "a in b")),
        ("x = (a) + (b)", ("arithmetic", "(a) + (b)", "(a) - (b)")),
        ("x = ö + b", ("arithmetic", "ö + b", "ö - b")),
        ("self.x = 'a'", ("dropped statement", "self.x = 'a'", "pass")),
        ("def f() -> list[int]:\n    return xs", ("returned default", "return xs", "return []")),
        ("x = f(a, b=c)", ("dropped argument", "f(a, b=c)", "f(a, )")),
        ("x = [a for a in b if a]", ("negated condition", "a", "not (a)")),
        ("for a in b:\n    if f(a):\n        continue", ("dropped statement", "continue", "pass")),
    ],
)
def test_an_edit_reads_as_it_should(source: str, change: tuple[str, str, str]) -> None:
    assert change in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        "x: Literal[3]",
        "x = 'a' + b",
        "x = zip(a, strict=True)",
        "echo(1 + 2)",
        "if TYPE_CHECKING:\n    import a",
        "@f(1)\nclass A: ...",
    ],
)
def test_what_is_left_alone(source: str) -> None:
    assert changes(source) == []


def test_a_mutants_name_depends_on_neither_path_nor_line_and_is_its_own() -> None:
    here, there = mutations.find("a.py", SOURCE), mutations.find("folder/b.py", "\n\nimport os\n" + SOURCE)
    assert [m.id for m in here] == [m.id for m in there] and len({m.id for m in here}) == len(here)
    twice = mutations.find("a.py", "x = f(1, 1)")
    assert len(twice) == 2 == len({m.id for m in twice})
    for mutant in here:
        assert mutant.applied(SOURCE)[: mutant.start] == SOURCE[: mutant.start]
        assert SOURCE.splitlines()[mutant.line - 1].strip() == mutant.source_line


def test_the_tests_of_a_module_are_those_named_for_it_and_those_that_use_it_most() -> None:
    def used(**counts: int) -> Counter[str]:
        return Counter({name.replace("_", "."): n for name, n in counts.items()})

    tests = {
        Path("tests/search/test_rungs.py"): Counter(),
        Path("tests/test_rungs_golden.py"): Counter(),
        Path("tests/test_search.py"): used(searchkit_search_cost=2),
        Path("tests/a.py"): used(searchkit_search_rungs=1, searchkit_search_cost=9),
        Path("tests/b.py"): used(searchkit_search_rungs=4),
    }
    names = [str(test) for test in mutants.owners("searchkit.search.rungs", tests)]
    assert names == ["tests/search/test_rungs.py", "tests/test_rungs_golden.py", "tests/b.py", "tests/a.py"]
    assert [str(t) for t in mutants.owners("searchkit.search.cost", tests)] == [
        "tests/test_search.py",
        "tests/a.py",
    ]
    assert mutants.owners("searchkit.other", tests) == []
    neighbors = {Path("tests/c.py"): used(searchkit_nn_surgery=1), Path("tests/d.py"): used(searchkit_nn_parts=2)}
    assert [str(test) for test in mutants.owners("searchkit.nn.imported_by_none", neighbors)] == [
        "tests/d.py",
        "tests/c.py",
    ]


def test_what_a_test_file_uses_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "test_a.py"
    file.write_text("from searchkit.search import rungs\nimport json\ndef f():\n    rungs.a(); rungs.b(); json.c()\n")
    assert mutants.uses(file) == {"searchkit.search": 3, "searchkit.search.rungs": 3}


def test_a_statement_is_its_lines_and_a_compound_one_its_head() -> None:
    source = (
        "import a\nx = [\n    1,\n]\ndef f(\n    y=2,\n):\n    if (y and\n        x):\n        return 3\n    return 4\n"
    )
    assert [mutants.statement(source, line) for line in (1, 3, 6, 9, 10, 11)] == [
        range(1, 2), range(2, 5), range(5, 8), range(8, 10), range(10, 11), range(11, 12),
    ]  # fmt: skip


def covered() -> covering.Covering:
    """Line 2 of a.py is run by three tests, by one of them through a shared fixture; no test runs line 3."""
    tests = {
        "tests/test_a.py::slow": covering.Test(5.0, [], True),
        "tests/test_b.py::quick": covering.Test(1.0, [], True),
        "tests/test_b.py::shares": covering.Test(1.0, ["fixture x"], True),
        "tests/test_b.py::fails": covering.Test(1.0, [], False),
        "tests/test_c.py::other": covering.Test(1.0, [], True),
    }
    run = {"tests/test_a.py::slow", "tests/test_b.py::quick", "tests/test_b.py::fails", "fixture x"}
    files = {name: "1" for name in ("tests/test_a.py", "tests/test_b.py", "tests/test_c.py")}
    return covering.Covering("", files, tests, {"fixture x": 2.0}, {"a.py": {2: run}})


def test_a_mutant_meets_the_tests_that_run_its_line_those_of_its_owners_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = covered()
    first, second = (m for m in mutations.find("a.py", "\nx = 1\ny = 2\n"))
    own = [Path("tests/test_a.py")]
    names = ["tests/test_a.py::slow", "tests/test_b.py::quick", "tests/test_b.py::shares"]
    assert mutants.candidates(first, "\nx = 1\ny = 2\n", found, own) == names
    assert mutants.candidates(second, "\nx = 1\ny = 2\n", found, own) == names[:1], "none runs it: its owners'"
    assert mutants.affordable(names, found) == names
    monkeypatch.setattr(mutants, "SECONDS", 7.0)
    assert mutants.affordable(names, found) == names[:2], "a shared fixture has its price"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "searchkit").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "searchkit" / "train.py").write_text("def double(x: int) -> int:\n    return x * 2\n\n\nUNUSED = 7\n")
    (tmp_path / "tests" / "test_train.py").write_text(
        "from searchkit.train import double\n\n\ndef test_double():\n    assert double(3) == 6\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return tmp_path


def test_a_whole_run_counts_what_is_caught_and_keeps_reasons(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (project / "searchkit" / "train.py").read_text()
    report, results = project / "mutants.md", project / "results.json"
    asked = ["--groups", "train", "--sample", "9", "--jobs", "2", "--report", str(report), "--results", str(results)]
    mutants.main(asked)
    assert (project / "searchkit" / "train.py").read_text() == before, "the checkout is touched"
    assert "3 of 4 caught" in capsys.readouterr().out
    page = report.read_text()
    assert "| searchkit/train.py | 4 | 3 | 0 | 1 | 75% |" in page
    assert "| 5 | <module> | constant: `7` → `8` |  |" in page
    reasons = json.loads((project / "mutants_reasons.json").read_text())
    ((id, entry),) = reasons.items()
    assert entry == {"mutant": "<module>: 7 -> 8", "reason": ""}
    (project / "mutants_reasons.json").write_text(json.dumps({id: {**entry, "reason": "nobody reads it"}}))

    def refuse(*given: Any) -> Any:
        raise AssertionError("a known mutant is run again")

    with monkeypatch.context() as patched:
        patched.setattr(mutants.Trees, "run", refuse)
        mutants.main(asked)
    assert "| 5 | <module> | constant: `7` → `8` | nobody reads it |" in report.read_text()
    (project / "tests" / "test_train.py").write_text(
        "from searchkit.train import UNUSED\n\n\ndef test_seven():\n    assert UNUSED == 7\n"
    )
    capsys.readouterr()
    mutants.main(asked)
    out = capsys.readouterr().out
    assert "4 mutants, 3 of them known" in out, "a survivor meets the changed tests, what was caught does not"
    assert "4 of 4 caught" in out


def test_lines_of_a_shared_fixture_belong_to_each_test_that_asks_for_it(project: Path) -> None:
    (project / "tests" / "test_train.py").write_text(
        "import pytest\nfrom searchkit.train import double\n\n\n@pytest.fixture(scope='module')\ndef six():\n"
        "    return double(3)\n\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_six(six, n):\n    assert six == 6\n"
        "def test_fails():\n    assert double(1) == 1\n"
    )
    found, parts = covering.Covering(), project / "parts"
    parts.mkdir()
    found.update(project, parts, 1, mutants.environment())
    tests = [f"tests/test_train.py::test_six[{n}]" for n in (1, 2)]
    assert list(found.covers("searchkit/train.py", [2])) == tests
    assert found.failed() == ["tests/test_train.py::test_fails"]
    assert found.of_files({"tests/test_train.py"}) == tests


def test_a_mutant_that_never_ends_is_caught_by_its_time(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "searchkit" / "train.py").write_text("def count():\n    n = 0\n    while n < 3:\n        n += 1\n")
    (project / "tests" / "test_train.py").write_text(
        "from searchkit.train import count\n\n\ndef test_count():\n    count()\n"
    )
    monkeypatch.setattr(mutants, "LEAST_SECONDS", 3.0)
    test = "tests/test_train.py::test_count"
    known = covering.Covering(files={"tests/test_train.py": "1"}, tests={test: covering.Test(0.1, [], True)})
    session = mutants.Session(project / "r.json", mutants.Trees(project / "build", 1), known)
    (endless,) = [m for m in mutants.draw(project, ["searchkit/*.py"], 99, 0) if m.kind == "dropped statement"]
    assert session.score(endless, [test]).outcome == "timed out"
