"""Published numbers as bars: each is one command, its figure and the time that it took.

    python reports/bars.py mnist1d-rnn mnist1d-mlp mnist1d-transformer fashion-mnist [--seed 0]

Fashion-MNIST is read from $SEARCHKIT_DATA/fashion-mnist (by default ../shared/data beside the project). Each run writes
reports/reference/<bar>-<cores>cores-seed<seed>.md with its conditions; status 1 where a bar is missed.
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
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SEARCHKIT_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Bar:
    """at_least: of the metric on test, of what is shipped. at_most_bytes: of the shipped file; 0 asks nothing."""

    arguments: tuple[str, ...]
    at_least: float
    source: str
    at_most_bytes: int = 0


BARS = {
    "mnist1d-rnn": Bar(("--space", "rnn", "--task", "mnist1d"), 0.91, "GRU of the MNIST-1D repository"),
    "mnist1d-mlp": Bar(("--space", "mlp", "--task", "mnist1d"), 0.68, "MLP of the MNIST-1D repository"),
    "mnist1d-transformer": Bar(("--space", "transformer", "--task", "mnist1d"), 0.90, "asked of this project"),
    "fashion-mnist": Bar(
        (
            "--space", "cnn", "--data", str(DATA / "fashion-mnist"), "--max-size", "100KB", "--time-budget", "45m",
            "--workers", "2",
        ),
        0.925,
        "two convolutions, under 100K fp32 parameters, in the repository of Fashion-MNIST",
        100_000,
    ),
}  # fmt: skip


def measure(name: str, bar: Bar, seed: int) -> bool:
    work = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    arguments = ["search", *bar.arguments, "--seed", str(seed)]
    folders = ["--runs", str(work / "runs"), "--reports", str(work / "reports"), "--json"]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments, *folders], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    minutes = (time.monotonic() - started) / 60
    run = Path(json.loads(done.stdout)["path"])
    evidence = json.loads((run / "evidence.json").read_text())
    pace = json.loads((run / "pace.json").read_text())
    models = {row["id"]: row for row in evidence["models"]}
    fp32, shipped = models[evidence["reference"]], models[evidence["chosen"]]
    met = shipped["metric"]["value"] >= bar.at_least
    met = met and (not bar.at_most_bytes or shipped["size_bytes"] <= bar.at_most_bytes)
    shown = " ".join(["python cli.py", *arguments]).replace(str(DATA), "$SEARCHKIT_DATA")
    lines = [
        f"# {name}: {'met' if met else 'MISSED'}",
        "",
        f"`{shown}`, {date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{minutes:.1f} minutes. "
        f"Bar: {bar.at_least} ({bar.source}). Test: {evidence['n']} examples, read once for each file.",
        "",
        "| | metric on test [95 %] | bytes | parameters | latency p50 |",
        "|---|---|---|---|---|",
        *(row_of(word, row) for word, row in (("winner, fp32", fp32), ("shipped", shipped))),
        "",
        f"Difference in pairs: {shipped['difference']['value']:+.4f} "
        f"[{shipped['difference']['low']:+.4f}, {shipped['difference']['high']:+.4f}]. "
        f"Latency ratio {shipped['latency']['ratio']:.2f} "
        f"[{shipped['latency']['low']:.2f}, {shipped['latency']['high']:.2f}]. Setting: {json.dumps(pace)}.",
    ]
    out = ROOT / "reports" / "reference" / f"{name}-{os.cpu_count()}cores-seed{seed}.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return met


def row_of(word: str, row: dict) -> str:  # type: ignore[type-arg]
    metric = f"{row['metric']['value']:.4f} [{row['metric']['low']:.4f}, {row['metric']['high']:.4f}]"
    return f"| {word} | {metric} | {row['size_bytes']:,} | {row['params']:,.0f} | {row['latency']['p50_ms']:.3f} ms |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bars", nargs="+", choices=sorted(BARS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    met = [measure(name, BARS[name], given.seed) for name in given.bars]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
