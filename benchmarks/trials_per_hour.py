"""Trials per hour against the loop that one would write: fp32, DataLoader, study.optimize, on the same candidates.

    python benchmarks/trials_per_hour.py OUT.md [--rounds 5] [--trials 8] [--epochs 4] [--task digits]

In each round three commands run in turn, in a rotating order: searchkit with one worker, searchkit with two, and the
plain loop with as many threads as there are cores. All train the same candidates (drawn at random by the round's seed)
for the same epochs with the same settings, without halving or augmentation, and score them on val. What counts is the
whole command, the start of every interpreter included, and the ratio is taken within each round. The family is
`spaces/cnn.py` with a training that a plain loop has too: no augmentation, no averaged weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAMILY = ROOT / "benchmarks" / "plain_cnn.py"


def searchkit(folder: Path, given: argparse.Namespace, *, seed: int, workers: int) -> float:
    """Seconds of one whole command, the interpreter's start included."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(
        [
            sys.executable, "cli.py", "search", "--space", str(FAMILY), "--task", given.task, "--recipe", "none",
            "--sampler", "random", "--minimize", "none", "--trials", str(given.trials), "--epochs", str(given.epochs),
            "--rungs", "1", "--seed", str(seed), "--workers", str(workers), "--runs", str(folder), "--name", "r",
            "--quiet",
        ],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - started


def plain(candidates: Path, given: argparse.Namespace) -> float:
    """Seconds of the plain loop as a process of its own, the interpreter's start included."""
    started = time.monotonic()
    subprocess.run([sys.executable, __file__, "--plain", str(candidates), "--task", given.task], cwd=ROOT, check=True)
    return time.monotonic() - started


def plain_loop(candidates: Path, task_name: str) -> None:
    """What a tutorial would have you write: no searchkit but for the data, the networks and the settings."""
    sys.path.insert(0, str(ROOT))
    import optuna
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    from searchkit.core.serialization import thaw
    from searchkit.core.space_file import load_space
    from searchkit.core.training import Training
    from searchkit.tasks import registry
    from searchkit.train import make_optimizer

    rows = json.loads(candidates.read_text())
    task = registry.load({"task": task_name})
    space = load_space(FAMILY)
    whole = list(task.batches("train", Training(batch_size=1 << 20), seed=0, device="cpu"))[0]
    x_train, y_train = whole.inputs[0], whole.target.argmax(1)
    val = list(task.batches("val", Training(batch_size=256), seed=0, device="cpu"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        row = rows["candidates"][trial.suggest_int("candidate", 0, len(rows["candidates"]) - 1)]
        training = thaw(Training, row["training"])
        torch.manual_seed(row["seed"])
        net = space.build(thaw(space.arch, row["arch"]), task.spec)
        optimizer = make_optimizer(net, training)
        loader = DataLoader(
            TensorDataset(x_train, y_train), batch_size=training.batch_size, shuffle=True, drop_last=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs * len(loader))
        for _ in range(training.epochs):
            net.train()
            for x, y in loader:
                loss = F.cross_entropy(net(x), y, label_smoothing=training.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        net.eval()
        with torch.no_grad():
            right = sum(int((net(*b.inputs).argmax(1) == b.target.argmax(1)).sum()) for b in val)
        return right / task.n_examples("val")

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for index in range(len(rows["candidates"])):
        study.enqueue_trial({"candidate": index})
    study.optimize(objective, n_trials=len(rows["candidates"]))


def candidates_of(folder: Path, to: Path) -> None:
    """What the finished run trained, in order, for the plain loop."""
    found = [json.loads(path.read_text()) for path in (folder / "r" / "artifacts").glob("*/artifact.json")]
    found.sort(key=lambda row: row["made_by"]["number"])
    rows = [{"arch": r["arch"], "training": r["training"], "seed": r["made_by"]["seed"]} for r in found]
    to.write_text(json.dumps({"candidates": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain is not None:
        plain_loop(given.plain, given.task)
        return
    work = Path(tempfile.mkdtemp(prefix="trials-per-hour-"))
    table: list[dict[str, float]] = []
    for index in range(given.rounds):
        listed = work / f"{index}.json"
        searchkit(work / "draw", given, seed=index, workers=1)  # not counted: it draws the candidates
        candidates_of(work / "draw", listed)
        ways = {
            "one worker": lambda n=index: searchkit(work / "one", given, seed=n, workers=1),
            "two workers": lambda n=index: searchkit(work / "two", given, seed=n, workers=2),
            "plain loop": lambda path=listed: plain(path, given),
        }
        order = list(ways)[index % 3 :] + list(ways)[: index % 3]
        table.append({name: ways[name]() for name in order})
        print({name: round(seconds, 1) for name, seconds in table[-1].items()}, flush=True)
    write(given, table)


def write(given: argparse.Namespace, table: list[dict[str, float]]) -> None:
    lines = [
        "# Trials per hour against a plain loop",
        "",
        f"Measured {date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, task {given.task}, "
        f"{given.trials} candidates × {given.epochs} epochs, {given.rounds} interleaved rounds. Whole commands. "
        f"Command: `python benchmarks/trials_per_hour.py {given.out} --rounds {given.rounds} --trials {given.trials} "
        f"--epochs {given.epochs} --task {given.task}`",
        "",
        "| way | trials per hour, median | ratio to the plain loop, median [least, most] |",
        "|---|---|---|",
    ]
    for name in ("plain loop", "one worker", "two workers"):
        ratios = [row["plain loop"] / row[name] for row in table]
        rate = 3600 * given.trials / statistics.median(row[name] for row in table)
        lines.append(
            f"| {name} | {rate:.0f} | {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
