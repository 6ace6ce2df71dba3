"""Details of a search that a whole search does not show: one decision a test, on numbers made up here."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import search_driver
import torch
from optuna.distributions import FloatDistribution
from small_search import settings
from sqlalchemy.exc import IntegrityError, OperationalError

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.interrupt import Interrupted, interruptible
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Limits, Space
from searchkit.core.space_file import load_space, source_of
from searchkit.core.task import Task
from searchkit.core.training import Training
from searchkit.onnx import measure
from searchkit.search import jobs, storage, time_planning
from searchkit.search.asking import Asker
from searchkit.search.candidates import draw
from searchkit.search.choices import at, neighbor
from searchkit.search.coordinator import search
from searchkit.search.cost_model import CostModel
from searchkit.search.executors import Processes
from searchkit.search.fidelity import Pace
from searchkit.search.jobs import Job
from searchkit.search.settings import SearchSettings, Status
from searchkit.search.time_plan import TimePlan
from searchkit.search.time_planning import make_time_plan, middle_candidate, quickest

# ── the study's database ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What each attempt to open the database raises, first one first; None opens it."""
    planned: list[Exception | None] = []

    def opened(url: str, engine_kwargs: Any) -> str:
        problem = planned.pop(0)
        if problem is not None:
            raise problem
        return f"opened {url}"

    monkeypatch.setattr(storage, "RDBStorage", opened)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    return planned


LOST_A_RACE = IntegrityError("create table", {}, Exception("it exists"))
UNREACHABLE = OperationalError("connect", {}, Exception("no such host"))


def test_a_database_that_another_coordinator_creates_at_once_is_opened_again(openings: list[Any]) -> None:
    openings += [LOST_A_RACE] * (storage.OPENINGS - 1) + [None]
    assert storage.open_storage("sqlite:///a.db") == "opened sqlite:///a.db" and not openings


def test_a_database_is_opened_five_times_at_most_and_once_if_it_cannot_be_reached(openings: list[Any]) -> None:
    openings += [LOST_A_RACE] * 7
    with pytest.raises(BadInput, match="cannot be opened .IntegrityError"):
        storage.open_storage("sqlite:///a.db")
    assert len(openings) == 7 - storage.OPENINGS
    openings[:] = [UNREACHABLE, None]
    with pytest.raises(BadInput, match="cannot be opened .OperationalError"):
        storage.open_storage("sqlite:///a.db")
    assert openings == [None]


# ── what one training may take ───────────────────────────────────────────────────────────────────────────────────────


def test_a_candidate_may_have_a_hundredth_of_the_middles_products_however_short_the_time() -> None:
    budget = Budget(trials=5, epochs=1, rungs=1, least_rung_steps=1)
    # nearly all of the training is the task's own work, so the time left for products is negative
    pace = Pace(whole=10.0, of_loss=0.1, macs=50_000, share=1.0)
    plan = time_planning._cheaper(
        TimePlan("fp32", False, 1), pace, 8.0, SearchSettings(budget=budget, precision="fp32"), cheapest=0.01
    )
    assert plan.most_macs == 500


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_was_asked_for_is_used_with_channels_first(
    context: Context, tiny: Space, precision: str
) -> None:
    plan = make_time_plan(tiny, context, settings(precision=precision))
    assert (plan.precision, plan.channels_last) == (precision, False)


