"""Would the tests notice? Plants one small fault at a time and runs the tests that run its line.

The faults are those of `mutations`: a comparison, an operator, a constant, a condition, a dropped statement or
argument, a returned default. A sample of them is drawn at a seed, each group of modules having the same share. Each is
planted in a copy of the tree, so that neither a crash nor a kill can harm the checkout.

First the suite runs once under coverage.py, which tells for each test the lines that it runs (see `covering`); after
that only changed test files do. A mutant meets the tests that run its statement: first those of the files that own the
module, the quickest first, until SECONDS of tests are chosen. Where no test runs the statement (a constant of a module
is read on import, a worker is a process of its own), all tests of the files that own the module are in question.

What was found is kept in build/mutants.json: a second call goes on from there. It runs caught mutants again only if
their file's code has changed, and survivors only against the test files that have changed.

    python benchmarks/mutants.py --sample 400 --jobs 2
    python benchmarks/mutants.py --modules searchkit/train.py --sample 40 --report ""

Tests own a module by convention: those named test_<module>.py or test_<module>_….py wherever they lie, those named so
for its package if there are none, and the few that import it and use it most.
Survivors that no test can or should catch get a reason in reports/reference/mutants_reasons.json.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from covering import Covering
from mutants_report import write_report
from mutations import Mutant, find, is_real

ROOT = Path(__file__).resolve().parents[1]

GROUPS = {
    "search": ("searchkit/search/*.py",),
    "stages": ("searchkit/stages/*.py",),
    "evaluation": ("searchkit/evaluation/*.py",),
    "train": ("searchkit/train.py",),
    "nn": ("searchkit/nn/*.py",),
}
"""The modules by group. The blocks of `nn` are left out: the families' own tests are what runs them."""

MOST_IMPORTERS = 3
"""Test files that import a central module and are not named for it are many: those that use it most count."""

SECONDS = 30.0
"""Of tests that a mutant meets at most, as they were timed under the tracer."""

SLOWER = 3.0
"""Times the seconds of its tests, after which a mutant counts as caught: it never ends."""

LEAST_SECONDS = 120.0

LEFT_BEHIND = (".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Result:
    """outcome: caught, survived or timed out. by: the test that caught it. source: digest of the mutated file's code.
    tests: the digests of the test files whose tests it survived."""

    outcome: str
    by: str
    seconds: float
    source: str
    tests: dict[str, str] = field(default_factory=dict)

    @property
    def caught(self) -> bool:
        return self.outcome != "survived"


# ── which tests own which module ─────────────────────────────────────────────────────────────────────────────────────


def module_name(path: Path) -> str:
    """searchkit/search/sampler.py -> searchkit.search.sampler; a package's __init__.py is the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def uses(file: Path) -> Counter[str]:
    """The modules that a test file imports, inside functions too, and how often it uses what it has from each: of
    `from a import b` both a and a.b are used where b is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    meant: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meant.setdefault((alias.asname or alias.name).split(".")[0], set()).add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                named = {node.module, f"{node.module}.{alias.name}"}
                meant.setdefault(alias.asname or alias.name, set()).update(named)
    names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    found: Counter[str] = Counter()
    for name, modules in meant.items():
        found.update({module: 1 + names[name] for module in modules if module.startswith("searchkit")})
    return found


def is_named_for(test: Path, module: str) -> bool:
    last = module.rpartition(".")[2]
    return test.stem == f"test_{last}" or test.stem.startswith(f"test_{last}_")


def owners(module: str, tests: dict[Path, Counter[str]]) -> list[Path]:
    """The test files that own a module. tests: see `uses`."""
    package = module.rpartition(".")[0]
    named = [test for test in tests if is_named_for(test, module)]
    if not named and "." in package:
        named = [test for test in tests if is_named_for(test, package)]
    others = [test for test in tests if tests[test][module] and test not in named]
    others.sort(key=lambda test: (-tests[test][module], test))
    if not named and not others and "." in package:  # what only its neighbors import is run by the tests of these
        used = {test: sum(n for name, n in tests[test].items() if name.startswith(f"{package}.")) for test in tests}
        others = sorted((test for test in tests if used[test]), key=lambda test: (-used[test], test))
    return sorted(named) + others[:MOST_IMPORTERS]


def statement(source: str, line: int) -> range:
    """The lines of the innermost statement at a line; of a compound one its head alone."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):  # outer ones come first
        if not isinstance(node, ast.stmt) or not node.lineno <= line <= (node.end_lineno or 0):
            continue
        body = getattr(node, "body", None)
        end = (body[0].lineno - 1 if body else node.end_lineno) or line
        if node.lineno <= line <= max(end, node.lineno):
            found = range(node.lineno, max(end, node.lineno) + 1)
    return found


def candidates(mutant: Mutant, source: str, covering: Covering, owning: Sequence[Path]) -> list[str]:
    """The tests that a mutant may meet, in their order: see the module's docstring."""
    files = {file.as_posix() for file in owning}
    found = list(covering.covers(mutant.path, statement(source, mutant.line))) or covering.of_files(files)
    return sorted(found, key=lambda name: (name.partition("::")[0] not in files, covering.cost(name)))


def affordable(found: Sequence[str], covering: Covering) -> list[str]:
    """The first of the tests, as many as SECONDS hold; one at least."""
    chosen: list[str] = []
    for name in found:
        if not chosen or covering.cost(*chosen, name) <= SECONDS:
            chosen.append(name)
    return chosen


# ── the sample ───────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(root: Path, patterns: Sequence[str], n: int, seed: int) -> list[Mutant]:
    """n mutants of these files. Each has a place in the order by its own digest: an edit elsewhere does not move it."""
    found: list[tuple[str, Mutant, str]] = []
    for file in sorted({file for pattern in patterns for file in root.glob(pattern)}):
        source = file.read_text(encoding="utf-8")
        for mutant in find(file.relative_to(root).as_posix(), source):
            place = hashlib.sha256(f"{seed} {mutant.id}".encode()).hexdigest()
            found.append((place, mutant, source))
    chosen: list[Mutant] = []
    for _, mutant, source in sorted(found, key=lambda one: one[0]):
        if len(chosen) == n:
            break
        if is_real(mutant, source):
            chosen.append(mutant)
    return chosen


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def code(file: Path) -> str:
    """A digest of the code: it is the same after a comment was added."""
    return hashlib.sha256(ast.dump(ast.parse(file.read_text(encoding="utf-8"))).encode()).hexdigest()[:12]


def copy_tree(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to, ignore=shutil.ignore_patterns(*LEFT_BEHIND), symlinks=True))


