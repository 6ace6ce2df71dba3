"""Would the tests notice? Plants one small fault at a time and runs the tests that own the file.

The faults are those of `mutations`: a comparison, an operator, a constant, a condition, a dropped statement or
argument, a returned default. A sample of them is drawn at a seed, each group of modules having the same share. Each is
planted in a copy of the tree, so that neither a crash nor a kill can harm the checkout. What was found is kept in
build/mutants.json: a second call goes on from there. It runs caught mutants again only if their file has changed, and
survivors only if their file or its tests have.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mutants_report import write_report
from mutations import Mutant, find, is_real

ROOT = Path(__file__).resolve().parents[1]

GROUPS = {
    "search": ("searchkit/search/*.py",),
    "stages": ("searchkit/stages/*.py", "searchkit/pipeline.py", "searchkit/recipes.py"),
    "evaluation": ("searchkit/evaluation/*.py", "searchkit/evidence.py", "searchkit/intervals.py"),
    "train": ("searchkit/train.py", "searchkit/training/*.py"),
    "nn": ("searchkit/nn/*.py", "searchkit/layers*.py", "searchkit/edits.py"),
}
"""The modules by group. The blocks of `nn` are left out: the families' own tests are what runs them."""

MOST_IMPORTERS = 3
"""Test files that import a central module and are not named for it are many: those that use it most count."""

SLOWER = 4.0
"""Times the time of the tests without a fault, after which a mutant counts as caught: it never ends."""

LEAST_SECONDS = 60.0

LEFT_BEHIND = (".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Result:
    """outcome: caught, survived or timed out. by: the test that caught it, or the parts of the tests that it survived.
    source, tests: digests of the mutated file and of the test files."""

    outcome: str
    by: str
    seconds: float
    source: str
    tests: str

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


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def copy_tree(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to, ignore=shutil.ignore_patterns(*LEFT_BEHIND), symlinks=True))


def environment() -> dict[str, str]:
    """No bytecode is written: a mutant of the same size and second would be taken for the file before it."""
    found = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    found.setdefault("SEARCHKIT_DATA", str(ROOT.parent / "shared" / "data"))
    return found


class Trees:
    """Copies of the tree, one a job, each lent to one mutant at a time."""

    def __init__(self, folder: Path, n: int) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.free: SimpleQueue[Path] = SimpleQueue()
        for number in range(n):
            self.free.put(copy_tree(ROOT, folder / f"tree{number}"))

    def run(self, mutant: Mutant | None, tests: Sequence[Path], marked: str, seconds: float) -> tuple[int, str]:
        """pytest's status and the first failure; status -1 after `seconds`."""
        tree = self.free.get()
        file, source = tree / (mutant.path if mutant else "cli.py"), ""
        try:
            if mutant is not None:
                source = (ROOT / mutant.path).read_text(encoding="utf-8")
                file.write_text(mutant.applied(source), encoding="utf-8")
            return self._test(tree, tests, marked, seconds)
        finally:
            if mutant is not None:
                file.write_text(source, encoding="utf-8")
            self.free.put(tree)

    def _test(self, tree: Path, tests: Sequence[Path], marked: str, seconds: float) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-m", marked]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            given = [*command, f"--basetemp={folder}/pytest", *map(str, tests)]
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


PARTS = ("not slow", "slow")
"""The quick tests first; the slow ones for what survives them."""


