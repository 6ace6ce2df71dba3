"""Do time budgets hold? Every family on its default task under fixed budgets: the seconds of the whole command.

    python benchmarks/time_budgets.py reports/reference/time-budgets.jsonl --minutes 1 3 10 [--families cnn rnn]

Each command has the machine to itself and two workers. Results are appended to the file, and what is in it is not run
again. A table is written beside it, with .md in place of .jsonl.
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
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def timed(family: str, minutes: float, folder: Path) -> dict[str, Any]:
    """One command: its seconds, its exit status and the last line that it printed."""
    command = [sys.executable, "cli.py", "search", "--space", family, "--time-budget", f"{round(60 * minutes)}s",
               "--workers", "2", "--runs", str(folder), "--name", f"{family}-{minutes:g}", "--quiet"]  # fmt: skip
    began = time.monotonic()
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.monotonic() - began
    said = (found.stdout.strip() or found.stderr.strip()).splitlines()
    return {"seconds": round(seconds, 1), "status": found.returncode, "said": said[0] if said else ""}


def table(rows: Sequence[dict[str, Any]]) -> str:
    minutes = sorted({row["minutes"] for row in rows})
    lines = [
        "# Do time budgets hold?",
        "",
        f"By `python benchmarks/time_budgets.py`, {date.today()}, {os.cpu_count()} cores, 2 workers, Python "
        f"{platform.python_version()}. Seconds of the whole command, and by how much they exceed the budget.",
        "",
        "| family | " + " | ".join(f"{m:g} min" for m in minutes) + " |",
        "|---|" + "---:|" * len(minutes),
    ]
    for family in sorted({row["family"] for row in rows}):
        cells = []
        for m in minutes:
            row = next((r for r in rows if r["family"] == family and r["minutes"] == m), None)
            over = (row["seconds"] / (60 * m) - 1) if row else 0.0
            failed = f" (status {row['status']})" if row and row["status"] else ""
            cells.append(f"{row['seconds']:.0f} s, {over:+.0%}{failed}" if row else "")
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0])
    parser.add_argument("--families", nargs="*")
    given = parser.parse_args()
    known = sorted(p.stem for p in (ROOT / "spaces").glob("*.py") if p.stem != "__init__")
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    rows = [json.loads(line) for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        for minutes in given.minutes:
            for family in given.families or known:
                if any(row["family"] == family and row["minutes"] == minutes for row in rows):
                    continue
                rows.append({"family": family, "minutes": minutes, **timed(family, minutes, Path(folder))})
                with open(given.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
                given.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
