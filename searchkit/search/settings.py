"""What a search is told, and what it tells while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from searchkit.core.errors import BadInput, SearchkitError
from searchkit.core.space import Budget

if TYPE_CHECKING:
    from searchkit.search.sampler import Sampler

SAMPLERS = ("tpe", "nsga2", "random", "grid")
EXECUTORS = ("inline", "processes", "ray")
COSTS = {"latency": "latency_ms", "size": "size_bytes", "macs": "macs", "params": "params"}
"""What the user may minimize, and its name among the metrics of an artifact."""


class SearchStopped(SearchkitError):
    """The search cannot usefully go on: the same error again and again."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search. minimize: None searches for the metric alone. ship_int8: limits on size and latency are meant for
    a file whose weights are int8. storage: the URL of a study that several coordinators share; None keeps it in the
    run. precision: "auto" times what trains quickest here. plans_epochs: whether few rows may lengthen the
    trainings, and a time budget change their length. hang_seconds: a rung that takes longer is killed.
    """

    budget: Budget = field(default_factory=Budget)
    sampler: str | Sampler = "tpe"
    minimize: str | None = None
    workers: int = 1
    executor: str = "inline"
    address: str | None = None
    storage: str | None = None
    ship_int8: bool = False
    precision: str = "auto"
    plans_epochs: bool = False
    hang_seconds: float = 3600.0

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("sampler", self.sampler if isinstance(self.sampler, str) else SAMPLERS[0], SAMPLERS),
            ("executor", self.executor, EXECUTORS),
            ("cost to minimize", self.minimize or "params", tuple(COSTS)),
            ("precision", self.precision, ("auto", "fp32", "bf16")),
        ):
            if value not in allowed:
                raise BadInput(f"No {what} named '{value}'; there is {', '.join(allowed)}.")
        if self.budget.trials < 1:
            raise BadInput(f"A search of {self.budget.trials} trials finds nothing; give --trials 1 or more.")
        if self.budget.epochs < 1 or self.budget.rungs < 1 or self.budget.eta < 2:
            raise BadInput("A budget needs at least 1 epoch, 1 rung and eta 2 or more.")
        if self.workers < 1:
            raise BadInput(f"A search with {self.workers} workers trains nothing; give --workers 1 or more.")
        if self.executor == "inline" and self.workers > 1:
            raise BadInput(f"{self.workers} workers need processes of their own; use the executor processes or ray.")

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
    """Where a search stands. best: the goal's value on val of the best trial so far. seconds_left: of the time budget.
    seconds_to_go: at the pace of the trials so far; None before the first. note: one line worth a look.
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