class Session:
    """What is known, kept on disk after each mutant."""

    def __init__(self, file: Path, trees: Trees, parts: Sequence[str]) -> None:
        self.file, self.trees, self.parts = file, trees, parts
        self.writing = threading.Lock()
        known = json.loads(file.read_text()) if file.exists() else {}
        self.results = {id: Result(**row) for id, row in known.get("results", {}).items()}
        self.baselines: dict[str, list[float]] = known.get("baselines", {})

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        rows = {id: asdict(result) for id, result in sorted(self.results.items())}
        with self.writing:
            beside = self.file.with_suffix(".part")
            beside.write_text(json.dumps({"baselines": dict(self.baselines), "results": rows}, indent=1) + "\n")
            os.replace(beside, self.file)

    def known(self, mutant: Mutant, tests: Sequence[Path]) -> Result | None:
        """A result that still holds: a test that catches a mutant goes on to catch it unless the code has changed."""
        found = self.results.get(mutant.id)
        if found is None or found.source != digest(ROOT / mutant.path):
            return None
        if found.caught or found.by == " and ".join(self.parts) and found.tests == self.digest(tests):
            return found
        return None

    def digest(self, tests: Sequence[Path]) -> str:
        return digest(*(ROOT / test for test in tests))

    def baseline(self, test: Path) -> list[float]:
        """Seconds of the quick and of the slow tests of a file without a fault. Exits if they do not pass."""
        key = f"{test.name} {digest(ROOT / test)} {' and '.join(self.parts)}"
        if key not in self.baselines:
            spent = []
            for marked in PARTS:
                if marked not in self.parts:
                    spent.append(0.0)
                    continue
                started = time.monotonic()
                status, failed = self.trees.run(None, [test], marked, 3600.0)
                seconds = time.monotonic() - started
                if status not in (0, 5):  # 5: there is none of this part
                    sys.exit(f"The tests fail without a fault: {failed or test}.")
                spent.append(0.0 if status == 5 else round(seconds, 1))
            self.baselines[key] = spent
            self.write()
            print(f"{test}: {spent[0]:.0f} s, and {spent[1]:.0f} s of slow tests", flush=True)
        return self.baselines[key]

    def score(self, mutant: Mutant, tests: Sequence[Path]) -> Result:
        started, outcome, by = time.monotonic(), "survived", " and ".join(self.parts)
        for part, marked in enumerate(PARTS):
            quickest_first = sorted(tests, key=lambda test: self.baseline(test)[part])
            here = [test for test in quickest_first if self.baseline(test)[part]]
            if not here:
                continue
            seconds = max(LEAST_SECONDS, SLOWER * sum(self.baseline(test)[part] for test in here))
            status, failed = self.trees.run(mutant, here, marked, seconds)
            if status != 0:
                outcome, by = ("timed out", "") if status == -1 else ("caught", failed)
                break
        digests = digest(ROOT / mutant.path), self.digest(tests)
        return Result(outcome, by, round(time.monotonic() - started, 1), *digests)


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
    parser.add_argument("--fast", action="store_true", help="leave the slow tests out; more mutants survive")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so long")
    asked = parser.parse_args(arguments)
    groups: dict[str, Sequence[str]] = {name: GROUPS[name] for name in asked.groups}
    if asked.modules:
        groups = {"given": asked.modules}
    tests = {file.relative_to(ROOT): uses(file) for file in sorted((ROOT / "tests").rglob("test_*.py"))}
    sample = list(chosen(groups, asked.sample, asked.seed))
    owned = {path: owners(module_name(Path(path)), tests) for path in {mutant.path for _, mutant in sample}}
    ends = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        session = Session(asked.results, Trees(Path(folder), asked.jobs), PARTS[: 1 if asked.fast else 2])
        waiting = [m for _, m in sample if session.known(m, owned[m.path]) is None]
        print(f"{len(sample)} mutants, {len(sample) - len(waiting)} of them known", flush=True)
        for path in sorted({mutant.path for mutant in waiting}):
            if not owned[path]:
                sys.exit(f"No test owns {path}.")
            print(f"{path}: {' '.join(map(str, owned[path]))}", flush=True)
        tests_of_all = sorted({test for mutant in waiting for test in owned[mutant.path]})

        def score(mutant: Mutant) -> tuple[Mutant, Result | None]:
            return mutant, session.score(mutant, owned[mutant.path]) if time.monotonic() < ends else None

        with ThreadPoolExecutor(asked.jobs) as pool:
            try:
                list(pool.map(session.baseline, tests_of_all))
                for done, (mutant, result) in enumerate(pool.map(score, waiting), 1):
                    if result is not None:
                        session.results[mutant.id] = result
                        session.write()
                        print(f"{done}/{len(waiting)} {told(mutant, result)}", flush=True)
            except BaseException:  # Ctrl-C: what was found is kept, what runs is not waited for
                pool.shutdown(wait=False, cancel_futures=True)
                session.trees.close()
                raise
    rows: list[tuple[str, Mutant, Any]] = [(g, m, session.known(m, owned[m.path])) for g, m in sample]
    if asked.report:
        write_report(Path(asked.report), [row for row in rows if row[2] is not None], asked)
    judged = [result for _, _, result in rows if result is not None]
    print(f"{sum(r.caught for r in judged)} of {len(judged)} caught; {len(rows) - len(judged)} were not run")


def told(mutant: Mutant, result: Result) -> str:
    return (
        f"{result.outcome} in {result.seconds:.0f} s: {mutant.path}:{mutant.line} {mutant.where} [{mutant.id}] "
        f"{mutant.kind}: {mutant.before} -> {mutant.after}" + (f" ({result.by})" if result.by else "")
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *given: sys.exit("Terminated."))
    main()
