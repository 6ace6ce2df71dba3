"""The whole workflow: from a configuration to a verified bundle, and every shorter way through it.

The configuration is written to the run before any work. What carries it out reads the run and does what is not there
yet, and so is the same code for a new run and a resumed one.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from searchkit import __version__
from searchkit.config import stored
from searchkit.config.compression import CompressionConfig
from searchkit.config.limits import BudgetConfig
from searchkit.config.naming import variable
from searchkit.config.run import RunConfig
from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.files import copy_folder
from searchkit.core.interrupt import interruptible
from searchkit.core.space import Limits, Space
from searchkit.core.task import Task
from searchkit.machine import cores, cpu_model, default_workers, pick_device
from searchkit.run import Run
from searchkit.stages import recipes

if TYPE_CHECKING:
    from searchkit.search.settings import Progress, SearchSettings, Status

SEARCH_SHARE = 0.65
"""The search's share of a time budget, if stages follow and their fixed costs leave so much."""

LEAST_SEARCH_SHARE = 0.3

STAGES_SECONDS = 40.0
"""What the stages take without any training: exports, parity, candidates."""

EVIDENCE_SECONDS = 45.0
"""Kept back for scoring on test, the latency in five fresh processes, the bundle and the report."""

CLOCK = "clock.json"

TICK_SECONDS = 1.0

Spaces = Callable[[str], Space]
Echo = Callable[[str], None]

log = logging.getLogger("searchkit")


# ── The configuration of a run ───────────────────────────────────────────────────────────────────────────────────────


def resolve(config: RunConfig, family: Space) -> RunConfig:
    """Fill in what a configuration leaves to the family, and take the password out of the storage's URL.

    The whole URL goes to the environment variable SEARCHKIT_STORAGE of this process, and nowhere else.

    Args:
        config: what was asked.
        family: the family to search, whose budget is the default.

    Returns:
        The configuration as the run stores it.
    """
    search = replace(config.search, minimize=config.minimized or "none")
    if search.storage is not None:
        from searchkit.search.storage import without_password

        os.environ[variable("storage")] = search.storage
        search = replace(search, storage=without_password(search.storage))
    return replace(config, search=search, budget=config.budget.resolved(family.budget))


def start(config: RunConfig, task: Task, *, root: Path, name: str, command: list[str]) -> Run:
    """Make a new run on disk with its configuration.

    Args:
        config: see `resolve`.
        task: the loaded data.
        root: the folder of runs.
        name: the run's name.
        command: the words that the user typed; passwords in URLs are left out.

    Raises:
        BadInput: a run of this name exists, or the folder cannot be written.
    """
    from searchkit.search.storage import without_password

    workers = config.search.workers or default_workers(pick_device(config.search.device))
    config = replace(config, search=replace(config.search, workers=workers))
    about = {
        stored.KEY: stored.plain(config),
        "task": {"name": task.name, "fingerprint": task.fingerprint, "summary": task.summary()},
        "command": [without_password(word) for word in command],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {p: version(p) for p in ("torch", "optuna", "torch-pruning", "onnx", "onnxruntime", "numpy")}
        | {"searchkit": __version__, "python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": cores(), "system": platform.system()},
    }
    return Run.create(root, name, about, splits=task.splits())


def config_of(run: Run) -> RunConfig:
    """The configuration of a run, of this release or the last one.

    Raises:
        BadInput: a field of it is unknown, of another type or out of range.
    """
    return stored.parse(run.config, f"run.json of the run '{run.name}'")


def reopen(run: Run, task: Task) -> RunConfig:
    """The configuration of a run, checked against the data as they are now.

    Raises:
        BadInput: the data have changed since the run began, or run.json is damaged.
    """
    before = run.config.get("task")
    if not isinstance(before, dict) or "fingerprint" not in before:
        raise BadInput(
            f"run.json of the run '{run.name}' lacks the field task.fingerprint, so its data cannot be compared with "
            "those here; start a new run."
        )
    rows_then, rows_now = ({split: rows.tolist() for split, rows in s.items()} for s in (run.splits(), task.splits()))
    if task.fingerprint != before["fingerprint"]:  # of the values and the splits
        what = "the splits are the same, the values are not" if rows_then == rows_now else "the splits are others"
        raise BadInput(
            f"The data of the run '{run.name}' have changed since it began: {what} (fingerprint "
            f"{before['fingerprint']} then, {task.fingerprint} now); put the data back, or start a new run."
        )
    return config_of(run)


