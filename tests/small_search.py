"""The settings of a small search, and a run that keeps what one starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchkit.core.space import Budget
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search.settings import SearchSettings

BUDGET = Budget(trials=6, epochs=2, rungs=2, eta=2, least_rung_steps=1)


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**{"budget": BUDGET, "precision": "fp32", **changes})


def begun(root: Path, task: Task, name: str, **kept: Any) -> Run:
    """A new run; kept: what else its run.json has."""
    config = {
        "task": {"name": task.name, "fingerprint": task.fingerprint, "summary": task.summary()},
        "command": [], "started": "", "versions": {}, "hardware": {"cpu": "", "cores": 1, "system": ""},
    }  # fmt: skip
    return Run.create(root, name, {**config, **kept})
