"""How far a run is: what `status` shows, read from the run's files alone. Nothing is trained, no database is made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchkit import lifecycle
from searchkit.config import stored as stored_config
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.quantities import show_cost, show_seconds
from searchkit.core.run_files import Clock as ClockFile
from searchkit.core.run_files import SearchFile, SkippedFile
from searchkit.core.run_logs import SEARCH_LOG
from searchkit.core.serialization import JSON, freeze
from searchkit.evaluation.records import Evidence, stored
from searchkit.run import Run
from searchkit.stages import recipes
from searchkit.stages.pipeline import SKIPPED

ORDER = ("Final", *recipes.STAGES["compact"])
COSTS = ("params", "macs", "size_bytes")


def brief_standing(run: Run) -> dict[str, JSON]:
    """One row of the list of runs. A trial that could not be trained to its end counts as one of the budget."""
    most = lifecycle.config_of(run).budget.budget().trials
    artifacts, log = run.artifacts(), run.lines(SEARCH_LOG)
    states = trial_states(run, log)
    ended = states["trained"] + states["failed"] >= most or (bool(log) and log[-1].get("event") == "end")
    state = "shipped" if run.bundle.is_dir() else "searched" if ended else "searching"
    stages = stage_order(artifacts)
    return {"run": run.name, "state": state, "trials": states["trained"], "of": most, "stages": stages}


def standing_or_damage(path: Path) -> dict[str, JSON]:
    """As `brief_standing`: a run that cannot be read must not hide the others."""
    try:
        return brief_standing(Run.open(path))
    except BadInput as error:
        return {"run": path.name, "state": "damaged", "trials": 0, "of": None, "stages": [], "reason": str(error)}


def stage_order(artifacts: Mapping[str, Artifact]) -> list[str]:
    """The names of the stages that made them, parents before children; of equals, in a recipe's order."""

    def depth(artifact: Artifact) -> int:
        steps = 0
        # No more steps than artifacts: in a damaged run an artifact may be its own ancestor.
        while artifact.parent is not None and artifact.parent in artifacts and steps <= len(artifacts):
            artifact, steps = artifacts[artifact.parent], steps + 1
        return steps

    deepest: dict[str, int] = {}
    for artifact in artifacts.values():
        if artifact.stage != "Trial":
            deepest[artifact.stage] = max(deepest.get(artifact.stage, 0), depth(artifact))
    known = {name: place for place, name in enumerate(ORDER)}
    return sorted(deepest, key=lambda name: (deepest[name], known.get(name, len(known)), name))


def trial_states(run: Run, log: Sequence[Mapping[str, JSON]]) -> dict[str, int]:
    """Trials by what became of them; unheard of: handed out and not ended, so in training or interrupted."""
    # A later line takes the place of an earlier one: what counts is the last that was heard of a trial.
    last = {(row["space"], row["trial"]): row["event"] for row in log if "trial" in row}
    events = list(last.values())
    return {
        "trained": len(run.trials()),
        "failed": events.count("failed"),
        "cut off": events.count("cut off"),
        "unheard of": sum(event in ("dispatch", "rung", "lost") for event in events),
    }


def full_standing(run: Run) -> dict[str, JSON]:
    """All that `status RUN` tells.

    Returns:
        Beside the row of the list the goal, the data, the question, the trials by state, the best of them, the line of
        stages with their figures, the score on test, and the time.
    """
    question, row = stored_config.as_question(lifecycle.config_of(run)), brief_standing(run)
    facts, log = run.config["task"]["summary"], run.lines(SEARCH_LOG)
    about = next(iter((run.read_json("search.json", SearchFile) or {}).values()), None)
    metric, direction = (about["goal"], about["direction"]) if about else (facts["goal"], None)
    trials = run.trials()
    sign = -1 if direction == "maximize" else 1
    best = min(trials, key=lambda a: (sign * a.metrics[metric], a.metrics["params"]), default=None)
    evidence = stored(run)
    chain = _chain(run, evidence)
    skipped = (run.read_json(SKIPPED, SkippedFile) or {}).values()
    ids, made = {artifact.id for artifact in chain}, {artifact.stage for artifact in chain}
    chosen = next((m for m in evidence.models if m.id == evidence.chosen), None) if evidence else None
    states, process = trial_states(run, log), run.writer()
    states["in training" if process else "interrupted"] = states.pop("unheard of")
    states["over a limit"] = _rejected(run, about)
    return {
        **row,
        "path": str(run.path),
        "process": process,
        "goal": {"metric": metric, "direction": direction},
        "data": {"task": run.config["task"]["name"], "rows": facts["rows"]},
        "question": {name: question[name] for name in ("space", "recipe", "sampler", "seed", "limits", "budget")},
        "trial_states": states,
        "families": _families(trials, metric, sign) if "," in str(question["space"]) else {},
        "best": best and {"trial": best.made_by["number"], "metrics": best.metrics},
        "line": [{"stage": a.stage, "metrics": a.metrics} for a in chain if a.stage != "Trial"],
        "left_out": {s["stage"]: s["reason"] for s in skipped if s["parent"] in ids and s["stage"] not in made},
        "test": freeze(chosen.metric) if chosen else None,
        "started": run.config["started"],
        "seconds": (run.read_json(lifecycle.CLOCK, ClockFile) or {"seconds": 0.0})["seconds"],
    }  # fmt: skip


