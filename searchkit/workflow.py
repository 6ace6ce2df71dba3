"""The whole line: from a question to a verified bundle, and every shorter way through it.

A question is all that a user asks, as plain data; it is written to the run before any work. What answers it reads the
run and does what is not there yet, and so is the same code for a new run and a resumed one.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from searchkit import __version__
from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import brief
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput
from searchkit.core.files import copy_folder
from searchkit.core.interrupt import interruptible
from searchkit.core.run_files import Clock as ClockFile
from searchkit.core.run_files import RunFile
from searchkit.core.scratch import scratch_folder
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.core.space import Budget, Limits, Space
from searchkit.core.task import Task
from searchkit.core.typed import Range
from searchkit.data.source import Source
from searchkit.run import Run
from searchkit.stages import recipes

if TYPE_CHECKING:
    from searchkit.search.settings import Progress, SearchSettings

SEARCH_SHARE = 0.65
"""Of a time budget, where stages follow the search and their fixed costs leave so much."""

LEAST_SEARCH_SHARE = 0.3

STAGES_SECONDS = 40.0
"""What the stages take without any training: exports, parity, candidates."""

EVIDENCE_SECONDS = 45.0
"""Kept back for scoring the line on test, its latency in five fresh processes, the bundle and the report."""

CLOCK = "clock.json"

TICK_SECONDS = 1.0


@dataclass(frozen=True)
class RunConfig:
    """What the user asked, all of it."""

    space: str  # a name, or the path of a family's file
    source: dict[str, JSON]  # what tasks.load takes
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    wish: recipes.CompressionConfig = field(default_factory=recipes.CompressionConfig)
    recipe: str = "compact"
    sampler: str = "tpe"
    minimize: str | None = "params"
    seed: int = 0
    workers: Annotated[int | None, Range(1)] = None  # None: as many as the machine has use for
    executor: str = "processes"
    address: str | None = None
    storage: str | None = None
    device: str = "auto"
    fixed_epochs: bool = False  # whether the user chose the budget's epochs

    @classmethod
    def parse(cls, plain: Mapping[str, JSON], *, file: str = "the question") -> RunConfig:
        """The inverse of `plain`. file: what it was read from. Raises BadInput, naming the file and the field."""
        whole, budget = dict(plain), plain.get("budget")
        if isinstance(budget, Mapping) and "seconds" in budget and budget["seconds"] is None:
            whole["budget"] = {**budget, "seconds": math.inf}
        found = thaw(cls, whole, file=file, whole=True)
        if found.recipe not in recipes.NAMES:
            raise BadInput(
                f"In {file}, the field 'recipe' is '{brief(found.recipe)}', not one of {', '.join(recipes.NAMES)}."
            )
        try:
            Source.parse(found.source)
        except BadInput as problem:
            raise BadInput(f"In {file}, the field 'source' cannot be used: {problem}") from problem
        return found

    def plain(self) -> dict[str, JSON]:
        """As JSON: an endless budget is null."""
        found: dict[str, JSON] = freeze(self)
        if math.isinf(self.budget.seconds):
            found["budget"]["seconds"] = None
        return found


Spaces = Callable[[str], Space]
Echo = Callable[[str], None]


def start(question: RunConfig, task: Task, *, root: Path, name: str, command: list[str]) -> Run:
    """A new run on disk with its question. Raises BadInput where one of that name exists."""
    from searchkit.search.storage import without_password

    question = replace(question, workers=question.workers or default_workers(pick_device(question.device)))
    config = {
        "question": question.plain(),
        "task": {"name": task.name, "fingerprint": task.fingerprint, "summary": task.summary()},
        "command": [without_password(word) for word in command],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {p: version(p) for p in ("torch", "optuna", "torch-pruning", "onnx", "onnxruntime", "numpy")}
        | {"searchkit": __version__, "python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": cores(), "system": platform.system()},
    }
    return Run.create(root, name, config, splits=task.splits())


def reopen(run: Run, task: Task) -> RunConfig:
    """The question of a run, checked against the data as they are now. Raises BadInput where they changed."""
    thaw(RunFile, run.config, file=run.named("run.json"))
    stored = run.config["task"]["fingerprint"]
    rows_then, rows_now = ({split: rows.tolist() for split, rows in s.items()} for s in (run.splits(), task.splits()))
    if task.fingerprint != stored:  # of the values and the splits
        what = "the splits are the same, the values are not" if rows_then == rows_now else "the splits are others"
        raise BadInput(
            f"The data of the run '{run.name}' have changed since it began: {what} (fingerprint {stored} then, "
            f"{task.fingerprint} now); put the data back, or start a new run."
        )
    question = question_of(run)
    try:
        pick_device(question.device)
        settings_of(question)
    except BadInput as problem:
        raise BadInput(f"In {run.named('run.json', 'question')}: {problem}") from problem
    return question


def question_of(run: Run) -> RunConfig:
    """The question of a run, of which every field of run.json is checked. Raises BadInput."""
    thaw(RunFile, run.config, file=run.named("run.json"))
    return RunConfig.parse(run.config["question"], file=run.named("run.json", "question"))


def require_startable(question: RunConfig, reports: Path) -> None:
    """What can be refused is refused before there is a run. Raises BadInput."""
    from searchkit.search.storage import open_storage

    pick_device(question.device)
    settings_of(question)
    if question.executor == "ray":
        from searchkit.search.executors_ray import require_ray

        require_ray(question.address)
    if question.storage is not None:
        open_storage(question.storage)
    if question.recipe != "none":
        require_writable(reports)


def require_writable(folder: Path) -> None:
    """Raises BadInput where a report could not be written to `folder`, which is as it was afterwards."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"Cannot write the report to {folder}: {error.strerror}; give a --reports folder that can be."
        ) from error
    finally:
        for path in made:
            if path.is_dir():
                path.rmdir()


