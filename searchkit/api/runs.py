"""Search, resume and compress: from data to a verified bundle, as functions that return a `Result`.

They read neither `sys.argv` nor install an exception hook: those belong to the command line.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from searchkit import families, lifecycle, workflow
from searchkit.api.options import Compression, Options, compression, require_known, run_config, words
from searchkit.api.progress import Progress, Show
from searchkit.api.result import Result, task_of
from searchkit.api.spaces import load_space, searched
from searchkit.api.trials import Callback, Watched
from searchkit.config import naming
from searchkit.config.compression import CompressionConfig
from searchkit.config.data import DataConfig
from searchkit.config.limits import BudgetConfig
from searchkit.config.run import RunConfig
from searchkit.config.search import SearchConfig
from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.scratch import scratch_folder
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Limits, Space
from searchkit.data import memory, memory_files
from searchkit.own import Own
from searchkit.stages.recipe import Recipe

if TYPE_CHECKING:
    from searchkit.core.stage import Stage
    from searchkit.core.task import Task
    from searchkit.run import Run
    from searchkit.search.sampler import Sampler
    from searchkit.tasks.own_metric import Metric, Score

GIVEN = "the given data"
"""What data in memory are called in what is said of them."""


def search(
    space: str | Path | Space | Sequence[str | Path | Space],
    data: object = None,
    target: object = None,
    *,
    task: str | None = None,
    test_data: object = None,
    limits: Limits | Mapping[str, object] | None = None,
    budget: Budget | Mapping[str, object] | str | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    sampler: str | Sampler | None = None,
    recipe: str | Recipe | Sequence[Stage] | None = None,
    metric: str | Metric | Score | None = None,
    callback: Callback | None = None,
    progress: Show = "auto",
    **options: Unpack[Options],
) -> Result:
    """Search one family or several for the best network for your data, compress it, prove it, and bundle it.

    Args:
        space: a family's name (see `list_spaces`), the path of your own family's file, or a `Space`; several of them in
            a list, which share the search and its budget; or "all", which takes the families that accept the data.
        data: arrays as (x, y) or as a dictionary with the keys of an .npz archive; a pandas, polars or pyarrow table; a
            torch or a Hugging Face dataset; a dictionary of such data by split ("train", "val", "test"); or a path that
            the command line's `--data` takes. None takes `task`. Data in memory are written into the run.
        target: the name of the target column, or the targets themselves if `data` are the inputs alone.
        task: a packaged task (see `list_tasks`). Without data and task, the family's default task is taken.
        test_data: the test split, if it is given apart.
        limits: hard limits on what is shipped, such as {"size": "100KB", "latency": "2ms"}; see `Limits`.
        budget: how much to spend, such as {"trials": 12, "epochs": 20}, or a time such as "10m"; see `Budget`. None
            takes the family's own.
        name: of the run. None finds a free one.
        runs: the folder of runs.
        sampler: what proposes the networks: "gp", "tpe", "nsga2", "random", "grid", or a `Sampler` of your own.
        recipe: what compresses the winner: a name such as "compact", or stages such as (Promote(), Prune(to=0.5),
            Export()), your own among them.
        metric: the goal in place of the task's own: a `Metric`, or a function of the decisions and the targets of n
            examples that gives the n scores, whose mean is then maximized. A name is that of the task's own metric.
        callback: called after each trial with a `TrialInfo`. It ends the search by returning False or by raising
            `StopSearch`; the best trial so far is then compressed and bundled.
        progress: "auto" shows progress in a notebook's cell or on the terminal; "rich", "plain" or "none" choose.
        **options: the other flags of the command line, by name; see `Options`.

    Returns:
        The finished run. The report is `report/report.html` in its folder.

    Raises:
        BadInput: an argument or the data cannot be used.
        NothingFeasible: no candidate is within the limits.
        GateFailed: a proof failed, such as an export that disagrees with its network.
        Interrupted: Ctrl-C; `resume` goes on.
    """
    own = _own(sampler, recipe, metric, options)
    given = {**options, **own.options}
    (asked, load), root, shown = searched(space), Path(runs).resolve(), Progress(progress)
    # Data in memory are staged outside of the run, which is made only when nothing can be refused any more.
    with scratch_folder() as staged:
        with naming.written(naming.KEYWORD):
            catalogue.named(catalogue.FAMILIES, asked)
            usual = task or (families.default_task(asked, load) if data is None else None)
        # Once without the data, so that a wrong option is refused before they are read and written.
        run_config(asked, {"task": usual}, limits=limits, budget=budget, given=_of_no_data(given))
        source = _source(data, target, task, test_data, usual, staged)
        config = run_config(asked, source, limits=limits, budget=budget, given=given)
        with naming.written(naming.KEYWORD):
            loaded, run = _start(own.named(config), load, root, name, staged, own)
    screen = _watched(shown, run, callback)
    workflow.carry_out(run, loaded, spaces=load_space, screen=screen, reports=config.output.reports, own=own)
    return Result(run)


def resume(
    run: str | Path | Result,
    *,
    runs: str | Path = "runs",
    budget: Mapping[str, Any] | None = None,
    workers: int | None = None,
    sampler: str | Sampler | None = None,
    recipe: str | Recipe | Sequence[Stage] | None = None,
    metric: str | Metric | Score | None = None,
    callback: Callback | None = None,
    progress: Show = "auto",
) -> Result:
    """Go on with a run that was interrupted, or give a finished one more to spend. Nothing that is done is done again.

    Args:
        run: a run's name in the folder `runs`, its path, or a `Result`.
        runs: the folder of runs.
        budget: more trials or time than before, such as {"trials": 24} or {"time": "60m"}.
        workers: worker processes, if other than before.
        sampler: the one that the run was given, if it was a value of your own; the run keeps its name alone.
        recipe: the same.
        metric: the same.
        callback: see `search`. It hears of the trials that end from now on.
        progress: see `search`.

    Raises:
        BadInput: there is no such run, its data have changed, the budget is below the one before, or the run was given
            a sampler, recipe or metric by value and is not given it again.
    """
    own = _own(sampler, recipe, metric, {})
    opened, given = _open(run, runs), budget or {}
    require_known(given, {"trials": "trials", "time": "time_budget"}, "budget to raise")
    with naming.written(naming.KEYWORD):
        asked = BudgetConfig(trials=given.get("trials"), time_budget=given.get("time"))
        SearchConfig(workers=workers)  # raises if the number is not allowed
    flags = {"trials": "--trials", "time": "--time-budget"}
    more = workflow.More(asked, workers, tuple(word for key in given for word in (flags[key], str(given[key]))))
    screen = _watched(Progress(progress), opened, callback)
    with naming.written(naming.KEYWORD):
        task = own.measured(task_of(opened))
        workflow.carry_out(opened, task, spaces=load_space, screen=screen, reports=None, more=more, own=own)
    return Result(opened)


def compress(
    run: str | Path | Result,
    *,
    trial: int | None = None,
    recipe: str | Recipe | Sequence[Stage] | None = None,
    metric: str | Metric | Score | None = None,
    runs: str | Path = "runs",
    progress: Show = "auto",
    **options: Unpack[Compression],
) -> Result:
    """Put the winner of a run, or any trial of it, through a recipe, and bundle what comes of it.

    Args:
        run: a run's name in the folder `runs`, its path, or a `Result`.
        trial: the number of a trained trial. None takes the winner.
        recipe: a name such as "compact", or stages such as (Promote(), Prune(to=0.5), Export()), your own among them.
        metric: the one that the run was given, if it was a value of your own.
        runs: the folder of runs.
        progress: see `search`.
        **options: the settings of the stages of a recipe that is named; see `Compression`.

    Raises:
        BadInput: there is no such run or trial, or an option is not allowed.
        GateFailed: a stage did not deliver what was asked of it.
    """
    from searchkit.search.final import trained_on
    from searchkit.search.results import winners

    own = _own(None, recipe, metric, options)
    asked, opened, shown = compression({**options, **own.options}), _open(run, runs), Progress(progress)
    asked = own.named(RunConfig(compression=asked)).compression
    if asked.recipe == "none":
        raise BadInput("The recipe 'none' compresses nothing; give another one, such as recipe='compact'.")
    task = own.measured(task_of(opened))
    before = lifecycle.reopen(opened, task)
    if asked.student is not None:
        opened.trial(asked.student)
    config = replace(before, compression=asked, budget=replace(before.budget, time_budget=None))
    try:
        with opened.locked(), lifecycle.resumable(opened):
            ctx = workflow.context(opened, config, task, load_space, shown.say)
            best = winners(opened) if trial is None else [opened.trial(trial)]
            if not best:
                raise BadInput(f"The run '{opened.name}' has no trained trial; go on with it by searchkit.resume.")
            made = workflow.compress(trained_on(opened, best[0]), ctx, config, own)
            command = _compress_words(opened.name, trial, {"recipe": recipe and asked.shown_recipe, **options})
            folder = lifecycle.report_folder(opened, None)
            workflow.prove(made, ctx, folder, config=config, command=command)
    finally:
        shown.close()
    return Result(opened)


def load_run(run: str | Path, *, runs: str | Path = "runs") -> Result:
    """Open a run that is on disk, finished or not. Nothing is trained, and nothing is written.

    Args:
        run: its name in the folder `runs`, or its path.
        runs: the folder of runs.

    Raises:
        BadInput: there is no such run, or it was made by another version.
    """
    return Result(_open(run, runs))


# ── The steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _source(data: Any, target: object, task: str | None, test: Any, usual: str | None, folder: Path) -> dict[str, JSON]:
    """Where the data are, as `Source` has it: without any, the `usual` task. Those in memory go into `folder`."""
    if data is None:
        if test is not None or target is not None:
            raise BadInput("A task brings its own target and test split; give data with them, or leave them out.")
        return {"task": usual}
    if task is not None:
        raise BadInput(f"Data and the task '{task}' were both given; leave one of them out.")
    if not memory.is_path(data):
        if memory.is_path(test):
            raise BadInput(f"The data are in memory, and test_data is the path '{test}'; give both in the same way.")
        return dict(memory_files.store(data, folder, target=target, test=test))
    if target is not None and not isinstance(target, (str, int)):
        raise BadInput("The data are a path, and the targets are values; name the target column instead.")
    if test is not None and not memory.is_path(test):
        raise BadInput("The data are a path, and the test split is in memory; give both in the same way.")
    found = {"data": str(Path(data).resolve()), "test_data": None if test is None else str(Path(test).resolve())}
    found["target"] = None if target is None else str(target)
    return {key: value for key, value in found.items() if value is not None}


def _start(
    config: RunConfig, load: Callable[[str], Space], root: Path, name: str | None, staged: Path, own: Own
) -> tuple[Task, Run]:
    """A new run on disk; what can be refused is refused before. The data in `staged` become the run's own."""
    lifecycle.require_cluster(config)
    asked, task = str(config.search.space), own.measured(_load(config.data.plain(), staged))
    accepting = families.accepting(asked, task, load)
    config = replace(config, search=replace(config.search, space=",".join(accepting)))
    config = lifecycle.resolve(config, *accepting.values())
    lifecycle.require_startable(config)
    more = families.starting_point(config.search, task, list(accepting.values()), root)
    name = name or _free_name(root, families.run_stem(asked, task.name))
    inside = (root / name / memory_files.FOLDER).resolve()
    # run.json names the places where the data will lie; they are copied once the run's folder is there.
    moved = {key: _moved(value, staged, inside) for key, value in config.data.plain().items()}
    config = replace(config, data=DataConfig.parse(moved))
    run = lifecycle.start(config, task, root=root, name=name, command=words(config, name), more=more)
    if any(staged.iterdir()):
        shutil.copytree(staged, inside)
    return task, run


