"""What a search is told, and what it tells while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from searchkit.config.limits import BudgetConfig
from searchkit.config.search import COSTS, SearchConfig
from searchkit.core.errors import BadInput, SearchkitError
from searchkit.core.space import Budget

if TYPE_CHECKING:
    from searchkit.search.sampler import Sampler

PRECISIONS = ("auto", "fp32", "bf16")


class SearchStopped(SearchkitError):
    """The search cannot usefully go on: the same error again and again."""


class StopSearch(Exception):
    """Raised by a progress callback to end the search: what was trained so far is kept, and the rest goes on."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        budget: Trials, epochs, rungs and time.
        sampler: A name of `SAMPLERS`, or one of your own: see `searchkit.search.sampler.Sampler`.
        minimize: A name of `COSTS`; None searches for the metric alone.
        workers: Trainings side by side.
        executor: "inline" (this process), "processes" or "ray".
        address: Of a Ray cluster; None starts one here.
        gpus_per_trial: GPUs of a Ray cluster for each training; None shares this machine's GPU among all workers.
        workers_per_trial: Ray workers that train one network together.
        storage: The URL of a study that several coordinators share; None keeps it in the run.
        ship_int8: Whether limits on size and latency are meant for a file whose weights are int8.
        precision: "fp32", "bf16", or "auto", which times what trains quickest here.
        strategy: A name of `STRATEGIES`.
        plans_epochs: Whether few rows may lengthen the trainings, and a time budget change their length.
        hang_seconds: A rung may take so long at least before it is killed.
        final_seconds: For which the winner is trained on afterwards; a candidate must be able to gain by it.

    Raises:
        BadInput: A value is not allowed, or two do not go together.
    """

    budget: Budget = field(default_factory=Budget)
    sampler: str | Sampler = "gp"
    minimize: str | None = None
    workers: int = 1
    executor: str = "inline"
    address: str | None = None
    gpus_per_trial: float | None = None
    workers_per_trial: int = 1
    storage: str | None = None
    ship_int8: bool = False
    precision: str = "auto"
    plans_epochs: bool = False
    strategy: str = "trials"
    hang_seconds: float = 3600.0
    final_seconds: float = 0.0

    def __post_init__(self) -> None:
        # the configuration's own checks, so that a search made in code is refused by the same sentences
        SearchConfig(
            sampler=self.sampler if isinstance(self.sampler, str) else "gp",  # one of your own has no name to check
            strategy=self.strategy,
            minimize=self.minimize or "none",
            workers=self.workers,
            executor=self.executor,
            address=self.address,
            gpus_per_trial=self.gpus_per_trial,
            workers_per_trial=self.workers_per_trial,
        )
        budget = self.budget
        BudgetConfig(trials=budget.trials, epochs=budget.epochs, rungs=budget.rungs, eta=budget.eta)
        if self.precision not in PRECISIONS:
            raise BadInput(f"No precision named '{self.precision}'; choose {', '.join(PRECISIONS)}.")

    @property
    def sampler_name(self) -> str:
        """What the run's record calls the sampler."""
        return self.sampler if isinstance(self.sampler, str) else self.sampler.name

    @property
    def cost(self) -> str | None:
        """The metric that is minimized beside the goal."""
        return COSTS[self.minimize] if self.minimize else None


@dataclass(frozen=True)
class Status:
    """Where a search stands.

    Attributes:
        done: Trials that were trained or failed.
        trials: Of the budget.
        running: Rungs that are being trained.
        rejected: Candidates refused before training.
        failed: Trials that could not be trained.
        best: The goal's value on val of the best trial so far; None before the first.
        seconds_left: Of the time budget.
        seconds_to_go: At the pace of the trials so far; None before the first.
        note: One line worth a look, or empty.
    """

    done: int
    trials: int
    running: int
    rejected: int
    failed: int
    best: float | None
    seconds_left: float = math.inf
    seconds_to_go: float | None = None
    note: str = ""


Progress: TypeAlias = Callable[[Status], None]
"""Hears where the search stands. It may raise `StopSearch`."""
