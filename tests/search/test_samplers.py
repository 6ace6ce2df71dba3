"""Samplers: those with a name, and one that a stranger brings."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import search_driver
from optuna.trial import FrozenTrial

from searchkit.config.search import SAMPLERS
from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.space import Budget, Limits
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search.candidates import Candidate
from searchkit.search.choices import at, at_random, like
from searchkit.search.coordinator import search
from searchkit.search.named_samplers import NAMED
from searchkit.search.results import history
from searchkit.search.sampler import Ask, Exhausted, SearchView, ask_optuna
from searchkit.search.settings import SearchSettings
from searchkit.tasks import registry

BUDGET = Budget(trials=5, epochs=2, rungs=2, eta=2, least_rung_steps=1)


@pytest.fixture(scope="module")
def task() -> Task:
    return registry.load({"task": "breast-cancer", "split_seed": 0})


def searched(root: Path, task: Task, sampler: object, limits: Limits | None = None) -> Run:
    space = load_space(search_driver.TINY)
    run = Run.open(root / "run") if (root / "run").exists() else Run.create(root, "run", {})
    ctx = Context(run, task, lambda name: space, seed=1, limits=limits or Limits(), echo=lambda line: None)
    search(space, ctx, SearchSettings(budget=BUDGET, sampler=sampler, precision="fp32"))  # type: ignore[arg-type]
    return run


@dataclass(frozen=True)
class Ladder:
    """A stranger's: wider and wider, each from the parameters of the best trial so far; every call is kept."""

    calls: list[tuple[Ask, int]]
    name: str = "ladder"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        self.calls.append((ask, len(trials)))
        rng = random.Random(ask.seed)
        if not trials:
            return view.draw(at(0.0), "bottom rung")
        if ask.number == 2 and ask.attempt == 0:
            return view.draw(at(0.0), "bottom rung")  # seen before
        best = max((t for t in trials if t.values), key=lambda t: t.values[0])
        return view.draw(like({"depth": best.params["depth"]}, at_random(rng)), "next rung")


def test_a_strangers_sampler_proposes_every_candidate(tmp_path: Path, task: Task) -> None:
    sampler = Ladder([])
    run = searched(tmp_path, task, sampler)
    rows = history(run)
    assert [row["way"] for row in rows] == ["bottom rung"] + ["next rung"] * 4
    assert json.loads((run.path / "search.json").read_text())["tiny"]["settings"]["sampler"] == "ladder"
    asks = [ask for ask, _ in sampler.calls]
    assert [(ask.number, ask.attempt) for ask in asks] == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0)]
    assert [n for _, n in sampler.calls] == [ask.number for ask in asks], "it sees all trials before its own"
    assert len({ask.seed for ask in asks}) == len(asks), "each call has a seed of its own"
    again = searched(tmp_path / "again", task, Ladder([]))
    assert [row["params"] for row in history(again)] == [row["params"] for row in rows], "a pure function of its seeds"


@dataclass(frozen=True)
class ThreeOnly:
    name: str = "three"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        if ask.number == 3:
            raise Exhausted
        if ask.attempt == 0:
            return None  # not this time
        return view.draw(at_random(random.Random(ask.seed)), "three")


def test_a_sampler_that_is_exhausted_ends_the_search_and_none_is_asked_again(tmp_path: Path, task: Task) -> None:
    assert [row["way"] for row in history(searched(tmp_path, task, ThreeOnly()))] == ["three"] * 3


@dataclass(frozen=True)
class Stubborn:
    name: str = "stubborn"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        return view.draw(at(0.0), "the same")


def test_a_sampler_that_repeats_itself_is_helped_out_at_random(tmp_path: Path, task: Task) -> None:
    assert [row["way"] for row in history(searched(tmp_path, task, Stubborn()))] == ["the same"] + ["random"] * 4


@dataclass(frozen=True)
class OfOptuna:
    name: str = "quasi"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        return ask_optuna(optuna.samplers.QMCSampler(seed=ask.seed, scramble=True), trials, view, "quasi-random")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_one_of_optunas_own_samplers_is_a_sampler_in_two_lines(tmp_path: Path, task: Task) -> None:
    assert {row["way"] for row in history(searched(tmp_path, task, OfOptuna()))} == {"quasi-random"}


def test_a_refused_candidate_is_among_the_trials_with_its_constraint(tmp_path: Path, task: Task) -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Watching:
        name: str = "watching"

        def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
            assert view.limited
            seen.extend(max(t.constraints.values()) for t in trials[-1:] if t.constraints)
            return view.draw(at(1.0) if ask.number == 0 else at_random(random.Random(ask.seed)), "watched")

    searched(tmp_path, task, Watching(), Limits(params=900))
    assert seen and seen[0] > 0


def test_the_names_of_the_command_line_are_the_samplers_that_there_are() -> None:
    assert tuple(NAMED) == SAMPLERS
    with pytest.raises(BadInput, match="--sampler 'tpee' is unknown; choose gp, tpe, nsga2, random or grid"):
        SearchSettings(sampler="tpee")
