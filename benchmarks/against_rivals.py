"""searchkit beside what one would ship without it, in the same minutes on the same cores, one after another.

    python benchmarks/against_rivals.py reports/reference/against-rivals.jsonl --minutes 10 30 60 --seeds 0 1 2 \\
        --data cifar-10=cifar10.npz fashion-mnist=../shared/data/fashion-mnist --keras KERAS_PYTHON

The rivals are in benchmarks/rivals/: a fixed ResNet-8 and a fixed MobileNet that train all the while by searchkit's own
loop, a plain Optuna script, and KerasTuner with torch. Each run is a whole command with the machine to itself; the
rivals rotate from seed to seed. Results are appended to the file, and what is in it is not run again, so the benchmark
can be taken up on another day. A table of it is written beside the file, with .md in place of .jsonl.

searchkit ships an int8 file within --max-size; the rivals have as many parameters as would fit it, and are judged in
fp32 without any file. Accuracy is of all test pictures, with a Wilson interval, and in the table the median of the
seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RIVALS = ROOT / "benchmarks" / "rivals"
MOST_PARAMS = 95_000
sys.path.insert(0, str(ROOT))


def ours(data: str, minutes: float, seed: int, folder: Path, more: Sequence[str]) -> dict[str, Any]:
    name = f"against-{Path(data).stem}-{minutes:g}m-{seed}-{int(time.time())}"
    command = [sys.executable, "cli.py", "search", "--data", data, "--max-size", "98KB", "--quiet",
               "--time-budget", f"{round(60 * minutes)}s", "--workers", "2", "--seed", str(seed),
               "--runs", str(folder), "--name", name, *(more or ["--space", "cnn"])]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    evidence = json.loads((folder / name / "evidence.json").read_text())
    shipped = next(m for m in evidence["models"] if m["id"] == evidence["chosen"])
    states = json.loads(
        subprocess.run(
            [sys.executable, "cli.py", "status", name, "--runs", str(folder), "--json"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout
    )["runs"][0]["trial_states"]  # fmt: skip
    n = evidence["n"]
    return {"right": round(shipped["metric"]["value"] * n), "n": n, "bytes": shipped["val"]["size_bytes"],
            "trained": states["trained"], "scored": sum(states.values()), "seconds": round(seconds, 1)}  # fmt: skip


def rival(which: str, data: str, minutes: float, seed: int, keras: str | None) -> dict[str, Any]:
    script = {"resnet-8": "fixed_network", "mobilenet": "fixed_network", "optuna": "plain_optuna"}
    python = keras if which == "keras-tuner" else sys.executable
    words = [str(python), str(RIVALS / f"{script.get(which, 'keras_tuner_search')}.py"), str(Path(data).resolve())]
    words += [which] if which in ("resnet-8", "mobilenet") else ["--most-params", str(MOST_PARAMS)]
    words += ["--seconds", str(60 * minutes), "--seed", str(seed)]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_WAIT_POLICY": "PASSIVE"}
    began = time.monotonic()
    found = subprocess.run(words, cwd=RIVALS, check=True, capture_output=True, text=True, env=environment)
    row: dict[str, Any] = json.loads(found.stdout.strip().splitlines()[-1])
    return {**row, "seconds": round(time.monotonic() - began, 1)}


def wanted(given: argparse.Namespace) -> list[tuple[str, str, float, int, str]]:
    """(name of the data, their path, minutes, seed, way), the ways rotated by the seed."""
    ways = ["searchkit", "resnet-8", "mobilenet", "optuna", *(["keras-tuner"] if given.keras else [])]
    ways = [way for way in ways if not given.ways or way in given.ways]
    rows = []
    for minutes in given.minutes:
        for seed in given.seeds:
            for pair in given.data:
                name, _, path = pair.partition("=")
                first = seed % len(ways)
                rows += [(name, path, minutes, seed, way) for way in ways[first:] + ways[:first]]
    return rows


def table(rows: Sequence[dict[str, Any]], command: str) -> str:
    from searchkit.evaluation.statistics import wilson

    lines = [
        "# searchkit beside what one would ship without it",
        "",
        f"By `{command}`, {date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}. Test "
        "accuracy: the median of the seeds, and the 95 % interval of that run. The rivals are judged in fp32, "
        "searchkit by the int8 file that it ships.",
        "",
        "| data | minutes | way | accuracy | of each seed | trained | bytes or parameters | seconds |",
        "|---|---:|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["minutes"], row["way"]), []).append(row)
    for (data, minutes, way), runs in sorted(groups.items()):
        runs = sorted(runs, key=lambda r: r["right"] / r["n"])
        middle = runs[(len(runs) - 1) // 2]
        low, high = wilson(middle["right"], middle["n"])
        each = ", ".join(f"{100 * r['right'] / r['n']:.1f}" for r in sorted(runs, key=lambda r: r["seed"]))
        size = f"{middle['bytes']:,} bytes" if "bytes" in middle else f"{middle['params']:,} parameters"
        lines.append(
            f"| {data} | {minutes:g} | {way} | {100 * middle['right'] / middle['n']:.1f} % [{100 * low:.1f}, "
            f"{100 * high:.1f}] | {each} | {', '.join(str(r['trained']) for r in runs)} | {size} | "
            f"{statistics.median(r['seconds'] for r in runs):.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="name=path")
    parser.add_argument("--minutes", nargs="+", type=float, default=[10.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="*", help="only these")
    parser.add_argument("--keras", help="a Python that has keras, keras-tuner and torch")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--options", default="", help="of searchkit's own search, in place of --space cnn")
    given = parser.parse_args()
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    rows = [json.loads(line) for line in lines]
    for name, path, minutes, seed, way in wanted(given):
        key = {"data": name, "minutes": minutes, "seed": seed, "way": way}
        if any(all(row[k] == v for k, v in key.items()) for row in rows):
            continue
        if way == "searchkit":
            found = ours(path, minutes, seed, given.runs.resolve(), given.options.split())
        else:
            found = rival(way, path, minutes, seed, given.keras)
        rows.append({**key, **found})
        with open(given.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
        given.out.with_suffix(".md").write_text(table(rows, "python benchmarks/against_rivals.py"))


if __name__ == "__main__":
    main()
