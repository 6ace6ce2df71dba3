"""Runs or resumes a small search in a process of its own: ROOT EXECUTOR [SEED KILL_AT [both]]. So a test can kill it.

With KILL_AT the process sends itself SIGKILL at that durable step, before or after it, as SEED decides. "both" searches
two families.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from searchkit.context import Context
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space
from searchkit.run import Run
from searchkit.search.coordinator import search
from searchkit.search.settings import SearchSettings
from searchkit.search.study import TrialStore
from searchkit.tasks import registry

TINY = Path(__file__).parent / "families" / "tiny.py"
NARROW = TINY.with_name("narrow.py")
BOTH = (TINY, NARROW)
BUDGET = Budget(trials=6, epochs=4, rungs=3, eta=2, least_rung_steps=1)


def go(
    root: Path, executor: str, *, budget: Budget = BUDGET, minimize: str | None = "params", workers: int = 1,
    families: Sequence[Path] = (TINY,),
) -> Run:  # fmt: skip
    task = registry.load({"task": "breast-cancer", "split_seed": 0})
    run = Run.open(root / "run") if (root / "run").exists() else Run.create(root, "run", {})
    spaces = {space.name: space for space in map(load_space, families)}
    context = Context(run, task, spaces.__getitem__, seed=3, echo=lambda line: None)
    settings = SearchSettings(budget=budget, minimize=minimize, executor=executor, workers=workers, precision="fp32")
    search(list(spaces.values()), context, settings)
    return run


def kill_at(step: int, seed: int) -> None:
    """Wrap every method that makes something durable."""
    before, count = random.Random(seed).random() < 0.5, [0]

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == step and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*args, **kwargs)
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, names in (
        (Run, ("save", "save_state", "drop_state", "append_line", "write_json")),
        (TrialStore, ("start", "reject", "finish", "_close")),
    ):
        for name in names:
            setattr(owner, name, wrapped(getattr(owner, name)))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        kill_at(int(sys.argv[4]), int(sys.argv[3]))
    go(Path(sys.argv[1]), sys.argv[2], families=BOTH if sys.argv[5:] == ["both"] else (TINY,))
