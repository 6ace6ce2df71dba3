"""The default sampler: a Gaussian process ranks unseen neighbours of the best trials together with random candidates.

First come the seeds (`searchkit.search.seeds`) and a few at random. Then, for each trial, a process is fitted to the
trials so far (`searchkit.search.surrogate`); the pool is neighbours of the best and random candidates; and the
neighbours of those that look best join it, twice. The one that is expected to improve the best value, or the
hypervolume of two objectives, by most is proposed. Refused and failed trials lower the chance of what is like them.
What was chosen by measurement, and on which tables, stands in reports/reference/samplers.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from searchkit.search import seeds, successive_halving
from searchkit.search.candidates import Candidate, Draft
from searchkit.search.choices import at_random, like, neighbor
from searchkit.search.fronts import Sorted, losses_of, sort_out
from searchkit.search.sampler import Ask, SearchView
from searchkit.search.surrogate import Array, Encoder, Process, expected_improvement, normal_scores

STARTS = 4
"""Trials before the process: with 10, the regret after 30 was higher on the tables that this was tuned on."""

WINDOW = 200
"""The best trials, of which the process is made. With 100 the regret after 200 was higher."""

JUDGED = 60
"""The last refused trials, and as many of the best: a process of its own tells the chance of being refused."""

PARENTS = 5
"""The best trials, or that many of the front, whose neighbours are in the pool."""

LEAST_CHANCE = 0.01
"""Of a candidate that is surely refused, as far as the trials tell."""

PATIENCE = 40
"""Trials without a better one after which every second proposal looks around trials other than the best."""

NEIGHBOURS, RANDOMS = 160, 100
"""In the pool, at most."""

CLIMBS, CLIMBERS, CLIMBED = 2, 3, 60
"""How often the pool grows by neighbours of its best, of how many, and by how many at most."""

WEIGHED = 16
"""Candidates that are built to see whether they fit the limits; some milliseconds each."""


@dataclass(frozen=True)
class GaussianProcess:
    """Seeds, a few at random, then whatever a Gaussian process expects most of."""

    name: str = "gp"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        rng = random.Random(ask.seed)
        found = sort_out(trials)
        n_accepted = len(trials) - len(found.refused)
        if seeds.is_due(n_accepted, ask, view):
            return seeds.seed_candidate(rng, ask.number + ask.attempt, view)
        if n_accepted < min(STARTS, max(2, view.trials // 3)) or len(found.done) < 2:
            return _first_that_fits((view.draw(at_random(rng), "random") for _ in range(WEIGHED)), ask, view)
        model = _Model.of(found, view.directions)
        pool = _neighbours(model.parents(rng, elsewhere=ask.number % 2 == 1), NEIGHBOURS, rng, view)
        pool += [view.sketch(at_random(rng)) for _ in range(RANDOMS)]
        gains = model.gains(pool)
        for _ in range(CLIMBS):
            best = [pool[i] for i in _best_first(gains)[:CLIMBERS]]
            climbed = _neighbours(best, CLIMBED, rng, view)
            pool, gains = pool + climbed, np.append(gains, model.gains(climbed))
        return _first_that_fits(
            (view.draw(like(pool[i].params, at_random(rng)), self.name) for i in _best_first(gains)), ask, view
        )


@dataclass(frozen=True)
class _Model:
    """What is expected of candidates.

    Attributes:
        best: The best trials, best first; with two objectives by their non-dominated rank.
        n_front: How many of them are the front.
        n_since_better: Trials since the last that is of the front.
        front: The values of those, as normal scores: (n_front, objectives).
        encoder: Makes rows of parameters.
        rows: Of `best`, then of the trials that are running: (n, columns).
        processes: One an objective.
        judged: Rows of some of `best` and of the last refused trials.
        refusal: Of those: 1 for a refused trial, -1 for another; None if none was refused.
    """

    best: Sequence[FrozenTrial]
    n_front: int
    n_since_better: int
    front: Array
    encoder: Encoder
    rows: Array
    processes: tuple[Process, ...]
    judged: Array
    refusal: Process | None

    @classmethod
    def of(cls, found: Sorted, directions: Sequence[str]) -> _Model:
        """The model of the trials so far, of which two at least are done."""
        done, running, refused = found.done, found.running, found.refused[-JUDGED:]
        losses = np.array([losses_of(t, directions) for t in done])
        ranks = np.array(successive_halving.ranks(losses.tolist()))
        # by rank, then by the goal, the cost and the number, in which order `done` is
        order = np.lexsort((*losses.T[::-1], ranks))[:WINDOW].tolist()
        scores = np.column_stack([normal_scores(column, order) for column in losses.T])
        best = [done[i] for i in order]
        n_front = sum(1 for i in order if ranks[i] == 0)
        newest = max(t.number for t in best[:n_front])
        encoder = Encoder([t.distributions for t in (*best, *running, *refused)])
        rows, waiting, broken = (encoder.rows([t.params for t in group]) for group in (best, running, refused))
        judged = np.concatenate([rows[:JUDGED], broken])
        verdicts = np.repeat([-1.0, 1.0], [len(judged) - len(broken), len(broken)])
        return cls(
            best,
            n_front,
            sum(1 for t in done if t.number > newest),
            scores[:n_front],
            encoder,
            np.concatenate([rows, waiting]),
            _fitted(encoder, rows, waiting, scores),
            judged,
            Process.fitted(encoder.distances(judged, judged), verdicts) if refused else None,
        )

    def parents(self, rng: random.Random, *, elsewhere: bool) -> Sequence[FrozenTrial]:
        """The trials whose neighbours are looked at: the best, or a few of a large front.

        Args:
            rng: Draws them.
            elsewhere: Whether to look around others once the front has been the same for `PATIENCE` trials: the
                restart of a local search, that begins where something was learned.
        """
        if elsewhere and self.n_since_better >= PATIENCE and len(self.best) > self.n_front:
            others = self.best[self.n_front :]
            return rng.sample(others, k=min(PARENTS, len(others)))
        if self.n_front > PARENTS:
            return rng.sample(self.best[: self.n_front], k=PARENTS)
        return self.best[:PARENTS]

    def gains(self, candidates: Sequence[Draft]) -> Array:
        """What each candidate is expected to add, times the chance that it is not refused."""
        rows = self.encoder.rows([c.params for c in candidates])
        distances = self.encoder.distances(rows, self.rows)
        predicted = [process.predict(distances) for process in self.processes]
        means, deviations = (np.column_stack(side) for side in zip(*predicted, strict=True))
        gains = expected_improvement(self.front, means, deviations)
        if self.refusal is not None:
            # the mean at a place that is far from all trials is 0, an even bet
            verdicts, _ = self.refusal.predict(self.encoder.distances(rows, self.judged))
            gains = gains * np.clip((1.0 - verdicts) / 2, LEAST_CHANCE, 1.0)
        return gains


def _fitted(encoder: Encoder, rows: Array, waiting: Array, scores: Array) -> tuple[Process, ...]:
    """The process of each column of scores; trials that are running count as seen, with what is expected of them.

    So that the next candidate is not the neighbour of one that is being trained (Ginsbourger et al. 2010).

    Args:
        encoder: Has the distances.
        rows: Of the trials that have scores: (n, columns).
        waiting: Of those that are running.
        scores: (n, objectives).
    """
    distances = encoder.distances(rows, rows)
    processes = tuple(Process.fitted(distances, column) for column in scores.T)
    if not len(waiting):
        return processes
    apart, both = encoder.distances(waiting, rows), np.concatenate([rows, waiting])
    distances = encoder.distances(both, both)
    return tuple(
        Process.of(p.weights, p.noise, distances, np.append(column, p.predict(apart)[0]))
        for p, column in zip(processes, scores.T, strict=True)
    )


def _best_first(gains: Array) -> list[int]:
    """The indices of the gains, highest first; the earlier of equals first.

    Nine digits count: the last ones depend on how many threads multiplied the matrices, and a resumed search may have
    others.
    """
    digits, powers = np.frexp(gains)
    return [int(i) for i in np.argsort(-np.ldexp(np.round(digits, 9), powers), kind="stable")]


def _neighbours(
    parents: Sequence[FrozenTrial | Draft], at_most: int, rng: random.Random, view: SearchView
) -> list[Draft]:
    """Candidates that differ from one of the parents in one parameter, and in what depends on it."""
    changes = [
        {**parent.params, name: value}
        for parent in parents
        for name, distribution in parent.distributions.items()
        for value in _others(distribution, parent.params[name], rng)
    ]
    rng.shuffle(changes)
    return [view.sketch(like(params, at_random(rng))) for params in changes[:at_most]]


def _others(distribution: BaseDistribution, value: Any, rng: random.Random) -> list[Any]:
    """Other values of one parameter: all other choices; of a number two steps, and one from the whole range."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice != value]
    anywhere = at_random(rng)("", distribution)
    found = (neighbor(distribution, value, rng), neighbor(distribution, value, rng), anywhere)
    return [other for other in dict.fromkeys(found) if other != value]


def _first_that_fits(candidates: Iterable[Candidate], ask: Ask, view: SearchView) -> Candidate | None:
    """The first that is unseen, can be built and may fit the limits.

    If none of the first `WEIGHED` may fit, it is the first of them: its refusal is then among the trials, and lowers
    the chance of what is like it.
    """
    unseen = (c for c in candidates if c.arch is not None and c.key not in ask.known)
    if not view.limited:
        return next(unseen, None)
    tried = []
    for candidate in islice(unseen, WEIGHED):
        weight = view.weigh(candidate)
        if weight is not None and weight[1]:
            return candidate
        tried.append(candidate)
    return tried[0] if tried else None
