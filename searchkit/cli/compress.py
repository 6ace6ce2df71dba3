"""The verb compress: the winner, or any trial, through a recipe."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.cli.console import Console
from searchkit.cli.crashes import watch_for_crashes
from searchkit.cli.opening import best, load_space, number, open_run
from searchkit.cli.options import AsJson, ConfigFile, Quiet, RunName, TrialNumber, Verbose, configured, read_section
from searchkit.cli.output import emit_shipped, set_up_logging
from searchkit.config.naming import FLAG, listed
from searchkit.core.errors import BadInput

if TYPE_CHECKING:
    from searchkit.config.compression import CompressionConfig
    from searchkit.run import Run

EXAMPLES = (
    "searchkit compress cnn-digits-1",
    "searchkit compress cnn-digits-1 --trial 7 --prune-to 0.25",
    "searchkit compress cnn-digits-1 --recipe distill --student 4 --temperature 4",
)


@configured("compression", "output", leave_out=("name",))
def compress(
    run_name: RunName,
    *,
    trial: TrialNumber = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    **given: Any,
) -> None:
    """Put the winner of a run, or any of its trials, through a recipe.

    What is done already is not done again.
    """
    set_up_logging(verbose)
    asked: CompressionConfig = read_section("compression", given, config)
    output = read_section("output", given, config)
    if asked.recipe == "none":
        from searchkit.config.compression import RECIPES

        allowed = listed(tuple(name for name in RECIPES if name != "none"))
        raise BadInput(f"{FLAG.given('recipe', 'none')} compresses nothing; choose {allowed}.")
    started = time.monotonic()
    run = open_run(run_name, output.runs)
    verdict, report = put_through(run, number("trial", trial), asked, output.reports, Console(quiet=quiet))
    emit_shipped(run, verdict, report, as_json=as_json, seconds=time.monotonic() - started, verb="compress")


def put_through(
    run: Run, trial: int | None, asked: CompressionConfig, reports: str | None, console: Console
) -> tuple[str, dict[str, Path]]:
    """Put a trial through a recipe, and evaluate and report what comes of it.

    Args:
        run: the run.
        trial: the trial's number; None takes the best one.
        asked: the recipe and what it may cost.
        reports: the folder of reports; None means the run's own folder.
        console: shows the progress.

    Returns:
        The verdict, and the report's files by their format.

    Raises:
        BadInput: there is no such trial, or the report cannot be written.
    """
    from searchkit import lifecycle, workflow
    from searchkit.search.final import trained_on
    from searchkit.search.results import winners
    from searchkit.search.storage import without_password
    from searchkit.tasks import registry

    watch_for_crashes(run)
    folder = lifecycle.report_folder(run, reports)
    lifecycle.require_writable(folder)
    task = registry.load(lifecycle.config_of(run).data.plain())
    config = lifecycle.reopen(run, task)
    if asked.student is not None:
        run.trial(asked.student)  # raises if there is no such trial, before any work
    config = replace(config, compression=asked, budget=replace(config.budget, time_budget=None))
    with run.locked(), lifecycle.resumable(run):
        ctx = workflow.context(run, config, task, load_space, console.say)
        winner = run.trial(trial) if trial is not None else best(winners(run), run)
        made = workflow.compress(trained_on(run, winner), ctx, config)
        command = [without_password(word) for word in sys.argv]
        return workflow.prove(made, ctx, folder, config=config, command=command)