def require_startable(config: RunConfig) -> None:
    """Refuse before there is a run what can be refused.

    Raises:
        BadInput: a device, package, database or folder is not there.
    """
    from searchkit.search.storage import open_storage

    pick_device(config.search.device)
    settings_of(config)
    if config.search.executor == "ray":
        from searchkit.search.executors_ray import require_ray

        require_ray(config.search.address)
    if config.search.storage is not None:
        open_storage(config.search.storage)
    if config.compression.recipe != "none" and config.output.reports is not None:
        require_writable(Path(config.output.reports))


def require_writable(folder: Path) -> None:
    """Check that a report could be written to a folder, which is afterwards as it was.

    Raises:
        BadInput: it could not.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"Cannot write the report to {folder}: {error.strerror}; give a --reports folder that can be written."
        ) from error
    finally:
        for path in made:
            if path.is_dir():
                path.rmdir()


def report_folder(run: Run, reports: str | None) -> Path:
    """The folder of a run's report.

    Args:
        run: the run.
        reports: the folder of all reports; None keeps the report in the run's own folder.
    """
    return run.path / "report" if reports is None else Path(reports) / run.name


def discard_unbegun(run: Run) -> None:
    """Remove a new run in which nothing was trained, so that its name is free for a better configuration."""
    if not any(row.get("event") in ("rung", "trained", "failed") for row in run.lines("search.jsonl")):
        shutil.rmtree(run.path)


def extend(run: Run, budget: BudgetConfig, words: list[str]) -> RunConfig:
    """Store a raised budget.

    Args:
        run: the run, whose run.json is written again.
        budget: the new budget.
        words: the words of the command that raised it. They are added to the stored command: of a flag given twice the
            last one counts, so it is still the command that makes this run.
    """
    before = config_of(run)
    config = replace(before, budget=budget)
    change = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "words": words,
        "budget_before": stored.plain(before)["budget"],
    }
    kept = {key: value for key, value in run.config.items() if key != stored.OLD_KEY}
    run.config = {
        **kept,
        stored.KEY: stored.plain(config),
        "command": [*run.config["command"], *words],
        "changes": [*run.config.get("changes", []), change],
    }
    run.write_json("run.json", run.config)
    return config


class Clock:
    """How long a run has worked so far, kept with it: who goes on with it is not given the time budget anew."""

    def __init__(self, run: Run) -> None:
        self.run, self.before = run, float((run.read_json(CLOCK) or {}).get("seconds", 0.0))
        self.started = self.written = time.monotonic()

    def tick(self, *, at_once: bool = False) -> None:
        """Write the time, at most once a second unless `at_once`."""
        now = time.monotonic()
        if at_once or now - self.written >= TICK_SECONDS:
            self.run.write_json(CLOCK, {"seconds": round(self.before + now - self.started, 3)})
            self.written = now


def resumable(run: Run) -> AbstractContextManager[None]:
    """A block in which Ctrl-C ends with one sentence, and twice ends at once.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    return interruptible(f"Interrupted; what is done is kept, and --resume {run.name} goes on.")


# ── The whole of it ──────────────────────────────────────────────────────────────────────────────────────────────────


class Screen(Protocol):
    """What the user sees while a run works."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def progress(self, status: Status) -> None:
        """Show where the search stands."""

    def close(self) -> None:
        """End the live line, if there is one."""


@dataclass(frozen=True)
class More:
    """What may change if a run is resumed.

    Attributes:
        budget: more trials or more time; None in its fields changes nothing.
        workers: the number of workers from now on; it is not stored.
        words: the words of the command that say so.
    """

    budget: BudgetConfig
    workers: int | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        winner: the best trial.
        verdict: one sentence that says what was shipped; None if the recipe was none.
        report: the files of the report by their format.
    """

    winner: Artifact
    verdict: str | None
    report: dict[str, Path]


