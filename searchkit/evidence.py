"""What the test split says of the exported files: every metric with its interval, every comparison in pairs.

The one idea: two files that answered the same examples are compared example by example, never through two separate
intervals, and a difference whose interval holds zero is called indistinguishable. Intervals: Wilson (1927) for shares;
the bias-corrected and accelerated bootstrap (Efron 1987) for means and root means; Bonett and Price (2012) for the
difference of two shares that differ on few examples. Where examples hang together (`types.Grouped`), whole groups are
resampled (Davison and Hinkley 1997, section 3.8), and an interval is as wide as their number makes it. Tests: McNemar's
(1947), in its exact form. Not to be confused with the val metrics of an artifact, which chose it and so flatter it.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import Literal

import numpy as np

from searchkit import layout
from searchkit.run import Context, Run
from searchkit.tasks.image import layout as picture_layout
from searchkit.tasks.metrics import errors_to_nearest
from searchkit.types import JSON, Artifact, Evaluation, Goal, Grouped, Inspecting, Rivalled, Task, derive_seed, freeze

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW = 10  # discordant pairs; below this the bootstrap of a difference of shares is too narrow
FORMAT = 2
PICTURED = 12  # examples that are shown where the answers are pictures
PICTURE_SIDE = 64  # pixels, at most

Kind = Literal["classes", "steps", "values", "forecast", "reconstruction", "generation", "actions"]

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
_CHUNK = 4_000_000  # resampled scores held at once: 32 MB


# ── Intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval, over n examples. method: wilson, bca, percentile or bonett-price; "of groups"
    is added where whole groups of examples were resampled."""

    value: float
    low: float
    high: float
    method: str
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`a` less `b` on the same examples. indistinguishable: the interval holds 0. better: whether `a` is the
    better in the goal's direction; None where the interval does not say."""

    value: float
    low: float
    high: float
    method: str
    n: int
    indistinguishable: bool
    better: bool | None


def metric_interval(goal: Goal, scores: np.ndarray, *, seed: int = 0, groups: np.ndarray | None = None) -> Interval:
    """The goal's value over `scores` (n,) and its interval: Wilson for a mean of zeros and ones, else BCa. groups: (n,)
    whole numbers, examples with the same one are resampled together."""
    scores = _checked(scores)
    value = goal.value(scores)
    if not goal.root and groups is None and _is_binary(scores):
        low, high = wilson(int(scores.sum()), len(scores))
        return Interval(value, low, high, "wilson", len(scores))
    low, high = _bca(scores, seed, groups)
    if goal.root:
        low, high = math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))
    if goal.most is not None:
        high = min(high, goal.most)
    return Interval(value, low, high, _named("bca", groups), len(scores))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The score interval of a share: unlike Wald's it holds near 0 and 1, where good models are."""
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_difference(
    goal: Goal, a: np.ndarray, b: np.ndarray, *, seed: int = 0, groups: np.ndarray | None = None
) -> Difference:
    """goal.value(a) − goal.value(b), where a[i] and b[i], (n,) each, are the scores of two models on example i. groups:
    as in `metric_interval`."""
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise ValueError(f"pairs need one score an example from each: {a.shape} against {b.shape}")
    value = goal.value(a) - goal.value(b)
    if goal.root:
        means = _bootstrap_means(np.stack([a, b], axis=1), seed, groups)
        low, high = _percentiles(np.sqrt(means[:, 0]) - np.sqrt(means[:, 1]))
        method = _named("percentile", groups)
    elif groups is None and _is_binary(a) and _is_binary(b) and np.count_nonzero(a != b) < FEW:
        low, high = _bonett_price(int(np.sum(a > b)), int(np.sum(b > a)), len(a))
        method = "bonett-price"
    else:
        low, high = _bca(a - b, seed, groups)
        method = _named("bca", groups)
    same = low <= 0.0 <= high
    better = None if same else goal.better(value, 0.0)
    return Difference(value, low, high, method, len(a), same, better)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores are one number an example, (n,) with n > 0; these are {scores.shape}")
    return scores


def _is_binary(scores: np.ndarray) -> bool:
    return bool(np.all((scores == 0.0) | (scores == 1.0)))


