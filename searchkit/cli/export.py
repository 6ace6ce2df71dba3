"""The verb export: a bundle that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from searchkit.cli.compress import put_through
from searchkit.cli.console import Console
from searchkit.cli.crashes import watch_for_crashes
from searchkit.cli.opening import load_space, number, open_run
from searchkit.cli.options import AsJson, Quiet, RunName, TrialNumber, Verbose, configured, read_section, shared
from searchkit.cli.output import emit, set_up_logging
from searchkit.core.errors import BadInput

if TYPE_CHECKING:
    from searchkit.run import Run

EXAMPLES = (
    "searchkit export cnn-digits-1 --to build/model",
    "searchkit export cnn-digits-1 --trial 3",
    "searchkit export cnn-digits-1 --json",
)

To = Annotated[
    Path | None,
    shared(
        "--to",
        metavar="PATH",
        help="Path of a new folder for a copy of the bundle. Default: no copy. Example: build/model.",
    ),
]


@configured("output", leave_out=("name",))
def export(
    run_name: RunName,
    *,
    to: To = None,
    trial: TrialNumber = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    **given: Any,
) -> None:
    """Write a bundle that runs without PyTorch.

    It holds what the run shipped, or with --trial that trial in fp32, in a folder of its own.
    """
    from searchkit.core.files import copy_folder

    set_up_logging(verbose)
    output = read_section("output", given)
    chosen = number("trial", trial)
    run = open_run(run_name, output.runs)
    if to is not None and to.exists():
        raise BadInput(f"--to '{to}' exists; give a new folder, so that nothing of yours is written over.")
    if chosen is not None:
        where = to or run.path / f"bundle-trial-{chosen}"
        if not where.exists():
            export_trial(run, chosen, where, Console(quiet=quiet))
    else:
        where = to or run.bundle
        if not run.bundle.is_dir():
            from searchkit.config.compression import CompressionConfig

            put_through(run, None, CompressionConfig(recipe="export"), output.reports, Console(quiet=quiet))
        if to is not None:
            copy_folder(run.bundle, to)
    plain = {"run": run.name, "bundle": str(where), **({} if chosen is None else {"trial": chosen})}
    emit(as_json, "export", plain, f"bundle  {where}\nverify  python {where}/verify.py")


def export_trial(run: Run, trial: int, where: Path, console: Console) -> None:
    """Write the bundle of a trial in fp32.

    Args:
        run: the run.
        trial: the trial's number.
        where: the new folder.
        console: shows the progress.

    Raises:
        BadInput: there is no such trial.
    """
    from searchkit import lifecycle, workflow
    from searchkit.tasks import registry

    found = run.trial(trial)
    watch_for_crashes(run)
    task = registry.load(lifecycle.config_of(run).data.plain())
    config = lifecycle.reopen(run, task)
    metric = task.goal.metric
    value = found.metrics[metric]  # before there is a bundle
    workflow.bundle_trial(workflow.context(run, config, task, load_space, console.say), found, where)
    console.say(f"trial {trial} has val {metric} {value:.4g}, which chose it; it was not scored on test")