def _families(trials: Sequence[Artifact], metric: str, sign: int) -> dict[str, JSON]:
    """Of each family with a trained trial, how many those are, and the best value of the metric on val."""
    found: dict[str, JSON] = {}
    for trial in sorted(trials, key=lambda a: sign * a.metrics[metric]):
        row = found.setdefault(trial.space, {"trained": 0, "best": trial.metrics[metric]})
        row["trained"] += 1
    return found


def _rejected(run: Run, about: Mapping[str, JSON] | None) -> int:
    """Candidates refused before training. Of a study that is shared, others count theirs: it is not opened."""
    if about is None or about["url"] is not None or not (run.path / "study.db").exists():
        return 0
    from searchkit.search.results import history

    return sum(row["status"] == "rejected" for row in history(run))


def _chain(run: Run, evidence: Evidence | None) -> list[Artifact]:
    """The line that was shipped, or else the longest, oldest first; empty before any stage."""
    artifacts = run.artifacts()
    if evidence and evidence.chosen in artifacts:
        return run.line(artifacts[evidence.chosen])
    lines = [run.line(a) for a in artifacts.values() if a.stage != "Trial"]
    return max(lines, key=len, default=[])


def describe(found: Mapping[str, JSON], *, name: str) -> str:
    """`full_standing` in words. name: what the user calls the run by, for the commands that are proposed."""
    from searchkit.report import formatting  # the list of runs does without optuna, which the report needs

    metric, question = found["goal"]["metric"], found["question"]
    rows, direction = found["data"]["rows"], found["goal"]["direction"]
    at_work = f"process {found['process']} is running" if found["process"] else "no process is running"
    states = {state: n for state, n in found["trial_states"].items() if n}
    limits = [f"{show_cost(cost, value)} at most" for cost, value in question["limits"].items() if value is not None]
    lines = [
        ("state", f"{found['state']}; {at_work}"),
        ("goal", f"{direction + ' ' if direction else ''}{formatting.metric_name(metric)}"),
        ("data", f"{found['data']['task']}: {sum(rows.values()):,} rows ("
                 + ", ".join(f"{split} {n:,}" for split, n in rows.items()) + ")"),
        ("search", f"space {question['space']}, recipe {question['recipe']}, sampler {question['sampler']}, "
                   f"seed {question['seed']}" + "".join(f", {limit}" for limit in limits)),
        ("trials", f"{found['trials']} of {found['of']}: "
                   + (", ".join(f"{n} {state}" for state, n in states.items()) or "none begun")),
    ]  # fmt: skip
    if found["best"]:
        lines.append(("best", f"trial {found['best']['trial']}: {_figures(found['best']['metrics'], metric)}"))
    for family, row in found["families"].items():
        best = f"best val {formatting.metric_name(metric)} {formatting.metric(metric, row['best'])}"
        lines.append((family, f"{formatting.plural(row['trained'], 'trial')}, {best}"))
    shown = {stage["stage"]: _figures(stage["metrics"], metric) for stage in found["line"]}
    shown |= {stage: f"left out: {reason}" for stage, reason in found["left_out"].items()}
    place = {stage: ORDER.index(stage) if stage in ORDER else len(ORDER) for stage in shown}
    lines += [(stage.lower(), shown[stage]) for stage in sorted(shown, key=lambda stage: place[stage])]
    if found["test"]:
        interval = formatting.interval(metric, found["test"])
        n = f"n = {found['test']['n']:,}"
        lines.append(("test", f"{formatting.metric_name(metric)} {interval}, 95 % interval, {n}"))
    seconds = question["budget"]["seconds"]
    of = f" of {show_seconds(seconds)}" if seconds is not None else ""
    lines.append(("time", f"{show_seconds(found['seconds'])}{of}; started {found['started'].replace('T', ' ')[:16]}"))
    lines.append(("next", next_step(found, name=name)))
    return "\n".join([found["run"], *(f"  {what:<9} {said}" for what, said in lines)])


def _figures(metrics: Mapping[str, float], metric: str) -> str:
    from searchkit.report import formatting

    parts = [f"val {formatting.metric_name(metric)} {formatting.metric(metric, metrics[metric])}"]
    return ", ".join([*parts, *(show_cost(cost, metrics[cost]) for cost in COSTS if cost in metrics)])


def next_step(found: Mapping[str, JSON], *, name: str) -> str:
    """What to do with a run that stands so."""
    name = shlex.quote(name)
    if found["process"]:
        return f"wait, or stop process {found['process']} by Ctrl-C: what is done is kept"
    if found["state"] == "shipped":
        return f"python {shlex.quote(found['path'])}/bundle/verify.py; searchkit report {name}"
    if found["state"] == "searched" and found["question"]["recipe"] == "none":
        return f"searchkit compress {name}"
    return f"searchkit search --resume {name}"