def _bonett_price(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Wald's interval after one more win and one more loss: at no discordant pair it is still ±z·√2/(n+2), not ±0."""
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _named(method: str, groups: np.ndarray | None) -> str:
    return method if groups is None else f"{method} of groups"


def _totals(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, …) sums of the scores of each group, and (G,) how many there are."""
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *scores.shape[1:]))
    np.add.at(sums, member, scores)
    return sums, counts


def _bootstrap_means(scores: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Means of RESAMPLES resamples with replacement, of whole groups where there are any. (n,) gives (RESAMPLES,);
    (n, k) resamples rows: (RESAMPLES, k)."""
    rng, n = np.random.default_rng(seed), len(scores)
    if groups is not None:
        sums, sizes = _totals(scores, groups)
        drawn, step = [], max(1, _CHUNK // len(sizes))
        for start in range(0, RESAMPLES, step):
            times = rng.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=min(step, RESAMPLES - start))
            totals = times @ sizes
            drawn.append(times @ sums / totals.reshape(-1, *[1] * (sums.ndim - 1)))
        return np.concatenate(drawn)
    values, counts = np.unique(scores, axis=0, return_counts=True)
    if len(values) <= 64:  # the same distribution, drawn as counts: shares and their differences take milliseconds
        return np.asarray(rng.multinomial(n, counts / n, size=RESAMPLES) @ values / n)
    means = np.empty((RESAMPLES, *scores.shape[1:]))
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        means[start : start + rows] = scores[rng.integers(0, n, size=(rows, n), dtype=np.int32)].mean(axis=1)
    return means


def _percentiles(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _bca(scores: np.ndarray, seed: int, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Percentiles of the bootstrap means, moved for their bias and for the skewness of the scores (Efron 1987).

    For a mean the jackknife's acceleration is Σd³ / 6(Σd²)^1.5 with d the deviations, of groups their sums. sqrt is
    monotone and BCa respects such maps, so the interval of a root mean is the root of this one."""
    deviations = scores - scores.mean()
    if groups is not None:
        deviations = _totals(deviations, groups)[0]
    means = _bootstrap_means(scores, seed, groups)
    spread = float(np.sum(deviations**2))
    if spread == 0.0:
        return float(scores[0]), float(scores[0])
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)
    below = (np.sum(means < scores.mean()) + 0.5 * np.sum(means == scores.mean())) / len(means)
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / len(means), 1 - 1 / len(means))))
    levels = []
    for z in (-_Z, _Z):
        shifted = bias + z
        levels.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9)))
    low, high = np.quantile(means, levels)
    return float(low), float(high)


# ── Comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class McNemar:
    """only_a, only_b: examples that only the one got right. p: two-sided, exact; 1 where they never differ."""

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Do two classifiers err on different numbers of examples? correct_*: (n,) bool. Exact binomial, in integers."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    n = only_a + only_b
    term = tail = 1
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def agreement(
    decisions_a: np.ndarray,
    decisions_b: np.ndarray,
    kind: Kind,
    *,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
) -> Interval:
    """The share of examples that model a answers as b, the reference, does, with Wilson's interval. (n,) or (n, …).

    classes, actions: the same (several labels: all the same). steps, (n, L): the share of steps with the same class,
    and its bootstrap interval over examples, for the steps of one are not independent; where the target is −1 there is
    no step. reconstruction: the two differ, root mean square over the example's values, by no more than b errs, root
    mean square over the split: by less than what is wrong with b anyhow. generation: as reconstruction, the error of
    b's answer being its distance to the nearest of all targets. values, forecast: as reconstruction, each difference in
    the unit of b's error on its own target, or step. groups: as in `metric_interval`; where all examples are alike in
    this, Wilson's interval of as many as there are groups."""
    a, b = np.asarray(decisions_a), np.asarray(decisions_b)
    if a.shape != b.shape:
        raise ValueError(f"decisions over the same examples have one shape: {a.shape} against {b.shape}")
    n = len(a)
    if kind == "steps":
        there = np.asarray(targets).reshape(n, -1) >= 0
        shares = ((a == b).reshape(n, -1) & there).sum(axis=1) / there.sum(axis=1)
        low, high = _bca(shares, 0, groups)
        return Interval(float(shares.mean()), low, high, _named("bca", groups), n)
    if kind in ("classes", "actions"):
        alike = np.all((a == b).reshape(n, -1), axis=1)
    else:
        gap = np.square(a - b, dtype=np.float64).reshape(n, -1)
        if kind == "generation":
            error = errors_to_nearest(b, np.asarray(targets))
        else:
            error = np.square(b - np.asarray(targets), dtype=np.float64).reshape(n, -1)
        allowed = error.mean(axis=0 if kind in ("values", "forecast") else None)
        # a reference without error allows no difference, and none is 0 of it
        alike = np.mean(gap / np.maximum(allowed, 1e-100), axis=1) <= 1
    if groups is not None:
        n_groups = len(np.unique(groups))
        if alike.all() or not alike.any():
            return Interval(float(alike.mean()), *wilson(n_groups * int(alike[0]), n_groups), "wilson of groups", n)
        return Interval(float(alike.mean()), *_bca(alike.astype(np.float64), 0, groups), "bca of groups", n)
    low, high = wilson(int(alike.sum()), n)
    return Interval(float(alike.mean()), low, high, "wilson", n)


# ── Collecting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def collect(
    ctx: Context, line: Sequence[Artifact], fp32: Artifact, *, asked: Mapping[str, JSON] | None = None
) -> dict[str, JSON]:
    """Score every exported file of `line` on test, each once for all time, and compare each with `fp32` in pairs.

    `line` is oldest first and its last file is the one chosen; artifacts without a file are left out. The result is
    plain data, kept in the run's evidence.json with the answers to single examples in its folder evidence/; a second
    call for the same files reads them. Latencies are measured anew when the set of files changes, all in one
    interleaved session: a ratio between two sessions means nothing.

    asked: "recipe", "wish" and "command" of this line, for the report; the run's own question where it is None."""
    from searchkit import measure  # torch: the statistics above do without it

    run, goal, asked = ctx.run, ctx.task.goal, dict(freeze(asked or {}))
    models = [artifact for artifact in line if "model" in artifact.files]
    if fp32.id not in {artifact.id for artifact in models}:
        models.insert(0, fp32)
    hashes = {artifact.id: _sha256(ctx.model_path(artifact)) for artifact in models}
    kept = run.read_json("evidence.json") or {}
    if kept.get("format") == FORMAT and kept["files"] == hashes and kept["reference"] == fp32.id:
        if any(kept.get(name) != value for name, value in asked.items()):  # the same files by another way
            kept = {**kept, **asked}
            run.write_json("evidence.json", kept)
        return dict(kept)
    scored = {artifact.id: _score(ctx, artifact, hashes[artifact.id]) for artifact in models}
    example = layout.take(ctx.task.inputs, ctx.task.raw("val"), slice(0, 1))
    order = [fp32.id, *(artifact.id for artifact in models if artifact.id != fp32.id)]
    paths = {artifact.id: ctx.model_path(artifact) for artifact in models}
    latency = measure.latency({id: paths[id] for id in order}, example)
    kind = _kind(ctx.task, scored[fp32.id])
    groups = ctx.task.groups("test") if isinstance(ctx.task, Grouped) else None
    rows = []
    for artifact in models:
        network, own = ctx.source(artifact), {}
        if "weights" in artifact.files and isinstance(ctx.task, Inspecting):
            own = ctx.task.inspect(ctx.network(artifact), "test")
        rows.append(
            {
                "id": artifact.id,
                "stage": artifact.stage,
                "made_by": artifact.made_by,
                "metrics": scored[artifact.id].metrics | own,
                "val": artifact.metrics,
                **_compare(
                    goal, kind, scored[artifact.id], scored[fp32.id], derive_seed(ctx.seed, artifact.id), groups
                ),
                "params": network.metrics["params"],
                "macs": network.metrics["macs"],
                "size_bytes": measure.size_bytes(paths[artifact.id]),
                "peak_activation_bytes": measure.peak_activation_bytes(paths[artifact.id], example),
                "latency": latency[artifact.id],
            }
        )
    chosen = models[-1]
    rivals = ctx.task.rivals() if isinstance(ctx.task, Rivalled) else {}
    beside = {name: ctx.task.evaluate(rival, "test") for name, rival in rivals.items()}
    found = {
        "format": FORMAT,
        **asked,
        "split": "test",
        "n": ctx.task.n_examples("test"),
        "groups": None if groups is None else len(np.unique(groups)),
        "goal": goal,
        "kind": kind,
        "labels": ctx.task.labels,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "files": hashes,
        "reference": fp32.id,
        "chosen": chosen.id,
        "models": rows,
        "rivals": [
            {"name": name, **_rival(goal, own, scored[chosen.id], derive_seed(ctx.seed, name), groups)}
            for name, own in beside.items()
        ],
        "errors": errors(kind, scored[chosen.id], beside=beside),
        "pictures": pictures(ctx.task, scored[fp32.id], scored[chosen.id]),
    }
    run.write_json("evidence.json", found)
    return dict(freeze(found))


def _compare(
    goal: Goal, kind: Kind, own: Evaluation, reference: Evaluation, seed: int, groups: np.ndarray | None
) -> dict[str, JSON]:
    binary = _is_binary(own.scores) and _is_binary(reference.scores)
    return {
        "metric": metric_interval(goal, own.scores, seed=seed, groups=groups),
        "difference": paired_difference(goal, own.scores, reference.scores, seed=seed, groups=groups),
        "mcnemar": mcnemar(own.scores == 1.0, reference.scores == 1.0) if kind == "classes" and binary else None,
        "agreement": agreement(own.decisions, reference.decisions, kind, targets=own.targets, groups=groups),
    }


def _rival(goal: Goal, own: Evaluation, chosen: Evaluation, seed: int, groups: np.ndarray | None) -> dict[str, JSON]:
    """difference: of the chosen file to what needs no network."""
    return {
        "metrics": own.metrics,
        "metric": metric_interval(goal, own.scores, seed=seed, groups=groups),
        "difference": paired_difference(goal, chosen.scores, own.scores, seed=seed, groups=groups),
    }


def _kind(task: Task, evaluation: Evaluation) -> Kind:
    if task.spec.forecasts:
        return "forecast"
    if task.spec.acts:
        return "actions"
    if task.spec.generates:
        return "generation"
    if evaluation.decisions.dtype.kind not in "iub":
        return "reconstruction" if task.spec.reconstructs else "values"
    return "steps" if task.spec.by_step else "classes"


def errors(
    kind: Kind, evaluation: Evaluation, *, points: int = 400, beside: Mapping[str, Evaluation] = MappingProxyType({})
) -> dict[str, JSON]:
    """What a picture of the errors needs, as plain data.

    One class an example: "confusion", rows the truth. Several labels: "labels", counts by label. values: "points",
    (truth, predicted) of each target, thinned evenly. forecast: "by_step", the mean squared error of each step to come,
    by name, of the file and of what stands beside it. The others: "histogram" of the scores, and its "edges"."""
    truth, given = evaluation.targets, evaluation.decisions
    if kind == "classes" and truth.ndim == 1:
        size = int(max(truth.max(), given.max())) + 1
        table = np.zeros((size, size), dtype=np.int64)
        answered = given >= 0  # −1: the answer was not a number
        np.add.at(table, (truth[answered].astype(np.int64), given[answered].astype(np.int64)), 1)
        return {"confusion": table.tolist(), "unanswered": int(np.sum(~answered))}
    if kind == "classes":
        yes, said = truth.astype(bool), given.astype(bool)
        cells = {"hit": yes & said, "missed": yes & ~said, "false_alarm": ~yes & said}
        return {"labels": {name: cell.sum(axis=0).tolist() for name, cell in cells.items()}}
    if kind == "values":
        rows = np.unique(np.linspace(0, len(truth) - 1, min(points, len(truth))).astype(int))
        pairs = np.stack([truth.reshape(len(truth), -1)[rows], given.reshape(len(given), -1)[rows]], axis=-1)
        return {"points": [[[float(f"{v:.6g}") for v in pair] for pair in target] for target in pairs.swapaxes(0, 1)]}
    if kind == "forecast":
        return {"by_step": {name: _by_step(one) for name, one in {"the network": evaluation, **beside}.items()}}
    counts, edges = np.histogram(evaluation.scores, bins=min(30, max(5, len(evaluation.scores) // 10)))
    return {"histogram": counts.tolist(), "edges": edges.tolist()}


def pictures(task: Task, fp32: Evaluation, shipped: Evaluation) -> JSON:
    """What a reader sees where the answers are pictures, as plain data: "shape" (n, height, width, channels) and by
    name of the row its bytes in base64, evenly chosen from test. None where the answers are something else."""
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


def _by_step(evaluation: Evaluation) -> list[float]:
    """(H,) of answers (n, K, H)."""
    error = np.square(evaluation.decisions - evaluation.targets, dtype=np.float64)
    return [float(f"{value:.6g}") for value in error.mean(axis=(0, 1))]


def _score(ctx: Context, artifact: Artifact, sha256: str) -> Evaluation:
    """The artifact's file on test; from the run's folder evidence/ where this very file has been scored before and the
    answers are whole."""
    from searchkit.runtime import OnnxPredictor

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
        _save(folder / f"{id}.{name}.npy", np.asarray(getattr(evaluation, name)))
    run.write_json(f"evidence/{id}.json", {"sha256": sha256, "metrics": evaluation.metrics})


def _kept(run: Run, id: str, sha256: str) -> Evaluation | None:
    about: Mapping[str, JSON] = run.read_json(f"evidence/{id}.json") or {}
    if about.get("sha256") != sha256:
        return None
    folder = run.path / "evidence"
    try:
        scores, decisions, targets = (
            np.load(folder / f"{id}.{name}.npy", allow_pickle=False) for name in ("scores", "decisions", "targets")
        )
    except (OSError, ValueError, EOFError):  # missing or cut short: the file is scored again
        return None
    return Evaluation(dict(about["metrics"]), scores, decisions, targets)


def _save(path: Path, array: np.ndarray) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
