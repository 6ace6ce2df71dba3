"""Proposing a candidate is a pure function of the trials so far, the seed and the trial's number.

So a resumed search proposes what the uninterrupted one would have. The recipe follows what was measured on a tabular
benchmark under a limit on parameters (mean test regret after 50 distinct trainings: random 1.78, largest that fits
first 1.67, TPE 1.12, local search .82): first a seed or two, the largest that fits where there are limits; then
multivariate TPE with constraints (Watanabe 2023, arXiv:2304.11127); and every other proposal a local step from the
front. Candidates seen before are never proposed again.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import JSON, derive_seed, digest, freeze, thaw
from searchkit.core.space import Space
from searchkit.core.training import Categorical, LogUniform, Training
from searchkit.search import successive_halving

Directions = tuple[Literal["maximize", "minimize"], ...]

Choose = Callable[[str, BaseDistribution], Any]
"""How a parameter gets its value: by a sampler, the lowest, the same as a parent's, …"""


@dataclass(frozen=True)
class Candidate:
    """A point of the space: what Optuna is told (params, distributions) and what is built and trained. way: how it was
    chosen. arch is None where the space's own sample raised Infeasible: reason says why.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    arch: Any
    training: Training
    way: str
    system_attrs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def plain(self) -> dict[str, JSON]:
        return {"arch": freeze(self.arch), "training": freeze(self.training)}

    @property
    def key(self) -> str:
        """The same for two candidates that would train the same."""
        return digest(self.plain) if self.arch is not None else digest(self.params)


class Draft:
    """A trial, as far as `Space.sample` may see one, that asks `choose` and keeps what it answered."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._suggest(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution(tuple(choices)))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            self.params[name] = self.choose(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


def draw(space: Space, spec: DataSpec, choose: Choose, *, epochs: int, way: str) -> Candidate:
    """One candidate, all of its values given by `choose`."""
    draft = Draft(choose)
    arch, reason = None, ""
    try:
        arch = space.sample(draft, spec)
    except Infeasible as error:
        reason = str(error)
    training = sample_training(draft, space, spec, epochs=epochs)
    return Candidate(draft.params, draft.distributions, arch, training, way, reason=reason)


def sample_training(draft: Draft, space: Space, spec: DataSpec, *, epochs: int) -> Training:
    """The training's fields that the space leaves open, under the names "train.<field>". A choice of anything but a
    number, a string or a bool goes by its JSON: a database takes no tuples. Augmentations that such data do not have
    (a family may take pictures and tables) are left out, and pre-training where the inputs alone teach nothing.
    """
    values: dict[str, Any] = {**freeze(space.training.default), "epochs": epochs}
    if not spec.self_taught:
        values["pretrain_epochs"] = 0
    for name, allowed in sorted(space.training.ranges.items()):
        if name == "pretrain_epochs" and not spec.self_taught:
            continue
        if isinstance(allowed, Categorical):
            texts = [v if isinstance(v, (str, int, float, bool)) else json.dumps(freeze(v)) for v in allowed.values]
            values[name] = allowed.values[texts.index(draft.suggest_categorical(f"train.{name}", texts))]
        else:
            values[name] = draft.suggest_float(
                f"train.{name}", allowed.low, allowed.high, log=isinstance(allowed, LogUniform)
            )
    values["augment"] = [name for name in values["augment"] if name in spec.augmentations]
    return thaw(Training, values)


# ── ways to choose a value ───────────────────────────────────────────────────────────────────────────────────────────


