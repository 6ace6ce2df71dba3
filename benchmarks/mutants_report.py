"""The report of a mutation test: a table by module, and each survivor with its reason."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutations import Mutant

Row = tuple[str, Mutant, Any]
"""Group, mutant and its `mutants.Result`."""

WANTED = 0.85


def write_report(file: Path, rows: Sequence[Row], asked: argparse.Namespace) -> None:
    """Write the report, and beside it the file of reasons with a place for each survivor that has none yet."""
    reasons_file = file.with_name(f"{file.stem}_reasons.json")
    known: dict[str, dict[str, str]] = json.loads(reasons_file.read_text()) if reasons_file.exists() else {}
    reasons = {id: entry for id, entry in known.items() if entry["reason"]}  # what is caught by now needs none
    survivors = [(mutant, result) for _, mutant, result in rows if not result.caught]
    for mutant, _ in survivors:
        shown = f"{mutant.where}: {mutant.before} -> {mutant.after}"
        reasons[mutant.id] = {"mutant": shown, "reason": reasons.get(mutant.id, {}).get("reason", "")}
    file.parent.mkdir(parents=True, exist_ok=True)
    reasons_file.write_text(json.dumps(dict(sorted(reasons.items())), indent=1, ensure_ascii=False) + "\n")
    file.write_text(_page(rows, survivors, reasons, asked))


def _page(rows: Sequence[Row], survivors: Sequence[Any], reasons: dict[str, Any], asked: argparse.Namespace) -> str:
    caught = sum(result.caught for _, _, result in rows)
    given = f" --modules {' '.join(asked.modules)}" if asked.modules else ""
    lines = [
        "# Mutation test",
        "",
        f"{caught} of {len(rows)} mutants were caught ({_share(caught, len(rows))}; at least {WANTED:.0%} are wanted). "
        "A mutant is one small fault planted in one file; it is caught if a test that owns the file fails or no longer "
        "ends.",
        "",
        f"Commit {_commit()}, Python {platform.python_version()}, {platform.machine()}, seed {asked.seed}. "
        f"Command: `python benchmarks/mutants.py --sample {asked.sample} --seed {asked.seed}{given}`.",
        "",
        "| Module | Mutants | Caught | Timed out | Survived | Score |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for group in dict.fromkeys(group for group, _, _ in rows):
        own = [row for row in rows if row[0] == group]
        lines.append(_row(f"**{group}**", own))
        for path in sorted({mutant.path for _, mutant, _ in own}):
            lines.append(_row(path, [row for row in own if row[1].path == path]))
    lines += [_row("**all**", rows), "", f"## Survivors: {len(survivors)}", ""]
    for path in sorted({mutant.path for mutant, _ in survivors}):
        lines += [f"### {path}", "", "| Line | Function | Mutation | Reason |", "|---:|---|---|---|"]
        for mutant, _ in sorted((s for s in survivors if s[0].path == path), key=lambda s: s[0].line):
            change = f"{mutant.kind}: `{_cell(mutant.before)}` → `{_cell(mutant.after)}`"
            lines.append(f"| {mutant.line} | {mutant.where} | {change} | {_cell(reasons[mutant.id]['reason'])} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, rows: Sequence[Row]) -> str:
    outcomes = [result.outcome for _, _, result in rows]
    survived = outcomes.count("survived")
    counts = (len(rows), outcomes.count("caught"), outcomes.count("timed out"), survived)
    return f"| {name} | {' | '.join(map(str, counts))} | {_share(len(rows) - survived, len(rows))} |"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or "unknown"
