"""The bars of the family autoencoder on Fashion-MNIST: below PCA's error, above PCA's AUC, a VAE in nats.

    python reports/autoencoder_bars.py reconstruction anomaly denoising vae [--seed 0] [--label 8] [--time-budget 30m]
    python reports/autoencoder_bars.py anomaly --trials 2 --epochs 2      a short try

Reads $SEARCHKIT_DATA/fashion-mnist (by default ../shared/data beside the project). Each bar is a search and a
comparison with PCA of the shipped network's code size (reports/pca.py); it writes
reports/reference/autoencoder-<bar>-<cores>cores-seed<seed>.md, unless the settings are those of a try. Status 1 where a
bar is missed. The bar of `vae` is that its bound exceeds that of a Gaussian with the training rows' mean and one
variance for each pixel: what a code of nothing has.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from pca import ROOT, against_pca, told

from searchkit import tasks
from searchkit.run import Run

DATA = Path(os.environ.get("SEARCHKIT_DATA", ROOT.parent / "shared" / "data")) / "fashion-mnist"

BARS: dict[str, tuple[str, ...]] = {
    "reconstruction": ("--space", "autoencoder", "--kind", "reconstruction"),
    "anomaly": ("--space", "autoencoder", "--anomaly"),  # the label follows
    "denoising": ("--space", "autoencoder", "--noise", "gaussian:0.5"),
    "vae": ("--space", str(ROOT / "reports" / "vae.py"), "--kind", "reconstruction"),
}


def search(arguments: list[str]) -> Path:
    """The folder of the run."""
    work = Path(tempfile.mkdtemp(prefix="autoencoder-bar-"))
    folders = ["--runs", str(work / "runs"), "--reports", str(work / "reports"), "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments, *folders], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return Path(json.loads(done.stdout)["path"])


def nats_without_code(source: dict[str, Any]) -> float:
    """The mean log density of the test rows under independent Gaussians fitted to the training rows, raw values. The
    variance of a pixel is at least that of rounding, 1/12."""
    task = tasks.load(source)
    train, test = (
        next(iter(task.raw(split).values())).reshape(task.n_examples(split), -1) for split in ("train", "test")
    )
    mean, variance = train.mean(0, dtype=np.float64), np.maximum(train.var(0, dtype=np.float64), 1 / 12)
    errors = ((test - mean) ** 2).mean(0)
    return float(-0.5 * np.sum(np.log(2 * math.pi * variance) + errors / variance))


def measure(name: str, given: argparse.Namespace) -> bool:
    own = [*BARS[name], *([given.label] if name == "anomaly" else [])]
    flags = ("trials", "epochs", "rungs", "workers", "recipe", "time_budget")
    asked = {flag: getattr(given, flag) for flag in flags if getattr(given, flag) is not None}
    arguments = ["search", *own, "--data", str(DATA), "--seed", str(given.seed)]
    arguments += [word for flag, value in asked.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
    started = time.monotonic()
    path = search(arguments)
    minutes = (time.monotonic() - started) / 60
    found, lines = against_pca(path), []
    met = found["difference"]["better"] is True
    if name == "vae":
        run = Run.open(path)
        evidence = run.read_json("evidence.json")
        bounds = [row["metrics"]["elbo"] for row in evidence["models"] if "elbo" in row["metrics"]]
        baseline = nats_without_code(run.config["question"]["source"])
        n_values = math.prod(28 for _ in range(2))
        met = bounds[-1] > baseline
        lines.append(
            f"ELBO on test, Gaussian likelihood of one variance, raw values from 0 to 255: {bounds[-1]:.1f} nats an "
            f"example ({-bounds[-1] / n_values / math.log(2):.3f} bits a pixel), of the last network before int8; "
            f"independent Gaussians without a code {baseline:.1f} nats."
        )
    shown = " ".join(["python cli.py", *arguments]).replace(str(DATA), "$SEARCHKIT_DATA/fashion-mnist")
    text = "\n".join(
        [
            f"# autoencoder, {name}: {'met' if met else 'MISSED'}",
            "",
            f"`{shown.replace(str(ROOT) + os.sep, '')}`, {date.today()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}, {minutes:.1f} minutes.",
            "",
            told(found) + ".",
            *lines,
            "",
            "| | " + " | ".join(found["metrics"]["pca"]) + " |",
            "|---" * (1 + len(found["metrics"]["pca"])) + "|",
            *(
                f"| {who} | " + " | ".join(f"{value:.4f}" for value in values.values()) + " |"
                for who, values in found["metrics"].items()
            ),
            "",
        ]
    )
    if not {"trials", "epochs"} & set(asked):
        held = f"-{given.label.replace(',', '-')}" if name == "anomaly" else ""
        out = ROOT / "reports" / "reference" / f"autoencoder-{name}{held}-{os.cpu_count()}cores-seed{given.seed}.md"
        out.write_text(text, encoding="utf-8")
    print(text, flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="+", choices=sorted(BARS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", default="8", help="the class that anomaly holds out; 8 is bags")
    parser.add_argument("--time-budget")
    parser.add_argument("--recipe")
    for flag in ("--trials", "--epochs", "--rungs", "--workers"):
        parser.add_argument(flag, type=int)
    given = parser.parse_args()
    return int(not all([measure(name, given) for name in given.bars]))


if __name__ == "__main__":
    sys.exit(main())
