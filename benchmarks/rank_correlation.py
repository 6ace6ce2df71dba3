"""How well a supernet orders networks: its scores beside the same networks trained by themselves.

    python benchmarks/rank_correlation.py OUT.json [--task digits | --data pictures.npz] [--space cnn] [--networks 30]
        [--epochs 4] [--supernet-epochs 16]

The supernet of one kind is trained, then networks of that kind are drawn at random. Each is scored with the supernet's
weights and trained from scratch by the family's default training. Reported are Spearman's rank correlations of the
score, and of the number of parameters, with the metric on val, with a 95 % bootstrap interval over the networks.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def interval(pairs: list[tuple[float, float]]) -> list[float]:
    """The 95 % bootstrap interval of the rank correlation."""
    from searchkit.search.supernet.strategy import spearman

    rng = random.Random(0)
    found = sorted(spearman([rng.choice(pairs) for _ in pairs]) for _ in range(1000))
    return [round(found[25], 2), round(found[974], 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--task")
    parser.add_argument("--space", default="cnn")
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--supernet-epochs", type=int, default=16)
    parser.add_argument("--max-params", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    import torch

    from searchkit.context import Context
    from searchkit.core.space import Limits
    from searchkit.core.space_file import load_space, source_of
    from searchkit.run import Run
    from searchkit.search.cost_model import CostModel
    from searchkit.search.jobs import Job, run_job
    from searchkit.search.sampler import SearchView
    from searchkit.search.settings import SearchSettings
    from searchkit.search.supernet.strategy import Supernet, spearman
    from searchkit.tasks import registry

    torch.set_num_threads(1)
    space = load_space(ROOT / "spaces" / f"{given.space}.py")
    task = registry.load({"data": given.data} if given.data else {"task": given.task or space.task})
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder), "run", {})
        limits = Limits(params=given.max_params)
        context = Context(run, task, lambda name: space, seed=given.seed, limits=limits, echo=print)
        # The strategy trains for twice a trial's epochs if time is no limit.
        budget = replace(space.budget, epochs=given.supernet_epochs // 2)
        settings = SearchSettings(budget=budget, precision="fp32", strategy="supernet", ship_int8=True)
        costs = CostModel(space, context, cost=None, ship_int8=True)
        view = SearchView(
            space, task.spec, (task.goal.direction,), given.seed, 20, budget.epochs, costs.weigh, costs.limited
        )
        supernet = Supernet(space, context, settings, view, 0.0, (2, budget.epochs))
        started = time.process_time()
        kind = supernet.kind()
        supernet.train(kind, math.inf)
        seconds, judge = time.process_time() - started, supernet.judged(kind)
        rng, rows, known = random.Random(given.seed), [], set()
        while len(rows) < given.networks:
            candidate = kind.at_random(rng)
            if candidate is None or candidate.key in known:
                continue
            known.add(candidate.key)
            began = time.process_time()
            score, scoring = judge.loss(candidate), time.process_time() - began
            training = {**candidate.plain["training"], "epochs": given.epochs}
            began = time.process_time()
            job = Job(0, 0, given.epochs, source_of(space), candidate.plain["arch"], training, seed=len(rows))
            metrics = run_job(job, task, space).metrics
            assert metrics is not None
            row: dict[str, Any] = {"score": score, "val": metrics[task.goal.metric], "scoring_seconds": scoring}
            row |= {"training_seconds": time.process_time() - began, "params": view.weigh(candidate)[0]}  # type: ignore[index]
            rows.append({**row, "arch": candidate.plain["arch"]})
        losses = [task.goal.loss(row["val"]) for row in rows]
        scores = list(zip([row["score"] for row in rows], losses, strict=True))
        sizes = list(zip([-row["params"] for row in rows], losses, strict=True))
        told = {
            "conditions": {name: value for name, value in vars(given).items() if name != "out"},
            "kind": kind.largest.plain["arch"],
            "elastic": kind.elastic,
            "supernet_cpu_seconds": round(seconds, 1),
            "scoring_cpu_seconds_a_network": round(sum(row["scoring_seconds"] for row in rows) / len(rows), 3),
            "training_cpu_seconds_a_network": round(sum(row["training_seconds"] for row in rows) / len(rows), 2),
            "spearman_of_the_score": [round(spearman(scores), 3), interval(scores)],
            "spearman_of_the_size": [round(spearman(sizes), 3), interval(sizes)],
            "rows": rows,
        }
    given.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({name: value for name, value in told.items() if name != "rows"}, indent=1))


if __name__ == "__main__":
    main()
