"""Where the seconds of a run went: the table of `search --profile`, and the run's profile.json."""

from __future__ import annotations

from collections.abc import Mapping

from searchkit.run import Run

FILE = "profile.json"

WAITING = "waiting for workers"
"""Time of this process in which only its workers work: it is told beside the table and is in no share."""

LEAST_SHARE = 0.001


def write(run: Run, seconds: Mapping[str, float], wall: float) -> str:
    """Write the run's profile.json.

    Args:
        run: The run.
        seconds: By the path of a part, see `searchkit.core.timing`; of all processes.
        wall: Seconds of this process from its start.

    Returns:
        The same as a table.
    """
    run.write_json(FILE, {"wall_seconds": round(wall, 3), "seconds": {k: round(v, 3) for k, v in seconds.items()}})
    return table(seconds, wall)


def by_part(seconds: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Seconds by phase and innermost part; those of no part of a phase are "other"."""
    rows: dict[tuple[str, str], float] = {}
    for path, spent in seconds.items():
        phase, *_, name = path.split("/") if "/" in path else (path, "other")
        rows[phase, name] = rows.get((phase, name), 0.0) + spent
    return rows


def table(seconds: Mapping[str, float], wall: float) -> str:
    """A line a part, in the order of a run: its phase and name, seconds, and share of the work of all processes."""
    rows = by_part(seconds)
    waiting = sum(rows.pop(key) for key in [*rows] if key[1] == WAITING)
    work = max(sum(rows.values()), 1e-9)
    phases = list(dict.fromkeys(phase for phase, _ in rows))
    lines = [f"{'part':<40}{'seconds':>9}{'share':>8}"]
    for phase in phases:
        own = {name: spent for (of, name), spent in rows.items() if of == phase}
        lines.append(f"{phase:<40}{sum(own.values()):>9.1f}{sum(own.values()) / work:>8.1%}")
        for name, spent in sorted(own.items(), key=lambda row: -row[1]):
            if spent >= LEAST_SHARE * work:
                lines.append(f"  {name:<38}{spent:>9.1f}{spent / work:>8.1%}")
    lines.append(f"{work:.1f} s of work in {wall:.1f} s, of which {waiting:.1f} s were spent waiting for workers")
    return "\n".join(lines)
