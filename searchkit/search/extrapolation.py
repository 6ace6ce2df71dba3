"""What a trial may still come to: its loss at a rung, and what earlier trials gained from there to the end.

All trials of a search follow the same schedule, so what others gained between two rungs says more of a trial than a
curve that is fitted to its own few epochs (a schedule's last third lowers a loss that looked flat). The bound is that
of split conformal prediction (Vovk et al. 2005, Algorithmic learning in a random world): whatever the distribution of
the gains, the gain of a new trial is within it with the stated coverage, if it is drawn as the others were. It is not
quite: those that were trained to the end were the better ones at the rung. benchmarks/fidelity_axes.py measures the
coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from searchkit.search.successive_halving import Losses, ranks

COVERAGE = 0.8
"""Of the bound: the share of trials that come to no less than it says."""


def lower_bound(loss: float, gains: Sequence[float], coverage: float = COVERAGE) -> float | None:
    """What a trial comes to at best, with a coverage.

    Args:
        loss: Of the trial, at the rung.
        gains: By how much earlier trials lowered their losses from this rung to the last.
        coverage: 0 to 1.

    Returns:
        The loss at the last rung that the trial does not get below; None if the gains are too few for the coverage.
    """
    most = int((1.0 - coverage) * (len(gains) + 1) + 1e-9)  # so many of the largest gains may be left out, less one
    return loss - sorted(gains, reverse=True)[most - 1] if most >= 1 else None


def has_a_chance(number: int, rung: int, seen: Sequence[Mapping[int, Losses]]) -> bool:
    """Whether a trial may still get to where no finished trial beats it.

    Args:
        number: The trial's.
        rung: At which it is.
        seen: By rung, the losses of each trial by its number; the goal's first.
    """
    last = seen[-1]
    gains = [seen[rung][n][0] - losses[0] for n, losses in last.items() if n in seen[rung] and n != number]
    gains = [gain for gain in gains if math.isfinite(gain)]  # a loss that is no number is told as infinite
    bound = lower_bound(seen[rung][number][0], gains)
    if bound is None:
        return True
    at_best = (bound, *seen[rung][number][1:])
    return ranks([at_best, *last.values()])[0] == 0
