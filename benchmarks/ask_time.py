"""How long the next trial of a large study takes: all of `Asker.next_trial`, on SQLite, from counting to storing.

    python benchmarks/ask_time.py --trials 1000 10000 --folder /dev/shm

Each study is filled with 200 random candidates of the family cnn on digits, a third of them refused, and with copies of
them that have other values. Then trials are asked for and told one after another, two objectives each. The medians of
the wall time and of the processor's are printed; the first ask reads the whole study from the database, as a resumed
search does once, and stands by itself. A folder in memory fills the study sooner.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optuna.trial import TrialState, create_trial  # noqa: E402

from searchkit.context import Context  # noqa: E402
from searchkit.core.space import Budget  # noqa: E402
from searchkit.core.space_file import load_space  # noqa: E402
from searchkit.run import Run  # noqa: E402
from searchkit.search.asking import Asker  # noqa: E402
from searchkit.search.candidates import draw  # noqa: E402
from searchkit.search.choices import at_random  # noqa: E402
from searchkit.search.cost_model import CostModel  # noqa: E402
from searchkit.search.named_samplers import Proposer, sampler_of  # noqa: E402
from searchkit.search.progress import Reporter  # noqa: E402
from searchkit.search.sampler import SearchView  # noqa: E402
from searchkit.search.settings import SearchSettings  # noqa: E402
from searchkit.search.study import TrialStore  # noqa: E402
from searchkit.search.tally import REJECTED, TRAINED  # noqa: E402
from searchkit.search.time_plan import TimePlan  # noqa: E402
from searchkit.tasks import registry  # noqa: E402

ASKS = 9

FILLED = 200
"""Trials that are different; a larger study is copies of them, with other values."""


def fill(store: TrialStore, view: SearchView, n: int) -> None:
    """Add random candidates with made-up values, a third of them refused."""
    rng = random.Random(0)
    for number in range(n):
        candidate = draw(view.space, view.spec, at_random(rng), epochs=view.epochs, way="random")
        refused = number % 3 == 0
        facts = {**candidate.plain, "key": candidate.key, "status": REJECTED if refused else TRAINED, "seconds": 1.0}
        trial = create_trial(
            state=TrialState.COMPLETE,
            values=[rng.random(), float(rng.randrange(1, 10**6))],
            params=candidate.params,
            distributions=candidate.distributions,
            user_attrs=facts,
            constraints={"params": 0.5} if refused else None,
        )
        store.study.add_trial(trial)


def multiply(file: Path, n: int, times: int) -> None:
    """Copy the n trials in the file until there are `times` as many; each copy has values of its own.

    Optuna adds some dozens of trials in a second, of which 10,000 would take minutes.
    """
    others = {
        "trial_params": "param_name, param_value, distribution_json",
        "trial_values": "objective, value, value_type",
        "trial_user_attributes": "key, value_json",
        "trial_system_attributes": "key, value_json",
    }
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        for copy in range(1, times):
            moved = copy * n
            database.execute(
                "INSERT INTO trials SELECT trial_id + ?, number + ?, study_id, state, datetime_start, "
                "datetime_complete FROM trials WHERE number < ?",
                (moved, moved, n),
            )
            for table, columns in others.items():
                database.execute(
                    f"INSERT INTO {table} (trial_id, {columns}) SELECT trial_id + ?, {columns} FROM {table} "
                    "WHERE trial_id IN (SELECT trial_id FROM trials WHERE number < ?)",
                    (moved, n),
                )
            database.execute("UPDATE trial_values SET value = value * .999 + 1e-4 WHERE trial_id > ?", (moved,))


def measured(sampler: str, n: int, folder: Path) -> str:
    """One row of the table."""
    task, space = registry.load({"task": "digits"}), load_space(ROOT / "spaces" / "cnn.py")
    ctx = Context(Run.create(folder, "run", {}), task, lambda name: space, seed=1, echo=lambda line: None)
    settings = SearchSettings(Budget(trials=2 * n), sampler=sampler, minimize="params")
    store = TrialStore(f"sqlite:///{folder / 'study.db'}", "s", ("maximize", "minimize"))
    costs = CostModel(space, ctx, cost="params", ship_int8=False)
    view = SearchView(space, task.spec, ("maximize", "minimize"), 1, 2 * n, 20, weigh=costs.weigh, limited=False)
    fill(store, view, FILLED)
    multiply(folder / "study.db", FILLED, n // FILLED)
    store = TrialStore(f"sqlite:///{folder / 'study.db'}", "s", ("maximize", "minimize"))
    reporter = Reporter(ctx, settings, store, lambda status: None)
    asker = Asker(ctx, Proposer(sampler_of(sampler), view), costs, store, TimePlan("fp32", False, 20), reporter)
    wall, busy = [], []
    for _ in range(ASKS + 1):
        before = time.perf_counter(), time.process_time()
        trial = asker.next_trial()
        reporter.report()  # as the loop does after each
        wall.append(time.perf_counter() - before[0])
        busy.append(time.process_time() - before[1])
        assert trial is not None
        store.finish(trial, [0.5, trial.user_attrs["cost"]["params"]], {"seconds": 1.0})
    medians = (1000 * statistics.median(rows[1:]) for rows in (wall, busy))
    shown = " | ".join(f"{value:.0f}" for value in medians)
    return f"| {sampler} | {n:,} | {shown} | {1000 * max(wall[1:]):.0f} | {wall[0]:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--samplers", nargs="+", default=["gp"])
    parser.add_argument("--folder", help="where the studies are written, and removed")
    args = parser.parse_args()
    print("| sampler | trials | wall ms | processor ms | slowest ms | the first, s |\n|---|---|---|---|---|---|")
    for n in args.trials:
        for sampler in args.samplers:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                print(measured(sampler, n, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
