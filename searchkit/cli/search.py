"""The verb search: a new run, or one to go on with."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.cli import profile
from searchkit.cli.console import Console
from searchkit.cli.crashes import watch_for_crashes
from searchkit.cli.opening import load_space, open_run
from searchkit.cli.options import (
    AsJson,
    ConfigFile,
    Quiet,
    Resume,
    Verbose,
    WithProfile,
    configured,
    layers,
    read_section,
)
from searchkit.cli.output import emit, emit_shipped, set_up_logging
from searchkit.config import naming
from searchkit.config.naming import FLAG
from searchkit.config.run import SECTIONS, RunConfig
from searchkit.config.sources import Layer
from searchkit.core import catalogue, timing
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    from searchkit import workflow
    from searchkit.config.limits import OutputConfig
    from searchkit.core.artifact import Artifact
    from searchkit.core.task import Task
    from searchkit.run import Run

EXAMPLES = (
    "searchkit search --space cnn",
    "searchkit search --space mlp --data adult.csv --target income",
    "searchkit search --space cnn --data photos/ --time-budget 45m --workers 2",
)

WITH_RESUME = ("trials", "time_budget", "workers", "runs", "reports")
"""What --resume may change: how much may be spent, how many work at once, and where things are."""

log = logging.getLogger("searchkit")


@configured(*SECTIONS, leave_out=("student", "temperature", "teacher_weight", "ensemble"))
def search(
    *,
    resume: Resume = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    with_profile: WithProfile = False,
    **given: Any,
) -> None:
    """Search, compress, evaluate and bundle a network for your data.

    Everything but --space has a default: `searchkit search --space cnn` is a whole run.
    """
    set_up_logging(verbose)
    console = Console(quiet=quiet)
    started = time.monotonic()
    if resume is not None:
        with timing.part("start"):
            run, loaded, output, more = _reopened(resume, config, given)
        _finish(run, loaded, output.reports, more, console, as_json, started, with_profile)
        return
    from searchkit import families, lifecycle

    values = layers(given, config)
    log_origins(values)
    with timing.part("start"):
        asked = RunConfig.of(values)
        wanted = str(asked.search.space)
        lifecycle.require_cluster(asked)
        loaded, asked, kept = _load(asked)
    lifecycle.require_startable(asked)
    console.summary(loaded.name, loaded.summary())
    runs = Path(asked.output.runs)
    name = asked.output.name or free_name(runs, families.run_stem(wanted, loaded.name))
    run = lifecycle.start(asked, loaded, root=runs, name=name, command=sys.argv, more=kept)
    _finish(run, loaded, asked.output.reports, None, console, as_json, started, with_profile)


def _load(asked: RunConfig) -> tuple[Task, RunConfig, dict[str, JSON]]:
    """The data, the configuration with what the families say if the user does not, and what else the run keeps.

    Raises:
        BadInput: there is no such family or no such data, or a family is not for them; or see `starting_point`.
    """
    if asked.search.space is None:
        known = ", ".join(catalogue.files(catalogue.FAMILIES))
        raise BadInput(f"{FLAG.mention('space')} is missing; the spaces are {known}, or a path to your own file.")
    catalogue.named(catalogue.FAMILIES, asked.search.space)  # an unknown one is refused before the data are read
    from searchkit import families, lifecycle
    from searchkit.tasks import registry

    data = asked.data
    if data.task is None and data.data is None:
        data = replace(data, task=families.default_task(asked.search.space, load_space))
    with timing.part("data"):
        loaded = registry.load(data.plain())
    searched = families.accepting(asked.search.space, loaded, load_space)
    asked = replace(asked, data=data, search=replace(asked.search, space=",".join(searched)))
    kept = families.starting_point(asked.search, loaded, list(searched.values()), Path(asked.output.runs))
    return loaded, lifecycle.resolve(asked, *searched.values()), kept


def _reopened(name: str, file: Path | None, given: Mapping[str, Any]) -> tuple[Run, Task, OutputConfig, workflow.More]:
    """A run to go on with. Raises BadInput if a flag is given that its own configuration answers."""
    from searchkit import lifecycle, workflow
    from searchkit.config.limits import BudgetConfig
    from searchkit.tasks import registry

    extra = [flag for flag, value in given.items() if value is not None and flag not in WITH_RESUME]
    if file is not None or extra:
        out = FLAG.mention(extra[0] if extra else "config")
        raise BadInput(
            f"{FLAG.given('resume', name)} takes its configuration from the run; leave out {out}. With it go "
            "--workers, a higher --trials or --time-budget, --runs, --reports, --json, --quiet and --verbose."
        )
    output = read_section("output", given)
    run = open_run(name, output.runs)
    stored = lifecycle.config_of(run)
    # Through the dataclasses, which parse and check the text of the flags.
    with naming.written(FLAG):
        budget = BudgetConfig(trials=given["trials"], time_budget=given["time_budget"])
        workers = replace(stored.search, workers=given["workers"] or stored.search.workers).workers
    words = [
        word
        for flag in ("trials", "time_budget")
        if given[flag] is not None
        for word in (FLAG.mention(flag), str(given[flag]))
    ]
    more = workflow.More(budget, None if given["workers"] is None else workers, tuple(words))
    with timing.part("data"):
        task = registry.load(stored.data.plain())
    return run, task, output, more


def _finish(
    run: Run, task: Task, reports: str | None, more: workflow.More | None, console: Console, as_json: bool,
    started: float, with_profile: bool,
) -> None:  # fmt: skip
    """Carry out the run and print what came of it."""
    from searchkit import workflow

    watch_for_crashes(run)
    # What the process did before it was asked to time anything: Python's own start and the imports of the command line.
    timing.add({"start/import": max(0.0, timing.process_seconds() - sum(timing.so_far().values()))})
    try:
        done = workflow.carry_out(run, task, spaces=load_space, screen=console, reports=reports, more=more)
    finally:
        if with_profile and run.path.is_dir():  # a run that nothing was trained for is removed
            console.say(profile.write(run, timing.take(), timing.process_seconds()))
    if done.verdict is None:
        _emit_search(run, done.winner, task, as_json)
    else:
        seconds = time.monotonic() - started
        emit_shipped(run, done.verdict, done.report, as_json=as_json, seconds=seconds, verb="search")


def _emit_search(run: Run, winner: Artifact, task: Task, as_json: bool) -> None:
    metric, number = task.goal.metric, run.line(winner)[0].made_by["number"]  # the winner may be its final training
    text = (
        f"The search is done: trial {number} has val {metric} {winner.metrics[metric]:.4g} "
        f"with {winner.metrics['params']:,.0f} parameters. Next: searchkit compress {run.name}"
    )
    plain = {"run": run.name, "path": str(run.path), "trial": number, "metrics": winner.metrics}
    emit(as_json, "search", plain, text)


def free_name(runs: Path, stem: str) -> str:
    """The first name of the form stem-number that no run has."""
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def log_origins(values: Layer) -> None:
    """Tell the log where each option that is no default came from; passwords in URLs are left out."""
    if log.isEnabledFor(logging.INFO):
        from searchkit.search.storage import without_password

        for name, value in values.items():
            log.info("%s", value.origin.given(name, without_password(str(value.value))))
