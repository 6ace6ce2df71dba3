"""Golden proposals: what each sampler proposes as its first twelve candidates at a seed, and by which way.

TPE and NSGA-II are compared with Optuna asked directly; what the project draws itself is compared with numbers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pytest
from golden_space import SPACE, SPEC, Arch, attempted, proposals, proposer, sample, told, weigh
from optuna.trial import FrozenTrial

from searchkit.core.serialization import derive_seed
from searchkit.core.training import Training, TrainingSpace
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at, at_random, holds, like
from searchkit.search.fronts import best_so_far
from searchkit.search.named_samplers import NAMED, Proposer
from searchkit.search.sampler import Ask, Directions, Sampler, SearchView

RANDOM_12 = {"depth": 4, "width": 44, "rate": 0.8422092286107151, "kind": "b", "train.lr": 0.002838921508840178}
GRID_12 = {"depth": 1, "width": 4, "rate": 0.0, "kind": "c", "train.lr": 0.03162277660168381}
WAYS = ["middle", "tpe", "tpe", "tpe", "local step", "tpe", "local step", "tpe", "tpe", "local step"]
WAYS += ["tpe", "tpe", "local step", "tpe", "tpe", "local step"]


def asked_directly(trials: Sequence[FrozenTrial], of: optuna.samplers.BaseSampler, directions: Sequence[str]) -> Any:
    study = optuna.create_study(directions=list(directions), sampler=of)
    study.add_trials(trials)
    trial = study.ask()
    sample(trial, SPEC)
    trial.suggest_float("train.lr", 1e-3, 1e-1, log=True)
    return trial.params


def test_the_twelfth_proposal_of_tpe_is_optunas() -> None:
    """By the seed of the first attempt; where that one is given to a local step, the next that is not."""
    given = proposer("tpe")
    _, trials = proposals(given, 12)
    ways = []
    for attempt in range(12):
        candidate = attempted(given, trials, attempt)
        assert candidate is not None
        ways.append(candidate.way)
        if candidate.way == "tpe":
            seed = derive_seed(5, "propose", 11, attempt)
            of = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=4)
            assert candidate.params == asked_directly(trials, of, ["maximize"])
    assert 3 <= ways.count("tpe") <= 9 and ways.count("local step") == 12 - ways.count("tpe")


def test_the_twelfth_proposal_of_nsga2_is_optunas() -> None:
    directions: Directions = ("maximize", "minimize")
    given = proposer("nsga2", directions=directions)
    found, trials = proposals(given, 12)
    of = optuna.samplers.NSGAIISampler(seed=derive_seed(5, "propose", 11, 0), population_size=5)  # a third of 16
    assert found[-1].params == asked_directly(trials, of, directions)
    assert [c.way for c in found] == ["nsga2"] * 12
    generations = [v for c in found for k, v in c.system_attrs.items() if "generation" in k]
    assert max(generations) == 2, "five trials make a generation"


def made_by_optuna(monkeypatch: pytest.MonkeyPatch, kind: str, given: Proposer) -> dict[str, Any]:
    """How the sampler of this kind is made for the first proposal that is asked of Optuna."""
    made: list[dict[str, Any]] = []
    real = getattr(optuna.samplers, kind)
    monkeypatch.setattr(optuna.samplers, kind, lambda **settings: made.append(settings) or real(**settings))
    attempted(given, [], 19)
    return made[0]


@pytest.mark.parametrize(("trials", "population"), [(3, 4), (12, 4), (30, 10), (60, 20), (300, 20)])
def test_the_population_is_a_third_of_the_budget(monkeypatch: pytest.MonkeyPatch, trials: int, population: int) -> None:
    made = made_by_optuna(monkeypatch, "NSGAIISampler", proposer("nsga2", trials=trials))
    assert made["population_size"] == population


@pytest.mark.parametrize(("trials", "startup"), [(1, 4), (16, 4), (24, 6), (40, 10), (400, 10)])
def test_a_quarter_of_the_budget_starts_tpe(monkeypatch: pytest.MonkeyPatch, trials: int, startup: int) -> None:
    made = made_by_optuna(monkeypatch, "TPESampler", proposer("tpe", trials=trials))
    assert made["n_startup_trials"] == startup and made["multivariate"] is True


def test_samplers_learn_from_what_is_told() -> None:
    """On a smooth score forty proposals of TPE come higher than forty at random."""

    def best(name: str) -> float:
        found, trials = proposals(proposer(name, trials=40), 40)
        return sum(sorted(t.values[0] for t in trials)[-15:])

    assert best("tpe") > best("random") + 1.0


def test_the_twelfth_random_proposal() -> None:
    found, _ = proposals(proposer("random"), 12)
    assert [c.way for c in found] == ["random"] * 12
    assert found[-1].params == pytest.approx(RANDOM_12)
    by_hand = at_random(random.Random(derive_seed(5, "propose", 11, 0)))
    drawn = {name: by_hand(name, d) for name, d in found[-1].distributions.items()}
    assert drawn == found[-1].params


def test_the_twelfth_proposal_of_the_grid() -> None:
    found, _ = proposals(proposer("grid"), 12)
    assert [c.way for c in found] == ["grid"] * 12
    assert found[-1].params == pytest.approx(GRID_12)
    assert len({c.key for c in found}) == 12
    whole = proposer("grid")
    assert whole.view.leaves is not None and len(whole.view.leaves) == 5 * 5 * 5 * 3 * 5  # at most five of each number
    assert {leaf.params["rate"] for leaf in whole.view.leaves} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {leaf.params["depth"] for leaf in whole.view.leaves} == {1, 2, 3, 5, 6}
    assert [round(v, 6) for v in sorted({leaf.params["train.lr"] for leaf in whole.view.leaves})] == [
        0.001, 0.003162, 0.01, 0.031623, 0.1,
    ]  # fmt: skip


def test_the_ways_of_a_tpe_search() -> None:
    """First the middle, then the start-up, then every other proposal a local step from one of the best."""
    found, trials = proposals(proposer("tpe"), 16)
    ways = [c.way for c in found]
    assert ways == WAYS
    for number, candidate in enumerate(found):
        if candidate.way == "local step":
            best = best_so_far(trials[:number], ("maximize",))
            changed = [sum(candidate.params[k] != t.params[k] for k in candidate.params) for t in best]
            assert min(changed) in (1, 2), "it is no neighbor of the best"
            assert all(holds(d, candidate.params[name]) for name, d in candidate.distributions.items())


def test_the_first_candidate_without_limits_is_the_middle_with_the_familys_training() -> None:
    (first,), _ = proposals(proposer("tpe"), 1)
    assert first.way == "middle"
    assert first.params == {"depth": 3, "width": 32, "rate": 0.5, "kind": "b", "train.lr": 0.01}
    assert first.training == replace(SPACE.training.default, epochs=3)


def test_the_first_two_under_limits_are_the_largest_that_fit() -> None:
    given = proposer("tpe", limited=True)
    (first, second, third), trials = proposals(given, 3)
    assert [c.way for c in (first, second, third)] == ["largest that fits", "largest that fits", "tpe"]
    for candidate in (first, second):
        parameters, fits = weigh(candidate)
        assert fits and parameters > 150 and candidate.training.lr == 0.01
    assert first.arch.kind == "b", "the first keeps the middle's kinds of layers"
    rng = random.Random(derive_seed(5, "propose", 0, 0))
    known = like({"kind": "b", "train.lr": 0.01}, at_random(rng))
    drawn = [draw(SPACE, SPEC, known, epochs=3, way="test") for _ in range(32)]
    assert first.params == max((c for c in drawn if weigh(c)[1]), key=lambda c: weigh(c)[0]).params
    rng = random.Random(derive_seed(5, "propose", 1, 0))
    known = like({"train.lr": 0.01}, at_random(rng))
    drawn = [draw(SPACE, SPEC, known, epochs=3, way="test") for _ in range(32)]
    fitting = sorted((c for c in drawn if weigh(c)[1]), key=lambda c: -weigh(c)[0])
    assert second.params == fitting[1].params, "the second of those that fit, by size"
    rng = random.Random(derive_seed(5, "propose", 1, 1))  # once more, where the second was known: the third
    drawn = [draw(SPACE, SPEC, like({"train.lr": 0.01}, at_random(rng)), epochs=3, way="test") for _ in range(32)]
    fitting = sorted((c for c in drawn if weigh(c)[1]), key=lambda c: -weigh(c)[0])
    again = attempted(given, trials[:1], 1)
    assert again is not None and again.params == fitting[2].params


def test_a_seed_that_was_refused_is_replaced_for_eight_proposals_at_most() -> None:
    given = proposer("tpe", limited=True)
    refused: list[FrozenTrial] = []
    ways = []
    for number in range(10):
        candidate = given.propose(refused, set())
        assert candidate is not None
        ways.append(candidate.way)
        refused.append(told(candidate, number, ("maximize",), constraints={"params": 1.0}))
    assert ways[:8] == ["largest that fits"] * 8 and "largest that fits" not in ways[8:]


def test_nothing_that_fits_is_no_candidate_but_no_end() -> None:
    given = proposer("tpe", limited=True, weigh=lambda candidate: (1.0, False))
    assert attempted(given, [], 0) is None
    candidate = given.propose([], set())
    assert candidate is not None and candidate.way == "tpe"


def test_a_known_candidate_is_not_proposed_and_a_used_up_space_ends() -> None:
    single = replace(
        SPACE, sample=lambda trial, spec: Arch(trial.suggest_int("depth", 1, 2), 4, 0.0, "a"),
        training=TrainingSpace(Training(lr=0.01)),
    )  # fmt: skip
    for name in NAMED:
        given = proposer(name, space=single)
        first = given.propose([], set())
        assert first is not None
        second = given.propose([], {first.key})
        assert second is not None and second.key != first.key
        assert given.propose([], {first.key, second.key}) is None


@dataclass(frozen=True)
class Stubborn:
    """Proposes the very same, and counts how often."""

    asked: list[int]
    name: str = "stubborn"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        self.asked.append(ask.attempt)
        return view.draw(at(0.5), "the same")


def test_after_twenty_repeats_candidates_are_drawn_at_random() -> None:
    sampler: Sampler = Stubborn([])
    given = Proposer(sampler, proposer("random").view)
    first = given.propose([], set())
    assert first is not None and first.way == "the same"
    second = given.propose([], {first.key})
    assert second is not None and second.way == "random"
    assert sampler.asked == [0, *range(20)]  # type: ignore[attr-defined]