def test_settings_are_timed_on_networks_that_are_laid_out_as_they_say(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second network alone is channels last; a table, which has no channels, is timed on the first alone."""
    from searchkit import train

    middle = middle_candidate(tiny, context, epochs=1)
    assert middle is not None
    laid_out: list[bool] = []
    monkeypatch.setattr(train, "channels_last_", lambda net: laid_out.append(True))
    timed: list[tuple[str, bool]] = []

    def step(ctx: Context, net: Any, optimizer: Any, batch: Any, precision: str) -> float:
        timed.append((precision, bool(laid_out)))
        return {"fp32": 1.0, "bf16": 0.5}[precision]

    monkeypatch.setattr(time_planning, "_step_seconds", step)
    choices = (("fp32", False), ("bf16", True))
    assert quickest(tiny, context, middle, choices, rounds=1)[0] == ("fp32", False) and not laid_out
    monkeypatch.setattr(train, "CHANNELS_LAST", {2: torch.channels_last})  # as if a table had channels
    timed.clear()
    assert quickest(tiny, context, middle, choices, rounds=1)[0] == ("bf16", True)
    assert len(laid_out) == 1 and [precision for precision, _ in timed] == ["fp32", "bf16"] * 2
    laid_out.clear()
    assert quickest(tiny, context, middle, (("fp32", False),), rounds=1)[0] == ("fp32", False) and not laid_out


# ── steps of a local search ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("distribution", "start", "scale"),
    [
        (FloatDistribution(1e-5, 1e5, log=True), 1.0, math.log),
        (FloatDistribution(-50.0, 50.0), 0.0, float),
    ],
)
def test_a_step_of_a_number_goes_up_as_often_as_down(distribution: Any, start: float, scale: Any) -> None:
    rng = random.Random(0)
    moved = [scale(neighbor(distribution, start, rng)) for _ in range(2000)]
    assert abs(sum(moved) / 2000) < 0.1 * max(moved) / 3  # of a deviation or so


# ── the cost of a candidate ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_may_just_fit_is_exported_to_know(context: Context, tiny: Space) -> None:
    candidate = draw(tiny, context.task.spec, at(0.5), epochs=1, way="test")
    net = tiny.build(candidate.arch, context.task.spec)
    least = 0.8 * 4 * measure.params(net)
    for limit, known in ((math.ceil(least), False), (math.ceil(least) - 1, True)):
        book = CostModel(tiny, replace(context, limits=Limits(size_bytes=limit)), cost=None, ship_int8=False)
        assert ("size_bytes" in book._counts(net)) is (known and least > limit)
    exact = CostModel(tiny, replace(context, limits=Limits(size_bytes=least)), cost=None, ship_int8=False)  # type: ignore[arg-type]
    assert "size_bytes" not in exact._counts(net)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_is_heard_before_another_candidate_is_asked_for(context: Context) -> None:
    asked: list[object] = []
    proposer: Any = SimpleNamespace(propose=lambda trials, known: asked.append(trials))
    reporter: Any = SimpleNamespace(n_open=lambda: 1, n_trials=1)
    store: Any = SimpleNamespace(trials=list)
    asker = Asker(context, proposer, None, store, TimePlan("fp32", False, 1), reporter, lambda: 1.0)  # type: ignore[arg-type]
    with pytest.raises(Interrupted), interruptible("stopped"):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass  # as Python drops it in a finalizer
        asker.next_trial()
    assert not asked


def test_a_refusal_is_told_with_its_reason(context: Context, tiny: Space) -> None:
    heard: list[Status] = []
    context = replace(context, limits=Limits(params=700))
    search(tiny, context, settings(sampler="random"), progress=heard.append)
    notes = [status.note for status in heard if status.note.startswith("refused before training: params over by ")]
    assert notes and all(note.endswith("%") for note in notes)


def test_only_first_rungs_tell_how_long_a_first_rung_takes(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rung, here ten times as long, would keep the last trials from beginning."""
    from searchkit.search import coordinator, loop

    seen: list[list[float]] = []

    class Slow(coordinator.InProcess):  # type: ignore[name-defined,misc]
        def wait(self, seconds: float) -> list[jobs.Outcome]:
            rung = self.jobs[0].rung
            return [replace(outcome, seconds=10.0 if rung else 1.0) for outcome in super().wait(seconds)]

    class Watched(loop.Loop):
        def run(self, waiting: Any) -> None:
            seen.append(self.first_rungs)
            super().run(waiting)

    monkeypatch.setattr(coordinator, "InProcess", Slow)
    monkeypatch.setattr(coordinator, "Loop", Watched)
    search(tiny, context, settings(sampler="random"))
    assert seen == [[1.0] * 6]


# ── jobs and workers ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (MemoryError(), "out-of-memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 GB"), "out-of-memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "out-of-memory"),
        (torch.OutOfMemoryError("Allocation on device"), "out-of-memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "crashed"),
    ],
)
def test_an_error_of_memory_is_told_from_a_crash(task: Task, tiny: Space, error: Exception, failure: str) -> None:
    def build(arch: Any, spec: Any) -> Any:
        raise error

    candidate = draw(tiny, task.spec, at(0.5), epochs=1, way="test")
    job = Job(0, 0, 1, source_of(tiny), freeze(candidate.arch), freeze(Training()), seed=0)
    assert jobs.run_job(job, task, replace(tiny, build=build)).failure == failure


THREADS = """
import time
from dataclasses import dataclass
from pathlib import Path
import torch
from searchkit import Budget, Infeasible, Space, Training, TrainingSpace

@dataclass(frozen=True)
class Arch:
    asleep: bool

def sample(trial, spec):
    return Arch(trial.suggest_categorical("asleep", [True, False]))

def build(arch, spec):
    while arch.asleep:
        Path(__file__).with_name("begun").touch()
        time.sleep(0.1)
    raise Infeasible(f"{torch.get_num_threads()} threads")

SPACE = Space(name="threads", arch=Arch, accepts=lambda spec: None, sample=sample, build=build,
              training=TrainingSpace(Training()), task="iris", budget=Budget(), paper="none")
"""


@pytest.fixture
def threads(tmp_path: Path) -> Path:
    file = tmp_path / "threads.py"
    file.write_text(THREADS)
    return file


def test_a_worker_trains_on_one_thread(threads: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the environment, which is read on import, says otherwise."""
    monkeypatch.setitem(jobs.WORKER_ENV, "OMP_NUM_THREADS", "2")
    executor = Processes(task.pack(), workers=1)
    try:
        executor.submit(Job(0, 0, 1, source_of(load_space(threads)), {"asleep": False}, freeze(Training()), seed=0))
        while not (outcomes := executor.wait(5.0)):
            pass
        assert outcomes[0].reason == "1 threads"
    finally:
        executor.close()


PARENT = """
import os, sys
from pathlib import Path
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space, source_of
from searchkit.core.training import Training
from searchkit.search.executors import Processes
from searchkit.search.fidelity import Pace
from searchkit.search.jobs import Job
from searchkit.tasks import registry

executor = Processes(registry.load({"task": "iris"}).pack(), workers=1)
executor.submit(Job(0, 0, 1, source_of(load_space(Path(sys.argv[1]))), {"asleep": True}, freeze(Training()), seed=0))
while not Path(sys.argv[1]).with_name("begun").exists():
    executor.wait(0.1)
print(executor.workers[0].process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_worker_does_not_outlive_a_parent_that_was_killed(threads: Path, tmp_path: Path) -> None:
    """Its training goes on without a word to the parent, so the closed socket alone would not end it."""
    errors = tmp_path / "errors"
    with errors.open("w") as file:  # no pipe, which the worker would hold open
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(threads)], cwd=Path(search_driver.__file__).parents[1],
            stdout=subprocess.PIPE, stderr=file, text=True,
        )  # fmt: skip
        assert parent.stdout is not None
        said = parent.stdout.readline()
        assert parent.wait() == -signal.SIGKILL, errors.read_text()
        parent.stdout.close()
    worker, ends = int(said), time.monotonic() + 20
    try:
        while is_running(worker) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not is_running(worker)
    finally:
        if is_running(worker):
            os.kill(worker, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
