"""The page: one file that opens offline, runs no script and loads nothing.

jinja2 with autoescape and StrictUndefined: every string that came from outside is escaped, and a missing name is an
error here, never a gap on the page. The figures are the only markup let through; ElementTree has escaped theirs. The
content security policy forbids everything but the page's own style, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from searchkit.core.serialization import JSON
from searchkit.report import charts, formatting


def environment(*, autoescape: bool) -> Environment:
    """With the words of the report as filters and functions."""
    made = Environment(autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    named: tuple[Callable[..., str], ...] = (
        formatting.number, formatting.count, formatting.size, formatting.short, formatting.metric,
        formatting.metric_name, formatting.interval, formatting.bounds, formatting.signed, formatting.ends,
        formatting.difference, formatting.comparison, formatting.p_value, formatting.smaller, formatting.latency,
        formatting.seconds, formatting.plural, formatting.cost, formatting.setting,
    )  # fmt: skip
    made.globals |= {function.__name__: function for function in named}
    made.globals |= {"COSTS": formatting.COSTS, "MEANINGS": formatting.MEANINGS}
    return made


def template(name: str) -> str:
    """The text of a file of this package."""
    return files("searchkit.report").joinpath(name).read_text(encoding="utf-8")


def render(found: Mapping[str, JSON]) -> str:
    """The page. found: report.json."""
    style = template("style.css")
    # Of exactly what the template puts between <style> and </style>: browsers drop a style that differs by one blank.
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment(autoescape=True).from_string(template("template.html.j2"))
    drawn = {name: Markup(drawing) for name, drawing in figures(found).items()}  # ElementTree has escaped them
    allowed = policy(hashed, pictures=found["pictures"] is not None)
    return page.render(r=found, figures=drawn, style=Markup(style), policy=allowed, **cells(found))


def policy(style_hash: str, *, pictures: bool) -> str:
    """The page's content security policy, under which it loads and runs nothing.

    Args:
        style_hash: The SHA-256 of its style, base64.
        pictures: Whether it holds pictures, as data URIs.
    """
    allowed = " img-src data:;" if pictures else ""
    return f"default-src 'none'; style-src 'sha256-{style_hash}';{allowed} base-uri 'none'; form-action 'none'"


def cells(found: Mapping[str, JSON]) -> dict[str, JSON]:
    """The two rows that the page's head speaks of."""
    rows = found["stages"]
    return {
        "metric_key": found["goal"]["metric"],
        "chosen": next((row for row in rows if row["is_chosen"]), None),
        "reference": next((row for row in rows if row["is_reference"]), None),
    }


def figures(found: Mapping[str, JSON]) -> dict[str, str]:
    """Every figure by name; "" if there is nothing to draw."""
    metric, errors = found["goal"]["metric"], found["errors"] or {}
    shown = formatting.metric_name(metric) + (", %" if metric in formatting.SHARES else "")
    drawn = {
        "front": charts.front(found["front"], metric),
        "differences": charts.differences(found["stages"], metric),
        "ratios": charts.ratios(found["stages"]),
        "history": charts.history(found["search"], metric),
        "trial_loss": charts.curves(
            found["curves"]["trials"], "trial-loss", key="loss", unit="training loss", log=True
        ),
        "trial_val": charts.curves(found["curves"]["trials"], "trial-val", key="val", unit=f"validation {shown}"),
        "stage_loss": charts.curves(
            found["curves"]["stages"], "stage-loss", key="loss", unit="training loss", log=True
        ),
        "stage_val": charts.curves(found["curves"]["stages"], "stage-val", key="val", unit=f"validation {shown}"),
        "transfer": charts.curves(
            (found["transfer"] or {}).get("curves", []), "transfer", key="val", unit=f"validation {shown}"
        ),
        "importances": charts.bars(
            list(found["importances"].items())[:12], "importances", "Hyperparameter importances", "share of variance"
        ),
        "layers": charts.layers(found["pruning"]["layers"]) if found["pruning"] else "",
        "errors": "",
        "pictures": charts.pictures(found["pictures"]) if found["pictures"] else "",
    }
    if "confusion" in errors:
        table = errors["confusion"]
        # One label for each row of the table: numbers where the task has too few names.
        labels = [*found["labels"], *map(str, range(len(found["labels"]), len(table)))][: len(table)]
        drawn["errors"] = charts.confusion(table, labels) if len(table) <= 40 else ""
    elif "points" in errors:
        targets = found["data"].get("targets") or []
        named = [targets[i] if i < len(targets) else f"target {i + 1}" for i in range(len(errors["points"]))]
        drawn["errors"] = "".join(
            charts.predicted(points, f"predicted-{i}", str(name))
            for i, (points, name) in enumerate(zip(errors["points"][:4], named, strict=False))
        )
    elif "by_step" in errors:
        drawn["errors"] = charts.by_step(errors["by_step"], shown)
    elif "histogram" in errors:
        unit = {"mse": "mean squared error of an example", "frechet": "part of an example in the Fréchet distance"}.get(
            metric, f"{formatting.metric_name(metric)} of an example"
        )
        drawn["errors"] = charts.histogram(errors["histogram"], errors["edges"], unit)
    return drawn
