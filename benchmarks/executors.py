"""The same search by local processes and by Ray, a worker of each killed with SIGKILL: the same set of trials.

    python benchmarks/executors.py [--space spaces/mlp.py] [--task breast-cancer] [--trials 12]

One worker each, so that the two may be compared trial by trial with the search in one process. Writes
reports/reference/executors-<space>-<task>.json; status 1 unless all three have the same trials with the same values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
WORKERS = {"processes": b"searchkit.search.worker", "ray": b"ray::run_on_ray"}


def below(pid: int) -> dict[int, bytes]:
    """The processes below `pid` with their command lines, from /proc."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {p: commands[p] for p in found - {pid} if p in commands}


def go(root: Path, executor: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from searchkit.context import Context
    from searchkit.core.space import Budget
    from searchkit.core.space_file import load_space
    from searchkit.run import Run
    from searchkit.search.coordinator import search
    from searchkit.search.results import history
    from searchkit.search.settings import SearchSettings
    from searchkit.tasks import registry

    space = load_space(Path(arguments.space))
    task = registry.load({"task": arguments.task, "split_seed": 0})
    run = Run.create(root, executor, {})
    context = Context(run, task, lambda name: space, seed=7, echo=lambda line: None)
    budget = Budget(trials=arguments.trials, epochs=12, rungs=3, eta=3, least_rung_steps=1)
    settings = SearchSettings(budget=budget, minimize="params", executor=executor, precision="fp32")
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        log = run.path / "search.jsonl"
        while not over.is_set() and not killed:
            if log.exists() and log.read_text().count('"dispatch"') >= arguments.trials // 2:
                for pid, command in below(os.getpid()).items():
                    if WORKERS[executor] in command and not killed:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    if executor in WORKERS:
        thread.start()
    began = time.monotonic()
    try:
        search(space, context, settings)
    finally:
        over.set()
        if executor in WORKERS:
            thread.join()
    lost = sum(1 for row in run.lines("search.jsonl") if row["event"] == "lost")
    rows = [{k: row[k] for k in ("number", "status", "value", "rung", "params")} for row in history(run)]
    seconds = round(time.monotonic() - began, 1)
    return {"seconds": seconds, "workers_killed": len(killed), "rungs_lost": lost, "trials": rows}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default=str(HERE.parent / "spaces" / "mlp.py"))
    parser.add_argument("--task", default="breast-cancer")
    parser.add_argument("--trials", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: go(Path(folder), name, arguments) for name in ("inline", "processes", "ray")}
    trials = [f.pop("trials") for f in found.values()]
    same = trials[0] == trials[1] == trials[2]
    complete = all(row["status"] == "trained" for row in trials[0])
    killed = all(found[name]["workers_killed"] == 1 for name in WORKERS)
    result = {
        "command": " ".join(sys.argv),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "trials": len(trials[0]),
        "same_trials_and_values": same,
        **found,
    }
    print(json.dumps(result, indent=1))
    target = HERE.parent / "reports" / "reference" / f"executors-{Path(arguments.space).stem}-{arguments.task}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if same and complete and killed else 1


if __name__ == "__main__":
    sys.exit(main())
