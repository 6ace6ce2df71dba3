"""What a search costs besides its trainings: many short trials on many workers, against the time of the trials alone.

    python benchmarks/cluster_overhead.py --trials 10000 --seconds 1 --workers 16 [--executor ray] [--profile FILE]

The coordinator is the real one: it proposes with the random sampler, checks costs, stores in SQLite, dispatches,
receives, writes artifacts and tells. Only the training is not: a job sleeps and returns what one real training came to.
With `--executor sleep` the jobs are moments on the clock of this process, so that the coordinator alone is timed; with
`ray` they are Ray tasks that sleep, in worker processes of Ray on this machine. `--clock cpu` counts the processor time
of this process and skips what the workers sleep, so that other programs on the machine do not count; it does not count
waits for the disk, and tells how many there were.

The ideal is `ceil(trials / workers) · seconds`; overhead is the time from the first dispatch to the end of the search,
divided by it, less one. The start (imports, the look at the space, the start of Ray) is told apart.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import math
import os
import platform
import pstats
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from searchkit.context import Context
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space, source_of
from searchkit.run import Run
from searchkit.search import coordinator
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.search.executors_ray import Ray
from searchkit.search.jobs import Job, Outcome, TaskPack, run_job, settle_threads
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.tasks import registry

HERE = Path(__file__).resolve().parent


def of_job(template: Outcome, job: Job, seconds: float) -> Outcome:
    """What a job comes to. The values differ, as those of trainings do."""
    assert template.metrics is not None
    value = 0.5 + (job.number * 7919 % 10007) / 20014
    return replace(template, key=job.key, seconds=seconds, metrics=dict.fromkeys(template.metrics, value))


class Clock:
    """Seconds of the wall, or of this process's work with the sleeps added."""

    def __init__(self, kind: str) -> None:
        self.kind, self.skipped = kind, 0.0

    def now(self) -> float:
        return time.monotonic() if self.kind == "wall" else time.process_time() + self.skipped

    def sleep(self, seconds: float) -> None:
        if self.kind == "wall":
            time.sleep(seconds)
        else:
            self.skipped += seconds


class Sleeping:
    """An executor whose jobs take a fixed time and nothing else."""

    def __init__(self, template: Outcome, workers: int, seconds: float, clock: Clock) -> None:
        self.template, self.capacity, self.seconds, self.clock = template, workers, seconds, clock
        self.due: list[tuple[float, int, Job]] = []
        self.first: float | None = None

    def submit(self, job: Job) -> None:
        now = self.clock.now()
        self.first = now if self.first is None else self.first
        heapq.heappush(self.due, (now + self.seconds, job.number, job))

    def wait(self, seconds: float) -> list[Outcome]:
        if not self.due:
            return []
        self.clock.sleep(min(seconds, max(0.0, self.due[0][0] - self.clock.now())))
        done: list[Outcome] = []
        while self.due and self.due[0][0] <= self.clock.now():
            done.append(of_job(self.template, heapq.heappop(self.due)[2], self.seconds))
        return done

    def cancel(self, key: str) -> None:
        raise AssertionError("nothing hangs")

    def close(self) -> None:
        self.due.clear()


def asleep(pack: TaskPack, job: Job, template: Outcome, seconds: float) -> Outcome:
    """In the place of `run_on_ray`: the task comes from the object store, as ever; the training is a sleep."""
    time.sleep(seconds)
    return of_job(template, job, seconds)


class SleepingOnRay(Ray):
    """Ray's executor, whose tasks sleep."""

    def __init__(self, pack: TaskPack, template: Outcome, workers: int, seconds: float) -> None:
        super().__init__(pack, workers=workers)
        task, whole = self.ray.remote(max_retries=0, num_cpus=1)(asleep), self.ray.put(template)
        # every worker process has started before the first trial is timed
        self.ray.get([task.remote(self.pack, Job(0, 0, 1, {}, {}, {}, 0), whole, 1.0) for _ in range(workers)])
        self.task, self.whole, self.each, self.first = task, whole, seconds, None

    def submit(self, job: Job) -> None:
        self.first = time.monotonic() if self.first is None else self.first
        self.jobs[self.task.remote(self.pack, job, self.whole, self.each)] = job


