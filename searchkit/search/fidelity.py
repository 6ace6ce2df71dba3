"""How much of the training data each rung sees, and what a trial costs then.

The lowest rungs only have to tell good candidates from bad ones. If time is short they train on a part of the data, so
that more candidates are compared; the last rung, whose networks are kept, always trains on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from searchkit.core.space import Budget

SMALLEST_PART = 1 / 16
"""Of the training data, in the first rung."""


def share_of_a_trial(rung_epochs: Sequence[int], eta: int, parts: Sequence[float] | None = None) -> float:
    """What a trial costs on average, as a share of a whole training on all data, if 1 in `eta` goes on at each rung.

    Args:
        rung_epochs: The epochs at which the rungs end.
        eta: The reduction factor.
        parts: The part of the data that each rung trains on; None is all.
    """
    return sum(work / float(eta**rung) for rung, work in enumerate(data_epochs(rung_epochs, parts))) / rung_epochs[-1]


def data_epochs(rung_epochs: Sequence[int], parts: Sequence[float] | None = None) -> list[float]:
    """The work of each rung, in epochs of all data."""
    begins = (0, *rung_epochs[:-1])
    return [
        (until - since) * part
        for since, until, part in zip(begins, rung_epochs, parts or (1.0,) * len(rung_epochs), strict=True)
    ]


def parts_within(
    affordable: float, rung_epochs: Sequence[int], eta: int, *, steps: int, least_steps: int
) -> tuple[float, ...] | None:
    """The largest parts of the data at which a trial costs no more than it may, or the smallest that there are.

    Args:
        affordable: What a trial may cost on average, as `share_of_a_trial` says it.
        rung_epochs: The epochs at which the rungs end.
        eta: The reduction factor.
        steps: Training steps of an epoch on all data.
        least_steps: Steps that the first rung takes at least; fewer would compare noise.

    Returns:
        A part a rung: it grows by an equal factor from rung to rung and is 1 at the last; None if all data are
        affordable at each, or if there is one rung alone.
    """
    last, found, part = len(rung_epochs) - 1, None, 0.5
    while last and share_of_a_trial(rung_epochs, eta, found) > affordable:
        if part < SMALLEST_PART or part * steps * rung_epochs[0] < least_steps:
            break
        found = tuple(part ** (1 - rung / last) for rung in range(last + 1))
        part /= 2
    return found


def with_parts(budget: Budget, longest: int, work: float, *, steps: int) -> tuple[Budget, tuple[float, ...] | None]:
    """The longest training at which a trial costs no more than it may, and the parts of the data that make it so.

    Args:
        budget: Its epochs are the least.
        longest: The most epochs.
        work: What a trial may cost on average, in epochs of all data.
        steps: Training steps of an epoch on all data.

    Returns:
        The budget with its epochs, and a part a rung; None if all data are affordable at each. If no trial is cheap
        enough, the cheapest.
    """
    found: list[tuple[float, Budget, tuple[float, ...] | None]] = []
    for epochs in range(longest, budget.epochs - 1, -1):
        longer = replace(budget, epochs=epochs)
        rungs = longer.rung_epochs(steps)
        parts = parts_within(work / epochs, rungs, budget.eta, steps=steps, least_steps=budget.least_rung_steps)
        cost = epochs * share_of_a_trial(rungs, budget.eta, parts)
        if cost <= work:
            return longer, parts
        found.append((cost, longer, parts))
    # Not always the fewest epochs: three rungs over five cost less than two over three.
    return min(found, key=lambda row: row[0])[1:]


@dataclass(frozen=True)
class Pace:
    """What was timed of the middle candidate.

    Attributes:
        whole: Seconds of its whole training.
        of_loss: The part of those that grows with a candidate.
        macs: Its multiply-accumulates.
        share: See `share_of_a_trial`.
    """

    whole: float
    of_loss: float
    macs: int
    share: float

    def trials(self, left: float, workers: int, seconds: float | None = None) -> int:
        """How many trials `left` seconds hold whose whole trainings take `seconds`; None is the middle one's."""
        found = workers * left / (self.share * (self.whole if seconds is None else seconds))
        return int(found + 1e-9)  # five times a fifth of the time is five

    def macs_of(self, seconds: float) -> float:
        """Those of a network like the middle candidate whose whole training takes `seconds`."""
        return self.macs * (seconds - self.whole + self.of_loss) / self.of_loss
