"""Which tests run which line: a pytest plugin that records it, and the map that it writes.

Loaded by `pytest -p covering` with COVERING set to a folder, it traces searchkit/ with coverage.py, one context a test.
A fixture that several tests share is a context of its own: its lines belong to every test that asks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "COVERING"


@dataclass
class Test:
    """seconds: of the test and of the fixtures that are its own. fixtures: the shared ones, by their contexts."""

    __test__ = False  # pytest takes a class of this name for a test

    seconds: float = 0.0
    fixtures: list[str] = field(default_factory=list)
    passed: bool = False


# ── recording, inside pytest ─────────────────────────────────────────────────────────────────────────────────────────


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(VARIABLE) and not config.option.collectonly:
        config.pluginmanager.register(Recorder(Path(os.environ[VARIABLE]), config.rootpath), "covering-recorder")


def _context(fixture: Any) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


class Recorder:
    def __init__(self, folder: Path, root: Path) -> None:
        import coverage

        self.root, self.file = root, folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}.json"
        self.coverage = coverage.Coverage(
            data_file=str(self.file.with_suffix(".coverage")), include=[f"{root}/searchkit/*"], config_file=False
        )
        self.tests: dict[str, Test] = {}
        self.fixture_seconds: dict[str, float] = {}
        self.context = ""
        self.coverage.start()

    def switch(self, context: str) -> str:
        before, self.context = self.context, context
        self.coverage.switch_context(context)
        return before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - private
        shared = [one for many in definitions for one in many if one.scope != "function"]
        test = self.tests[item.nodeid] = Test(fixtures=sorted({_context(one) for one in shared}), passed=True)
        self.switch(item.nodeid)
        started, others = time.monotonic(), sum(self.fixture_seconds.values())
        try:
            return (yield)
        finally:
            test.seconds = time.monotonic() - started - (sum(self.fixture_seconds.values()) - others)
            self.switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        self.tests[item.nodeid].passed &= report.passed
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        name = _context(fixturedef)
        before, started, others = self.switch(name), time.monotonic(), sum(self.fixture_seconds.values())
        try:
            return (yield)
        finally:
            inner = sum(self.fixture_seconds.values()) - others
            own = time.monotonic() - started - inner
            self.fixture_seconds[name] = max(own, self.fixture_seconds.get(name, 0.0))
            self.switch(before)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        if not self.tests:  # the process that only hands tests out
            return
        data, lines = self.coverage.get_data(), {}
        for file in data.measured_files():
            found = {line: [c for c in contexts if c] for line, contexts in data.contexts_by_lineno(file).items()}
            lines[Path(file).relative_to(self.root).as_posix()] = {line: c for line, c in found.items() if c}
        tests = {name: asdict(test) for name, test in self.tests.items()}
        written = {"tests": tests, "fixture_seconds": self.fixture_seconds, "lines": lines}
        self.file.write_text(json.dumps(written))


# ── the map ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


@dataclass
class Covering:
    """lines: by file and line, the contexts that run it. files: the digests of the test files that were recorded."""

    sources: str = ""
    files: dict[str, str] = field(default_factory=dict)
    tests: dict[str, Test] = field(default_factory=dict)
    fixture_seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Covering:
        if not file.exists():
            return cls()
        kept = json.loads(file.read_text())
        tests = {name: Test(**row) for name, row in kept.pop("tests").items()}
        lines = {path: {int(n): set(c) for n, c in rows.items()} for path, rows in kept.pop("lines").items()}
        return cls(**kept, tests=tests, lines=lines)

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(asdict(self), default=sorted))
        os.replace(beside, file)

    def update(self, tree: Path, folder: Path, jobs: int, environment: Mapping[str, str]) -> None:
        """Run the test files that have changed since they were recorded; all of them if a source has changed."""
        sources = digest(*sorted((tree / "searchkit").rglob("*.py")))
        if sources != self.sources:
            vars(self).update(vars(Covering(sources)))
        now = {path.relative_to(tree).as_posix(): digest(path) for path in (tree / "tests").rglob("test_*.py")}
        stale = [path for path, found in now.items() if self.files.get(path) != found]
        self._forget({path for path in self.files if now.get(path) != self.files[path]})
        self.files = now
        if not stale:
            return
        print(f"{len(stale)} test files run under the tracer", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "covering", "-p", "no:cacheprovider"]
        with_paths = {**environment, VARIABLE: str(folder), "PYTHONPATH": str(Path(__file__).parent)}
        if jobs > 1:
            command += ["-n", str(jobs), "--dist", "loadfile"]
        done = subprocess.run([*command, *stale], cwd=tree, env=with_paths, capture_output=True, text=True)
        parts = sorted(folder.glob("*.json"))
        if not parts:
            sys.exit(f"The tests did not run under the tracer:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        for part in parts:
            self._take(json.loads(part.read_text()))

    def _forget(self, files: set[str]) -> None:
        gone = {name for name in self.tests if name.partition("::")[0] in files}
        self.tests = {name: test for name, test in self.tests.items() if name not in gone}
        for rows in self.lines.values():
            for contexts in rows.values():
                contexts -= gone

    def _take(self, part: Mapping[str, Any]) -> None:
        self.tests.update({name: Test(**row) for name, row in part["tests"].items()})
        self.fixture_seconds.update(part["fixture_seconds"])
        for path, rows in part["lines"].items():
            kept = self.lines.setdefault(path, {})
            for line, contexts in rows.items():
                kept.setdefault(int(line), set()).update(contexts)

    def failed(self) -> list[str]:
        return sorted(name for name, test in self.tests.items() if not test.passed)

    def cost(self, *names: str) -> float:
        """Seconds of these tests alone, with the shared fixtures that they need."""
        fixtures = set().union(*(self.tests[name].fixtures for name in names))
        shared = sum(self.fixture_seconds.get(fixture, 0.0) for fixture in fixtures)
        return shared + sum(self.tests[name].seconds for name in names)

    def covers(self, path: str, lines: Sequence[int]) -> Iterator[str]:
        """The tests that pass and run one of these lines, themselves or by a fixture that they share."""
        rows = self.lines.get(path, {})
        contexts = set().union(*(rows.get(line, set()) for line in lines))
        for name, test in self.tests.items():
            if test.passed and (name in contexts or not contexts.isdisjoint(test.fixtures)):
                yield name

    def of_files(self, files: set[str]) -> list[str]:
        return [n for n, test in self.tests.items() if test.passed and n.partition("::")[0] in files]
