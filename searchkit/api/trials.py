"""Trials as a caller sees them, and the callback that hears of each one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from searchkit.core.serialization import JSON
from searchkit.search.settings import Status, StopSearch

if TYPE_CHECKING:
    from searchkit.run import Run
    from searchkit.workflow import Screen

ENDED = ("trained", "failed")
"""The states of a trial that its callback hears of: one that was refused before training is no trial to it."""


@dataclass(frozen=True)
class TrialInfo:
    """One trial of a search. It does not change any more once it is "trained" or "failed".

    Attributes:
        number: the trial's number in its study, from 0 on.
        space: the family.
        state: "trained", "failed", "rejected" (refused before training), "cut off" (the search ended) or "running".
        metric: the name of the goal.
        value: the goal on the validation split; None unless trained.
        params: the sampled values by name, of the architecture and of the training.
        cost: params, macs, size_bytes and latency_ms, as far as they were measured.
        epochs: the epochs trained.
        seconds: the time that training took.
        reason: why it failed or was refused.
    """

    number: int
    space: str
    state: str
    metric: str
    value: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    reason: str = ""

    def flat(self) -> dict[str, Any]:
        """One row of a table: the fields, with each parameter and cost under a name of its own."""
        row = {name: value for name, value in vars(self).items() if name not in ("params", "cost")}
        return {
            **row,
            **{f"params_{name}": value for name, value in self.params.items()},
            **{f"cost_{name}": value for name, value in self.cost.items()},
        }


Callback: TypeAlias = Callable[[TrialInfo], object]
"""Called after each trial that was trained or failed. False, or raising `StopSearch`, ends the search."""


def trials_of(run: Run) -> list[TrialInfo]:
    """Every trial of a run, in order of its number. Raises BadInput if the run has no search yet."""
    from searchkit.search.results import history, searches

    metric = str(next(iter(searches(run).values()))["goal"])
    return [_info(row, metric) for row in history(run)]


def _info(row: Mapping[str, JSON], metric: str) -> TrialInfo:
    refused = ", ".join(f"{name} over by {amount:.0%}" for name, amount in (row["rejected"] or {}).items())
    return TrialInfo(
        number=int(row["number"]),
        space=str(row["space"]),
        state=str(row["status"]),
        metric=metric,
        value=row["value"],
        params=MappingProxyType(dict(row["params"])),
        cost=MappingProxyType(dict(row["cost"])),
        epochs=row["epochs"],
        seconds=row["seconds"],
        reason=str(row["reason"] or refused),
    )


class Watched:
    """A screen that also calls a callback, once for each trial that ends while it watches.

    Args:
        screen: hears everything.
        run: the run, new or resumed: what ended before is no news.
        callback: hears of each trial.
    """

    def __init__(self, screen: Screen, run: Run, callback: Callback) -> None:
        self.screen, self.run, self.callback = screen, run, callback
        self.say, self.close = screen.say, screen.close
        self.stopped = False
        self.n_ended = -1
        self.known: set[tuple[str, int]] = set()
        if run.read_json("search.json"):
            self.known = {(trial.space, trial.number) for trial in trials_of(run) if trial.state in ENDED}

    def progress(self, status: Status) -> None:
        """Tell the callback what is new. Raises StopSearch once, if it asks for the end of the search."""
        self.screen.progress(status)
        if self.stopped or status.done == self.n_ended:
            return
        # `trials_of` reads the run from disk: only when the number of ended trials has changed.
        self.n_ended = status.done
        if status.done == 0:
            return
        for trial in trials_of(self.run):
            if trial.state not in ENDED or (trial.space, trial.number) in self.known:
                continue
            self.known.add((trial.space, trial.number))
            try:
                wanted = self.callback(trial)
            except StopSearch:
                self.stopped = True
                raise
            if wanted is False:  # None, from a function without a return, goes on
                self.stopped = True
                raise StopSearch(f"the callback ended the search after trial {trial.number}")
