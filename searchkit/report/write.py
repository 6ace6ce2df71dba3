"""Write the report of a run: one dict of plain data, drawn as HTML, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from searchkit.core.errors import BadInput
from searchkit.core.files import write_atomically
from searchkit.evaluation.records import Evidence
from searchkit.report import html, markdown
from searchkit.report.data import gather
from searchkit.run import Run


def write(run: Run, evidence: Evidence | None, folder: Path) -> dict[str, Path]:
    """Write report.html, report.md and report.json.

    Args:
        run: Is read, and nothing else.
        evidence: Of the run's files on test; None before any stage.
        folder: Is made if it is not there.

    Returns:
        The three paths, by "html", "md" and "json".

    Raises:
        BadInput: The folder cannot be written, or the run cannot be read.
    """
    found = gather(run, evidence).to_json()
    texts = {
        "html": html.render(found),
        "md": markdown.render(found),
        # no NaN: readers in other languages refuse it
        "json": json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    paths = {kind: folder / f"report.{kind}" for kind in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, text in texts.items():
            # a file name that is not text has lone surrogates, which UTF-8 does not: a question mark stands for each
            write_atomically(paths[kind], text.encode(errors="replace"))
    except OSError as error:
        raise BadInput(
            f"Cannot write the report to {folder}: {error.strerror}; give a --reports folder that can be."
        ) from error
    return paths


def verdict_in(paths: Mapping[str, Path]) -> str:
    """The first sentence of a report as `write` wrote it; `verdict` would put the whole report together again."""
    found: str = json.loads(paths["json"].read_text(encoding="utf-8"))["verdict"]
    return found


def verdict(run: Run, evidence: Evidence | None) -> str:
    """What the report says in its first sentence."""
    return gather(run, evidence).verdict
