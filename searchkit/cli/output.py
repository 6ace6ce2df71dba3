"""What a verb prints: the result on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from searchkit.core.serialization import JSON, freeze

if TYPE_CHECKING:
    from searchkit.run import Run

SCHEMA_VERSION = 1
"""Version of the JSON objects that --json prints."""


class StderrHandler(logging.Handler):
    """Shows log records on the stderr of the moment, which tests and notebooks put in another's place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(f"searchkit: {record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def set_up_logging(verbose: int = 0) -> None:
    """Show the log of searchkit on stderr.

    Args:
        verbose: 0 shows warnings, 1 information, 2 everything.
    """
    log = logging.getLogger("searchkit")
    # The verb calls this again with its own -v: a second handler would show every line twice.
    for handler in [h for h in log.handlers if isinstance(h, StderrHandler)]:
        log.removeHandler(handler)
    log.addHandler(StderrHandler())
    log.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


def emit(as_json: bool, verb: str, plain: Mapping[str, JSON], text: str) -> None:
    """Print the result of a verb.

    Args:
        as_json: whether to print one JSON object.
        verb: its name, for the JSON object.
        plain: the result as JSON.
        text: the result for people.
    """
    if as_json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, "command": verb, **plain}, ensure_ascii=False))
    else:
        print(text)


def emit_shipped(
    run: Run, verdict: str, report: Mapping[str, Path], *, as_json: bool, seconds: float, verb: str
) -> None:
    """Print what was shipped.

    Args:
        run: the run.
        verdict: one sentence.
        report: the report's files by their format.
        as_json: whether to print one JSON object.
        seconds: how long it took.
        verb: its name.
    """
    plain = {
        "run": run.name,
        "path": str(run.path),
        "verdict": verdict,
        "bundle": str(run.bundle),
        "report": {kind: str(path) for kind, path in report.items()},
        "seconds": round(seconds, 1),
    }
    emit(as_json, verb, plain, f"{verdict}\n\nreport  {report['html']}\nbundle  {run.bundle}")


def plain_of(row: object) -> dict[str, JSON]:
    """A dataclass as JSON."""
    return dict(freeze(row))
