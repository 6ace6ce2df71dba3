"""From a run on disk to the plain dict that is report.json; the pages draw this dict and nothing else.

A pure function of the run: it trains nothing, measures nothing and guesses nothing. What a run does not have (no
stages, no pruning) is None here and one line on the page.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from searchkit.config import stored
from searchkit.core.artifact import Artifact
from searchkit.core.goal import Goal
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.report import formatting
from searchkit.run import Run
from searchkit.search.results import history, importances, random_so_far, searches
from searchkit.stages import recipes
from searchkit.stages.pipeline import SKIPPED

SCHEMA_VERSION = 1


def gather(run: Run, evidence: Mapping[str, JSON] | None) -> dict[str, JSON]:
    """Everything that the report says. evidence: what `evidence.collect` returned, None before any stage."""
    evidence = freeze(evidence) if evidence else None
    artifacts = run.artifacts()
    line = _line(artifacts, evidence)
    about = next(iter(searches(run).values()))
    goal = _goal(about, evidence)
    rows = stage_rows(evidence) if evidence else []
    trials = history(run)
    stages = {artifact.stage: artifact for artifact in line}
    asked = {"command": run.config["command"], **(evidence or {})}  # of the line that is shown; before any, the run's
    config = stored.parse(run.config, f"run.json of the run '{run.name}'")
    question = {**stored.as_question(config), **{k: asked[k] for k in ("recipe", "wish") if k in asked}}
    found: dict[str, JSON] = {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "name": run.name,
            "started": run.config.get("started"),
            "space": question["space"],
            "task": run.config["task"]["name"],
            "recipe": question["recipe"],
            "seed": question["seed"],
        },
        "goal": asdict(goal),
        "question": question,
        "command": reproducing([redacted(word) for word in asked["command"]]),
        "evidence": evidence
        and {k: evidence.get(k) for k in ("split", "n", "confidence", "resamples", "kind", "groups")},
        "labels": evidence["labels"] if evidence else [],
        "stages": rows,
        "rivals": evidence.get("rivals", []) if evidence else [],
        "front": pareto(trials, line, goal, about["cost"]),
        "search": search_so_far(trials, goal),
        "importances": importances(run),
        "curves": training_curves(run, trials, line, artifacts, goal),
        "distillation": _notes(stages, "Distill"),
        "pruning": _notes(stages, "Prune"),
        "quantization": _notes(stages, "Quantize"),
        "left_out": left_out(run, line, question["recipe"]),
        "errors": evidence["errors"] if evidence else None,
        "pictures": evidence.get("pictures") if evidence else None,
        "failures": failed(trials),
        "data": run.config["task"]["summary"],
        "environment": {"versions": run.config["versions"], "hardware": run.config["hardware"]},
        "chosen": _described(line[-1]) if line else None,
    }
    found["verdict"] = verdict_of(found)
    return {name: redacted(plain_numbers(value)) for name, value in found.items()}


def left_out(run: Run, line: Sequence[Artifact], recipe: str) -> dict[str, str]:
    """Stage to the reason why this line goes without it, though its recipe has it. The latest reason counts."""
    ids, made = {artifact.id for artifact in line}, {artifact.stage for artifact in line}
    wanted = set(recipes.STAGES.get(recipe, ())) - made
    said = (run.read_json(SKIPPED) or {}).values()
    return {row["stage"]: row["reason"] for row in said if row["stage"] in wanted and row["parent"] in ids}


def redacted(value: JSON) -> JSON:
    """Without the passwords of URLs: a report is passed on. What follows a user's name up to the last @ is taken for
    one, and what is called a password.
    """
    if isinstance(value, Mapping):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    return re.sub(r"((?:password|passwd|pwd)=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", value))


def reproducing(command: Sequence[str]) -> str:
    """As a shell takes it: a script is run by python, an installed command as it is."""
    return shlex.join(["python", *command] if str(command[0]).endswith(".py") else command)


def plain_numbers(value: JSON) -> JSON:
    """Without NaN and infinities, which JSON does not have: they become null."""
    if isinstance(value, Mapping):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_numbers(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(artifacts: Mapping[str, Artifact], evidence: Mapping[str, JSON] | None) -> list[Artifact]:
    """The chosen artifact and its ancestors, oldest first; the trial that all began with is the first."""
    at = evidence["chosen"] if evidence else None
    line: list[Artifact] = []
    while at is not None and at in artifacts:
        line.insert(0, artifacts[at])
        at = artifacts[at].parent
    return line


def _goal(about: Mapping[str, JSON], evidence: Mapping[str, JSON] | None) -> Goal:
    return thaw(Goal, evidence["goal"]) if evidence else Goal(about["goal"], about["direction"])


def _described(artifact: Artifact) -> dict[str, JSON]:
    return {"id": artifact.id, "space": artifact.space, "arch": artifact.arch, "training": artifact.training}


def _notes(stages: Mapping[str, Artifact], name: str) -> JSON:
    if name not in stages:
        return None
    return {"id": stages[name].id, "settings": stages[name].made_by, **stages[name].notes}


NAMES = {
    "Promote": "fp32 winner",
    "Distill": "distilled",
    "Prune": "pruned",
    "Quantize": "quantized",
    "Export": "exported",
}


def stage_rows(evidence: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """One row a file, in order; stages that passed the very same file on share a row."""
    rows: list[dict[str, JSON]] = []
    by_file: dict[str, dict[str, JSON]] = {}
    for model in evidence["models"]:
        sha256, name = evidence["files"][model["id"]], NAMES.get(model["stage"], model["stage"])
        chosen = model["id"] == evidence["chosen"]
        if sha256 in by_file:
            same = by_file[sha256]
            same["is_chosen"] |= chosen
            same["ids"].append(model["id"])
            if model["stage"] != "Export":  # an export that ships the file as it is needs no word of its own
                same["name"] += f", {name}"
            continue
        row = {**model, "name": name, "ids": [model["id"]], "sha256": sha256, "is_chosen": chosen}
        row["is_reference"] = model["id"] == evidence["reference"]
        by_file[sha256] = row
        rows.append(row)
    return rows


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────


def pareto(
    trials: Sequence[Mapping[str, JSON]], line: Sequence[Artifact], goal: Goal, minimized: str | None
) -> dict[str, JSON]:
    """The scored trials in the plane of metric and cost, and the way of the line through it. Both on val."""
    cost = minimized or "params"
    whole = [t for t in trials if t["value"] is not None and t["cost"].get(cost) is not None]
    first = line[0].made_by.get("number") if line else None
    points = []
    for t in whole:
        beaten = any(
            goal.loss(o["value"]) <= goal.loss(t["value"])
            and o["cost"][cost] <= t["cost"][cost]
            and (o["value"], o["cost"][cost]) != (t["value"], t["cost"][cost])
            for o in whole
        )
        points.append(
            {"number": t["number"], "value": t["value"], "cost": t["cost"][cost], "on_front": not beaten,
             "chosen": t["number"] == first}
        )  # fmt: skip
    way = [a for a in line if cost in a.metrics and goal.metric in a.metrics]
    steps = [{"stage": a.stage, "value": a.metrics[goal.metric], "cost": a.metrics[cost]} for a in way]
    return {"cost": cost, "points": points, "line": steps if len(steps) > 1 else [], "minimized": minimized}


def search_so_far(trials: Sequence[Mapping[str, JSON]], goal: Goal) -> dict[str, JSON]:
    """The trials in order with the best so far, and the same of random orders of the same trials."""
    scored = [t for t in trials if t["value"] is not None]
    best: list[list[float]] = []
    for t in scored:
        if not best or goal.better(t["value"], best[-1][1]):
            best.append([t["number"], t["value"]])
    expected = random_so_far([t["value"] for t in scored], goal.direction)
    longest = max((t["epochs"] or 0 for t in scored), default=0)
    kept = ("space", "number", "status", "way", "value", "cost", "epochs", "seconds", "params")
    return {
        "trials": [{k: t[k] for k in kept} | {"whole": (t["epochs"] or 0) >= longest} for t in trials],
        "longest": longest,
        "seconds": sum(t["seconds"] or 0.0 for t in trials),
        "best_so_far": best,
        "random_so_far": [[t["number"], v] for t, v in zip(scored, expected, strict=True)],
        "n_trained": len(scored),
        "n_rejected": sum(t["status"] == "rejected" for t in trials),
        "n_failed": sum(t["status"] == "failed" for t in trials),
    }


def failed(trials: Sequence[Mapping[str, JSON]]) -> list[dict[str, JSON]]:
    """Trials rejected before training, by how much, and those that could not finish, with the reason."""
    rows = []
    for t in trials:
        if t["status"] not in ("rejected", "failed"):
            continue
        breaches = t["rejected"] or {}
        reason = t["reason"] or "; ".join(
            f"{formatting.COSTS.get(k, k)} {100 * v:.0f} % over the limit"
            + (f" ({formatting.cost(k, t['cost'][k])})" if k in t["cost"] else "")
            for k, v in breaches.items()
        )
        rows.append(
            {"number": t["number"], "status": t["status"], "kind": t["failure"] or "over the limit", "reason": reason}
        )
    return rows


def training_curves(
    run: Run,
    trials: Sequence[Mapping[str, JSON]],
    line: Sequence[Artifact],
    artifacts: Mapping[str, Artifact],
    goal: Goal,
    *,
    most: int = 24,
) -> dict[str, JSON]:
    """Curves of the winner and the trials (the best `most` of them), and of every stage that trained."""
    scored = [t for t in trials if t["value"] is not None and t["artifact"] in artifacts]
    ranked = sorted(scored, key=lambda t: (goal.loss(t["value"]), t["number"]))
    winner = line[0].id if line else (ranked[0]["artifact"] if ranked else None)
    searched = []
    for t in ranked[:most]:
        name = f"trial {t['number']}" + (", the winner" if t["artifact"] == winner else "")
        points = _thinned(run.log(artifacts[t["artifact"]]))
        searched.append({"name": name, "named": t["artifact"] == winner, "points": points, "metric": goal.metric})
    searched.sort(key=lambda row: row["named"])  # the winner is drawn last, over the others
    staged = []
    for artifact in line:
        rows = run.log(artifact) if artifact.stage in ("Distill", "Prune") else []
        for part in sorted({str(row.get("candidate", row.get("step", ""))) for row in rows}):
            own = [row for row in rows if str(row.get("candidate", row.get("step", ""))) == part]
            word = {"Distill": part, "Prune": f"pruned, step {int(part) + 1}" if part.isdigit() else "pruned"}[
                artifact.stage
            ]
            staged.append({"name": word, "named": True, "points": _thinned(own), "metric": goal.metric})
    return {"trials": searched, "stages": staged}


def _thinned(log: Sequence[Mapping[str, JSON]], most: int = 120) -> list[dict[str, JSON]]:
    """At most `most` points of a curve, the last one always."""
    step = max(1, math.ceil(len(log) / most))
    rows = [row for index, row in enumerate(log) if index % step == 0 or index == len(log) - 1]
    return [{k: row[k] for k in ("epoch", "loss", "val") if row.get(k) is not None} for row in rows]


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_of(found: Mapping[str, JSON]) -> str:
    """One sentence: what is shipped, how good it is, and what it cost against the fp32 winner."""
    name, metric = found["run"]["name"], found["goal"]["metric"]
    if not found["stages"]:
        return _search_verdict(found)
    chosen = next(row for row in found["stages"] if row["is_chosen"])
    reference = next(row for row in found["stages"] if row["is_reference"])
    n, size = found["evidence"]["n"], formatting.size(chosen["size_bytes"])
    kind = "int8" if chosen["stage"] == "Quantize" or "quantized" in chosen["name"] else "fp32"
    space = found["chosen"]["space"] if found["chosen"] else found["run"]["space"]
    scored = f"{formatting.interval(metric, chosen['metric'])} of the {n:,} test examples right"
    if metric != "accuracy" or found["evidence"]["kind"] != "classes":
        scored = f"test {formatting.metric_name(metric)} {formatting.interval(metric, chosen['metric'])} (n = {n:,})"
    sentence = f"{name}: {size} {kind} {space} network, {scored}"
    if chosen is reference:
        return sentence + "; it is the fp32 winner as the search found it."
    return (
        f"{sentence}, {formatting.comparison(chosen['difference'])} the fp32 winner "
        f"({formatting.difference(metric, chosen['difference'])}), "
        f"{formatting.smaller(reference['size_bytes'], chosen['size_bytes'])}, {formatting.latency(chosen['latency'])}."
    )


def _search_verdict(found: Mapping[str, JSON]) -> str:
    name, metric, search = found["run"]["name"], found["goal"]["metric"], found["search"]
    if not search["best_so_far"]:
        return f"{name}: no trial has finished, so there is nothing to judge yet."
    number, value = search["best_so_far"][-1]
    return (
        f"{name}: search only, {formatting.plural(search['n_trained'], 'trial')}; the best, trial {number}, has a "
        f"validation {formatting.metric_name(metric)} of {formatting.metric(metric, value)}, which flatters it: "
        "nothing was scored on test."
    )
