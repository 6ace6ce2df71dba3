"""Times every test, one file after the other, and writes the names of those over .3 s to tests/slow.txt.

A test is as slow as its own setup and call and the dearest of the shared fixtures that it uses, for whichever test
comes first has to wait for them. Run it on a quiet machine: `python benchmarks/slow_tests.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLOW = ROOT / "tests" / "slow.txt"
OUT = "SEARCHKIT_TIMES"


class Times:
    """A pytest plugin. fixtures: seconds of each that is shared by several tests. tests: seconds of each without
    those, and the fixtures that it uses."""

    def __init__(self) -> None:
        self.fixtures: dict[str, float] = {}
        self.tests: dict[str, dict[str, Any]] = {}
        self.shared = 0.0  # seconds of shared fixtures within the test at hand

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                seconds = time.perf_counter() - started
                self.fixtures[fixturedef.argname] = max(seconds, self.fixtures.get(fixturedef.argname, 0.0))
                self.shared += seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.shared, started = 0.0, time.perf_counter()
        try:
            return (yield)
        finally:
            seconds = time.perf_counter() - started - self.shared
            self.tests[item.name] = {"seconds": seconds, "fixtures": list(getattr(item, "fixturenames", ()))}

    def pytest_sessionfinish(self) -> None:
        Path(os.environ[OUT]).write_text(json.dumps({"fixtures": self.fixtures, "tests": self.tests}))


def slow_names(times: dict[str, Any], limit: float) -> set[str]:
    """Of one file. Where a quarter of the tests with the same last parameter are slow, all of them count."""
    seconds = {
        name: max([row["seconds"], *(times["fixtures"].get(fixture, 0.0) for fixture in row["fixtures"])])
        for name, row in times["tests"].items()
    }
    slow = {name for name, spent in seconds.items() if spent > limit}
    for short in (by_last, by_function):
        alike = {shown: {name for name in seconds if short(name) == shown} for shown in {short(n) for n in slow}}
        for shown, own in alike.items():
            if len(own) > 1 and 4 * len(own & slow) >= len(own) * (1 if short is by_last else 4):
                slow -= own
                slow |= {shown}
        seconds = {short(name) if short(name) in slow else name: spent for name, spent in seconds.items()}
    return slow


def by_last(name: str) -> str:
    function, bracket, parameters = name.partition("[")
    return f"{function}[*-{parameters.rpartition('-')[2]}" if bracket and "-" in parameters else name


def by_function(name: str) -> str:
    return name.partition("[")[0]


def measure(files: Iterable[Path], limit: float) -> set[str]:
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        environment = {**os.environ, OUT: str(out), "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        for file in files:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "slow_tests", str(file)]
            started = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stdout)
            slow = slow_names(json.loads(out.read_text()), limit)
            print(f"{file.relative_to(ROOT)}: {time.monotonic() - started:.0f} s, {len(slow)} slow names", flush=True)
            found |= slow
    return found


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Times(), "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="[default: all]; only these are timed, the rest is kept")
    parser.add_argument("--seconds", type=float, default=0.3, help="a test that takes longer is slow")
    asked = parser.parse_args()
    files = [file.resolve() for file in asked.files] or sorted((ROOT / "tests").rglob("test_*.py"))
    before = set(SLOW.read_text(encoding="utf-8").splitlines()) if asked.files else set()
    kept = {name for name in before if not any(f"def {name.partition('[')[0]}(" in f.read_text() for f in files)}
    SLOW.write_text("\n".join(sorted(kept | measure(files, asked.seconds))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
