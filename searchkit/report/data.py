"""From a run on disk to the values that are report.json; the pages draw them and nothing else.

A pure function of the run: it trains nothing, measures nothing and guesses nothing. What a run does not have (no
stages, no pruning) is None here and one line on the page.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from searchkit.config import stored as stored_config
from searchkit.core.artifact import Artifact
from searchkit.core.goal import Goal
from searchkit.core.run_files import BundleFacts, SkippedFile
from searchkit.core.serialization import JSON, thaw
from searchkit.core.stage_notes import NOTES
from searchkit.evaluation.records import Evidence
from searchkit.report import formatting
from searchkit.report.families import family_rows
from searchkit.report.records import (
    SCHEMA_VERSION,
    Curve,
    Curves,
    EvidenceHeader,
    FailureRow,
    Front,
    FrontPoint,
    FrontStep,
    Report,
    RunHeader,
    SearchRows,
    StageRow,
    TrialRow,
    redacted,
)
from searchkit.report.starts import told_starts
from searchkit.report.transfer import transfer_of
from searchkit.run import Run
from searchkit.search.results import HistoryRow, history, importances, random_so_far, searches
from searchkit.stages import recipes
from searchkit.stages.export import DIGEST
from searchkit.stages.pipeline import SKIPPED
from searchkit.tasks.predictions import words_of


def gather(run: Run, evidence: Evidence | None) -> Report:
    """Everything that the report says.

    Args:
        run: Is read, and nothing else.
        evidence: What `searchkit.evaluation.evidence.collect` returned; None before any stage.

    Raises:
        BadInput: The run has no search, or a file of it is damaged.
    """
    artifacts = run.artifacts()
    line = _line(artifacts, evidence)
    about = next(iter(searches(run).values()))
    goal = evidence.goal if evidence else Goal(about["goal"], about["direction"])
    trials = history(run)
    stages = {artifact.stage: artifact for artifact in line}
    front = pareto(trials, line, goal, about["cost"])
    question, command = _asked(run, evidence)
    found = Report(
        schema_version=SCHEMA_VERSION,
        run=_header(run, question),
        goal=goal,
        question=question,
        command=command,
        evidence=_evidence_header(evidence) if evidence else None,
        labels=evidence.labels if evidence else (),
        stages=stage_rows(evidence) if evidence else (),
        rivals=evidence.rivals if evidence else (),
        front=front,
        search=replace(search_so_far(trials, goal), starts=told_starts(run)),
        families=family_rows(searches(run), trials, goal, front),
        importances=importances(run),
        curves=training_curves(run, trials, line, artifacts, goal),
        final=_notes(run, stages, "Final"),
        transfer=transfer_of(run, run.trials(), goal),
        distillation=_notes(run, stages, "Distill"),
        pruning=_notes(run, stages, "Prune"),
        quantization=_notes(run, stages, "Quantize"),
        left_out=left_out(run, line, question["recipe"]),
        errors=evidence.errors if evidence else None,
        pictures=evidence.pictures if evidence else None,
        failures=failed(trials),
        data=run.config["task"]["summary"],
        environment={"versions": run.config["versions"], "hardware": run.config["hardware"]},
        chosen=_described(line[-1]) if line else None,
        bundle_digest=bundle_digest(run, line),
    )
    return replace(found, verdict=verdict_of(found))


def _asked(run: Run, evidence: Evidence | None) -> tuple[dict[str, JSON], str]:
    """What was asked, and the command: of the lineage that is shown; before any, the run's own."""
    config = stored_config.parse(run.config, run.named("run.json"))
    question, command = stored_config.as_question(config), run.config["command"]
    if evidence is not None:
        # The lineage may come from a later `compress`, with another recipe than the run began with.
        own = {"recipe": evidence.recipe, "wish": evidence.wish}
        question |= {name: value for name, value in own.items() if value is not None}
        command = evidence.command or command
    return question, reproducing([redacted(word) for word in command])


def _header(run: Run, question: Mapping[str, JSON]) -> RunHeader:
    return RunHeader(
        name=run.name,
        started=run.config.get("started"),
        space=question["space"],
        task=run.config["task"]["name"],
        recipe=question["recipe"],
        seed=question["seed"],
    )


def _evidence_header(evidence: Evidence) -> EvidenceHeader:
    return EvidenceHeader(
        split=evidence.split,
        n=evidence.n,
        confidence=evidence.confidence,
        resamples=evidence.resamples,
        kind=evidence.kind,
        groups=evidence.groups,
        prediction=evidence.prediction or words_of(evidence.kind),
    )


def bundle_digest(run: Run, line: Sequence[Artifact]) -> str | None:
    """Of the manifest of the bundle, if the run's bundle is of this line: what a copy's `verify.py` must say too."""
    kept = run.read_json(DIGEST, BundleFacts) or {}
    return str(kept["digest"]) if any(artifact.id == kept.get("artifact") for artifact in line) else None


