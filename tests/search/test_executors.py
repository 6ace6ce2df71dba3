"""The same search in this process, in worker processes and on Ray comes to the same trials, killed workers included."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_driver

from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space, source_of
from searchkit.run import Run
from searchkit.search import executors_ray
from searchkit.search.executors import Executor, InProcess, Processes
from searchkit.search.executors_ray import require_token
from searchkit.search.jobs import Job, Outcome
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.tasks import registry

BUDGET = Budget(trials=5, epochs=2, rungs=2, eta=2, least_rung_steps=1)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra and not installed")


def descendants(pid: int, named: str) -> list[int]:
    """Processes below `pid` whose command line has `named` in it, from /proc."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return [p for p in found - {pid} if named.encode() in commands[p].replace(b"\0", b" ")]


@contextmanager
def killing_one(named: str, when: Callable[[], bool]) -> Iterator[list[int]]:
    """Inside, the first worker that is found after `when` says so is killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and not killed:
            if when():
                for pid in descendants(os.getpid(), named)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def trials_of(run: Run) -> list[tuple[object, ...]]:
    return [(r["number"], r["status"], r["value"], r["rung"], r["params"]) for r in history(run)]


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    return trials_of(search_driver.go(tmp_path_factory.mktemp("inline"), "inline", budget=BUDGET))


@pytest.mark.parametrize(
    ("executor", "named"),
    [("processes", "searchkit.search.worker"), pytest.param("ray", "ray::run_on_ray", marks=needs_ray)],
)
def test_a_killed_worker_loses_no_trial(
    tmp_path: Path, inline: list[tuple[object, ...]], executor: str, named: str
) -> None:
    log = tmp_path / "run" / "search.jsonl"
    with killing_one(named, lambda: log.exists() and log.read_text().count('"dispatch"') >= 3) as killed:
        run = search_driver.go(tmp_path, executor, budget=BUDGET)
    assert len(killed) == 1
    assert trials_of(run) == inline
    assert descendants(os.getpid(), named) == [], "a worker outlived the search"


def test_two_workers_do_the_whole_budget(tmp_path: Path) -> None:
    run = search_driver.go(tmp_path, "processes", budget=BUDGET, workers=2)
    assert [row["status"] for row in history(run)] == ["trained"] * BUDGET.trials
    assert len({tuple(sorted(row["params"].items())) for row in history(run)}) == BUDGET.trials


# ── jobs, one by one ─────────────────────────────────────────────────────────────────────────────────────────────────

FAULTY = """
from dataclasses import dataclass
import os, time
from torch import nn
import torch
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space
from searchkit.core.training import Training, TrainingSpace

@dataclass(frozen=True)
class Arch:
    fault: str

def sample(trial, spec):
    return Arch(trial.suggest_categorical("fault", ["none", "infeasible", "memory", "crash", "die", "hang"]))

