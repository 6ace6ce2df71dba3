"""The verb report: the pages of a run, written again."""

from __future__ import annotations

from typing import Any

from searchkit.cli.opening import open_run
from searchkit.cli.options import AsJson, RunName, configured, read_section
from searchkit.cli.output import emit

EXAMPLES = (
    "searchkit report cnn-digits-1",
    "searchkit report cnn-digits-1 --reports public/",
    "searchkit report runs/cnn-digits-1 --json",
)


@configured("output", leave_out=("name",))
def report(run_name: RunName, *, as_json: AsJson = False, **given: Any) -> None:
    """Write the report of a run again, as HTML, Markdown and JSON.

    Nothing is trained or measured.
    """
    from searchkit import lifecycle
    from searchkit.evaluation.records import stored
    from searchkit.report import write as reporting

    output = read_section("output", given)
    run = open_run(run_name, output.runs)
    found = stored(run)
    written = reporting.write(run, found, lifecycle.report_folder(run, output.reports))
    verdict = reporting.verdict_in(written)
    plain = {"run": run.name, "verdict": verdict, "report": {kind: str(path) for kind, path in written.items()}}
    emit(as_json, "report", plain, f"{verdict}\n\nreport  {written['html']}")