def left_out(run: Run, line: Sequence[Artifact], recipe: str) -> dict[str, str]:
    """Stage to the reason why this lineage goes without it, though its recipe has it. The latest reason counts."""
    ids, made = {artifact.id for artifact in line}, {artifact.stage for artifact in line}
    wanted = set(recipes.stage_names(recipe)) - made
    said = (run.read_json(SKIPPED, SkippedFile) or {}).values()
    return {row["stage"]: row["reason"] for row in said if row["stage"] in wanted and row["parent"] in ids}


def reproducing(command: Sequence[str]) -> str:
    """As a shell takes it: a script is run by python, an installed command as it is."""
    if not command:
        return ""
    return shlex.join(["python", *command] if str(command[0]).endswith(".py") else command)


# ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(artifacts: Mapping[str, Artifact], evidence: Evidence | None) -> list[Artifact]:
    """The chosen artifact and its ancestors, oldest first; the trial that all began with is the first."""
    at = evidence.chosen if evidence else None
    line: list[Artifact] = []
    while at is not None and at in artifacts:
        line.insert(0, artifacts[at])
        at = artifacts[at].parent
    return line


def _described(artifact: Artifact) -> dict[str, JSON]:
    return {"id": artifact.id, "space": artifact.space, "arch": artifact.arch, "training": artifact.training}


def _notes(run: Run, stages: Mapping[str, Artifact], name: str) -> JSON:
    if name not in stages:
        return None
    file = run.named(f"artifacts/{stages[name].id}/artifact.json", "notes")
    thaw(NOTES[name], stages[name].notes, file=file)
    return {"id": stages[name].id, "settings": stages[name].made_by, **stages[name].notes}


NAMES = {
    "Promote": "fp32 winner",
    "Distill": "distilled",
    "Prune": "pruned",
    "Quantize": "quantized",
    "Export": "exported",
}


def stage_rows(evidence: Evidence) -> tuple[StageRow, ...]:
    """One row a file, in order; stages that passed the very same file on share a row."""
    by_file: dict[str, StageRow] = {}
    for model in evidence.models:
        sha256, name = evidence.files[model.id], NAMES.get(model.stage, model.stage)
        chosen, same = model.id == evidence.chosen, by_file.get(sha256)
        if same is None:
            reference = model.id == evidence.reference
            by_file[sha256] = StageRow(model, name, (model.id,), sha256, chosen, reference)
            continue
        # an export that ships the file as it is needs no word of its own
        both = same.name if model.stage == "Export" else f"{same.name}, {name}"
        by_file[sha256] = replace(same, name=both, ids=(*same.ids, model.id), is_chosen=same.is_chosen or chosen)
    return tuple(by_file.values())


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────


def pareto(trials: Sequence[HistoryRow], line: Sequence[Artifact], goal: Goal, minimized: str | None) -> Front:
    """The scored trials in the plane of metric and cost, and the way of the lineage through it. Both on val."""
    cost = minimized or "params"
    whole = [(t, value, t["cost"][cost]) for t, value in _scored(trials) if t["cost"].get(cost) is not None]
    first = (line[0].space, line[0].made_by.get("number")) if line else None
    points = []
    for trial, value, its_cost in whole:
        beaten = any(
            # Of two trials with the same metric and cost both are on the front.
            goal.loss(other) <= goal.loss(value) and paid <= its_cost and (other, paid) != (value, its_cost)
            for _, other, paid in whole
        )
        space, number = trial["space"], trial["number"]
        points.append(FrontPoint(space, number, value, its_cost, not beaten, (space, number) == first))
    way = [a for a in line if cost in a.metrics and goal.metric in a.metrics]
    steps = tuple(FrontStep(a.stage, a.metrics[goal.metric], a.metrics[cost]) for a in way)
    return Front(cost, tuple(points), steps if len(steps) > 1 else (), minimized)


def search_so_far(trials: Sequence[HistoryRow], goal: Goal) -> SearchRows:
    """The trials in order with the best so far, and the same of random orders of the same trials."""
    scored = _scored(trials)
    best: list[tuple[int, float]] = []
    for t, value in scored:
        if not best or goal.better(value, best[-1][1]):
            best.append((t["number"], value))
    expected = random_so_far([value for _, value in scored], goal.direction)
    longest = max((t["epochs"] or 0 for t, _ in scored), default=0)
    return SearchRows(
        trials=tuple(_trial_row(t, longest) for t in trials),
        longest=longest,
        seconds=sum(t["seconds"] or 0.0 for t in trials),
        best_so_far=tuple(best),
        random_so_far=tuple((t["number"], v) for (t, _), v in zip(scored, expected, strict=True)),
        n_trained=len(scored),
        n_rejected=sum(t["status"] == "rejected" for t in trials),
        n_failed=sum(t["status"] == "failed" for t in trials),
    )


