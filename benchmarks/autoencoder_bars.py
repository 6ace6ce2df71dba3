"""The bars of the family autoencoder on Fashion-MNIST: below PCA's error, above PCA's AUC, a VAE in nats.

    python benchmarks/autoencoder_bars.py reconstruction anomaly denoising vae [--seed 0] [--label 8]
    python benchmarks/autoencoder_bars.py anomaly --trials 2 --epochs 2      a short try

Reads $SEARCHKIT_DATASETS/fashion-mnist (by default ../shared/data beside the project). Each bar is a search and a
comparison with PCA of the shipped network's code size (benchmarks/pca.py); it writes
reports/reference/autoencoder-<bar>-<cores>cores-seed<seed>.md, unless the settings are those of a try. Status 1 where a
bar is missed. That of `vae` is in nats: its bound against the log density
of probabilistic PCA with a code of the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from pca import ROOT, Shipped, against_pca, bound_against_pca, told, told_bound

from searchkit.machine import cores

DATA = Path(os.environ.get("SEARCHKIT_DATASETS", ROOT.parent / "shared" / "data")) / "fashion-mnist"

BARS: dict[str, tuple[str, ...]] = {
    "reconstruction": ("--space", "autoencoder", "--problem", "reconstruction"),
    "anomaly": ("--space", "autoencoder", "--anomaly"),  # the label follows
    "denoising": ("--space", "autoencoder", "--noise", "gaussian:0.5"),
    "vae": ("--space", str(ROOT / "benchmarks" / "vae.py"), "--problem", "reconstruction"),
}


def search(arguments: list[str]) -> Path:
    """The folder of the run."""
    work = Path(tempfile.mkdtemp(prefix="autoencoder-bar-"))
    folders = ["--runs", str(work / "runs"), "--reports", str(work / "reports"), "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments, *folders], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return Path(json.loads(done.stdout)["path"])


def measure(name: str, given: argparse.Namespace) -> bool:
    own = [*BARS[name], *([given.label] if name == "anomaly" else [])]
    flags = ("trials", "epochs", "rungs", "workers", "recipe", "time_budget")
    asked = {flag: getattr(given, flag) for flag in flags if getattr(given, flag) is not None}
    arguments = ["search", *own, "--data", str(DATA), "--seed", str(given.seed)]
    arguments += [word for flag, value in asked.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
    started = time.monotonic()
    path = search(arguments)
    minutes = (time.monotonic() - started) / 60
    shipped = Shipped.of(path)
    found = against_pca(shipped)
    bound = bound_against_pca(shipped)
    judged = bound if name == "vae" else found
    met = judged is not None and judged["difference"]["better"] is True
    shown = " ".join(["python cli.py", *arguments]).replace(str(DATA), "$SEARCHKIT_DATASETS/fashion-mnist")
    text = "\n".join(
        [
            f"# autoencoder, {name}: {'met' if met else 'MISSED'}",
            "",
            f"`{shown.replace(str(ROOT) + os.sep, '')}`, {date.today()}, {cores()} core(s), "
            f"Python {platform.python_version()}, {minutes:.1f} minutes.",
            "",
            told(found),
            *([] if bound is None else ["", told_bound(bound)]),
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
        out = ROOT / "reports" / "reference" / f"autoencoder-{name}{held}-{cores()}cores-seed{given.seed}.md"
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
