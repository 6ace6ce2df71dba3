"""Search strategies at equal time: random starts, starts from trained networks, and a weight-sharing supernet.

    python benchmarks/strategies.py OUT.json --data fashion10k.npz [--space cnn] [--seconds 240] [--seeds 0 1 2]
        [--strategies trials inherit] [--max-params 20000] [--epochs 6]

Each search has so many seconds of this process's own CPU time, on one thread: every clock that the engine reads is
replaced by it, so that other processes on the machine take nothing from it. Searches of one seed run in turn. The test
accuracy is that of the winner's weights in fp32. Fashion-MNIST with 10,000 training pictures is made by --make FOLDER,
the folder of its four IDX files.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make(folder: Path, out: Path, rows: int = 10_000) -> None:
    """Write the first rows of the training pictures, and all test pictures, as one archive."""
    import gzip

    import numpy as np

    found: dict[str, Any] = {}
    for key, stem in (("train", "train"), ("test", "t10k")):
        pictures, labels = (
            gzip.decompress((folder / f"{stem}-{kind}-ubyte.gz").read_bytes())
            for kind in ("images-idx3", "labels-idx1")
        )
        n = rows if key == "train" else 10_000
        found[f"x_{key}"] = np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 28, 28)[:n]
        found[f"y_{key}"] = np.frombuffer(labels, np.uint8, offset=8)[:n]
    np.savez_compressed(out, **found)


def on_cpu_time() -> None:
    """Let every clock of this process show its CPU time."""
    began = time.time()
    time.monotonic = time.process_time
    time.time = lambda: began + time.process_time()


def one(given: argparse.Namespace, strategy: str, seed: int) -> dict[str, Any]:
    """One search, and the test accuracy of its winner."""
    import torch

    from searchkit.context import Context
    from searchkit.core.deadline import Deadline
    from searchkit.core.space import Limits
    from searchkit.core.space_file import load_space
    from searchkit.onnx.predictor import TorchPredictor
    from searchkit.run import Run
    from searchkit.search.coordinator import search
    from searchkit.search.results import history, winners
    from searchkit.search.settings import SearchSettings
    from searchkit.search.starts import FACT
    from searchkit.tasks import registry

    torch.set_num_threads(1)
    data = {"data": given.data} if given.data else {"task": given.task}
    task, space = registry.load(data), load_space(ROOT / "spaces" / f"{given.space}.py")
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder), "run", {})
        context = Context(
            run,
            task,
            lambda name: space,
            seed=seed,
            limits=Limits(params=given.max_params),  # a limit on the file would take an export for each candidate
            deadline=Deadline.after(given.seconds),
            echo=lambda line: print(" ", line, flush=True) if given.verbose else None,
        )
        settings = SearchSettings(
            budget=replace(space.budget, trials=given.trials, seconds=given.seconds, epochs=given.epochs),
            precision="fp32",
            plans_epochs=False,
            ship_int8=True,
            strategy=strategy,
        )
        started = time.process_time()
        search(space, context, settings)
        seconds = time.process_time() - started
        best = winners(run)[0]
        rows = [row for row in history(run) if row["status"] == "trained"]
        predictor = TorchPredictor(context.deployed(context.network(best)), task.inputs, task.answers)
        metric = task.goal.metric
        return {
            "strategy": strategy,
            "seed": seed,
            "cpu_seconds": round(seconds, 1),
            "trials": len(rows),
            "started_from": sum(FACT in artifact.notes for artifact in run.trials()),
            "epochs_of_the_best": best.notes["epochs"],
            "val": round(best.metrics[metric], 4),
            "test": round(float(task.evaluate(predictor, "test").metrics[metric]), 4),
            "params": int(best.metrics["params"]),
            "supernet": (run.read_json("supernet.json") or {}).get(space.name, {}).get("told"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--make", type=Path, help="folder of the IDX files; OUT is then the archive to write")
    parser.add_argument("--data")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--space", default="cnn")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--max-params", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", default=["trials", "inherit"])
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.make:
        make(given.make, given.out)
        return
    on_cpu_time()
    conditions = {name: value for name, value in vars(given).items() if name not in ("out", "make", "verbose")}
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        for strategy in given.strategies:
            rows.append(one(given, strategy, seed))
            print(rows[-1], flush=True)
            given.out.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
    for strategy in given.strategies:
        found = [row["test"] for row in rows if row["strategy"] == strategy]
        mean = sum(found) / len(found)
        spread = math.sqrt(sum((x - mean) ** 2 for x in found) / max(1, len(found) - 1))
        print(f"{strategy}: test {mean:.4f}, standard deviation {spread:.4f} over {len(found)} seeds")


if __name__ == "__main__":
    main()
