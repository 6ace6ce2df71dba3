"""What the test split says of the exported files: every metric with its interval, every comparison in pairs.

`statistics` has the statistics; this reads the test split, once for each file, and keeps what was found. Not to be
confused with the val metrics of an artifact, which chose it and so flatter it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from searchkit.context import Context
from searchkit.core import batching
from searchkit.core.artifact import Artifact
from searchkit.core.errors import DAMAGED_ARRAYS
from searchkit.core.files import replacing
from searchkit.core.goal import Evaluation, Goal
from searchkit.core.run_files import ScoredFile
from searchkit.core.serialization import JSON, derive_seed, freeze
from searchkit.core.task import Grouped, HasBaselines, HasModelMetrics, Task
from searchkit.evaluation.records import FILE, FORMAT, BaselineEvidence, Evidence, ModelEvidence, stored
from searchkit.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    agreement,
    is_binary,
    mcnemar,
    metric_interval,
    paired_difference,
)
from searchkit.run import Run
from searchkit.tasks.modalities.image import channel_order as picture_layout
from searchkit.tasks.predictions import Prediction
from searchkit.tasks.registry import problem_named

PICTURED = 12  # examples that are shown if the answers are pictures
PICTURE_SIDE = 64  # pixels, at most


def collect(
    ctx: Context, line: Sequence[Artifact], fp32: Artifact, *, asked: Mapping[str, JSON] | None = None
) -> Evidence:
    """Score every exported file of a lineage on test, each once for all time, and compare each with `fp32` in pairs.

    What is found is kept in the run's evidence.json, and the answers to single examples in its folder evidence/; a
    second call for the same files reads them. Latencies are measured anew when the set of files changes, all in one
    interleaved session: a ratio between two sessions means nothing.

    Args:
        ctx: Gives the run and the task.
        line: The lineage, oldest first; its last file is the one chosen, and artifacts without a file are left out.
        fp32: The reference.
        asked: "recipe", "wish" and "command" of this lineage, for the report; the run's own if it is None.
    """
    run = ctx.run
    models = [artifact for artifact in line if "model" in artifact.files]
    if fp32.id not in {artifact.id for artifact in models}:
        models.insert(0, fp32)
    hashes = {artifact.id: _sha256(ctx.model_path(artifact)) for artifact in models}
    kept = stored(run)
    if kept is not None and kept.files == hashes and kept.reference == fp32.id:
        found = _as_asked(kept, asked) if asked is not None else kept  # the same files by another way
        if found == kept:
            return kept
    else:
        found = _as_asked(_measured(ctx, models, fp32, hashes), asked or {})
    run.write_json(FILE, found.to_json())
    # As it will be read from the file, so that the first report is drawn from the same values as every later one.
    return Evidence.from_json(found.to_json())


def _as_asked(found: Evidence, asked: Mapping[str, JSON]) -> Evidence:
    plain = freeze(asked)
    command = plain.get("command")
    return replace(
        found,
        recipe=plain.get("recipe"),
        wish=plain.get("wish"),
        command=None if command is None else tuple(command),
    )


def _measured(ctx: Context, models: Sequence[Artifact], fp32: Artifact, hashes: dict[str, str]) -> Evidence:
    """The last of `models` is the one chosen. hashes: of their files, by id."""
    task, goal, chosen = ctx.task, ctx.task.goal, models[-1].id
    scored = {artifact.id: _score(ctx, artifact, hashes[artifact.id]) for artifact in models}
    prediction = problem_named(task.problem).prediction
    groups = task.groups("test") if isinstance(task, Grouped) else None
    rivals = task.baselines() if isinstance(task, HasBaselines) else {}
    beside = {name: task.evaluate(rival, "test") for name, rival in rivals.items()}
    return Evidence(
        format=FORMAT,
        split="test",
        n=task.n_examples("test"),
        groups=None if groups is None else len(np.unique(groups)),
        goal=goal,
        kind=prediction.name,
        prediction=prediction.words(),
        labels=tuple(task.labels),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        files=hashes,
        reference=fp32.id,
        chosen=chosen,
        models=_models(ctx, models, hashes, scored, fp32.id, prediction, groups),
        rivals=tuple(
            _baseline(goal, name, own, scored[chosen], derive_seed(ctx.seed, name), groups)
            for name, own in beside.items()
        ),
        errors=prediction.errors(scored[chosen], beside),
        pictures=pictures(task, scored[fp32.id], scored[chosen]),
    )


def _models(
    ctx: Context,
    models: Sequence[Artifact],
    hashes: Mapping[str, str],
    scored: Mapping[str, Evaluation],
    reference: str,
    prediction: Prediction,
    groups: np.ndarray | None,
) -> tuple[ModelEvidence, ...]:
    """One row an artifact, in the order of `models`. reference: the id of the one that all are compared with.

    Two artifacts may have the same file: Export passes on what Quantize made. Resampling is seeded by the file and its
    latency is taken once, so that the bundle and the report say the same of it to the last digit.
    """
    from searchkit.onnx import measure

    example = batching.take(ctx.task.inputs, ctx.task.raw("val"), slice(0, 1))
    paths = {artifact.id: ctx.model_path(artifact) for artifact in models}
    order = [reference, *(id for id in paths if id != reference)]  # a ratio is to the first
    # Reversed, so that of artifacts with the same file the first in `order` is the one that is timed.
    first = {hashes[id]: id for id in reversed(order)}
    latency = measure.latency({id: paths[id] for id in order if first[hashes[id]] == id}, example)
    rows = []
    for artifact in models:
        id, network, own = artifact.id, ctx.source(artifact), {}
        if "weights" in artifact.files and isinstance(ctx.task, HasModelMetrics):
            own = ctx.task.inspect(ctx.network(artifact), "test")
        row = ModelEvidence(
            id=id,
            stage=artifact.stage,
            made_by=artifact.made_by,
            metrics=scored[id].metrics | own,
            val=artifact.metrics,
            **_compare(
                ctx.task.goal, prediction, scored[id], scored[reference], derive_seed(ctx.seed, hashes[id]), groups
            ),
            params=network.metrics["params"],
            macs=network.metrics["macs"],
            size_bytes=measure.size_bytes(paths[id]),
            peak_activation_bytes=measure.peak_activation_bytes(paths[id], example),
            latency=latency[first[hashes[id]]],
        )
        rows.append(row)
    return tuple(rows)


def _compare(
    goal: Goal, prediction: Prediction, own: Evaluation, reference: Evaluation, seed: int, groups: np.ndarray | None
) -> dict[str, JSON]:
    binary = prediction.right_or_wrong and is_binary(own.scores) and is_binary(reference.scores)
    return {
        "metric": metric_interval(goal, own.scores, seed=seed, groups=groups),
        "difference": paired_difference(goal, own.scores, reference.scores, seed=seed, groups=groups),
        "mcnemar": mcnemar(own.scores == 1.0, reference.scores == 1.0) if binary else None,
        "agreement": agreement(own.decisions, reference.decisions, prediction, targets=own.targets, groups=groups),
    }


def _baseline(
    goal: Goal, name: str, own: Evaluation, chosen: Evaluation, seed: int, groups: np.ndarray | None
) -> BaselineEvidence:
    return BaselineEvidence(
        name=name,
        metrics=own.metrics,
        metric=metric_interval(goal, own.scores, seed=seed, groups=groups),
        difference=paired_difference(goal, chosen.scores, own.scores, seed=seed, groups=groups),
    )


def pictures(task: Task, fp32: Evaluation, shipped: Evaluation) -> JSON:
    """Examples of test, evenly chosen, for a reader to see if the answers are pictures.

    Args:
        task: Says what the answers are.
        fp32: What the reference answered.
        shipped: What the chosen file answered.

    Returns:
        "shape" (n, height, width, channels) and "rows", by name the bytes of n pictures in base64; None if the answers
        are something else.
    """
    main = task.inputs[0]
    if main.name != "image" and task.answers[0].name != "image" or fp32.decisions.ndim < 3:
        return None
    given = "given" if task.spec.reconstructs else "real, of test"
    rows = {given: fp32.targets, "fp32 winner": fp32.decisions}
    if task.spec.generates and main.name == "image":
        rows = {"given": task.raw("test")[main.name], **rows}
    if shipped is not fp32:
        rows["shipped"] = shipped.decisions
    chosen = np.unique(np.linspace(0, len(fp32.targets) - 1, min(PICTURED, len(fp32.targets))).astype(int))
    found: dict[str, JSON] = {"rows": {}}
    for name, values in rows.items():
        # One scale for the targets and all answers, or a change in brightness could not be seen; inputs have their own.
        scale = values if name == "given" else fp32.targets
        least, most = float(np.min(scale)), float(np.max(scale))
        shown = _as_bytes(np.asarray(values)[chosen], least, most)
        found |= {
            "shape": list(shown.shape),
            "rows": {**found["rows"], name: base64.b64encode(shown.tobytes()).decode()},
        }
    return found


def _as_bytes(values: np.ndarray, least: float, most: float) -> np.ndarray:
    """(n, H, W), (n, C, H, W) or (n, H, W, C) to (n, h, w, 1 or 3) uint8, black the least; large ones thinned."""
    axes = picture_layout(values.shape[1:])
    values = values[..., None] if axes == "HW" else np.moveaxis(values, 1, -1) if axes == "CHW" else values
    step = -(-max(values.shape[1:3]) // PICTURE_SIDE)
    values = values[:, ::step, ::step, : 3 if values.shape[3] >= 3 else 1]
    share = (np.nan_to_num(values.astype(np.float64), nan=least) - least) / max(most - least, 1e-300)
    return np.ascontiguousarray(np.round(255 * share.clip(0, 1)).astype(np.uint8))


def _score(ctx: Context, artifact: Artifact, sha256: str) -> Evaluation:
    """The artifact's file on test.

    It is read from the run's folder evidence/ if this very file has been scored before and the answers are whole.
    """
    from searchkit.onnx.predictor import OnnxPredictor

    kept = _kept(ctx.run, artifact.id, sha256)
    if kept is not None:
        return kept
    evaluation = ctx.task.evaluate(OnnxPredictor(ctx.model_path(artifact)), "test")
    _keep(ctx.run, artifact.id, sha256, evaluation)
    return evaluation


def _keep(run: Run, id: str, sha256: str, evaluation: Evaluation) -> None:
    """evidence/<id>.scores.npy, .decisions.npy and .targets.npy; <id>.json last: it says that they are whole."""
    folder = run.path / "evidence"
    folder.mkdir(exist_ok=True)
    for name in ("scores", "decisions", "targets"):
        with replacing(folder / f"{id}.{name}.npy") as file:
            np.save(file, np.asarray(getattr(evaluation, name)), allow_pickle=False)
    # last: it says that the three are whole
    run.write_json(f"evidence/{id}.json", {"sha256": sha256, "metrics": evaluation.metrics})


def _kept(run: Run, id: str, sha256: str) -> Evaluation | None:
    about: Mapping[str, JSON] = run.read_json(f"evidence/{id}.json", ScoredFile) or {}
    if about.get("sha256") != sha256:
        return None
    folder = run.path / "evidence"
    try:
        scores, decisions, targets = (
            np.load(folder / f"{id}.{name}.npy", allow_pickle=False) for name in ("scores", "decisions", "targets")
        )
    except DAMAGED_ARRAYS:  # missing or cut short: the file is scored again
        return None
    return Evaluation(dict(about["metrics"]), scores, decisions, targets)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
