"""Which families a run searches: from what the user wrote to families that accept the data, and their common budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from searchkit.config import naming
from searchkit.config.search import SearchConfig
from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Space
from searchkit.core.task import Task
from searchkit.run import Run

MOST_IN_A_NAME = 3
"""Families that the name of a run has; more are counted."""


def accepting(asked: str, task: Task, load: Callable[[str], Space]) -> dict[str, Space]:
    """The families of a run, by the name or the path under which it stores them.

    Args:
        asked: A family, several between commas, or "all", as `catalogue.named` reads it.
        task: The data.
        load: Loads a family by its name or its file's path.

    Raises:
        BadInput: A family is unknown, named twice, or not for the data; of all families, none is for the data.
    """
    names = catalogue.named(catalogue.FAMILIES, asked)
    found = {name: load(name) for name in names}
    require_different(list(found.values()))
    refusals = {name: space.accepts(task.spec) for name, space in found.items()}
    if asked == catalogue.ALL:
        if None not in refusals.values():
            raise BadInput(
                f"{naming.given('space', asked)} takes the families that accept the data, and none of the {len(names)} "
                f"is for the task '{task.name}'; name a family of your own, or give other data."
            )
        return {name: space for name, space in found.items() if refusals[name] is None}
    for name, space in found.items():
        if refusals[name] is not None:
            raise BadInput(f"The space '{space.name}' is not for the task '{task.name}': {refusals[name]}.")
    return found


def require_different(families: Sequence[Space]) -> None:
    """Raises BadInput if two families have one name: trials and artifacts go by it."""
    names = [family.name for family in families]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"The space '{twice}' is named twice in {naming.mention('space')}; name each family once.")


def starting_point(config: SearchConfig, task: Task, searched: Sequence[Space], runs: Path) -> dict[str, JSON]:
    """What a new run keeps in run.json of what it starts from, so that it is resumed without that.

    Args:
        config: Names an earlier run and trained weights, if they are given.
        task: The data.
        searched: The families.
        runs: The folder of runs, in which an earlier one is looked for by its name.

    Raises:
        BadInput: The earlier run is not there, or is of another task or other families; or the weights are not there,
            or fit no network.
    """
    from searchkit.search import prior, transfer
    from searchkit.search.weights_source import find_weights

    kept: dict[str, JSON] = {}
    if config.prior is not None:
        kept[prior.KEY] = prior.learn(find_run(config.prior, runs), task, searched)
    if config.init_from is not None:
        kept[transfer.KEY] = transfer.begin(find_weights(config.init_from, runs), task, searched)
    return kept


def find_run(name: str, runs: Path) -> Run:
    """A run by its path, or by its name in the folder of runs. Raises BadInput if there is none."""
    return Run.open(Path(name) if os.sep in name else runs / name)


def default_task(asked: str, load: Callable[[str], Space]) -> str:
    """The task of a run that names no data: the first family's own.

    Raises:
        BadInput: All families are asked for, which have many tasks.
    """
    if asked == catalogue.ALL:
        raise BadInput(
            f"{naming.given('space', asked)} takes the families that accept your data; give {naming.mention('data')} "
            f"or {naming.mention('task')}."
        )
    first = catalogue.named(catalogue.FAMILIES, asked)[0]
    path = catalogue.find(catalogue.FAMILIES, first)
    # a glance spares the import of torch, so that wrong data are refused at once
    return str(catalogue.glance(path).get("task", "")) or load(first).task


def shared_budget(families: Sequence[Space]) -> Budget:
    """The budget of a search by default: the family's own.

    Of several families, each number is the largest of theirs, and each family but one adds the trials that it gets
    before results count.
    """
    from searchkit.search.bandit import FIRST

    budgets = [family.budget for family in families]
    return replace(
        budgets[0],
        trials=max(budget.trials for budget in budgets) + FIRST * (len(budgets) - 1),
        epochs=max(budget.epochs for budget in budgets),
        rungs=max(budget.rungs for budget in budgets),
        eta=max(budget.eta for budget in budgets),
        least_rung_steps=max(budget.least_rung_steps for budget in budgets),
    )


def run_stem(asked: str, task: str) -> str:
    """How the name of a run begins: its families and its task."""
    stems = [Path(name).stem for name in catalogue.named(catalogue.FAMILIES, asked)]
    shown = "-".join(stems) if len(stems) <= MOST_IN_A_NAME else f"{len(stems)}-families"
    return f"{catalogue.ALL if asked == catalogue.ALL else shown}-{task}"
