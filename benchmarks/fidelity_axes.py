"""Which cheap training tells good candidates from bad ones: fewer epochs, a part of the data, or smaller pictures?

    python benchmarks/fidelity_axes.py DATA [reports/reference/fidelity-axes.md] --rows 8000 --candidates 16 --epochs 6

Random candidates of a family within a limit on parameters are trained in full on some rows of the data, and cheaply in
several ways that cost about the same; each way has a schedule of its own that ends with it. What counts is the rank
correlation (Spearman) of val accuracy with that of the full training, with an interval by bootstrap over candidates,
and whether the best candidate of the full training is among the cheap training's best third. CPU seconds of one thread.

A second table is of extrapolation: at an epoch of the full training, how often is the bound that is stated for a
candidate, from the gains of all the others, kept by what it came to (leave one out)? And if candidates came in this
order, how many would be stopped there for having no chance, and would the best have been one of them?
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit.core.space_file import load_space  # noqa: E402
from searchkit.core.training import FitPlan, TrainState  # noqa: E402
from searchkit.onnx import measure  # noqa: E402
from searchkit.search.candidates import Candidate, draw  # noqa: E402
from searchkit.search.choices import at_random, like  # noqa: E402
from searchkit.search.extrapolation import COVERAGE, has_a_chance, lower_bound  # noqa: E402
from searchkit.search.successive_halving import Losses  # noqa: E402
from searchkit.tasks import registry  # noqa: E402
from searchkit.train import Diverged, fit, validation  # noqa: E402

WAYS = {
    "full": (1.0, 1.0, 1.0),
    "half of the epochs": (0.5, 1.0, 1.0),
    "half of the data": (1.0, 0.5, 1.0),
    "sides of 3/4": (1.0, 1.0, 0.75),
    "a quarter of the epochs": (0.25, 1.0, 1.0),
    "a quarter of the data": (1.0, 0.25, 1.0),
    "sides of 1/2": (1.0, 1.0, 0.5),
    "sides of 3/4, half of the data": (1.0, 0.5, 0.75),
}
"""Shares of the epochs, the rows and the sides."""


def candidates(space: Any, spec: Any, given: argparse.Namespace) -> list[Candidate]:
    """Distinct ones within the limit, that take smaller pictures too; the training is the family's default."""
    rng, found = random.Random(given.seed), {}
    fixed = {"head": "global"}
    while len(found) < given.candidates:
        candidate = draw(space, spec, like(fixed, at_random(rng)), epochs=given.epochs, way="random")
        if candidate.arch is None:
            continue
        net = space.build(candidate.arch, spec)
        n_params, shape = sum(p.numel() for p in net.parameters()), spec.inputs[0].shape
        fits = given.least_params <= n_params <= given.most_params
        if fits and measure.macs(net.eval(), (torch.zeros(1, *shape),)) <= given.most_macs:
            default = replace(space.training.default, epochs=given.epochs, batch_size=128)
            found[json.dumps(candidate.plain["arch"])] = replace(candidate, training=default)
    return list(found.values())


def trained(
    space: Any, task: Any, candidate: Candidate, way: tuple[float, float, float]
) -> tuple[float, float, list[float]]:
    """Val accuracy, CPU seconds, and the accuracy after each epoch."""
    epochs, rows, sides = way
    began = time.thread_time()
    seen = task.part(rows) if rows < 1 else task
    seen = seen.shrunk(sides) if sides < 1 else seen
    training = replace(candidate.training, epochs=max(1, round(epochs * candidate.training.epochs)))
    torch.manual_seed(0)
    net = space.build(candidate.arch, task.spec)
    plan = FitPlan(training, 0, training.epochs, "cpu", "bf16", True, validate=way == WAYS["full"])
    try:
        state = fit(net, seen, plan, TrainState())
    except Diverged:
        return 0.0, time.thread_time() - began, []
    curve = [row.get("val", 0.0) for row in state.numbers["curve"]]
    return validation(net, seen, "cpu"), time.thread_time() - began, curve


def extrapolated(curves: list[list[float]]) -> list[str]:
    """The second table. Curves of val accuracy, all of one length."""
    lines = [
        "",
        f"Extrapolation with a stated coverage of {COVERAGE:.0%}, of {len(curves)} candidates:",
        "",
        "| after epoch | bound kept | of the better half there | stopped in this order | the best too |",
        "|---:|---|---|---|---|",
    ]
    last = [1 - curve[-1] for curve in curves]
    for epoch in range(1, len(curves[0])):
        at = [1 - curve[epoch - 1] for curve in curves]
        kept = []
        for n in range(len(curves)):
            bound = lower_bound(at[n], [at[k] - last[k] for k in range(len(curves)) if k != n])
            kept.append(bound is None or last[n] >= bound - 1e-12)
        better = [kept[n] for n in range(len(curves)) if at[n] <= sorted(at)[(len(at) - 1) // 2]]
        stopped, seen = [], [dict[int, Losses](), dict[int, Losses]()]
        for n in range(len(curves)):
            seen[0][n] = (at[n],)
            if has_a_chance(n, 0, seen):
                seen[1][n] = (last[n],)
            else:
                stopped.append(n)
        lines.append(
            f"| {epoch} | {sum(kept)} of {len(kept)} | {sum(better)} of {len(better)} | {len(stopped)} | "
            f"{'yes' if int(np.argmin(last)) in stopped else 'no'} |"
        )
    return lines


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--space", default="cnn")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--least-params", type=int, default=20_000)
    parser.add_argument("--most-params", type=int, default=95_000)
    parser.add_argument("--most-macs", type=int, default=15_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole: Any = registry.load({"data": given.data})
    task = whole.part(given.rows / whole.n_examples("train"))
    space = load_space(ROOT / "spaces" / f"{given.space}.py")
    values: dict[str, list[float]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    curves: list[list[float]] = []
    for number, candidate in enumerate(candidates(space, task.spec, given)):
        for name, way in WAYS.items():
            value, took, curve = trained(space, task, candidate, way)
            if name == "full" and len(curve) == candidate.training.epochs:
                curves.append(curve)
            values[name].append(value)
            seconds[name].append(took)
        print(number, {name: round(v[-1], 3) for name, v in values.items()}, flush=True)
    full, rng = np.array(values["full"]), np.random.default_rng(0)
    lines = [
        "# Which cheap training tells good candidates from bad ones",
        "",
        f"By `python benchmarks/fidelity_axes.py {Path(given.data).name} --space {given.space} --rows {given.rows} "
        f"--candidates {given.candidates} --epochs {given.epochs} --seed {given.seed}`, {date.today()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, bf16.",
        "",
        "| way | CPU seconds, of full | rank correlation with full | best of full in its best third | val accuracy |",
        "|---|---:|---|---|---|",
    ]
    for name in WAYS:
        cheap = np.array(values[name])
        draws = [rng.integers(0, len(full), len(full)) for _ in range(2000)]
        low, high = np.nanpercentile([rank_correlation(full[d], cheap[d]) for d in draws], [2.5, 97.5])
        third = np.argsort(-cheap)[: max(1, len(cheap) // 3)]
        lines.append(
            f"| {name} | {sum(seconds[name]) / sum(seconds['full']):.2f} | {rank_correlation(full, cheap):.2f} "
            f"[{low:.2f}, {high:.2f}] | {'yes' if int(full.argmax()) in third else 'no'} | "
            f"{cheap.min():.3f} to {cheap.max():.3f} |"
        )
    text = "\n".join([*lines, *extrapolated(curves)]) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