def carry_out(
    run: Run, task: Task, *, spaces: Spaces, screen: Screen, reports: str | None, more: More | None = None
) -> Outcome:
    """Do what a run's configuration asks for and is not done yet: search, compress, evaluate, report.

    Args:
        run: a new run, or one to resume.
        task: its loaded data.
        spaces: finds a family by its name.
        screen: hears of the progress.
        reports: see `report_folder`.
        more: what changes in a run that is resumed; None if the run is new. A new run that fails on its configuration
            before anything is trained is removed.

    Raises:
        BadInput: the configuration cannot be carried out.
        NothingFeasible: no network meets the limits.
        Interrupted: Ctrl-C was pressed; what is done is kept.
    """
    config = reopen(run, task)
    with run.locked(), resumable(run):
        if more is not None:
            config = _with_more(run, config, more)
        clock = Clock(run)

        def say(text: str) -> None:
            clock.tick()
            screen.say(text)

        def progress(status: Status) -> None:
            clock.tick()
            screen.progress(status)

        try:
            ctx = context(run, config, task, spaces, say, spent=clock.before)
            say(f"run {run.name}" + (" resumed" if more else "") + f" in {run.path}")
            winner = search(ctx, config, progress, spent=clock.before)
            screen.close()
            if config.compression.recipe == "none":
                return Outcome(winner, None, {})
            verdict, written = prove(compress(winner, ctx, config), ctx, report_folder(run, reports))
        except (BadInput, NothingFeasible):
            if more is None:
                discard_unbegun(run)
            raise
        finally:
            screen.close()
            if run.path.is_dir():
                clock.tick(at_once=True)
    return Outcome(winner, verdict, written)


def _with_more(run: Run, config: RunConfig, more: More) -> RunConfig:
    """The configuration of a resumed run; a raised budget is stored."""
    budget = config.budget.raised(more.budget)
    if budget != config.budget:
        config = extend(run, budget, list(more.words))
    if more.workers is not None:
        config = replace(config, search=replace(config.search, workers=more.workers))
    return config


def context(run: Run, config: RunConfig, task: Task, spaces: Spaces, echo: Echo, *, spent: float = 0.0) -> Context:
    """What the search and the stages may use.

    Args:
        run: the run.
        config: its configuration.
        task: its data.
        spaces: finds a family by its name.
        echo: shows a line to the user.
        spent: seconds of the time budget that are gone.
    """
    asked = str(config.search.space)
    family = spaces(asked)  # by name or by path; an artifact knows it by its own name
    seconds = config.budget.budget().seconds
    log.debug("%.0f of %s seconds are spent", spent, seconds)
    return Context(
        run=run,
        task=task,
        spaces=lambda name: family if name in (family.name, asked) else spaces(name),
        seed=config.search.seed,
        device=pick_device(config.search.device),
        threads=config.search.workers or 1,
        limits=config.limits.limits(),
        deadline=Deadline.after(max(0.0, seconds - spent)),
        echo=echo,
    )


def settings_of(config: RunConfig) -> SearchSettings:
    """What the search takes of the configuration."""
    from searchkit.search.settings import SearchSettings

    return SearchSettings(
        budget=config.budget.budget(),
        sampler=config.search.sampler,
        minimize=config.minimized,
        workers=config.search.workers or 1,
        executor=config.search.executor,
        address=config.search.address,
        storage=config.search.storage,
        ship_int8=recipes.quantizes(config.compression.recipe),
        plans_epochs=not config.budget.fixed_epochs,
    )


