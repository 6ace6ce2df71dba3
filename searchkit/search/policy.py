"""What a search does next: pure decisions from numbers that the loop has seen.

Nothing here trains, writes or reads a clock, so each rule can be read and tested by itself; `searchkit.search.loop`
acts on them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from enum import Enum

from searchkit.search import successive_halving
from searchkit.search.extrapolation import has_a_chance
from searchkit.search.successive_halving import Losses

MOST_LOST_WORKERS = 3
"""A rung whose worker died so often is told as crashed: its training may be what kills the workers."""

MOST_EQUAL_ERRORS = 5
"""Trials in a row that crash in the same way, after which the search stops."""

MOST_REJECTIONS = 20
"""Proposals refused before training, for each trial of the budget, before the search ends with what it has."""

HUNG = 5.0
"""Times as long as a trial's earlier rungs lead one to expect, after which a rung counts as hung: an hour is not a hang
for a training that is honestly long."""

LEAST_GRACE = 20.0
"""Seconds after the deadline before a job that has not stopped itself is killed."""


class Next(Enum):
    """What becomes of a trial after a rung."""

    CUT_OFF = "the time ended before its first epoch did: it does not count"
    FINISH = "its value is told"
    GO_ON = "the next rung"


class Halving:
    """The losses of every trial at every rung, and whether a trial is good enough to go on.

    Attributes:
        rung_epochs: The epochs at which trials are compared, lowest first.
        eta: 1 in so many goes on.
        seen: By rung, the losses of each trial by its number.
    """

    def __init__(self, rung_epochs: Sequence[int], eta: int) -> None:
        self.rung_epochs = tuple(rung_epochs)
        self.eta = eta
        self.seen: list[dict[int, Losses]] = [{} for _ in self.rung_epochs]

    def record(self, number: int, rung: int, losses: Losses) -> None:
        """Remember what trial `number` had at `rung`."""
        self.seen[rung][number] = losses

    def recall(self, number: int, rows: Sequence[Sequence[float]], first: int = 0) -> None:
        """Remember all rungs of a trial as a run on disk has them, from the rung `first` on."""
        for rung, row in enumerate(rows, first):
            self.record(number, rung, tuple(row))

    def decide(self, number: int, rung: int, *, stopped_by: str | None, epoch: int) -> Next:
        """What becomes of trial `number`, whose losses at `rung` are recorded unless the time cut the rung short.

        Args:
            number: The trial's.
            rung: The one that it came back from.
            stopped_by: As a training's state has it: "time", "patience" or None.
            epoch: Where the training stands.
        """
        # `fit` counts an epoch that the deadline cut short, so a first one may not be whole.
        if stopped_by == "time" and epoch <= 1:
            return Next.CUT_OFF
        ended = stopped_by is not None or rung == len(self.rung_epochs) - 1
        if ended or not successive_halving.goes_on(number, self.seen[rung], self.eta):
            return Next.FINISH
        return Next.GO_ON if has_a_chance(number, rung, self.seen) else Next.FINISH


def losses(goal_loss: float, cost: Mapping[str, float], minimized: str | None) -> Losses:
    """The losses of a trial, smaller is better: the goal's, then the cost's if one is minimized.

    A goal that is not finite becomes infinite: NaN compares as false with everything, and would win.
    """
    goal = goal_loss if math.isfinite(goal_loss) else math.inf
    return (goal, float(cost[minimized])) if minimized else (goal,)


def typical_seconds(first_rungs: Sequence[float]) -> float:
    """The median of the seconds that first rungs took; 0 before the first."""
    return statistics.median(first_rungs) if first_rungs else 0.0


def has_time_for_a_rung(seconds_left: float, first_rungs: Sequence[float]) -> bool:
    """Whether a first rung could be finished; one that could not would be trained for nothing."""
    return seconds_left > 0 and (math.isinf(seconds_left) or seconds_left > typical_seconds(first_rungs))


def grace_seconds(first_rungs: Sequence[float]) -> float:
    """How long after the deadline a job may take to stop itself, at the first step after it, before it is killed."""
    return max(LEAST_GRACE, 2.0 * typical_seconds(first_rungs))


def most_seconds(hang_seconds: float, *, spent: float, done: float, until: float) -> float:
    """How long a rung may take before it counts as hung.

    Args:
        hang_seconds: The least that any rung is given.
        spent: Seconds that the trial's earlier rungs took.
        done: The work of those, in epochs of all data; 0 before the first.
        until: The work that is done when this rung ends.
    """
    expected = spent / done * (until - done) if done else 0.0
    return max(hang_seconds, HUNG * expected)


def is_retried(n_lost: int) -> bool:
    """Whether a rung whose worker died is started again. n_lost: workers that it has lost, this one included."""
    return n_lost < MOST_LOST_WORKERS


def keeps_crashing(failures: Sequence[tuple[str, str]]) -> bool:
    """Whether the last failures are crashes for one and the same reason.

    Args:
        failures: (what, reason) of the trials that failed since one was trained, oldest first.
    """
    # Only crashes count: divergence and lack of memory are a candidate's own fault, and may well come in a row.
    last = failures[-MOST_EQUAL_ERRORS:]
    return len(last) == MOST_EQUAL_ERRORS and len(set(last)) == 1 and last[-1][0] == "crashed"


def is_hopeless(n_rejected: int, n_trials: int) -> bool:
    """Whether so many candidates were refused before training that the search ends with what it has."""
    return n_rejected >= MOST_REJECTIONS * n_trials
