"""Fixtures of the tests of the search: a task, a family and a run to search in."""

from __future__ import annotations

from pathlib import Path

import pytest
import search_driver

from searchkit.context import Context
from searchkit.core.space import Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.tasks import registry


@pytest.fixture(scope="module")
def task() -> Task:
    return registry.load({"task": "breast-cancer", "split_seed": 0})


@pytest.fixture(scope="module")
def tiny() -> Space:
    return load_space(search_driver.TINY)


@pytest.fixture
def context(tmp_path: Path, task: Task, tiny: Space) -> Context:
    return Context(Run.create(tmp_path, "run", {}), task, lambda name: tiny, seed=1, echo=lambda line: None)