def search(ctx: Context, config: RunConfig, progress: Progress, *, spent: float = 0.0) -> Artifact:
    """Run the search, or finish it.

    Args:
        ctx: what the search may use.
        config: the configuration of the run.
        progress: hears where the search stands.
        spent: seconds of the time budget that were gone when this began: the search's share is of the whole.

    Returns:
        The best trial of the Pareto front in the metric, and the cheaper of equals.

    Raises:
        BadInput: a shared study gave this run no trial of its own.
        NothingFeasible: no network meets the limits.
    """
    from searchkit.search.coordinator import search
    from searchkit.search.results import winners

    deadline = ctx.deadline
    if math.isfinite(deadline.left()) and config.compression.recipe != "none":
        whole = spent + deadline.left()
        fixed = EVIDENCE_SECONDS + STAGES_SECONDS
        share = max(LEAST_SEARCH_SHARE * whole, min(SEARCH_SHARE * whole, whole - fixed))
        deadline = Deadline.after(max(0.0, share - spent))
    family = ctx.spaces(str(config.search.space))
    search(family, replace(ctx, deadline=deadline), settings_of(config), progress)
    found = winners(ctx.run)
    if not found:
        raise BadInput(
            f"All {config.budget.budget().trials} trials of the shared study were trained elsewhere, so the run "
            f"'{ctx.run.name}' has none of its own to ship; go on in the run that has them, or give more --trials."
        )
    return found[0]


def compress(winner: Artifact, ctx: Context, config: RunConfig) -> list[Artifact]:
    """Put a trial through the recipe of the configuration.

    Args:
        winner: the trial.
        ctx: what the stages may use.
        config: the configuration, whose compression is carried out.

    Returns:
        The lineage from the trial to the last artifact.
    """
    from searchkit.stages.pipeline import StageBudget, apply

    curve = ctx.run.log(winner)
    seconds = sorted(row["seconds"] for row in curve)
    pace = StageBudget(seconds[len(seconds) // 2] if seconds else 0.0)
    limited = config.limits.limits() != Limits()
    epochs = ctx.training(winner).epochs
    stages = recipes.make(config.compression.recipe, config.compression, epochs=epochs, limited=limited)
    deadline = Deadline(ctx.deadline.at - EVIDENCE_SECONDS)
    precision, channels_last = winner.notes["setting"]
    ctx = replace(ctx, deadline=deadline, precision=precision, channels_last=channels_last)
    return apply(stages, winner, ctx, pace=pace)


def bundle_trial(ctx: Context, trial: Artifact, to: Path) -> None:
    """Write the bundle of any trial in fp32 to the new folder `to`; nothing is scored on test.

    It is made in a temporary run, so that what the run shipped, its evidence and its report stay as they are.
    """
    from searchkit.stages.pipeline import apply

    with tempfile.TemporaryDirectory() as folder:
        aside = Run(Path(folder), ctx.run.config)
        shutil.copytree(ctx.run.artifact_dir(trial.id), aside.artifact_dir(trial.id))
        stages = recipes.make("export", CompressionConfig(), epochs=ctx.training(trial).epochs, limited=False)
        apply(stages, trial, replace(ctx, run=aside))
        copy_folder(aside.bundle, to)


def prove(
    lineage: list[Artifact],
    ctx: Context,
    folder: Path,
    *,
    config: RunConfig | None = None,
    command: list[str] | None = None,
) -> tuple[str, dict[str, Path]]:
    """Score a lineage on test, finish the bundle and write the report.

    Args:
        lineage: from the trial to the artifact that is shipped.
        ctx: what the evaluation may use.
        folder: the report's folder, see `report_folder`.
        config: what asked for this lineage; the run's own if it is None.
        command: the words that asked for it; the run's own if it is None.

    Returns:
        The verdict, and the report's files by their format.
    """
    from searchkit.evaluation import evidence
    from searchkit.report.write import verdict, write
    from searchkit.stages.export import finish_bundle

    compression = (config or config_of(ctx.run)).compression
    asked = {"recipe": compression.recipe, "wish": compression, "command": command or ctx.run.config["command"]}
    found = evidence.collect(ctx, lineage, lineage[0], asked=asked)
    finish_bundle(ctx.run, found)
    written = write(ctx.run, found, folder)
    return verdict(ctx.run, found), written
