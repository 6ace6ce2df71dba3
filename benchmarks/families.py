"""Every family on its default task, from search to a bundle that verifies without PyTorch: one table.

    python benchmarks/families.py OUT.md [--seed 0]

Each family is one `searchkit search --space F --json` in a fresh folder. `verify.py` of each bundle then runs in a new
virtual environment that holds numpy and onnxruntime alone.
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
import venv
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "family", "task", "minutes", "trials", "winner fp32 on test [95 %]", "shipped on test [95 %]",
    "difference in pairs",
    "bytes fp32 → shipped", "of fp32", "parameters ratio", "latency ratio", "agreement", "verify.py",
)  # fmt: skip


def bare_environment(folder: Path) -> Path:
    """A Python with numpy and onnxruntime and nothing of ours."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pins = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    wanted = [pin for pin in pins if pin.startswith(("numpy==", "onnxruntime=="))]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="*", default=sorted(p.stem for p in (ROOT / "spaces").glob("[a-z]*.py")))
    parser.add_argument("--work", type=Path, default=None, help="Where the runs go; a temporary folder by default.")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="families-"))
    python = bare_environment(work / "bare")
    rows = []
    for family in given.families:
        row = one(family, given.seed, work, python)
        rows.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    about = (
        f"Measured {date.today()} on {os.cpu_count()} cores, Python {platform.python_version()}, seed {given.seed}. "
        f"Command: `python benchmarks/families.py {given.out} --seed {given.seed} "
        f"--families {' '.join(given.families)}`."
    )
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS)
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    given.out.write_text(f"# Families from search to bundle, default task each\n\n{about}\n\n{head}\n{body}\n")


def one(family: str, seed: int, work: Path, python: Path) -> list[str]:
    command = [sys.executable, "cli.py", "search", "--space", family, "--seed", str(seed), "--json", "--quiet"]
    folders = ["--runs", str(work / "runs"), "--reports", str(work / "reports")]
    started = time.monotonic()
    done = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - started) / 60
    if done.returncode:
        return [family, "", f"{minutes:.1f}", f"exit {done.returncode}: {done.stderr.strip()[-200:]}", *[""] * 9]
    answer = json.loads(done.stdout)
    verified = subprocess.run(
        [python, Path(answer["bundle"]) / "verify.py"], capture_output=True, text=True, check=False
    )
    return [
        family,
        *figures(Path(answer["path"]), minutes),
        "passes" if verified.returncode == 0 else f"FAILS: {verified.stdout[-100:]}",
    ]


def figures(run: Path, minutes: float) -> list[str]:
    """From what the run measured on test, as the report shows it."""
    evidence = json.loads((run / "evidence.json").read_text())
    question = json.loads((run / "run.json").read_text())
    made_by = [json.loads(p.read_text())["made_by"]["stage"] for p in run.glob("artifacts/*/artifact.json")]
    models = {row["id"]: row for row in evidence["models"]}
    fp32, shipped = models[evidence["reference"]], models[evidence["chosen"]]
    metric = evidence["goal"]["metric"]

    def interval(row: dict[str, Any], digits: int = 4) -> str:
        return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"

    latency = shipped["latency"]
    return [
        question["task"]["name"],
        f"{minutes:.1f}",
        str(made_by.count("Trial")),
        f"{metric} {interval(fp32['metric'])}",
        interval(shipped["metric"]),
        interval(shipped["difference"]),
        f"{fp32['size_bytes']:,} → {shipped['size_bytes']:,}",
        f"{shipped['size_bytes'] / fp32['size_bytes']:.1%}",
        f"{shipped['params'] / fp32['params']:.2f}",
        f"{latency['ratio']:.2f} [{latency['low']:.2f}, {latency['high']:.2f}] {latency['verdict']}",
        f"{shipped['agreement']['value']:.1%}",
    ]


if __name__ == "__main__":
    main()
