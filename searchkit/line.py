"""The whole line: from a question to a verified bundle, and every shorter way through it.

A question is all that a user asks, as plain data; it is written to the run before any work. What answers it reads the
run and does what is not there yet, and so is the same code for a new run and a resumed one.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from searchkit import __version__, recipes
from searchkit.run import Context, Run
from searchkit.types import JSON, Artifact, BadInput, Budget, Deadline, Limits, Space, Task, freeze, thaw

if TYPE_CHECKING:
    from searchkit.search import Progress

SEARCH_SHARE = 0.65
"""Of a time budget, where stages follow the search and their fixed costs leave so much."""

LEAST_SEARCH_SHARE = 0.3

STAGES_SECONDS = 40.0
"""What the stages take without any training: exports, parity, candidates."""

EVIDENCE_SECONDS = 45.0
"""Kept back for scoring the line on test, its latency in five fresh processes, the bundle and the report."""


@dataclass(frozen=True)
class Question:
    """What the user asked, all of it."""

    space: str  # a name, or the path of a family's file
    source: dict[str, JSON]  # what tasks.load takes
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    wish: recipes.Wish = field(default_factory=recipes.Wish)
    recipe: str = "compact"
    sampler: str = "tpe"
    minimize: str | None = "params"
    seed: int = 0
    workers: int = 1
    executor: str = "processes"
    address: str | None = None
    storage: str | None = None
    device: str = "auto"
    fixed_epochs: bool = False  # whether the user chose the budget's epochs

    @classmethod
    def parse(cls, plain: Mapping[str, JSON]) -> Question:
        """The inverse of `freeze`. Raises BadInput."""
        whole = dict(plain)
        seconds = whole["budget"]["seconds"]
        whole["budget"] = thaw(Budget, {**whole["budget"], "seconds": math.inf if seconds is None else seconds})
        whole["limits"] = thaw(Limits, whole["limits"])
        whole["wish"] = thaw(recipes.Wish, whole["wish"])
        return replace(thaw(cls, {**whole, "source": {}}), source=dict(whole["source"]))

    def plain(self) -> dict[str, JSON]:
        """As JSON: an endless budget is null."""
        found: dict[str, JSON] = freeze(self)
        if math.isinf(self.budget.seconds):
            found["budget"]["seconds"] = None
        return found


@dataclass(frozen=True)
class Answer:
    """What a line came to. winner: the trial; shipped: the last artifact of the line; verdict: one sentence."""

    run: Run
    winner: Artifact
    line: tuple[Artifact, ...]
    verdict: str
    reports: dict[str, Path]


Spaces = Callable[[str], Space]
Echo = Callable[[str], None]


def start(question: Question, task: Task, *, root: Path, name: str, command: list[str]) -> Run:
    """A new run on disk with its question. Raises BadInput where one of that name exists."""
    config = {
        "question": question.plain(),
        "task": {"name": task.name, "fingerprint": task.fingerprint, "summary": task.summary()},
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {p: version(p) for p in ("torch", "optuna", "torch-pruning", "onnx", "onnxruntime", "numpy")}
        | {"searchkit": __version__, "python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
    }
    return Run.create(root, name, config)


def reopen(run: Run, task: Task) -> Question:
    """The question of a run, checked against the data as they are now. Raises BadInput where they changed."""
    stored = run.config["task"]["fingerprint"]
    if task.fingerprint != stored:
        raise BadInput(
            f"The data of the run '{run.name}' have changed since it began (fingerprint {stored} then, "
            f"{task.fingerprint} now); put the data back, or start a new run."
        )
    return Question.parse(run.config["question"])


def context(run: Run, question: Question, task: Task, spaces: Spaces, echo: Echo) -> Context:
    family = spaces(question.space)  # by name or by path; an artifact knows it by its own name
    return Context(
        run=run,
        task=task,
        spaces=lambda name: family if name in (family.name, question.space) else spaces(name),
        seed=question.seed,
        device=pick_device(question.device),
        threads=question.workers,
        limits=question.limits,
        deadline=Deadline.after(question.budget.seconds),
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


def search(ctx: Context, question: Question, progress: Progress) -> Artifact:
    """Run (or finish) the search; the winner: the front's best in the metric, the cheaper of equals."""
    from searchkit.search import SearchSettings, search, winners

    deadline = ctx.deadline
    if math.isfinite(deadline.left()) and question.recipe != "none":
        left = deadline.left()
        fixed = EVIDENCE_SECONDS + STAGES_SECONDS
        deadline = Deadline.after(max(LEAST_SEARCH_SHARE * left, min(SEARCH_SHARE * left, left - fixed)))
    settings = SearchSettings(
        budget=question.budget,
        sampler=question.sampler,
        minimize=question.minimize,
        workers=question.workers,
        executor=question.executor,
        address=question.address,
        storage=question.storage,
        ship_int8=recipes.quantizes(question.recipe),
        plans_epochs=not question.fixed_epochs,
    )
    search(ctx.spaces(question.space), replace(ctx, deadline=deadline), settings, progress)
    return winners(ctx.run)[0]


def compress(winner: Artifact, ctx: Context, question: Question) -> list[Artifact]:
    """The line of the question's recipe from this trial on."""
    from searchkit.pipeline import Pace, apply

    curve = ctx.run.log(winner)
    seconds = sorted(row["seconds"] for row in curve)
    pace = Pace(seconds[len(seconds) // 2] if seconds else 0.0)
    limited = question.limits != Limits()
    stages = recipes.make(question.recipe, question.wish, epochs=ctx.training(winner).epochs, limited=limited)
    deadline = Deadline(ctx.deadline.at - EVIDENCE_SECONDS)
    precision, channels_last = winner.notes["setting"]
    ctx = replace(ctx, deadline=deadline, precision=precision, channels_last=channels_last)
    return apply(stages, winner, ctx, pace=pace)


def prove(line: list[Artifact], ctx: Context, reports: Path) -> tuple[str, dict[str, Path]]:
    """Score the line on test, finish the bundle, write the report: the verdict and the report's files."""
    from searchkit import evidence, report
    from searchkit.stages.export import finish_bundle

    found = evidence.collect(ctx, line, line[0])
    finish_bundle(ctx.run, found)
    written = report.write(ctx.run, found, reports / ctx.run.name)
    return report.verdict(ctx.run, found), written


def cpu_model() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