def discard_unbegun(run: Run) -> None:
    """Remove a new run in which nothing was trained, so that its name is free for a better question."""
    if not any(row.get("event") in ("rung", "trained", "failed") for row in run.lines("search.jsonl")):
        shutil.rmtree(run.path)


def extend(run: Run, budget: Budget, words: list[str]) -> RunConfig:
    """Store a raised budget, and the words of the command that raised it: of a flag given twice the last one counts, so
    the stored command is still the one that makes this run.
    """
    before = question_of(run)
    question = replace(before, budget=budget)
    change = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "words": words, "budget_before": before.plain()["budget"]}
    run.config = {
        **run.config,
        "question": question.plain(),
        "command": [*run.config["command"], *words],
        "changes": [*run.config.get("changes", []), change],
    }
    run.write_json("run.json", run.config)
    return question


class Clock:
    """How long a line has worked so far, kept with the run: who goes on with it is not given the time budget anew."""

    def __init__(self, run: Run) -> None:
        self.run, self.before = run, float((run.read_json(CLOCK, ClockFile) or {"seconds": 0.0})["seconds"])
        self.started = self.written = time.monotonic()

    def tick(self, *, at_once: bool = False) -> None:
        """Write it, at most once in a while."""
        now = time.monotonic()
        if at_once or now - self.written >= TICK_SECONDS:
            self.run.write_json(CLOCK, {"seconds": round(self.before + now - self.started, 3)})
            self.written = now


def resumable(run: Run) -> AbstractContextManager[None]:
    """Ctrl-C inside ends with one sentence, twice at once. Raises Interrupted."""
    return interruptible(f"Interrupted; what is done is kept, and --resume {run.name} goes on.")


def context(run: Run, question: RunConfig, task: Task, spaces: Spaces, echo: Echo, *, spent: float = 0.0) -> Context:
    """spent: seconds of the time budget that are gone."""
    family = spaces(question.space)  # by name or by path; an artifact knows it by its own name
    return Context(
        run=run,
        task=task,
        spaces=lambda name: family if name in (family.name, question.space) else spaces(name),
        seed=question.seed,
        device=pick_device(question.device),
        threads=question.workers or 1,
        limits=question.limits,
        deadline=Deadline.after(max(0.0, question.budget.seconds - spent)),
        echo=echo,
    )


def pick_device(wanted: str) -> str:
    """Raises BadInput where CUDA is asked for and there is none."""
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise BadInput(f"No device named '{wanted}'; the devices are auto, cpu and cuda.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda was asked for, and torch finds no CUDA device here; use --device auto or cpu.")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def default_workers(device: str) -> int:
    """Two keep a GPU busy; more only share it."""
    return min(cores(), 2) if device == "cuda" else cores()


