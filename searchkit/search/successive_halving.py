"""Successive halving without waiting: at each rung a trial goes on if it is in the best 1/eta of all that got there.

The stopping variant of ASHA (Li et al. 2020, arXiv:1810.05934, as in Syne Tune). Optuna's pruners raise for two
objectives, so the rule is ours: with a cost beside the metric, trials are ordered by non-dominated rank and within a
rank by the metric, or the cheapest nets, which nobody can dominate, would all be trained to the end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Losses = tuple[float, ...]
"""One value an objective; smaller is better. The goal comes first."""


def ranks(losses: Sequence[Losses]) -> list[int]:
    """The non-dominated rank of each: 0 is the front, 1 the front of the rest, and so on (Deb et al. 2002).

    Equal rows do not dominate each other. One objective or two take n log n steps, more of them n².
    """
    values = np.asarray(losses, dtype=np.float64).reshape(len(losses), -1)
    rows, place = np.unique(
        values, axis=0, return_inverse=True
    )  # the rows in order of their first value, then the next
    match values.shape[1]:
        case 1:
            found = list(range(len(rows)))
        case 2:
            found = _ranks_of_pairs(rows[:, 1].tolist())
        case _:
            found = _ranks_by_peeling(rows)
    return [found[i] for i in place.reshape(-1)]


def _ranks_of_pairs(seconds: Sequence[float]) -> list[int]:
    """The ranks of distinct pairs that are in order, of which these are the second values (Jensen 2003).

    All before a pair are no worse in the first value. So the fronts whose least second value so far is no worse than
    the pair's dominate it, and these are the first ones: a front's least value is below that of the next.
    """
    least: list[float] = []
    found = []
    for value in seconds:
        front = bisect_right(least, value)
        least[front : front + 1] = [value]
        found.append(front)
    return found


def _ranks_by_peeling(rows: NDArray[np.float64]) -> list[int]:
    # (n, 1, k) against (1, n, k) gives (n, n): no_worse[i, j] if i is nowhere worse than j.
    no_worse = np.all(rows[:, None, :] <= rows[None, :, :], axis=2)
    dominates = np.asarray(no_worse & np.any(rows[:, None, :] < rows[None, :, :], axis=2))
    n_above, found, rank = dominates.sum(axis=0), np.full(len(rows), -1), 0
    while (found < 0).any():
        front = (found < 0) & (n_above == 0)
        found[front] = rank
        n_above = n_above - dominates[front].sum(axis=0)
        rank += 1
    return [int(r) for r in found]


def order(losses: Mapping[int, Losses]) -> list[int]:
    """The trials by rank, then by the goal, then by the cost, then by number."""
    numbers = sorted(losses)
    rank = dict(zip(numbers, ranks([losses[n] for n in numbers]), strict=True)) if numbers else {}
    return sorted(numbers, key=lambda n: (rank[n], losses[n], n))


def goes_on(number: int, seen: Mapping[int, Losses], eta: int) -> bool:
    """Whether trial `number` is among the best 1/eta (rounded up) of all results seen at its rung, its own included."""
    return number in order(seen)[: math.ceil(len(seen) / eta)]
