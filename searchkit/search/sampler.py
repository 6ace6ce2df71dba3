"""Samplers propose candidates: each proposal is a pure function of the trials so far, the trial's number and a seed.

So a resumed search proposes what the uninterrupted one would have. The default follows what was measured on a tabular
benchmark under a limit on parameters (mean test regret after 50 distinct trainings: random 1.78, largest that fits
first 1.67, TPE 1.12, local search .82): first a seed or two, the largest that fits if there are limits; then
multivariate TPE with constraints (Watanabe 2023, arXiv:2304.11127); and every other proposal a local step from the
front.

The life of a trial, and who calls what:

```
coordinator                        sampler              worker
propose(trials, ask, view) ──────► Candidate
    a candidate seen before: asked again, with another seed
limits and costs
    refused: stored with its constraints, and the next propose sees it among `trials`
stored as running ─────────────────────────────────────► rung 0
rungs compared (halving)                        ◄─────── losses
    goes on ───────────────────────────────────────────► rung 1, …
stored as complete, failed or cut off; the next propose sees it among `trials`
```

Nothing tells a sampler of a result and nothing asks it to remember: all that it may know is in `trials`. With one
worker `trials` holds finished trials alone; with several, running ones too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from searchkit.core.data_spec import DataSpec
from searchkit.core.serialization import derive_seed, freeze
from searchkit.core.space import Space
from searchkit.search import successive_halving
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import Choose, at, at_random, grid_leaves, grid_values, like, neighbor

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Directions = tuple[Literal["maximize", "minimize"], ...]
"""One an objective: the goal's, then "minimize" if a cost is minimized too."""

MOST_ATTEMPTS = 60
"""Proposals for one trial, all of them seen before, after which the space counts as used up."""

MOST_REPEATS = 20
"""A sampler that has repeated itself so often will go on to: what is left is drawn at random."""

MOST_SEEDS = 8
"""Proposals for the first candidates, some of which a costlier check may refuse, before TPE begins."""

MOST_LEAVES = 20_000
"""A grid of more leaves than this is drawn from at random; walking this many takes seconds."""


class Exhausted(Exception):
    """A sampler has nothing left to propose: the search ends with what it has."""


@dataclass(frozen=True)
class Ask:
    """One call of a sampler.

    Attributes:
        number: The number that the trial will have: how many trials there are, the refused ones included.
        attempt: 0 for the first proposal of this number, higher after proposals that had been seen before.
        seed: Of this call alone; it depends on the run's seed, the number and the attempt.
        known: The keys (`Candidate.key`) of the candidates that have been seen.
    """

    number: int
    attempt: int
    seed: int
    known: AbstractSet[str]


@dataclass(frozen=True)
class SearchView:
    """What a sampler may know of the search; the same at every call.

    Attributes:
        space: The family.
        spec: The data's description, which `Space.sample` takes.
        directions: Of the objectives, the goal's first.
        seed: The search's own.
        trials: How many trials the budget has, or about how many its time holds.
        epochs: Of a trial that reaches the last rung.
        weigh: The number of parameters of a candidate, and whether it may fit the limits, found without export or
            training; None if it cannot be built.
        limited: Whether there are hard limits at all.
    """

    space: Space
    spec: DataSpec
    directions: Directions
    seed: int
    trials: int
    epochs: int
    weigh: Callable[[Candidate], tuple[float, bool] | None]
    limited: bool

    def draw(self, choose: Choose, way: str) -> Candidate:
        """Make a candidate, each of its values given by `choose`.

        Args:
            choose: Called with a parameter's name and its Optuna distribution; `searchkit.search.choices` has several.
            way: How it was chosen, in a word or two, for the report.
        """
        return draw(self.space, self.spec, choose, epochs=self.epochs, way=way)

    @cached_property
    def leaves(self) -> list[Candidate] | None:
        """Every point of the discretized space in an order shuffled by the seed; None if there are too many."""
        found = grid_leaves(lambda choose: self.draw(choose, "grid"), at_most=MOST_LEAVES)
        if found is not None:
            random.Random(derive_seed(self.seed, "leaves")).shuffle(found)
        return found


