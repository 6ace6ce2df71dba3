"""The verb status: what runs there are, and how far each is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchkit.cli.opening import open_run
from searchkit.cli.options import AsJson, configured, read_section
from searchkit.cli.output import emit
from searchkit.core.errors import BadInput
from searchkit.core.quantities import show_seconds
from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    from searchkit.config.run import RunConfig
    from searchkit.run import Run

EXAMPLES = ("searchkit status", "searchkit status cnn-digits-1", "searchkit status cnn-digits-1 --json")

STAGE_ORDER = ("Promote", "Distill", "Prune", "Quantize", "Export")

AnyRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Name of a run or its path; all runs without it.", show_default=False),
]


@configured("runs")
def status(run_name: AnyRun = None, *, as_json: AsJson = False, **given: Any) -> None:
    """Show how far the runs are; for one run, its configuration and its best trial too."""
    runs = Path(read_section("output", given).runs)
    if run_name is None:
        rows = [_standing_or_damage(path.parent) for path in sorted(runs.glob("*/run.json"))]
        text = "\n".join(map(_line, rows)) or f"No runs in {runs}; start one: searchkit search --space cnn"
    else:
        run = open_run(run_name, str(runs))
        row = standing(run)
        rows, text = [row], "\n".join([_line(row), *details(run)])
    emit(as_json, "status", {"runs": rows}, text)


def _line(row: dict[str, JSON]) -> str:
    how_far = row.get("reason") or f"{row['trials']} of {row['of']} trials  {' '.join(row['stages'])}"
    return f"{row['run']:<32} {row['state']:<10} {how_far}"


def standing(run: Run) -> dict[str, JSON]:
    """How far a run is. A trial that could not be trained to its end counts as one of the budget.

    Raises:
        BadInput: run.json is damaged.
    """
    from searchkit.workflow import config_of

    trials = config_of(run).budget.budget().trials
    made = {artifact.stage for artifact in run.artifacts().values()} - {"Trial"}
    stages = [name for name in STAGE_ORDER if name in made] + sorted(made - set(STAGE_ORDER))
    log = run.lines("search.jsonl")
    n_trained, n_failed = len(run.trials()), len({row["trial"] for row in log if row.get("event") == "failed"})
    ended = n_trained + n_failed >= trials or (bool(log) and log[-1].get("event") == "end")
    state = "shipped" if run.bundle.is_dir() else "searched" if ended else "searching"
    return {"run": run.name, "state": state, "trials": n_trained, "of": trials, "stages": stages}


def details(run: Run) -> list[str]:
    """Lines that say what one run was asked for, its best trial and the time that it took."""
    from searchkit.workflow import CLOCK, config_of

    config = config_of(run)
    rows = {
        "space": str(config.search.space),
        "data": config.data.task or config.data.data or "",
        "limits": _limits(config),
        "recipe": config.compression.recipe,
        "best trial": _best(run),
        "time": show_seconds(float((run.read_json(CLOCK) or {}).get("seconds", 0.0))),
        "bundle": str(run.bundle) if run.bundle.is_dir() else "none yet",
    }
    return [f"  {what:<12} {words}" for what, words in rows.items() if words]


def _limits(config: RunConfig) -> str:
    limits = config.limits
    shown = (
        ("size", limits.max_size, "bytes"),
        ("latency", limits.max_latency, "ms"),
        ("parameters", limits.max_params, ""),
        ("multiply-accumulates", limits.max_macs, ""),
    )
    return ", ".join(f"{what} at most {value:,g} {unit}".strip() for what, value, unit in shown if value is not None)


def _best(run: Run) -> str:
    """The trial with the best value of the metric, in words; empty if there is none."""
    about: dict[str, JSON] = next(iter((run.read_json("search.json") or {}).values()), {})
    metric, sign = str(about.get("goal")), 1 if about.get("direction") == "maximize" else -1
    found = [trial for trial in run.trials() if metric in trial.metrics]
    if not found:
        return ""
    trial = max(found, key=lambda a: sign * a.metrics[metric])
    return f"{trial.made_by['number']} with val {metric} {trial.metrics[metric]:.4g}"


def _standing_or_damage(path: Path) -> dict[str, JSON]:
    """How far a run is, or that it is damaged: a run that cannot be read must not hide the others."""
    from searchkit.run import Run

    try:
        return standing(Run.open(path))
    except (BadInput, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, BadInput) else f"its run.json lacks what a run has ({error})"
        return {"run": path.name, "state": "damaged", "trials": 0, "of": None, "stages": [], "reason": reason}