def settings_of(question: RunConfig) -> SearchSettings:
    """Raises BadInput where they do not go together."""
    from searchkit.search.settings import SearchSettings

    return SearchSettings(
        budget=question.budget,
        sampler=question.sampler,
        minimize=question.minimize,
        workers=question.workers or 1,
        executor=question.executor,
        address=question.address,
        storage=question.storage,
        ship_int8=recipes.quantizes(question.recipe),
        plans_epochs=not question.fixed_epochs,
    )


def search(ctx: Context, question: RunConfig, progress: Progress, *, spent: float = 0.0) -> Artifact:
    """Run (or finish) the search; the winner: the front's best in the metric, the cheaper of equals. spent: seconds of
    the time budget that were gone when this began: the search's share is of the whole.
    """
    from searchkit.search.coordinator import search
    from searchkit.search.results import winners

    deadline = ctx.deadline
    if math.isfinite(deadline.left()) and question.recipe != "none":
        whole = spent + deadline.left()
        fixed = EVIDENCE_SECONDS + STAGES_SECONDS
        share = max(LEAST_SEARCH_SHARE * whole, min(SEARCH_SHARE * whole, whole - fixed))
        deadline = Deadline.after(max(0.0, share - spent))
    search(ctx.spaces(question.space), replace(ctx, deadline=deadline), settings_of(question), progress)
    found = winners(ctx.run)
    if not found:
        raise BadInput(
            f"All {question.budget.trials} trials of the shared study were trained elsewhere, so the run "
            f"'{ctx.run.name}' has none of its own to ship; go on in the run that has them, or give more --trials."
        )
    return found[0]


def compress(winner: Artifact, ctx: Context, question: RunConfig) -> list[Artifact]:
    """The line of the question's recipe from this trial on."""
    from searchkit.stages.pipeline import StageBudget, apply

    curve = ctx.run.log(winner)
    seconds = sorted(row["seconds"] for row in curve if "seconds" in row)
    pace = StageBudget(seconds[len(seconds) // 2] if seconds else 0.0)
    limited = question.limits != Limits()
    stages = recipes.make(question.recipe, question.wish, epochs=ctx.training(winner).epochs, limited=limited)
    deadline = Deadline(ctx.deadline.at - EVIDENCE_SECONDS)
    precision, channels_last = ctx.run.notes(winner, "setting")
    ctx = replace(ctx, deadline=deadline, precision=precision, channels_last=channels_last)
    return apply(stages, winner, ctx, pace=pace)


def bundle_trial(ctx: Context, trial: Artifact, to: Path) -> None:
    """The bundle of any trial in fp32, in the new folder `to`. It is made in a run of its own that lasts as long as
    this, so that what the run shipped, its evidence and its report stay as they are; nothing is scored on test.
    """
    from searchkit.stages.pipeline import apply

    with scratch_folder() as folder:
        aside = Run(folder, ctx.run.config)
        shutil.copytree(ctx.run.artifact_dir(trial.id), aside.artifact_dir(trial.id))
        stages = recipes.make("export", recipes.CompressionConfig(), epochs=ctx.training(trial).epochs, limited=False)
        apply(stages, trial, replace(ctx, run=aside))
        copy_folder(aside.bundle, to)


def prove(
    line: list[Artifact],
    ctx: Context,
    reports: Path,
    *,
    question: RunConfig | None = None,
    command: list[str] | None = None,
) -> tuple[str, dict[str, Path]]:
    """Score the line on test, finish the bundle, write the report: the verdict and the report's files.

    question, command: what asked for this line; the run's own where they are None.
    """
    from searchkit.evaluation import evidence
    from searchkit.report.write import verdict, write
    from searchkit.stages.export import finish_bundle

    question = question or question_of(ctx.run)
    asked = {"recipe": question.recipe, "wish": question.wish, "command": command or ctx.run.config["command"]}
    found = evidence.collect(ctx, line, line[0], asked=asked)
    finish_bundle(ctx.run, found.to_json())
    written = write(ctx.run, found, reports / ctx.run.name)
    return verdict(ctx.run, found), written


def cores() -> int:
    """Those that this process may use: under taskset or in a container's cpuset fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
