"""The first candidates of a search: what the family's author would try, and the largest that fits if there are limits.

On a table of trained networks under a limit on parameters, "the largest that fits" alone was hard to beat in the first
25 trainings (reports/LOG.md).
"""

from __future__ import annotations

import json
import random

from optuna.distributions import CategoricalDistribution

from searchkit.core.serialization import freeze
from searchkit.search.candidates import Candidate
from searchkit.search.choices import at, at_random, like
from searchkit.search.sampler import Ask, SearchView

MOST_SEEDS = 8
"""Proposals for the first candidates, some of which a costlier check may refuse, before a sampler begins by itself."""


def is_due(n_accepted: int, ask: Ask, view: SearchView) -> bool:
    """Whether the next candidate is a seed: the first, or the first two under limits, unless too many were refused.

    Args:
        n_accepted: Trials that were not refused.
        ask: Which proposal this is.
        view: The search.
    """
    n_seeds = min(2 if view.limited else 1, view.trials)
    return n_accepted < n_seeds and ask.number < MOST_SEEDS and ask.attempt < n_seeds


def seed_candidate(rng: random.Random, index: int, view: SearchView) -> Candidate | None:
    """The middle of the space, or the largest that fits, trained by the space's own default.

    If limits are set, it is the largest of 32 random candidates that may fit; first of those that differ from the
    middle in numbers alone, which keeps the kinds of layers that the family's author put there, then of all.
    """
    training = freeze(view.space.training.default)
    default = {f"train.{k}": json.dumps(v) if isinstance(v, list) else v for k, v in training.items()}
    if not view.limited:
        return view.draw(like(default, at(0.5)), "middle")
    known = default
    if index == 0:
        middle = view.draw(at(0.5), "middle")
        kinds = (n for n, d in middle.distributions.items() if isinstance(d, CategoricalDistribution))
        known = {**{name: middle.params[name] for name in kinds}, **default}
    drawn = [view.draw(like(known, at_random(rng)), "largest that fits") for _ in range(32)]
    weighed = [(candidate, view.weigh(candidate)) for candidate in drawn]
    # `weigh` says only what may fit. If a costlier check refused the last proposal, `index` is higher by one and takes
    # the next place in this order.
    fitting = sorted((c for c, w in weighed if w and w[1]), key=lambda c: -(view.weigh(c) or (0.0, False))[0])
    return fitting[min(index, len(fitting) - 1)] if fitting else None