def at_random(rng: random.Random) -> Choose:
    def choose(name: str, distribution: BaseDistribution) -> Any:
        match distribution:
            case CategoricalDistribution():
                return rng.choice(distribution.choices)
            case IntDistribution(low=low, high=high, step=step, log=True):
                return min(high, max(low, round(math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5))))))
            case IntDistribution(low=low, high=high, step=step):
                return low + step * rng.randrange((high - low) // step + 1)
            case FloatDistribution(low=low, high=high, log=True):
                return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
            case FloatDistribution(low=low, high=high, step=None):
                return rng.uniform(low, high)
            case FloatDistribution(low=low, high=high, step=float(step)):
                return min(high, low + step * rng.randrange(round((high - low) / step) + 1))  # 3 × 0.1 is above 0.3
        raise TypeError(f"no way to choose {name} from {distribution}")

    return choose


def at(share: float) -> Choose:
    """The lowest or first value at 0, the highest or last at 1, the middle at .5."""

    def choose(name: str, distribution: BaseDistribution) -> Any:
        values = grid_values(distribution)
        return values[round(share * (len(values) - 1))]

    return choose


def like(params: Mapping[str, Any], otherwise: Choose) -> Choose:
    """The given values where a parameter may have them, else what `otherwise` says."""

    def choose(name: str, distribution: BaseDistribution) -> Any:
        if name in params and holds(distribution, params[name]):
            return params[name]
        return otherwise(name, distribution)

    return choose


def holds(distribution: BaseDistribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return value in choices
        case IntDistribution(low=low, high=high, step=step):
            return isinstance(value, int) and low <= value <= high and (value - low) % step == 0
        case FloatDistribution(low=low, high=high):
            return isinstance(value, (int, float)) and low <= value <= high
    return False


def grid_values(distribution: BaseDistribution, points: int = 5) -> list[Any]:
    """All values, low to high; at most `points` of a number's, evenly spaced on its own scale."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            if not log and (high - low) // step < points:
                return list(range(low, high + 1, step))
            found = {_between(low, high, k / (points - 1), log) for k in range(points)}
            return sorted({min(high, low + step * round((v - low) / step)) for v in found})
        case FloatDistribution(low=low, high=high, step=float(step)):
            steps = round((high - low) / step)
            return [min(high, low + step * k) for k in sorted({round(steps * k / (points - 1)) for k in range(points)})]
        case FloatDistribution(low=low, high=high, log=log):
            return sorted({_between(low, high, k / (points - 1), log) for k in range(points)})
    raise TypeError(f"no grid over {distribution}")


def _between(low: float, high: float, share: float, log: bool) -> float:
    if share in (0.0, 1.0):
        return high if share else low
    return math.exp(math.log(low) + share * math.log(high / low)) if log else low + share * (high - low)


# ── the proposal ─────────────────────────────────────────────────────────────────────────────────────────────────────


MOST_SEEDS = 8
"""Proposals for the first candidates, some of which a costlier check may refuse, before the sampler begins."""


@dataclass(frozen=True)
class Proposer:
    """What a proposal depends on besides the trials. weigh: the parameters of a candidate and whether it may fit the
    limits, without export or training; None where it cannot be built. limited: whether there are limits at all.
    """

    space: Space
    spec: DataSpec
    directions: Directions
    seed: int
    sampler: str
    trials: int  # the budget, or about how many the time holds
    epochs: int
    weigh: Callable[[Candidate], tuple[float, bool] | None]
    limited: bool

    def propose(self, trials: Sequence[FrozenTrial], known: set[str]) -> Candidate | None:
        """A candidate whose key is not in `known`, or None where 60 attempts found none: the space is used up."""
        if self.sampler == "grid":
            return self._next_of_grid(known)
        for attempt in range(60):
            candidate = self._attempt(trials, attempt)
            if candidate is not None and candidate.key not in known:
                return candidate
        return None

    def _attempt(self, trials: Sequence[FrozenTrial], attempt: int) -> Candidate | None:
        seed = derive_seed(self.seed, "propose", len(trials), attempt)
        rng = random.Random(seed)
        # A sampler that has repeated itself a few times will go on to: what is left is drawn at random.
        if self.sampler == "random" or attempt >= 20:
            return self._draw(at_random(rng), "random")
        if self.sampler == "tpe":
            n_accepted = sum(1 for t in trials if not t.constraints)
            if n_accepted < self.n_seeds and len(trials) < MOST_SEEDS and attempt < self.n_seeds:
                return self._seed_candidate(rng, len(trials) + attempt)
            front = best_so_far(trials, self.directions)
            if len(trials) >= self.n_startup and front and rng.random() < 0.5:
                return self._step_from(rng.choice(front), rng)
        return self._ask_optuna(trials, seed)

    @property
    def n_seeds(self) -> int:
        return min(2 if self.limited else 1, self.trials)

    @property
    def n_startup(self) -> int:
        """Random trials before TPE; Optuna's 10 would be most of a small budget."""
        return min(10, max(4, self.trials // 4))

    def _draw(self, choose: Choose, way: str) -> Candidate:
        return draw(self.space, self.spec, choose, epochs=self.epochs, way=way)

    def _seed_candidate(self, rng: random.Random, index: int) -> Candidate | None:
        """Trained by the space's own default: the middle of the space, or, where limits are set, the largest of 32
        random candidates that may fit; first of those that differ from the middle in numbers alone, which keeps the
        kinds of layers that the family's author put there, then of all.
        """
        training = freeze(self.space.training.default)
        default = {f"train.{k}": json.dumps(v) if isinstance(v, list) else v for k, v in training.items()}
        if not self.limited:
            return self._draw(like(default, at(0.5)), "middle")
        known = default
        if index == 0:
            middle = self._draw(at(0.5), "middle")
            kinds = (n for n, d in middle.distributions.items() if isinstance(d, CategoricalDistribution))
            known = {**{name: middle.params[name] for name in kinds}, **default}
        drawn = [self._draw(like(known, at_random(rng)), "largest that fits") for _ in range(32)]
        weighed = [(candidate, self.weigh(candidate)) for candidate in drawn]
        fitting = sorted((c for c, w in weighed if w and w[1]), key=lambda c: -(self.weigh(c) or (0.0, False))[0])
        return fitting[min(index, len(fitting) - 1)] if fitting else None

    def _step_from(self, parent: FrozenTrial, rng: random.Random) -> Candidate:
        """A neighbour of `parent`: one of its parameters changed, sometimes two."""
        changed = rng.sample(sorted(parent.params), k=min(len(parent.params), 1 if rng.random() < 0.7 else 2))
        params = dict(parent.params)
        for name in changed:
            params[name] = neighbour(parent.distributions[name], params[name], rng)
        return self._draw(like(params, at_random(rng)), "local step")

    def _ask_optuna(self, trials: Sequence[FrozenTrial], seed: int) -> Candidate:
        """Ask a copy of the study in memory: the real one is then given the whole trial at once, and a kill in between
        leaves nothing half-suggested (a stored trial would be suggested its rest from another place of the stream).
        """
        study = optuna.create_study(directions=list(self.directions), sampler=self._make_sampler(seed))
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

        candidate = self._draw(choose, self.sampler)
        # NSGA-II keeps a trial's generation in its system attributes
        return replace(candidate, system_attrs=dict(study.get_trials(deepcopy=False)[-1].system_attrs))

    def _make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.sampler == "nsga2":
            # small generations suit small budgets: population 20 beat 50 at every budget up to 200
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(20, self.trials // 3)))
        # v5 still defaults to univariate where there are two objectives
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=self.n_startup)

    def _next_of_grid(self, known: set[str]) -> Candidate | None:
        """The first unseen leaf of the discretised space in an order shuffled by the seed.

        A define-by-run space is a tree whose leaves are found by walking it: every path of up to 20,000 is, in exact
        order; a larger grid is drawn from at random, without repeats.
        """
        if self._leaves is not None:
            return next((leaf for leaf in self._leaves if leaf.key not in known), None)
        rng = random.Random(derive_seed(self.seed, "grid"))
        drawn = (self._draw(lambda _, d: rng.choice(grid_values(d)), "grid") for _ in range(20_000))
        return next((candidate for candidate in drawn if candidate.key not in known), None)

    @cached_property
    def _leaves(self) -> list[Candidate] | None:
        leaves = grid_leaves(lambda choose: self._draw(choose, "grid"), at_most=20_000)
        if leaves is not None:
            random.Random(derive_seed(self.seed, "leaves")).shuffle(leaves)
        return leaves


def grid_leaves(sample: Callable[[Choose], Candidate], *, at_most: int) -> list[Candidate] | None:
    """Every leaf of the tree of choices, as an odometer whose wheels are discovered while it turns; None where there
    are more than `at_most`.
    """
    found: list[Candidate] = []
    path: list[int] = []
    while True:
        sizes: list[int] = []

        def choose(name: str, distribution: BaseDistribution, sizes: list[int] = sizes, path: list[int] = path) -> Any:
            values = grid_values(distribution)
            sizes.append(len(values))
            return values[path[len(sizes) - 1] if len(sizes) <= len(path) else 0]

        found.append(sample(choose))
        path += [0] * (len(sizes) - len(path))
        while path and path[-1] == sizes[len(path) - 1] - 1:
            path.pop()
        if not path:
            return found
        if len(found) >= at_most:
            return None
        path[-1] += 1


def neighbour(distribution: BaseDistribution, value: Any, rng: random.Random) -> Any:
    """Another value: a different choice; for a number, a step of about a fifth of its range, on its own scale."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            others = [c for c in choices if c != value]
            return rng.choice(others) if others else value
        case IntDistribution(low=low, high=high, step=step):
            reach = max(1, round((high - low) / step / 5))
            moved = value + step * rng.choice((-1, 1)) * rng.randint(1, reach)
            return min(high, max(low, moved))
        case FloatDistribution(low=low, high=high, log=True):
            return min(high, max(low, value * math.exp(rng.gauss(0.0, math.log(high / low) / 5))))
        case FloatDistribution(low=low, high=high, step=float(step)):
            count, at_value = round((high - low) / step), round((value - low) / step)
            moved = at_value + rng.choice((-1, 1)) * rng.randint(1, max(1, round(count / 5)))
            return min(high, low + step * min(count, max(0, moved)))
        case FloatDistribution(low=low, high=high):
            return min(high, max(low, value + rng.gauss(0.0, (high - low) / 5)))
    return value


def feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained and told, none of their constraints broken."""
    return [t for t in trials if t.state == TrialState.COMPLETE and all(c <= 0 for c in t.constraints.values())]


def losses_of(trial: FrozenTrial, directions: Sequence[str]) -> successive_halving.Losses:
    return tuple(v if d == "minimize" else -v for v, d in zip(trial.values, directions, strict=True))


def best_so_far(trials: Sequence[FrozenTrial], directions: Sequence[str], at_least: int = 3) -> list[FrozenTrial]:
    """The front, or the best few where one objective makes it a single trial."""
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
