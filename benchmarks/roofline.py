"""How near a training step comes to what the core can compute: its share of the matrix-product peak, for each family.

    python benchmarks/roofline.py [reports/reference/roofline.md] [--families cnn rnn] [--data cifar10.npz]

The middle candidate of each family takes training steps on its default task, or on the data that are named, in each
numeric setting that the search would try. A step computes the multiply-accumulates of a forward pass three times: once
forward, and twice backward for the gradients of inputs and weights; each is two operations. The peak is what a product
of two 2,048 × 2,048 matrices reaches on the same core in the same type. Both are measured in the CPU time of one
thread, the median of several, so that other work on the machine counts little. What is counted is convolutions and
matrix products; batch norm, activations and embeddings take time and count as nothing, so no network can reach 100 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit.context import Context  # noqa: E402
from searchkit.core.errors import SearchkitError  # noqa: E402
from searchkit.core.space_file import load_space  # noqa: E402
from searchkit.run import Run  # noqa: E402
from searchkit.search.time_planning import SETTINGS, middle_candidate, quickest  # noqa: E402
from searchkit.tasks import registry  # noqa: E402

SIDE, ROUNDS = 2048, 9
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak(precision: str) -> float:
    """Operations a second of a matrix product on this core."""
    a = torch.randn(SIDE, SIDE).to(TYPES[precision])
    seconds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        a @ a
        seconds.append(time.thread_time() - began)
    return 2 * SIDE**3 / statistics.median(seconds)


def row_of(family: str, data: str | None, peaks: dict[str, float]) -> str:
    """One family's row of the table, in the setting that is quickest for it."""
    space = load_space(ROOT / "spaces" / f"{family}.py")
    source = {"data": data} if data else {"task": space.task}
    try:
        task = registry.load(source)
        reason = space.accepts(task.spec)
        if reason is not None:
            return f"| {family} | | | | | not for these data |"
    except SearchkitError as error:
        return f"| {family} | | | | | {str(error).splitlines()[0]} |"
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(Run.create(Path(folder), "r", {}), task, lambda name: space)
        middle = middle_candidate(space, ctx, epochs=1)
        if middle is None:
            return f"| {family} | | | | | no candidate could be built |"
        macs = ctx.macs(space.build(middle.arch, task.spec).eval())
        setting, seconds = quickest(space, ctx, middle, SETTINGS, rounds=ROUNDS)
        _, plain = quickest(space, ctx, middle, SETTINGS[:1], rounds=ROUNDS)
    rate = 6 * macs / seconds
    words = setting[0] + (", channels last" if setting[1] else "")
    return (
        f"| {family} | {macs / 1e6:,.2f}M | {1 / seconds:,.0f} | {words}, {plain / seconds:.1f}× | "
        f"{rate / 1e9:,.1f} | {rate / peaks[setting[0]]:.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--families", nargs="*")
    parser.add_argument("--data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    families = given.families or sorted(p.stem for p in (ROOT / "spaces").glob("*.py") if p.stem != "__init__")
    peaks = {precision: peak(precision) for precision in TYPES}
    on = f" --data {Path(given.data).name}" if given.data else ""
    lines = [
        "# How near a training step comes to the peak of a core",
        "",
        f"By `python benchmarks/roofline.py{on}`, {date.today()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, one of {os.cpu_count()} cores. The peak of a "
        f"matrix product: {peaks['fp32'] / 1e9:,.0f} GFLOP/s in fp32, {peaks['bf16'] / 1e9:,.0f} in bf16. The middle "
        "candidate of each family, in the quickest setting and how much quicker that is than fp32 with channels first.",
        "",
        "| family | MACs | examples a second | setting | GFLOP/s | of the peak |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for family in families:
        lines.append(row_of(family, given.data, peaks))
        print(lines[-1], flush=True)
    if given.out is not None:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