def _load(source: Mapping[str, JSON], staged: Path) -> Task:
    """The task. Data that were given in memory are called so in what is said of them, and not by a path."""
    from searchkit.data.find import find
    from searchkit.tasks import registry
    from searchkit.tasks.prepare import make_task

    if not any(staged.iterdir()):
        return registry.load(source)
    wanted = DataConfig.parse(source)
    try:
        found = find(wanted)
    except BadInput as error:
        raise BadInput(re.sub(rf"'{re.escape(str(staged))}[^']*'", GIVEN, str(error))) from error
    return make_task(replace(found, where=GIVEN), wanted)


def _moved(value: JSON, old: Path, new: Path) -> JSON:
    """A path below `old` as the same path below `new`; anything else as it is."""
    is_inside = isinstance(value, str) and value.startswith(f"{old}/")
    return str(new / Path(value).relative_to(old)) if is_inside else value


def _own(sampler: object, recipe: object, metric: object, options: Mapping[str, object]) -> Own:
    """What was given by value. Raises BadInput if a recipe of stages is given settings beside them."""
    own = Own.of(sampler, recipe, metric)
    apart = [name for name in options if name in CompressionConfig.__dataclass_fields__]
    if isinstance(own.recipe, Recipe) and apart:
        raise BadInput(
            f"{apart[0]} is a setting of a recipe that is named, and the recipe is ({own.recipe.title}); write it into "
            "the stage, such as Prune(to=0.5)."
        )
    return own


def _of_no_data(options: Mapping[str, object]) -> dict[str, Any]:
    """The options that can be checked before there are data."""
    return {name: value for name, value in options.items() if name not in DataConfig.__dataclass_fields__}


def _watched(screen: Progress, run: Run, callback: Callback | None) -> workflow.Screen:
    """The screen, and the callback if there is one."""
    return screen if callback is None else Watched(screen, run, callback)


def _open(run: str | Path | Result, runs: str | Path) -> Run:
    from searchkit.run import Run

    if isinstance(run, Result):
        return Run.open(run.path)
    path = Path(run)
    return Run.open((path if len(path.parts) > 1 else Path(runs) / path).resolve())


def _free_name(root: Path, stem: str) -> str:
    numbers: Iterable[int] = range(1, 1_000_000)
    return next(f"{stem}-{number}" for number in numbers if not (root / f"{stem}-{number}").exists())


def _compress_words(name: str, trial: int | None, options: Mapping[str, object]) -> list[str]:
    """The command line that does the same as `compress`."""
    given = {"trial": trial, **options}
    flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in given.items() if value is not None]
    return ["searchkit", "compress", name, *(word for flag in flags for word in flag)]