class Sampler(Protocol):
    """Proposes the candidate of the next trial. The module's docstring draws when it is called and by whom.

    A sampler is pure: it keeps nothing between calls, and draws from `random.Random(ask.seed)` alone. Then a search
    that was killed and resumed equals the one that was not, bit for bit. Two instances are one as far as a run knows:
    it keeps the name only, so resuming a run takes the same sampler again.
    """

    @property
    def name(self) -> str:
        """What the run's record and the report call it."""

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """Propose a candidate; the coordinator calls it, once for each trial and again after a repeat.

        Args:
            trials: All trials so far in order of their numbers: `values` (the goal, then the cost), `params`, and
                `constraints`, of which a trial that was refused or failed has one above 0. Not to be changed.
            ask: Which proposal this is, and its seed.
            view: The search; `view.draw` makes the candidate.

        Returns:
            A candidate. One whose key is in `ask.known` is not trained: the sampler is asked again, with another seed.
            None asks to be asked again.

        Raises:
            Exhausted: Nothing is left to propose.
        """


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
        n_seeds = min(2 if view.limited else 1, view.trials)
        if n_accepted < n_seeds and ask.number < MOST_SEEDS and ask.attempt < n_seeds:
            return _seed_candidate(rng, ask.number + ask.attempt, view)
        n_startup = min(10, max(4, view.trials // 4))  # Optuna's 10 would be most of a small budget
        front = best_so_far(trials, view.directions)
        if ask.number >= n_startup and front and rng.random() < 0.5:
            return _step_from(rng.choice(front), rng, view)
        # Optuna 5 still defaults to univariate TPE if there are two objectives
        sampler = optuna.samplers.TPESampler(seed=ask.seed, multivariate=True, n_startup_trials=n_startup)
        return ask_optuna(sampler, trials, view, self.name)


NAMED: dict[str, Sampler] = {sampler.name: sampler for sampler in (Tpe(), Nsga2(), Random(), Grid())}
"""The samplers that the command line knows, by name."""


def sampler_of(sampler: str | Sampler) -> Sampler:
    """The sampler of a name, or the sampler itself."""
    return NAMED[sampler] if isinstance(sampler, str) else sampler


def _seed_candidate(rng: random.Random, index: int, view: SearchView) -> Candidate | None:
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


def _step_from(parent: FrozenTrial, rng: random.Random, view: SearchView) -> Candidate:
    """A neighbor of `parent`: one of its parameters changed, sometimes two."""
    changed = rng.sample(sorted(parent.params), k=min(len(parent.params), 1 if rng.random() < 0.7 else 2))
    params = dict(parent.params)
    for name in changed:
        params[name] = neighbor(parent.distributions[name], params[name], rng)
    return view.draw(like(params, at_random(rng)), "local step")


def ask_optuna(sampler: BaseSampler, trials: Sequence[FrozenTrial], view: SearchView, way: str) -> Candidate:
    """Propose what one of Optuna's samplers does, for a sampler of your own that is built on one.

    It is asked by a copy of the study in memory: the real study is then given the whole trial at once, and a kill in
    between leaves nothing half-suggested (a stored trial would be suggested its rest from another place of the stream).

    Args:
        sampler: Of Optuna, made for this call with a seed from `Ask.seed`.
        trials: As `Sampler.propose` gets them.
        view: As `Sampler.propose` gets it.
        way: See `SearchView.draw`.
    """
    # A new sampler and a new study each call: a sampler with one seed repeats its first proposal after every restart.
    # Running trials count as bad ones (`constant_liar`, on by default in Optuna 5), so workers keep apart.
    study = optuna.create_study(directions=list(view.directions), sampler=sampler)  # in memory, for this call alone
    study.add_trials(trials)
    asked = study.ask()

    def choose(name: str, distribution: BaseDistribution) -> Any:
        match distribution:
            case IntDistribution(low=low, high=high, step=step, log=log):
                return asked.suggest_int(name, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return asked.suggest_float(name, low, high, step=step, log=log)
            case CategoricalDistribution(choices=choices):
                return asked.suggest_categorical(name, choices)
        raise TypeError(f"no way to suggest {name} from {distribution}")

    candidate = view.draw(choose, way)
    # NSGA-II keeps a trial's generation in its system attributes
    return replace(candidate, system_attrs=dict(study.get_trials(deepcopy=False)[-1].system_attrs))


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


def feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained and told, none of their constraints broken."""
    return [t for t in trials if t.state == TrialState.COMPLETE and all(c <= 0 for c in t.constraints.values())]


def losses_of(trial: FrozenTrial, directions: Sequence[str]) -> successive_halving.Losses:
    """A finished trial's values on scales where smaller is better."""
    return tuple(v if d == "minimize" else -v for v, d in zip(trial.values, directions, strict=True))


def best_so_far(trials: Sequence[FrozenTrial], directions: Sequence[str], at_least: int = 3) -> list[FrozenTrial]:
    """The front, or the best few if one objective makes it a single trial."""
    by_number = {t.number: t for t in feasible(trials)}
    losses = {n: losses_of(t, directions) for n, t in by_number.items()}
    ordered = successive_halving.order(losses)
    rank = (
        dict(zip(sorted(losses), successive_halving.ranks([losses[n] for n in sorted(losses)]), strict=True))
        if losses
        else {}
    )
    n_front = sum(1 for r in rank.values() if r == 0)
    return [by_number[n] for n in ordered[: max(n_front, at_least)]]
