"""How much of the data each rung sees, and what a trial costs then.

The lowest rungs only have to tell good candidates from bad ones. If time is short they train on smaller pictures and on
a part of the data, so that more candidates are compared; the last rung, whose networks are kept, always trains on all
of them whole. Smaller pictures come first: a training on pictures of half the side costs what one on a quarter of the
data does, makes four times its updates, and came nearer to what the full training reached (reports/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from searchkit.core.space import Budget

SMALLEST_PART = 1 / 16
"""Of the training data, in the first rung."""

SMALLER_SIDES = (0.75, 0.5)
"""Of the length of a picture's sides, in the first rung."""


class Reduced(NamedTuple):
    """What each rung sees of the data; 1 at the last.

    Attributes:
        parts: Of the training examples.
        sides: Of the length of a picture's sides.
    """

    parts: tuple[float, ...]
    sides: tuple[float, ...]


def share_of_a_trial(rung_epochs: Sequence[int], eta: int, seen: Reduced | None = None) -> float:
    """What a trial costs on average, as a share of a whole training on all data, if 1 in `eta` goes on at each rung.

    Args:
        rung_epochs: The epochs at which the rungs end.
        eta: The reduction factor.
        seen: What each rung sees of the data; None is all.
    """
    return sum(work / float(eta**rung) for rung, work in enumerate(data_epochs(rung_epochs, seen))) / rung_epochs[-1]


def data_epochs(rung_epochs: Sequence[int], seen: Reduced | None = None) -> list[float]:
    """The work of each rung, in epochs of all data. A convolution's work grows with the square of a picture's side."""
    begins = (0, *rung_epochs[:-1])
    epochs = [until - since for since, until in zip(begins, rung_epochs, strict=True)]
    if seen is None:
        return [float(n) for n in epochs]
    return [n * part * side**2 for n, part, side in zip(epochs, seen.parts, seen.sides, strict=True)]


def reduced_within(
    affordable: float, rung_epochs: Sequence[int], eta: int, *, steps: int, least_steps: int, sided: bool = False
) -> Reduced | None:
    """The most of the data at which a trial costs no more than it may, or the least that there is.

    Args:
        affordable: What a trial may cost on average, as `share_of_a_trial` says it.
        rung_epochs: The epochs at which the rungs end.
        eta: The reduction factor.
        steps: Training steps of an epoch on all data.
        least_steps: Steps that the first rung takes at least; fewer would compare noise.
        sided: Whether the data are pictures that can be made smaller.

    Returns:
        What each rung sees: it grows by an equal factor from rung to rung; None if all data are affordable at each, or
        if there is one rung alone.
    """
    found = None
    for wanted in _reductions(len(rung_epochs), sided=sided):
        if share_of_a_trial(rung_epochs, eta, found) <= affordable:
            break
        if wanted.parts[0] < 1 and wanted.parts[0] * steps * rung_epochs[0] < least_steps:
            break
        found = wanted
    return found


def _reductions(n_rungs: int, *, sided: bool) -> Iterator[Reduced]:
    """From the most of the data to the least; none if there is one rung alone."""
    if n_rungs == 1:
        return
    side = 1.0
    for side in SMALLER_SIDES if sided else ():
        yield Reduced((1.0,) * n_rungs, _growing(side, n_rungs))
    part = 0.5
    while part >= SMALLEST_PART:
        yield Reduced(_growing(part, n_rungs), _growing(side, n_rungs))
        part /= 2


def _growing(first: float, n: int) -> tuple[float, ...]:
    """From `first` to 1 in n steps, each by the same factor."""
    return tuple(first ** (1 - k / (n - 1)) for k in range(n))


def with_reduced(
    budget: Budget, longest: int, work: float, *, steps: int, sided: bool = False
) -> tuple[Budget, Reduced | None]:
    """The longest training at which a trial costs no more than it may, and what of the data its rungs see then.

    Args:
        budget: Its epochs are the least.
        longest: The most epochs.
        work: What a trial may cost on average, in epochs of all data.
        steps: Training steps of an epoch on all data.
        sided: Whether the data are pictures that can be made smaller.

    Returns:
        The budget with its epochs, and what each rung sees; None if all data are affordable at each. If no trial is
        cheap enough, the cheapest.
    """
    found: list[tuple[float, Budget, Reduced | None]] = []
    for epochs in range(longest, budget.epochs - 1, -1):
        longer = replace(budget, epochs=epochs)
        rungs = longer.rung_epochs(steps)
        seen = reduced_within(
            work / epochs, rungs, budget.eta, steps=steps, least_steps=budget.least_rung_steps, sided=sided
        )
        cost = epochs * share_of_a_trial(rungs, budget.eta, seen)
        if cost <= work:
            return longer, seen
        found.append((cost, longer, seen))
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