class Net(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y * float("nan") if self.fault == "diverge" else y

def build(arch, spec):
    if arch.fault == "infeasible":
        raise Infeasible("too deep for 30 features")
    if arch.fault == "memory":
        raise MemoryError
    if arch.fault == "crash":
        raise RuntimeError("shapes do not match")
    if arch.fault == "die":
        os._exit(9)
    if arch.fault == "hang":
        time.sleep(600)
    net = Net(spec.inputs[0].shape[0], spec.outputs[0].shape[0])
    net.fault = arch.fault
    return net

SPACE = Space(name="faulty", arch=Arch, accepts=lambda spec: None, sample=sample, build=build,
              training=TrainingSpace(Training(batch_size=128)), task="breast-cancer",
              budget=Budget(trials=4, epochs=1, rungs=1), paper="none")
"""


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    path = tmp_path_factory.mktemp("families") / "faulty.py"
    path.write_text(FAULTY)
    space = load_space(path)
    source = source_of(space)
    training = freeze(space.training.default)
    return lambda fault: Job(0, 0, 1, source, {"fault": fault}, training, seed=1)


def run_one(executor: Executor, job: Job) -> Outcome:
    executor.submit(job)
    while not (outcomes := executor.wait(5.0)):
        pass
    return outcomes[0]


@pytest.mark.parametrize(
    ("fault", "failure", "reason"),
    [
        ("none", "", ""),
        ("infeasible", "infeasible", "too deep for 30 features"),
        ("memory", "out-of-memory", "no memory left"),
        ("crash", "crashed", "RuntimeError: shapes do not match"),
        ("diverge", "diverged", "the training loss became nan in epoch 1"),
    ],
)
def test_every_failure_comes_back_labeled(
    make_job: Callable[[str], Job], fault: str, failure: str, reason: str
) -> None:
    job = make_job(fault)
    task = registry.load({"task": "breast-cancer", "split_seed": 0})
    outcome = run_one(InProcess(task, load_space(Path(job.space["path"]))), job)
    assert outcome.failure == failure
    assert reason in outcome.reason
    assert outcome.seconds > 0, "the trial's time is not told"
    if failure == "crashed":
        assert "faulty.py" in outcome.details and "Traceback" in outcome.details


def test_a_dead_worker_is_lost_and_a_hung_one_timed_out(make_job: Callable[[str], Job]) -> None:
    executor = Processes(registry.load({"task": "breast-cancer", "split_seed": 0}).pack(), workers=1)
    try:
        assert run_one(executor, make_job("die")).failure == "lost"
        executor.submit(make_job("hang"))
        assert executor.wait(0.2) == []
        executor.cancel("0-0")
        assert run_one_more(executor).failure == "timed-out"
        assert run_one(executor, make_job("none")).failure == "", "a replaced worker works"
    finally:
        executor.close()


def shifted(values: np.ndarray) -> np.ndarray:
    return values + 1


def reversed_rows(values: np.ndarray) -> np.ndarray:
    return values[::-1]


@pytest.mark.parametrize(
    ("name", "change"), [("input.features", shifted), ("target", reversed_rows), ("rows.train", reversed_rows)]
)
def test_a_worker_of_ray_trains_on_the_task_of_each_job(
    make_job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[..., np.ndarray]
) -> None:
    """Of searches that follow one another in a cluster, whose data differ in their values alone."""
    monkeypatch.setattr(executors_ray, "_unpacked", {})
    found: list[Any] = []

    def run(job: Job, task: Any, space: Any) -> Outcome:
        found.append(task)
        return Outcome(job.key)

    monkeypatch.setattr(executors_ray, "run_job", run)
    monkeypatch.setattr(executors_ray, "settle_threads", lambda threads: None)
    config, arrays = registry.load({"task": "breast-cancer", "split_seed": 0}).pack()
    packs = [(config, arrays), (config, {**arrays, name: change(arrays[name])})]
    for pack in (packs[0], *packs):
        assert executors_ray.run_on_ray(pack, make_job("none")).key == "0-0"
    assert found[0] is found[1], "unpacked again for the second job"
    given = [registry.unpack(*pack).fingerprint for pack in packs]
    assert [task.fingerprint for task in found[1:]] == given and given[0] != given[1]


def run_one_more(executor: Executor) -> Outcome:
    while not (outcomes := executor.wait(5.0)):
        pass
    return outcomes[0]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379", "ray://localhost:10001", "[::1]:6379", "local"])
def test_ray_on_this_machine_needs_no_token(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    require_token(address)


@pytest.mark.parametrize("address", ["10.0.0.7:6379", "ray://head.example:10001", "auto", "0.0.0.0:6379"])
def test_ray_elsewhere_is_refused_without_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(BadInput, match="RAY_AUTH_MODE=token"):
        require_token(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    require_token(address)


@pytest.mark.parametrize(
    "settings",
    [
        {"executor": "inline", "workers": 2},
        {"workers": 0},
        {"executor": "threads"},
        {"sampler": "best"},
        {"minimize": "watts"},
        {"budget": Budget(trials=0)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        SearchSettings(**settings)  # type: ignore[arg-type]
