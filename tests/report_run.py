"""A run directory as a search and the stages leave it, without the minutes: plain data of realistic shape."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from searchkit.core.artifact import Artifact
from searchkit.core.goal import Evaluation, Goal
from searchkit.core.serialization import JSON, freeze
from searchkit.evaluation.records import FORMAT, Evidence
from searchkit.evaluation.statistics import agreement, mcnemar, metric_interval, paired_difference
from searchkit.run import Run
from searchkit.tasks.predictions import CLASSES, GENERATION, RECONSTRUCTION, VALUES

ACCURACY = Goal("accuracy", "maximize")
RMSE = Goal("rmse", "minimize", root=True)
LABELS = tuple("zero one two three four five six seven eight nine".split())
LIMITS = {"size_bytes": 20_000, "latency_ms": None, "params": None, "macs": None}


def curve(last: float, epochs: int, *, up: bool, seed: int) -> list[dict[str, JSON]]:
    rng = np.random.default_rng(seed)
    fall = [math.exp(-3 * e / epochs) for e in range(1, epochs + 1)]
    sign = 1 if up else -1
    return [
        {
            "epoch": e + 1,
            "loss": 2.2 * f + 0.03,
            "seconds": 0.2,
            "val": last - sign * abs(last) * 0.4 * f + rng.normal() * 0.003,
        }
        for e, f in enumerate(fall)
    ]


def make_run(
    root: Path, *, name: str = "mlp-digits-7f", goal: Goal = ACCURACY, n_trials: int = 22, **planted: str
) -> Run:
    """planted: strings from outside: task, command, reason, column, layer."""
    up = goal.direction == "maximize"
    config = {
        "question": {
            "space": "mlp",
            "source": {"task": "digits"},
            "recipe": "compact",
            "sampler": "tpe",
            "minimize": "params",
            "seed": 3,
            "limits": LIMITS,
            "budget": {"trials": max(1, n_trials), "epochs": 20, "rungs": 3, "eta": 3, "seconds": None},
        },
        "task": {
            "name": planted.get("task", "digits"),
            "fingerprint": "0123abcd",
            "summary": {
                "task": planted.get("task", "digits"),
                "source": "scikit-learn",
                "modality": "image",
                "kind": "classification",
                "rows": {"train": 1077, "val": 360, "test": 360},
                "inputs": [{"name": "x", "shape": [1, 8, 8], "dtype": "float32"}],
                "classes": {label: 178 for label in LABELS},
                "targets": [planted.get("column", "disease progression")],
                "columns": [],
                "missing": 0,
                "duplicates": 0,
                "in_train_and_test": 2,
                "goal": goal.metric,
            },
        },
        "command": [
            "python",
            "cli.py",
            "search",
            "--space",
            "mlp",
            "--task",
            planted.get("command", "digits"),
            "--seed",
            "3",
        ],
        "started": "2026-11-20T10:11:12+0000",
        "versions": {
            "torch": "2.13.0",
            "optuna": "5.0.0",
            "onnx": "1.23.2",
            "onnxruntime": "1.31.1",
            "python": "3.11.2",
        },
        "hardware": {"cpu": "a processor with AVX512-VNNI", "cores": 2, "system": "Linux"},
    }
    run = Run.create(root, name, config)
    study = optuna.create_study(
        storage=f"sqlite:///{run.path / 'study.db'}",
        study_name="mlp",
        directions=[goal.direction, "minimize"],
        load_if_exists=False,
    )
    about = {
        "goal": goal.metric,
        "direction": goal.direction,
        "directions": [goal.direction, "minimize"],
        "cost": "params",
        "study": "mlp",
        "url": None,
        "owner": "",
    }
    run.write_json("search.json", {"mlp": about})
    rng = np.random.default_rng(1)
    for number in range(n_trials):
        width, depth, lr = int(rng.integers(8, 200)), int(rng.integers(0, 4)), float(10 ** rng.uniform(-4, -1.5))
        params = 64 * width + max(0, depth - 1) * width**2 + 10 * width
        quality = 0.985 - 0.5 / width**0.75 - 0.012 * abs(math.log10(lr) + 2.6) + rng.normal() * 0.004
        value = float(quality if up else 90 * (1 - quality) + 51)
        _add_trial(run, study, number, value, goal, {"width": width, "depth": depth, "lr": lr}, params, planted)
    return run


def _add_trial(
    run: Run,
    study: optuna.Study,
    number: int,
    value: float,
    goal: Goal,
    given: dict[str, JSON],
    params: int,
    planted: dict[str, str],
) -> None:
    cost = {"params": params, "macs": params, "size_bytes": 4 * params + 2100}
    facts: dict[str, JSON] = {"way": "tpe", "cost": cost, "minimized": "params"}
    values = [value, float(params)]
    if number % 7 == 5:
        facts |= {"status": "rejected", "rejected": {"size_bytes": cost["size_bytes"] / 20_000 - 1}}
        values = [-1e12, float(params)]
    elif number == 4:
        reason = planted.get("reason", "the training loss became nan in epoch 2 (learning rate 0.3)")
        facts |= {"status": "failed", "failure": "diverged", "reason": reason}
        values = [-1e12, float(params)]
    else:
        epochs = 20 if number % 3 else 7
        made_by = {"stage": "Trial", "number": number, "seed": number}
        metrics = {goal.metric: value, **cost}
        artifact = Artifact(
            f"{number:012x}", "mlp", {"width": given["width"]}, {"lr": given["lr"]}, (), made_by, None, metrics
        )
        run.save(artifact, log=curve(value, epochs, up=goal.direction == "maximize", seed=number))
        facts |= {"status": "trained", "artifact": artifact.id, "epochs": epochs, "seconds": 0.2 * epochs, "rung": 2}
    space = {
        "width": IntDistribution(8, 200),
        "depth": IntDistribution(0, 3),
        "lr": FloatDistribution(1e-4, 0.1, log=True),
    }
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            values=values,
            params=given,
            distributions=space,
            user_attrs=facts,
            constraints={"broken": 0.0 if facts["status"] == "trained" else 1.0},
        )
    )


def add_line(run: Run, goal: Goal, **planted: str) -> list[Artifact]:
    """The stages after the search: promote, distill, prune, quantize, export."""
    best = sorted(run.trials(), key=lambda a: goal.loss(a.metrics[goal.metric]))[0]
    value, params = best.metrics[goal.metric], best.metrics["params"]
    up = goal.direction == "maximize"
    layer = planted.get("layer", "body.0.linear")
    layers = [
        {
            "name": n,
            "kind": "Linear",
            "before": [b, 64],
            "after": [a, 64],
            "params_before": 65 * b,
            "params_after": 65 * a,
        }
        for n, b, a in ((layer, 120, 64), ("body.1.linear", 96, 48), ("head", 10, 10))
    ]
    methods = [
        {
            "method": m,
            "metric": value - d,
            "size_bytes": s,
            "latency_ms": t,
            "latency_ratio": t / 0.011,
            "latency_low": t / 0.0115,
            "latency_high": t / 0.0105,
            "latency_verdict": v,
            "agreement": 0.99,
            "int8_share": i,
            "stayed_fp32": f,
        }
        for m, d, s, t, v, i, f in (
            ("fp32", 0, 41_000, 0.011, "no difference", 0.0, {"Gemm": 3}),
            ("static", 0.002, 12_900, 0.0135, "slower", 1.0, {}),
            ("dynamic", 0.001, 13_100, 0.021, "slower", 1.0, {}),
            ("weight-only", 0.0, 12_300, 0.0108, "no difference", 0.0, {"Gemm": 3}),
        )
    ]
    notes: dict[str, dict[str, JSON]] = {
        "Promote": {},
        "Distill": {
            "candidates": {"before distillation": value, "control": value - 0.001, "distilled": value + 0.002},
            "kept": "distilled",
            "metric": goal.metric,
            "teachers": 3,
        },
        "Prune": {
            "metric": goal.metric,
            "by": "params",
            "before": params,
            "after": params / 2,
            "target": params / 2,
            "steps": [{"params": params * s, "raw": value * r, "val": value} for s, r in ((0.75, 0.8), (0.5, 0.7))],
            "layers": layers,
        },
        "Quantize": {
            "candidates": methods[1:],
            "fp32": methods[0],
            "chosen": "static",
            "reason": "The smallest file within the tolerance.",
            "op_counts": {"QLinearMatMul": 3},
            "slower_because": planted.get(
                "reason",
                "static takes 1.23 times as long as fp32 here (1.17 to 1.29): "
                "at 0.0135 ms a call the conversions cost more than they save.",
            ),
        },
        "Export": {},
    }
    line, parent = [], best
    for index, (stage, told) in enumerate(notes.items()):
        share = {"Promote": 1, "Distill": 1}.get(stage, 0.5)
        metrics = {
            goal.metric: value + 0.001 * index,
            "params": params * share,
            "macs": params * share,
            "size_bytes": 4 * params * share * (0.3 if index > 2 else 1),
        }
        log = None
        if stage == "Distill":
            log = [{"candidate": c} | r for c in ("control", "distilled") for r in curve(value, 8, up=up, seed=len(c))]
        if stage == "Prune":
            log = [{"step": s} | r for s in (1, 2) for r in curve(value, 6, up=up, seed=s)]
        artifact = Artifact(
            f"{stage.lower():_<12}", "mlp", best.arch, best.training, (), {"stage": stage}, parent.id, metrics, told
        )
        parent = run.save(artifact, log=log)
        line.append(parent)
    return line


def make_evidence(
    line: list[Artifact], goal: Goal, kind: str, *, labels: tuple[str, ...] = LABELS, n: int = 360
) -> Evidence:
    """What `collect` returns, from made-up answers."""
    rng = np.random.default_rng(5)
    classes = kind == "classes"
    prediction = {one.name: one for one in (CLASSES, VALUES, RECONSTRUCTION, GENERATION)}[kind]
    targets = rng.integers(0, len(labels), n) if classes else rng.normal(150, 77, n)
    if kind in ("reconstruction", "generation"):
        targets = rng.random((n, 1, 8, 8))
    scored, rows, files = {}, [], {}
    current = (
        np.where(rng.random(n) < 0.03, (targets + 1) % len(labels), targets)
        if classes
        else targets + rng.normal(0, 0.3, targets.shape) * targets.std()
    )
    for index, artifact in enumerate(line):
        if artifact.stage != "Export":
            moved = rng.random(n) < 0.012
            if classes:
                current = np.where(moved, rng.integers(0, len(labels), n), current)
            else:
                current = current + rng.normal(0, 0.004 * (1 + index), targets.shape) * targets.std()
        scores = (current == targets).astype(float) if classes else ((current - targets) ** 2).reshape(n, -1).mean(1)
        metrics = {goal.metric: goal.value(scores)} | (
            {"macro_f1": goal.value(scores) - 0.004} if classes else {"mae": 44.0}
        )
        scored[artifact.id] = Evaluation(metrics, scores, current, targets)
        files[artifact.id] = f"sha{min(index, 3)}"
    first = scored[line[0].id]
    for index, artifact in enumerate(line):
        own = scored[artifact.id]
        ratio = (1.0, 1.01, 0.81, 1.22, 1.22)[index]
        verdict = ("no difference", "no difference", "faster", "slower", "slower")[index]
        rows.append(
            {
                "id": artifact.id,
                "stage": artifact.stage,
                "made_by": artifact.made_by,
                "metrics": own.metrics,
                "val": artifact.metrics,
                "metric": metric_interval(goal, own.scores),
                "difference": paired_difference(goal, own.scores, first.scores),
                "mcnemar": mcnemar(own.scores == 1, first.scores == 1) if classes else None,
                "agreement": agreement(own.decisions, first.decisions, prediction, targets=targets),
                "params": artifact.metrics["params"],
                "macs": artifact.metrics["macs"],
                "size_bytes": round(artifact.metrics["size_bytes"]),
                "peak_activation_bytes": (1504, 1504, 820, 310, 310)[index],
                "latency": {
                    "p50_ms": 0.0112 * ratio,
                    "p95_ms": 0.0131 * ratio,
                    "ratio": ratio,
                    "low": ratio * 0.97,
                    "high": ratio * 1.04,
                    "processes": 5,
                    "rounds": 24,
                    "verdict": verdict,
                },
            }
        )
    plain = freeze(
        {
            "format": FORMAT,
            "split": "test",
            "n": n,
            "goal": goal,
            "kind": kind,
            "labels": labels if classes else (),
            "confidence": 0.95,
            "resamples": 10_000,
            "tolerance": 0.01,
            "files": files,
            "reference": line[0].id,
            "chosen": line[-1].id,
            "models": rows,
            "errors": prediction.errors(scored[line[-1].id], {}),
        }
    )
    return Evidence.from_json(plain)
