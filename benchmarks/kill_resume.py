"""Kill a search with SIGKILL at random moments, coordinator or worker, resume it, and compare with the undisturbed one.

    python benchmarks/kill_resume.py [--space spaces/mlp.py] [--task breast-cancer] [--trials 20] [--kills 20]

One worker process. Prints a table of kills and writes reports/reference/kill-resume-<space>-<task>.json. Ends with
status 1 unless no completed trial was lost, none was trained twice, none is left RUNNING, and all parameters, metrics,
weights and scores equal those of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def run_search(root: Path, space_file: Path, task_name: str, trials: int) -> None:
    """What the child process does: start the search or resume it."""
    from searchkit.context import Context
    from searchkit.core.space import Budget
    from searchkit.core.space_file import load_space
    from searchkit.run import Run
    from searchkit.search.coordinator import search
    from searchkit.search.settings import SearchSettings
    from searchkit.tasks import registry

    space = load_space(space_file)
    task = registry.load({"task": task_name, "split_seed": 0})
    # a kill while the folder was made leaves one without run.json: nothing was searched yet
    begun = (root / "run" / "run.json").exists()
    if not begun and (root / "run").exists():
        (root / "run").rename(root / f"not-begun-{time.time_ns()}")
    run = Run.open(root / "run") if begun else Run.create(root, "run", {})
    context = Context(run, task, lambda name: space, seed=7, echo=lambda line: None)
    budget = Budget(trials=trials, epochs=12, rungs=3, eta=3, least_rung_steps=1)
    settings = SearchSettings(budget=budget, minimize="params", executor="processes", precision="fp32")
    search(space, context, settings)


def start(arguments: argparse.Namespace, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", str(root)]
    for name in ("space", "task", "trials"):
        command += [f"--{name}", str(getattr(arguments, name))]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def workers_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def rows_of(root: Path) -> list[dict[str, Any]]:
    from searchkit.run import Run
    from searchkit.search.results import history

    if not (root / "run" / "search.json").exists() or not (root / "run" / "study.db").exists():
        return []
    return history(Run.open(root / "run"))


def outcome(root: Path) -> list[Any]:
    """All that must be equal: parameters, values, metrics, and the bytes of weights and scores, by trial."""
    from searchkit.run import Run

    run = Run.open(root / "run")
    artifacts = {a.id: a for a in run.trials()}
    found = []
    for row in rows_of(root):
        kept = {k: row[k] for k in ("number", "status", "way", "value", "cost", "rung", "epochs", "params", "artifact")}
        if row["artifact"]:
            artifact = artifacts[row["artifact"]]
            for role in ("weights", "scores"):
                kept[role] = hashlib.sha256(run.file(artifact, role).read_bytes()).hexdigest()
            kept["metrics"] = artifact.metrics
        found.append(kept)
    return found


def n_finished(root: Path) -> int:
    """Rungs that are done and on disk: the search's progress, which no kill can take back."""
    log = root / "run" / "search.jsonl"
    text = log.read_text(errors="replace") if log.exists() else ""
    return text.count('"event": "rung"') + text.count('"event": "trained"')


def disturb(arguments: argparse.Namespace, root: Path, rungs: int) -> tuple[list[dict[str, Any]], int, int]:
    """Kill until there were enough kills, then let it finish. Returns the kills, completed trials lost, trained twice.

    The moments are drawn over three quarters of the search, for it goes on while a process starts: each after a random
    number of its `rungs`, and up to .4 s more."""
    rng = random.Random(arguments.seed)
    moments = sorted(rng.randint(0, rungs * 3 // 4) for _ in range(arguments.kills))
    kills: list[dict[str, Any]] = []
    done: dict[int, int] = {}  # trial to the number of dispatches when it was first seen complete
    lost = twice = 0
    process = start(arguments, root)
    while True:
        target = "coordinator" if len(kills) % 2 == 0 else "worker"
        delay = rng.uniform(0.0, 0.4)
        if len(kills) < arguments.kills:
            moment = moments[len(kills)]
            while process.poll() is None and (n_finished(root) < moment or not workers_of(process.pid)):
                time.sleep(0.01)
            time.sleep(delay)
        else:
            process.wait()
        ended = process.poll() is not None
        if not ended:
            victims = [process.pid] if target == "coordinator" else workers_of(process.pid)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            if victims:
                kills.append({"target": target, "after_rungs": n_finished(root)})
            if target == "worker":
                continue
            process.wait()
        rows = rows_of(root)
        trained = {row["number"] for row in rows if row["status"] == "trained"}
        log = root / "run" / "search.jsonl"
        lines = [json.loads(x) for x in log.read_text().splitlines() if x.endswith("}")] if log.exists() else []
        dispatches = [line["trial"] for line in lines if line["event"] == "dispatch"]
        lost += len(set(done) - trained)
        twice += sum(1 for number, before in done.items() if dispatches.count(number) > before)
        done = {number: dispatches.count(number) for number in trained}
        if ended:
            assert process.returncode == 0, f"the search ended with status {process.returncode}"
            return kills, lost, twice
        kills[-1]["trained"] = len(trained)
        print(kills[-1], flush=True)
        process = start(arguments, root)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default=str(HERE.parent / "spaces" / "mlp.py"))
    parser.add_argument("--task", default="breast-cancer")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        run_search(Path(arguments.child), Path(arguments.space), arguments.task, arguments.trials)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = Path(folder) / "straight", Path(folder) / "killed"
        began = time.monotonic()
        assert start(arguments, straight).wait() == 0
        seconds = time.monotonic() - began
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        kills, lost, twice = disturb(arguments, killed, n_finished(straight))
        left = sum(1 for row in rows_of(killed) if row["status"] == "running")
        equal = outcome(straight) == outcome(killed)
        n_trials = len(outcome(killed))
    result = {
        "command": " ".join(sys.argv),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "space": Path(arguments.space).stem,
        "task": arguments.task,
        "trials": n_trials,
        "uninterrupted_seconds": round(seconds, 1),
        "kills": kills,
        "completed_trials_lost": lost,
        "trained_twice": twice,
        "left_running": left,
        "equal_to_uninterrupted": equal,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "kills"}, indent=1))
    target = HERE.parent / "reports" / "reference" / f"kill-resume-{result['space']}-{arguments.task}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if equal and not lost and not twice and not left and len(kills) >= arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
