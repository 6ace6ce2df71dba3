"""The samplers that are compared on tables, ours and others', under one protocol: distinct trainings are counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sampler_tables import SPEC, Point, Row, Table

from searchkit.search.candidates import Candidate
from searchkit.search.named_samplers import Proposer, sampler_of
from searchkit.search.sampler import SearchView

Losses = tuple[float, ...]


class Enough(Exception):
    """The trainings of the budget are spent."""


@dataclass
class Trainings:
    """What a sampler has trained; each network counts once, however often it is asked for.

    Attributes:
        table: The networks.
        most: The budget.
        limit: The largest size that is allowed; larger ones are refused, which costs nothing.
        objectives: 1, or 2 for the size beside the loss.
        losses: Of the networks in the order of their training.
        seen: The same by row.
    """

    table: Table
    most: int
    limit: float = np.inf
    objectives: int = 1
    losses: list[Losses] = field(default_factory=list)
    seen: dict[int, Losses] = field(default_factory=dict)

    def fits(self, row: int) -> bool:
        """Whether there is such a network, and it is not too large."""
        return row >= 0 and (self.table.costs is None or bool(self.table.costs[row] <= self.limit))

    def train(self, row: int) -> Losses:
        """The network's losses. Raises Enough once the budget is spent."""
        if row not in self.seen:
            if len(self.losses) >= self.most:
                raise Enough
            cost = 0.0 if self.table.costs is None else float(self.table.costs[row])
            self.seen[row] = (float(self.table.losses[row]), cost)[: self.objectives]
            self.losses.append(self.seen[row])
        return self.seen[row]


Run = Callable[[Trainings, int], None]
"""Trains until `Enough` is raised; the number is a seed."""


def random_point(table: Table, rng: np.random.Generator) -> Point:
    return tuple(int(rng.integers(size)) for size in table.sizes)


def neighbours(table: Table, point: Point) -> list[Point]:
    """All points that differ in one parameter."""
    return [
        (*point[:i], value, *point[i + 1 :])
        for i, size in enumerate(table.sizes)
        for value in range(size)
        if value != point[i]
    ]


def draws(trainings: Trainings, rng: np.random.Generator) -> Iterator[Point]:
    """Random points that fit, without end."""
    while True:
        point = random_point(trainings.table, rng)
        if trainings.fits(trainings.table.row(point)):
            yield point


def random_search(trainings: Trainings, seed: int) -> None:
    for point in draws(trainings, np.random.default_rng(seed)):
        trainings.train(trainings.table.row(point))


def local_search(trainings: Trainings, seed: int) -> None:
    """Goes to the first neighbour that is better, in random order; from where none is, it starts anew.

    With two objectives it goes to the first that is not dominated by where it stands and by nothing trained so far.
    """
    rng = np.random.default_rng(seed)
    for start in draws(trainings, rng):
        here, losses, moved = start, trainings.train(trainings.table.row(start)), True
        while moved:
            moved, around = False, neighbours(trainings.table, here)
            for i in rng.permutation(len(around)):
                row = trainings.table.row(around[i])
                if not trainings.fits(row) or (row in trainings.seen):
                    continue  # seen is no better than here, or the search would have gone there before
                before = list(trainings.losses)
                found = trainings.train(row)
                if found < losses if len(found) == 1 else not any(_no_worse(o, found) for o in before):
                    here, losses, moved = around[i], found, True
                    break


def _no_worse(one: Losses, other: Losses) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def evolution(trainings: Trainings, seed: int, population: int = 20, sample: int = 5) -> None:
    """Regularised evolution (Real et al. 2019, arXiv:1802.01548); by the loss alone."""
    rng = np.random.default_rng(seed)
    alive: list[tuple[Point, float]] = []
    starts = draws(trainings, rng)
    while True:
        if len(alive) < population:
            point = next(starts)
        else:
            chosen = [alive[i] for i in rng.choice(len(alive), size=sample, replace=False)]
            parent = min(chosen, key=lambda member: member[1])[0]
            around = [p for p in neighbours(trainings.table, parent) if trainings.fits(trainings.table.row(p))]
            if not around:
                point = next(starts)
            else:  # a parameter first, then its value, so that one of many values is not changed more often
                changed = rng.choice(sorted({_difference(parent, p) for p in around}))
                around = [p for p in around if _difference(parent, p) == changed]
                point = around[int(rng.integers(len(around)))]
        alive.append((point, trainings.train(trainings.table.row(point))[0]))
        if len(alive) > population:
            alive.pop(0)