def _scored(trials: Sequence[HistoryRow]) -> list[tuple[HistoryRow, float]]:
    """The trials that have a value, with it."""
    return [(t, value) for t in trials if (value := t["value"]) is not None]


def _trial_row(t: HistoryRow, longest: int) -> TrialRow:
    return TrialRow(
        space=t["space"],
        number=t["number"],
        status=t["status"],
        way=t["way"],
        value=t["value"],
        cost=t["cost"],
        epochs=t["epochs"],
        seconds=t["seconds"],
        params=t["params"],
        whole=(t["epochs"] or 0) >= longest,
    )


def failed(trials: Sequence[HistoryRow]) -> tuple[FailureRow, ...]:
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
        rows.append(FailureRow(t["number"], t["status"], t["failure"] or "over the limit", reason))
    return tuple(rows)


def training_curves(
    run: Run,
    trials: Sequence[HistoryRow],
    line: Sequence[Artifact],
    artifacts: Mapping[str, Artifact],
    goal: Goal,
    *,
    most: int = 24,
) -> Curves:
    """Curves of the winner and the trials (the best `most` of them), and of every stage that trained."""
    ranked = sorted(_scored(trials), key=lambda row: (goal.loss(row[1]), row[0]["number"]))
    several = len({artifact.space for artifact in artifacts.values()}) > 1
    known = [(t["number"], artifacts[id]) for t, _ in ranked if (id := t["artifact"]) is not None and id in artifacts]
    winner = line[0].id if line else (known[0][1].id if known else None)
    searched = []
    for number, artifact in known[:most]:
        name = f"trial {number}" + f" ({artifact.space})" * several + ", the winner" * (artifact.id == winner)
        searched.append(Curve(name, artifact.id == winner, _thinned(run.log(artifact)), goal.metric))
    searched.sort(key=lambda curve: curve.named)  # the winner is drawn last, over the others
    staged = []
    for artifact in line:
        rows = run.log(artifact) if artifact.stage in ("Final", "Distill", "Prune") else []
        # One curve for each candidate of Distill, and for each step of Prune, in the order of the log.
        for part in dict.fromkeys(str(row.get("candidate", row.get("step", ""))) for row in rows):
            own = [row for row in rows if str(row.get("candidate", row.get("step", ""))) == part]
            pruned = f"pruned, step {part}" if part else "pruned"
            word = {"Final": "final training", "Distill": part, "Prune": pruned}[artifact.stage]
            staged.append(Curve(word, True, _thinned(own), goal.metric))
    return Curves(tuple(searched), tuple(staged))


def _thinned(log: Sequence[Mapping[str, JSON]], most: int = 120) -> tuple[dict[str, float], ...]:
    """At most `most` points of a curve, evenly spaced from the first on, and the last one always."""
    step = max(1, math.ceil((len(log) - 1) / (most - 1)))
    rows = [row for index, row in enumerate(log) if index % step == 0 or index == len(log) - 1]
    return tuple({k: row[k] for k in ("epoch", "loss", "val") if row.get(k) is not None} for row in rows)


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_of(found: Report) -> str:
    """One sentence: what is shipped, how good it is, and what it cost against the fp32 winner."""
    if found.evidence is None:
        return _search_verdict(found)
    metric, n = found.goal.metric, found.evidence.n
    row = next(row for row in found.stages if row.is_chosen)
    reference = next(row for row in found.stages if row.is_reference)
    chosen = row.to_json()
    kind = "int8" if row.model.stage == "Quantize" or "quantized" in row.name else "fp32"
    space = found.chosen["space"] if found.chosen else found.run.space
    scored = f"{formatting.interval(metric, chosen['metric'])} of the {n:,} test examples right"
    if metric != "accuracy" or found.evidence.kind != "classes":
        scored = f"test {formatting.metric_name(metric)} {formatting.interval(metric, chosen['metric'])} (n = {n:,})"
    sentence = f"{found.run.name}: {formatting.size(row.model.size_bytes)} {kind} {space} network, {scored}"
    if row is reference:
        return sentence + "; it is the fp32 winner as it was trained."
    return (
        f"{sentence}, {formatting.comparison(chosen['difference'])} the fp32 winner "
        f"({formatting.difference(metric, chosen['difference'])}), "
        f"{formatting.smaller(reference.model.size_bytes, row.model.size_bytes)}, "
        f"{formatting.latency(chosen['latency'])}."
    )


def _search_verdict(found: Report) -> str:
    name, metric, search = found.run.name, found.goal.metric, found.search
    if not search.best_so_far:
        return f"{name}: no trial has finished, so there is nothing to judge yet."
    number, value = search.best_so_far[-1]
    return (
        f"{name}: search only, {formatting.plural(search.n_trained, 'trial')}; the best, trial {number}, has a "
        f"validation {formatting.metric_name(metric)} of {formatting.metric(metric, value)}, which is optimistic: "
        "nothing was scored on test."
    )
