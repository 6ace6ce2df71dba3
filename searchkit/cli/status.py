"""The verb status: what runs there are, and how far each is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from searchkit.cli.opening import open_run
from searchkit.cli.options import AsJson, configured, read_section
from searchkit.cli.output import emit
from searchkit.core.serialization import JSON

EXAMPLES = ("searchkit status", "searchkit status cnn-digits-1", "searchkit status cnn-digits-1 --json")

AnyRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Name of a run or its path; all runs without it.", show_default=False),
]


@configured("runs")
def status(run_name: AnyRun = None, *, as_json: AsJson = False, **given: Any) -> None:
    """List the runs and how far each is; for one RUN its goal, trials, stages, time, and what to do next."""
    from searchkit.report import standing

    output = read_section("output", given)
    if run_name is not None:
        run = open_run(run_name, output.runs)
        found = standing.full_standing(run)
        # The commands that are proposed must find the run: outside of the default folder only its path does.
        called = run_name if output.runs == "runs" else str(run.path)
        emit(as_json, "status", {"runs": [found]}, standing.describe(found, name=called))
        return
    runs = Path(output.runs)
    rows = [standing.standing_or_damage(path.parent) for path in sorted(runs.glob("*/run.json"))]
    text = "\n".join(map(_line, rows)) or f"No runs in {runs}; start one: searchkit search --space cnn"
    emit(as_json, "status", {"runs": rows}, text)


def _line(row: dict[str, JSON]) -> str:
    how_far = row.get("reason") or f"{row['trials']} of {row['of']} trials  {' '.join(row['stages'])}"
    return f"{row['run']:<32} {row['state']:<10} {how_far}"
