"""The samplers that the command line knows, by name, and who asks them until one proposes what has not been seen.

The default, "gp", is in `searchkit.search.gp_sampler`. "tpe", the default before it, follows what was measured on a
tabular benchmark under a limit on parameters (mean test regret after 50 distinct trainings: random 1.78, largest that
fits first 1.67, TPE 1.12, local search .82): first a seed or two; then multivariate TPE with constraints (Watanabe
2023, arXiv:2304.11127); and every other proposal a local step from the front.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from searchkit.core.serialization import derive_seed
from searchkit.search import seeds
from searchkit.search.candidates import Candidate
from searchkit.search.choices import at_random, grid_values, like, neighbor
from searchkit.search.fronts import best_so_far
from searchkit.search.gp_sampler import GaussianProcess
from searchkit.search.sampler import MOST_LEAVES, Ask, Exhausted, Sampler, SearchView, ask_optuna

MOST_ATTEMPTS = 60
"""Proposals for one trial, all of them seen before, after which the space counts as used up."""

MOST_REPEATS = 20
"""A sampler that has repeated itself so often will go on to: what is left is drawn at random."""


@dataclass(frozen=True)
class Random:
    """Draws every parameter at random, each independent of the others."""

    name: str = "random"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        return view.draw(at_random(random.Random(ask.seed)), "random")


@dataclass(frozen=True)
class Grid:
    """Walks the discretized space in an order shuffled by the search's seed.

    A define-by-run space is a tree whose leaves are found by walking it: every leaf of up to 20,000 is, in exact order;
    a larger grid is drawn from at random, without repeats.
    """

    name: str = "grid"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`. Raises Exhausted after the last leaf."""
        if view.leaves is not None:
            left = (leaf for leaf in view.leaves if leaf.key not in ask.known)
        else:
            # Seeded by the search alone: each call walks the same sequence and skips what is known, so nothing is kept.
            rng = random.Random(derive_seed(view.seed, "grid"))
            drawn = (view.draw(lambda _, d: rng.choice(grid_values(d)), "grid") for _ in range(MOST_LEAVES))
            left = (candidate for candidate in drawn if candidate.key not in ask.known)
        if (candidate := next(left, None)) is None:
            raise Exhausted
        return candidate


@dataclass(frozen=True)
class Nsga2:
    """NSGA-II (Deb et al. 2002) by Optuna: a genetic algorithm for several objectives."""

    name: str = "nsga2"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        # small generations suit small budgets: population 20 beat 50 at every budget up to 200
        population = max(4, min(20, view.trials // 3))
        sampler = optuna.samplers.NSGAIISampler(seed=ask.seed, population_size=population)
        return ask_optuna(sampler, trials, view, self.name)


@dataclass(frozen=True)
class Tpe:
    """Seeds, then multivariate TPE with constraints, and every other proposal a local step from the front."""

    name: str = "tpe"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        rng = random.Random(ask.seed)
        n_accepted = sum(1 for t in trials if not t.constraints)
        if seeds.is_due(n_accepted, ask, view):
            return seeds.seed_candidate(rng, ask.number + ask.attempt, view)
        n_startup = min(10, max(4, view.trials // 4))  # Optuna's 10 would be most of a small budget
        front = best_so_far(trials, view.directions)
        if ask.number >= n_startup and front and rng.random() < 0.5:
            return _step_from(rng.choice(front), rng, view)
        # Optuna 5 still defaults to univariate TPE if there are two objectives
        sampler = optuna.samplers.TPESampler(seed=ask.seed, multivariate=True, n_startup_trials=n_startup)
        return ask_optuna(sampler, trials, view, self.name)


NAMED: dict[str, Sampler] = {sampler.name: sampler for sampler in (GaussianProcess(), Tpe(), Nsga2(), Random(), Grid())}
"""The samplers that the command line knows, by name."""


def sampler_of(sampler: str | Sampler) -> Sampler:
    """The sampler of a name, or the sampler itself."""
    return NAMED[sampler] if isinstance(sampler, str) else sampler


def _step_from(parent: FrozenTrial, rng: random.Random, view: SearchView) -> Candidate:
    """A neighbor of `parent`: one of its parameters changed, sometimes two."""
    changed = rng.sample(sorted(parent.params), k=min(len(parent.params), 1 if rng.random() < 0.7 else 2))
    params = dict(parent.params)
    for name in changed:
        params[name] = neighbor(parent.distributions[name], params[name], rng)
    return view.draw(like(params, at_random(rng)), "local step")


@dataclass(frozen=True)
class Proposer:
    """Asks a sampler until it proposes what has not been seen."""

    sampler: Sampler
    view: SearchView

    def propose(self, trials: Sequence[FrozenTrial], known: AbstractSet[str]) -> Candidate | None:
        """A candidate whose key is not in `known`; None if 60 attempts found none: the space is used up."""
        for attempt in range(MOST_ATTEMPTS):
            ask = Ask(len(trials), attempt, derive_seed(self.view.seed, "propose", len(trials), attempt), known)
            sampler = self.sampler if attempt < MOST_REPEATS else NAMED["random"]
            try:
                candidate = sampler.propose(trials, ask, self.view)
            except Exhausted:
                return None
            if candidate is not None and candidate.key not in known:
                return candidate
        return None
