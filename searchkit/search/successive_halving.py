"""Successive halving without waiting: at each rung a trial goes on if it is in the best 1/eta of all that got there.

The stopping variant of ASHA (Li et al. 2020, arXiv:1810.05934, as in Syne Tune). Optuna's pruners raise for two
objectives, so the rule is ours: with a cost beside the metric, trials are ordered by non-dominated rank and within a
rank by the metric, or the cheapest nets, which nobody can dominate, would all be trained to the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Losses = tuple[float, ...]
"""One value an objective; smaller is better. The goal comes first."""


def ranks(losses: Sequence[Losses]) -> list[int]:
    """The non-dominated rank of each: 0 is the front, 1 the front of the rest, and so on (Deb et al. 2002)."""
    values = np.asarray(losses, dtype=np.float64).reshape(len(losses), -1)
    # (n, 1, k) against (1, n, k) gives (n, n): no_worse[i, j] if i is nowhere worse than j. Equal rows do not dominate
    # each other.
    no_worse = np.all(values[:, None, :] <= values[None, :, :], axis=2)
    dominates = np.asarray(no_worse & np.any(values[:, None, :] < values[None, :, :], axis=2))
    n_above, found, rank = dominates.sum(axis=0), np.full(len(values), -1), 0
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