def _difference(one: Point, other: Point) -> int:
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def largest_first(trainings: Trainings, seed: int) -> None:
    """The largest that fits, then the next; equal ones in random order. Only where the table has sizes."""
    costs = trainings.table.costs
    assert costs is not None
    shuffled = np.random.default_rng(seed).permutation(len(costs))
    for row in shuffled[np.argsort(-costs[shuffled], kind="stable")]:
        if trainings.fits(int(row)):
            trainings.train(int(row))


def of_optuna(kind: str) -> Run:
    """One of Optuna's own, as its documentation has it: one sampler, one study, asked and told.

    What it repeats is told again from the table, and does not count; after 60 repeats in a row one is drawn at random.
    """

    def run(trainings: Trainings, seed: int) -> None:
        sampler: optuna.samplers.BaseSampler
        if kind == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        else:
            sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        study = optuna.create_study(directions=["minimize"] * trainings.objectives, sampler=sampler)
        starts, repeats = draws(trainings, np.random.default_rng(seed)), 0
        while True:
            trial = study.ask()
            row = trainings.table.row(trainings.table.suggested(trial))
            if not trainings.fits(row):
                trial.set_constraint("limit", 1.0)
                study.tell(trial, [1e12] * trainings.objectives)
                repeats += 1
            else:
                repeats = repeats + 1 if row in trainings.seen else 0
                study.tell(trial, trainings.train(row))
            if repeats >= 60:
                trainings.train(trainings.table.row(next(starts)))
                repeats = 0

    return run


def ours(name: str) -> Run:
    """One of searchkit's samplers, asked as a search asks it."""

    def run(trainings: Trainings, seed: int) -> None:
        table = trainings.table

        def weigh(candidate: Candidate) -> tuple[float, bool]:
            row = candidate.arch.index
            return (0.0 if table.costs is None else float(table.costs[row])), trainings.fits(row)

        view = SearchView(
            table.space, SPEC, ("minimize",) * trainings.objectives, seed,
            trials=trainings.most, epochs=1, weigh=weigh, limited=bool(np.isfinite(trainings.limit)),
        )  # fmt: skip
        proposer, trials, known = Proposer(sampler_of(name), view), list[FrozenTrial](), set[str]()
        while (candidate := proposer.propose(trials, known)) is not None:
            known.add(candidate.key)
            trials.append(_told(candidate, len(trials), trainings))
        raise AssertionError("the space is used up")

    return run


def _told(candidate: Candidate, number: int, trainings: Trainings) -> FrozenTrial:
    fits = isinstance(candidate.arch, Row) and trainings.fits(candidate.arch.index)
    values = trainings.train(candidate.arch.index) if fits else (1e12,) * trainings.objectives
    trial = create_trial(
        state=TrialState.COMPLETE,
        values=values,
        params=candidate.params,
        distributions=candidate.distributions,
        system_attrs=dict(candidate.system_attrs),
        constraints=None if fits else {"limit": 1.0},
    )
    trial.number = number
    return trial


RIVALS: dict[str, Run] = {
    "searchkit gp": ours("gp"),
    "searchkit tpe": ours("tpe"),
    "local search": local_search,
    "TPE": of_optuna("tpe"),
    "NSGA-II": of_optuna("nsga2"),
    "evolution": evolution,
    "random": random_search,
    "largest first": largest_first,
}
"""By the name in the page."""


def spent(name: str, trainings: Trainings, seed: int) -> Sequence[Losses]:
    """The losses of all trainings of one run, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            RIVALS[name](trainings, seed)
        except Enough:
            pass
    return trainings.losses
