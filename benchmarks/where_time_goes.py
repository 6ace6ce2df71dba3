"""Where the seconds of a search go: `search --profile` on small, middling and large pictures, as one table.

    python benchmarks/where_time_goes.py --fashion-mnist FOLDER --cifar10 cifar10.npz --workers 2

Each search runs by itself, in a folder that is removed afterwards, with its time budget (digits has none: it is the
default run). For cifar10.npz see benchmarks/cifar10.py. Written to reports/reference/where-time-goes.md.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit.cli.profile import WAITING, by_part  # noqa: E402

OUT = ROOT / "reports" / "reference" / "where-time-goes.md"


def searched(name: str, words: list[str], workers: int) -> dict[str, Any]:
    """The profile of one search, its trained trials and its verdict."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "cli.py"),
            "search",
            "--space",
            "cnn",
            *words,
            "--name",
            "run",
            "--profile",
        ]
        command += ["--workers", str(workers), "--json", "--quiet", "--seed", "0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"The search of {name} failed: {done.stderr[-500:]}")
        run = Path(folder, "runs", "run")
        report = json.loads((run / "report" / "report.json").read_text())
        found = json.loads((run / "profile.json").read_text())
        return {**found, "trials": report["search"]["n_trained"], "verdict": json.loads(done.stdout)["verdict"]}


def rows(profile: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Seconds by phase and part, without the waiting."""
    return {key: seconds for key, seconds in by_part(profile["seconds"]).items() if key[1] != WAITING}


def page(profiles: dict[str, dict[str, Any]], commands: dict[str, str], workers: int) -> str:
    tables = {name: rows(profile) for name, profile in profiles.items()}
    works = {name: sum(table.values()) for name, table in tables.items()}
    parts = dict.fromkeys(key for table in tables.values() for key in table)
    shown = [key for key in parts if any(table.get(key, 0.0) >= 0.005 * works[name] for name, table in tables.items())]
    lines = [
        "# Where the seconds of a search go",
        "",
        f"By `python benchmarks/where_time_goes.py`, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {workers} "
        f"worker(s), Python {platform.python_version()}. Shares of the work of all processes; parts below half a "
        "percent everywhere are left out.",
        "",
        "| part | " + " | ".join(profiles) + " |",
        "|---|" + "---:|" * len(profiles),
    ]
    for phase in dict.fromkeys(phase for phase, _ in shown):
        sums = [sum(s for (of, _), s in tables[name].items() if of == phase) / works[name] for name in profiles]
        lines.append(f"| **{phase}** | " + " | ".join(f"**{share:.1%}**" for share in sums) + " |")
        own = sorted(
            (key for key in shown if key[0] == phase), key=lambda key: -max(t.get(key, 0) for t in tables.values())
        )
        for key in own:
            shares = (tables[name].get(key, 0.0) / works[name] for name in profiles)
            lines.append(f"| {key[1]} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    lines.append("| seconds of work | " + " | ".join(f"{work:.0f}" for work in works.values()) + " |")
    lines.append("| seconds in all | " + " | ".join(f"{p['wall_seconds']:.0f}" for p in profiles.values()) + " |")
    lines.append("| trials trained | " + " | ".join(str(p["trials"]) for p in profiles.values()) + " |")
    lines += ["", *(f"- {name}: `{commands[name]}`: {profiles[name]['verdict']}" for name in profiles)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, help="folder of the idx files; left out without it")
    parser.add_argument("--cifar10", type=Path, help="the .npz file; left out without it")
    parser.add_argument("--time-budget", default="10m", help="of the searches on these two")
    parser.add_argument("--max-size", default="98KB", help="of the files that these two ship")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    wanted: dict[str, list[str]] = {"digits, 8 × 8": []}
    limits = ["--time-budget", asked.time_budget, "--max-size", asked.max_size]
    if asked.fashion_mnist:
        wanted["Fashion-MNIST, 28 × 28"] = ["--data", str(asked.fashion_mnist.resolve()), *limits]
    if asked.cifar10:
        wanted["CIFAR-10, 32 × 32 × 3"] = ["--data", str(asked.cifar10.resolve()), *limits]
    profiles, commands = {}, {}
    for name, words in wanted.items():
        profiles[name] = searched(name, words, asked.workers)
        plain = [Path(word).name if os.sep in word else word for word in words]
        commands[name] = " ".join(["search --space cnn", *plain, "--workers", str(asked.workers)])
        print(f"{name}: {profiles[name]['verdict']}", flush=True)
        OUT.write_text(page(profiles, commands, asked.workers))


if __name__ == "__main__":
    main()
