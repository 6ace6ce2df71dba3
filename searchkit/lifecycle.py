"""The life of a run on disk: its configuration is resolved, it is started, opened again, extended and timed."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from searchkit import __version__
from searchkit.config import naming, stored
from searchkit.config.limits import BudgetConfig
from searchkit.config.naming import variable
from searchkit.config.run import RunConfig
from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.interrupt import interruptible
from searchkit.core.run_files import Clock as ClockFile
from searchkit.core.run_files import RunFile
from searchkit.core.serialization import JSON, thaw
from searchkit.core.space import Space
from searchkit.core.task import Task
from searchkit.families import shared_budget
from searchkit.machine import cores, cpu_model, default_workers, pick_device
from searchkit.own import require_metric
from searchkit.run import Run

CLOCK = "clock.json"
"""The file of a run that holds the seconds it has worked."""

TICK_SECONDS = 1.0


def resolve(config: RunConfig, *searched: Space) -> RunConfig:
    """Fill in what a configuration leaves to its families, and take the password out of the storage's URL.

    The whole URL goes to the environment variable SEARCHKIT_STORAGE of this process, and nowhere else.

    Args:
        config: what was asked.
        *searched: the families, whose budget is the default: see `families.shared_budget`.

    Returns:
        The configuration as the run stores it.

    Raises:
        BadInput: the strategy is a supernet, and there are several families, or the one's networks share no weights.
    """
    if config.search.strategy == "supernet":
        _require_shared(searched)
    search = replace(config.search, minimize=config.minimized or "none")
    if search.storage is not None:
        from searchkit.search.storage import without_password

        os.environ[variable("storage")] = search.storage
        search = replace(search, storage=without_password(search.storage))
    return replace(config, search=search, budget=config.budget.resolved(shared_budget(searched)))


def _require_shared(searched: Sequence[Space]) -> None:
    """Raise BadInput unless there is one family, whose networks share weights."""
    given = naming.given("strategy", "supernet")
    if len(searched) > 1:
        raise BadInput(
            f"{given} is for one family, and this search has {', '.join(family.name for family in searched)}; name one "
            f"of them by {naming.mention('space')}, or leave {naming.mention('strategy')} out."
        )
    for family in searched:
        if family.shares is None:
            raise BadInput(
                f"{given} is not for the space '{family.name}', whose networks do not share weights; those that do are "
                f"{', '.join(catalogue.sharing(catalogue.FAMILIES))}. Take one of them, or leave "
                f"{naming.mention('strategy')} out."
            )


def start(
    config: RunConfig, task: Task, *, root: Path, name: str, command: list[str], more: Mapping[str, JSON] | None = None
) -> Run:
    """Make a new run on disk with its configuration.

    Args:
        config: see `resolve`.
        task: the loaded data.
        root: the folder of runs.
        name: the run's name.
        command: the words that the user typed; passwords in URLs are left out.
        more: what else run.json keeps, see `families.starting_point`.

    Raises:
        BadInput: a run of this name exists, or the folder cannot be written.
    """
    from searchkit.search.storage import without_password

    # Stored as a number: a run that goes on elsewhere has as many workers, however many cores there are.
    each = config.search.workers_per_trial
    usual = max(each, default_workers(pick_device(config.search.device)) // each * each)
    workers = config.search.workers or usual
    config = replace(config, search=replace(config.search, workers=workers))
    about = {
        stored.KEY: stored.plain(config),
        "task": {"name": task.name, "fingerprint": task.fingerprint, "summary": task.summary()},
        "command": [without_password(word) for word in command],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {p: version(p) for p in ("torch", "optuna", "torch-pruning", "onnx", "onnxruntime", "numpy")}
        | {"searchkit": __version__, "python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": cores(), "system": platform.system()},
        **(more or {}),
    }
    return Run.create(root, name, about, splits=task.splits())


def config_of(run: Run) -> RunConfig:
    """The configuration of a run, of this release or the last one.

    Raises:
        BadInput: a field of run.json is missing, unknown, of another type or out of range; the sentence names it.
    """
    thaw(RunFile, run.config, file=run.named("run.json"))
    return stored.parse(run.config, run.named("run.json"))


def reopen(run: Run, task: Task) -> RunConfig:
    """The configuration of a run, checked against the data as they are now.

    Raises:
        BadInput: the data have changed since the run began, the metric is another, or run.json is damaged.
    """
    config, before = config_of(run), run.config["task"]
    require_metric(run, config, task)
    rows_then, rows_now = ({split: rows.tolist() for split, rows in s.items()} for s in (run.splits(), task.splits()))
    if task.fingerprint != before["fingerprint"]:  # of the values and the splits
        what = "the splits are the same, the values are not" if rows_then == rows_now else "the splits are others"
        raise BadInput(
            f"The data of the run '{run.name}' have changed since it began: {what} (fingerprint "
            f"{before['fingerprint']} then, {task.fingerprint} now); put the data back, or start a new run."
        )
    # The run may be opened on another machine; the sentence then names the file that asks for the device.
    try:
        pick_device(config.search.device)
    except BadInput as problem:
        raise BadInput(f"In {run.named('run.json', stored.KEY)}: {problem}") from problem
    return config


def require_cluster(config: RunConfig) -> None:
    """Check that Ray, if it is asked for, is installed and answers: before data and torch are loaded, which takes long.

    Raises:
        BadInput: it does not.
    """
    if config.search.executor == "ray":
        from searchkit.search.ray_address import require_answer, require_ray

        require_ray(config.search.address)
        require_answer(config.search.address)


def require_startable(config: RunConfig) -> None:
    """Refuse before there is a run what can be refused.

    Raises:
        BadInput: a device, package, database or folder is not there.
    """
    from searchkit.search.storage import open_storage

    pick_device(config.search.device)
    if config.search.storage is not None:
        open_storage(config.search.storage)
    if config.compression.recipe != "none" and config.output.reports is not None:
        require_writable(Path(config.output.reports))


def require_writable(folder: Path) -> None:
    """Check that a report could be written to a folder, which is afterwards as it was.

    Raises:
        BadInput: it could not.
    """
    # The innermost folder first, so that each is empty when it is removed below.
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
    # Rows of cost checks and of dispatched jobs do not count: nothing that was trained is lost with them.
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
    # The last release's key goes: what it holds is in the new one.
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
        self.run, self.before = run, float((run.read_json(CLOCK, ClockFile) or {"seconds": 0.0})["seconds"])
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
