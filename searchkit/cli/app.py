"""The command line of searchkit: its verbs put together, and its edge to the shell.

Results go to stdout (one JSON object with --json), progress and errors to stderr. Only the command line sees both the
engine and the folder `spaces/`. Nothing here imports torch before there is work for it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from searchkit import __version__
from searchkit.cli import bench, check, compress, config, export, report, search, spaces, status, tasks
from searchkit.cli.crashes import watch_for_crashes
from searchkit.cli.options import Command
from searchkit.cli.output import SCHEMA_VERSION, set_up_logging
from searchkit.core.errors import BadInput, SearchkitError

VERBS: dict[Callable[..., None], tuple[str, ...]] = {
    search.search: search.EXAMPLES,
    compress.compress: compress.EXAMPLES,
    report.report: report.EXAMPLES,
    export.export: export.EXAMPLES,
    bench.bench: bench.EXAMPLES,
    status.status: status.EXAMPLES,
    spaces.spaces: spaces.EXAMPLES,
    tasks.tasks: tasks.EXAMPLES,
    config.config: config.EXAMPLES,
    check.check: check.EXAMPLES,
}
"""Every verb, in the order of the help, with its three examples."""

EXIT_STATUSES = (
    "Exit status: 0 done; 1 unexpected failure; 2 bad use or bad input; 3 no network meets the limits; "
    "4 a check or proof failed; 130 interrupted."
)


def examples(lines: tuple[str, ...]) -> str:
    """The text under a verb's help: its examples, a line each, and the exit statuses."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines) + f"\n\n{EXIT_STATUSES}"


USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises if the words are wrong: click's own class in some of its releases, a copy of it in others."""

app = typer.Typer(
    name="searchkit",
    help="Find a small, accurate network for your data and device, verify it, and ship it.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

for _verb, _examples in VERBS.items():
    app.command(cls=Command, epilog=examples(_examples))(_verb)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def searchkit(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The options of the command itself."""


def main() -> None:
    """Run the command line, and end the process with the exit status of what happened."""
    # spinning threads starve the other worker (measured: 28 -> 128 ms a step)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_up_logging()
    try:
        sys.exit(_run())
    except SearchkitError as error:
        # Looked up in the words themselves: the error may be one of parsing them.
        if "--json" in sys.argv:
            print(json.dumps({"schema_version": SCHEMA_VERSION, "error": str(error), "exit_status": error.exit_status}))
        print(f"searchkit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def _run() -> int:
    """The exit status of the verb.

    Raises:
        BadInput: the words are no use of the command.
    """
    watch_for_crashes()
    try:
        # app() would put typer's own hook for exceptions in the place of ours
        status = typer.main.get_command(app).main(prog_name="searchkit", standalone_mode=False)
    except USAGE_ERROR as error:
        text = error.format_message()
        if not text:  # the help was shown, because nothing was asked for
            return BadInput.exit_status
        verb = f"{error.ctx.command_path} --help" if error.ctx is not None else "searchkit --help"
        raise BadInput(f"{text if text[-1] in '.?' else text + '.'} `{verb}` shows what it takes.") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadInput(f"The name '{error.filename}' is too long for a file; give a shorter one.") from error
    if status == 130:  # what typer makes of Ctrl-C if no run is at work
        print("searchkit: interrupted before there was a result.", file=sys.stderr)
    return status if isinstance(status, int) else 0
