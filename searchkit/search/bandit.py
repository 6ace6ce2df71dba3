"""Which of several families gets the next trial: Thompson sampling on how often its trials are among the best.

A family is an arm. A trial of it is a hit if it is in the best 1/eta of all trials so far, in the order by which
successive halving promotes them: non-dominated rank first, then the goal. The chance of a hit has a Beta posterior, a
number is drawn from each (Thompson 1933), and the family with the largest gets the trial. If time is limited, the draw
is divided by the seconds of a whole training, as Xia et al. (2015, arXiv:1505.00146) do where pulls differ in cost: of
two equally good families the quicker gets more, and a slow and poor one costs little time before it is given up.

Ranks and not values: they are the same on every metric, need no scale, and age well, since an early hit stops being one
when better trials come. It is a pure function of the trials so far, so a resumed search chooses as the first did.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchkit.core.serialization import derive_seed
from searchkit.search import successive_halving
from searchkit.search.successive_halving import Losses

FIRST = 2
"""Trials that each family gets before results count: the sampler's first two are its middle or its largest."""


@dataclass(frozen=True)
class Pull:
    """A trial as the bandit sees it.

    Attributes:
        family: Whose it is.
        losses: Smaller is better, the goal's first; None while it runs, and if it could not be trained.
        ended: Whether it has come to its end.
        seconds: What its whole training would take; None if that is not known.
    """

    family: str
    losses: Losses | None
    ended: bool
    seconds: float | None = None


@dataclass(frozen=True)
class Rule:
    """How the trials are shared out.

    Attributes:
        first: Trials that each family gets before results count.
        eta: One in so many trials is a hit.
        timed: Whether a trial costs its time; else each costs the same.
        seed: Of all choices.
    """

    first: int
    eta: int
    timed: bool
    seed: int


def first_trials(n_trials: int, n_families: int) -> int:
    """Trials that each family gets before results count: `FIRST`, or 1 if that would use up half of the budget."""
    return FIRST if n_trials > 2 * FIRST * n_families else 1


def choose(families: Sequence[str], pulls: Sequence[Pull], rule: Rule, *, call: int) -> str:
    """The family that gets the next trial.

    Args:
        families: Those that may get one, in the order in which the user named them.
        pulls: All trials so far in order of their numbers, of other families too.
        rule: How they are shared out.
        call: Tells the draws of one choice from those of another.
    """
    begun = {family: sum(pull.family == family for pull in pulls) for family in families}
    fewest = min(families, key=lambda family: begun[family])  # the first of equals
    if begun[fewest] < rule.first:
        return fewest
    hits = _hits(pulls, rule.eta)
    costs = _costs(families, pulls) if rule.timed else dict.fromkeys(families, 1.0)
    rng, drawn = random.Random(derive_seed(rule.seed, call)), {}
    for family in families:
        ended = [number for number, pull in enumerate(pulls) if pull.family == family and pull.ended]
        n_hits = sum(number in hits for number in ended)
        drawn[family] = rng.betavariate(1 + n_hits, 1 + len(ended) - n_hits) / costs[family]
    return max(families, key=lambda family: drawn[family])


def _hits(pulls: Sequence[Pull], eta: int) -> frozenset[int]:
    """The places of the trials in the best 1/eta (rounded up) of those that have losses."""
    losses = {number: pull.losses for number, pull in enumerate(pulls) if pull.losses is not None}
    return frozenset(successive_halving.order(losses)[: math.ceil(len(losses) / eta)])


def _costs(families: Sequence[str], pulls: Sequence[Pull]) -> Mapping[str, float]:
    """The mean seconds of a whole training; a family of which none is known costs the mean of the others."""
    known = {family: [p.seconds for p in pulls if p.family == family and p.seconds] for family in families}
    means = {family: sum(seconds) / len(seconds) for family, seconds in known.items() if seconds}
    usual = sum(means.values()) / len(means) if means else 1.0
    return {family: means.get(family, usual) for family in families}