def environment() -> dict[str, str]:
    """No bytecode is written: a mutant of the same size and second would be taken for the file before it."""
    found = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    found.setdefault("SEARCHKIT_DATASETS", str(ROOT.parent / "shared" / "data"))
    return found


class Trees:
    """Copies of the tree, one a job, each lent to one mutant at a time."""

    def __init__(self, folder: Path, n: int) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.free: SimpleQueue[Path] = SimpleQueue()
        for number in range(n):
            self.free.put(copy_tree(ROOT, folder / f"tree{number}"))

    def run(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> tuple[int, str]:
        """pytest's status and the first failure; status -1 after `seconds`."""
        tree = self.free.get()
        file = tree / mutant.path
        source = file.read_text(encoding="utf-8")
        try:
            file.write_text(mutant.applied(source), encoding="utf-8")
            return self._test(tree, tests, seconds)
        finally:
            file.write_text(source, encoding="utf-8")
            self.free.put(tree)

    def _test(self, tree: Path, tests: Sequence[str], seconds: float) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            given = [*command, f"--basetemp={folder}/pytest", *tests]
            process = subprocess.Popen(
                given, cwd=tree, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            self.running.add(process)
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                return -1, ""
            finally:
                self.running.discard(process)
                end(process)
        failed = next((line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
        return process.returncode, failed.partition(" - ")[0].removeprefix("FAILED ").removeprefix("ERROR ")

    def close(self) -> None:
        for process in list(self.running):
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """The tests, and the workers that they may have started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Session:
    """What is known, kept on disk after each mutant."""

    def __init__(self, file: Path, trees: Trees, covering: Covering) -> None:
        self.file, self.trees, self.covering = file, trees, covering
        self.writing = threading.Lock()
        rows = json.loads(file.read_text()) if file.exists() else {}
        self.results = {id: Result(**row) for id, row in rows.items()}

    def keep(self, mutant: Mutant, result: Result) -> None:
        with self.writing:
            self.results[mutant.id] = result
            self.file.parent.mkdir(parents=True, exist_ok=True)
            rows = {id: asdict(result) for id, result in sorted(self.results.items())}
            beside = self.file.with_suffix(".part")
            beside.write_text(json.dumps(rows, indent=1) + "\n")
            os.replace(beside, self.file)

    def known(self, mutant: Mutant) -> Result | None:
        """A result of the same code: a test that caught a mutant catches it again."""
        found = self.results.get(mutant.id)
        return found if found is not None and found.source == code(ROOT / mutant.path) else None

    def waiting(self, mutant: Mutant, tests: Sequence[str]) -> list[str]:
        """Those of its tests that have not judged it yet."""
        found = self.known(mutant)
        if found is None:
            return list(tests)
        if found.caught:
            return []
        files = {test: test.partition("::")[0] for test in tests}
        return [test for test in tests if found.tests.get(files[test]) != self.covering.files[files[test]]]

    def score(self, mutant: Mutant, tests: Sequence[str]) -> Result:
        started, before = time.monotonic(), self.known(mutant)
        limit = max(LEAST_SECONDS, SLOWER * self.covering.cost(*tests))
        status, failed = self.trees.run(mutant, tests, limit)
        outcome = {0: "survived", -1: "timed out"}.get(status, "caught")
        survived = {file: self.covering.files[file] for file in {test.partition("::")[0] for test in tests}}
        if before is not None:
            survived = {**before.tests, **survived}
        seconds = round(time.monotonic() - started, 1)
        return Result(outcome, failed, seconds, code(ROOT / mutant.path), survived if status == 0 else {})


def chosen(groups: dict[str, Sequence[str]], n: int, seed: int) -> Iterator[tuple[str, Mutant]]:
    share, more = divmod(n, len(groups))
    for number, (group, patterns) in enumerate(groups.items()):
        for mutant in draw(ROOT, patterns, share + (number < more), seed):
            yield group, mutant


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="mutants in all, e.g. 400")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once; each has a copy of the tree")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=[*GROUPS], help="groups of modules")
    parser.add_argument("--modules", nargs="*", help="files or patterns in place of the groups")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.json", help="what is known so far")
    parser.add_argument("--report", default=str(ROOT / "reports" / "reference" / "mutants.md"), help="'' writes none")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so long")
    asked = parser.parse_args(arguments)
    groups: dict[str, Sequence[str]] = {name: GROUPS[name] for name in asked.groups}
    if asked.modules:
        groups = {"given": asked.modules}
    tests = {file.relative_to(ROOT): uses(file) for file in sorted((ROOT / "tests").rglob("test_*.py"))}
    sample = list(chosen(groups, asked.sample, asked.seed))
    owned = {path: owners(module_name(Path(path)), tests) for path in {mutant.path for _, mutant in sample}}
    for path in sorted(owned):
        if not owned[path]:
            sys.exit(f"No test owns {path}.")
    ends = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = Trees(Path(folder), asked.jobs)
        covering = recorded(asked.results.with_name("covering.json"), trees, Path(folder), asked.jobs)
        session = Session(asked.results, trees, covering)
        work: list[tuple[Mutant, list[str]]] = []
        for _, mutant in sample:
            source = (ROOT / mutant.path).read_text(encoding="utf-8")
            waiting = session.waiting(mutant, candidates(mutant, source, covering, owned[mutant.path]))
            if waiting:
                work.append((mutant, affordable(waiting, covering)))
        print(f"{len(sample)} mutants, {len(sample) - len(work)} of them known", flush=True)

        def score(one: tuple[Mutant, list[str]]) -> tuple[Mutant, Result | None]:
            mutant, waiting = one
            if time.monotonic() >= ends:
                return mutant, None
            result = session.score(mutant, waiting)
            session.keep(mutant, result)
            return mutant, result

        with ThreadPoolExecutor(asked.jobs) as pool:
            try:
                for done, future in enumerate(as_completed([pool.submit(score, one) for one in work]), 1):
                    mutant, result = future.result()
                    if result is not None:
                        print(f"{done}/{len(work)} {told(mutant, result)}", flush=True)
            except BaseException:  # Ctrl-C: what was found is kept, what runs is not waited for
                pool.shutdown(wait=False, cancel_futures=True)
                trees.close()
                raise
    rows: list[tuple[str, Mutant, Any]] = [(group, mutant, session.known(mutant)) for group, mutant in sample]
    if asked.report:
        write_report(Path(asked.report), [row for row in rows if row[2] is not None], asked)
    judged = [result for _, _, result in rows if result is not None]
    print(f"{sum(r.caught for r in judged)} of {len(judged)} caught; {len(rows) - len(judged)} were not run")


def recorded(file: Path, trees: Trees, folder: Path, jobs: int) -> Covering:
    """Which tests run which line, brought up to date."""
    covering = Covering.read(file)
    tree, parts = trees.free.get(), folder / "covering"
    parts.mkdir()
    covering.update(tree, parts, jobs, environment())
    trees.free.put(tree)
    covering.write(file)
    for name in covering.failed():
        print(f"left out, it does not pass under the tracer: {name}", flush=True)
    return covering


def told(mutant: Mutant, result: Result) -> str:
    return (
        f"{result.outcome} in {result.seconds:.0f} s: {mutant.path}:{mutant.line} {mutant.where} [{mutant.id}] "
        f"{mutant.kind}: {mutant.before} -> {mutant.after}" + (f" ({result.by})" if result.by else "")
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *given: sys.exit("Terminated."))
    main()
