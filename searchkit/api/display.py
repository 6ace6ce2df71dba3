"""A run in a notebook: the verdict, the table of stages and the front, drawn by the report's own lines."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

from searchkit.evaluation.records import Evidence
from searchkit.report import charts
from searchkit.report.data import gather
from searchkit.report.html import cells, environment, template
from searchkit.run import Run


def summary(run: Run, evidence: Evidence | None) -> str:
    """HTML that fits into a page of others: its style reaches nothing outside of it.

    Args:
        run: the run.
        evidence: what was measured on test; None before compression.

    Raises:
        BadInput: the run has no search yet.
    """
    found = gather(run, evidence).to_json()
    text = files("searchkit.api").joinpath("summary.html.j2").read_text(encoding="utf-8")
    page = environment(autoescape=True).from_string(text)
    drawn = Markup(charts.front(found["front"], found["goal"]["metric"]))  # ElementTree has escaped it
    return page.render(r=found, front=drawn, style=Markup(scoped(template("style.css"))), **cells(found))


def scoped(style: str) -> str:
    """The report's style for the inside of the summary alone, by CSS nesting: the page's root becomes the summary."""
    nested = style.replace(":root", "&")
    return f".searchkit{{{nested}background:var(--paper);color:var(--ink);padding:12px 16px}}"