def go(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    space = load_space(Path(arguments.space))
    task = registry.load({"task": arguments.task, "split_seed": 0})
    run = Run.create(root, "overhead", {})
    context = Context(run, task, lambda name: space, seed=7, echo=lambda line: None)
    middle = draw(space, task.spec, at(0.5), epochs=1, way="middle").plain
    job = Job(0, 0, 1, source_of(space), middle["arch"], middle["training"], seed=1)
    template = run_job(job, task, space)
    assert not template.failure, template.reason
    budget = Budget(trials=arguments.trials, epochs=1, rungs=1, eta=2, least_rung_steps=1)
    settings = SearchSettings(
        budget=budget,
        sampler="random",
        minimize="params",
        workers=arguments.workers,
        executor="ray" if arguments.executor == "ray" else "processes",
        precision="fp32",
    )
    made: list[Any] = []

    def open_executor(*_: Any) -> Any:
        if arguments.executor == "ray":
            made.append(SleepingOnRay(task.pack(), template, arguments.workers, arguments.seconds))
        else:
            made.append(Sleeping(template, arguments.workers, arguments.seconds, clock))
        return made[0]

    coordinator._open_executor = open_executor
    clock, waits = Clock(arguments.clock), count_waits()
    began, worked = clock.now(), time.process_time()
    coordinator.search(space, context, settings)
    ended, worked = clock.now(), time.process_time() - worked
    rows = history(run)
    trained = [row for row in rows if row["status"] == "trained"]
    assert len(trained) == arguments.trials == len({row["artifact"] for row in trained})
    ideal = math.ceil(arguments.trials / arguments.workers) * arguments.seconds
    searched = ended - made[0].first
    return {
        "trials": arguments.trials,
        "workers": arguments.workers,
        "seconds_a_trial": arguments.seconds,
        "executor": arguments.executor,
        "clock": arguments.clock,
        "start_seconds": round(made[0].first - began, 1),
        "ideal_seconds": round(ideal, 1),
        "seconds": round(searched, 1),
        "overhead": round(searched / ideal - 1, 4),
        "coordinator_cpu_ms_a_trial": round(1000 * worked / arguments.trials, 1),
        "fsyncs_a_trial": round(waits["fsync"] / arguments.trials, 1),
        "commits_a_trial": round(waits["commit"] / arguments.trials, 1),
    }


def count_waits() -> Counter[str]:
    """Count from now on how often this process waits for the disk."""
    found: Counter[str] = Counter()
    fsync = os.fsync

    def counted(handle: int) -> None:
        found["fsync"] += 1
        fsync(handle)

    os.fsync = counted
    event.listen(Engine, "commit", lambda connection: found.update(commit=1))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default=str(HERE.parent / "spaces" / "mlp.py"))
    parser.add_argument("--task", default="breast-cancer")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--executor", choices=("sleep", "ray"), default="sleep")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--runs", default=None, help="folder for the run (default: a temporary one)")
    parser.add_argument("--profile", default=None, help="write where the seconds of the coordinator go to this file")
    parser.add_argument("--out", default=None, help="write the result to this file of JSON")
    arguments = parser.parse_args()
    settle_threads(1)
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory(dir=arguments.runs) as folder:
        if arguments.profile:
            profiler.enable()
        result = go(Path(folder), arguments)
        profiler.disable()
    if arguments.profile:
        with Path(arguments.profile).open("w") as file:
            pstats.Stats(profiler, stream=file).sort_stats("cumulative").print_stats(70)
    found = {
        "command": " ".join(["python", "benchmarks/cluster_overhead.py", *sys.argv[1:]]),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
        **result,
    }
    print(json.dumps(found, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
