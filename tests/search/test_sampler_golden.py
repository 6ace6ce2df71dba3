"""Golden proposals: what each sampler proposes as its first twelve candidates at a seed, and by which way.

TPE and NSGA-II are compared with Optuna asked directly; what the project draws itself is compared with numbers.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import derive_seed
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace, Uniform
from searchkit.search.candidates import Candidate, Draft, draw
from searchkit.search.choices import at, at_random, grid_values, holds, like, neighbor
from searchkit.search.sampler import (
    Ask,
    Directions,
    Proposer,
    Sampler,
    SearchView,
    _step_from,
    best_so_far,
    feasible,
    sampler_of,
)

SPEC = DataSpec("tabular", (TensorSpec("features", (4,)),), (TensorSpec("logits", (3,)),))


@dataclass(frozen=True)
class Arch:
    depth: int
    width: int
    rate: float
    kind: str


def sample(trial: Trial, spec: DataSpec) -> Arch:
    return Arch(
        trial.suggest_int("depth", 1, 6),
        trial.suggest_int("width", 4, 256, log=True),
        trial.suggest_float("rate", 0.0, 1.0),
        trial.suggest_categorical("kind", ["a", "b", "c"]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    raise AssertionError("nothing is built to propose")


SPACE = Space(
    "golden", Arch, lambda spec: None, sample, build,
    TrainingSpace(Training(lr=0.01), {"lr": LogUniform(1e-3, 1e-1)}), "iris", Budget(), "none",
)  # fmt: skip

RANDOM_12 = {"depth": 4, "width": 44, "rate": 0.8422092286107151, "kind": "b", "train.lr": 0.002838921508840178}
GRID_12 = {"depth": 1, "width": 4, "rate": 0.0, "kind": "c", "train.lr": 0.03162277660168381}
WAYS = ["middle", "tpe", "tpe", "tpe", "local step", "tpe", "local step", "tpe", "tpe", "local step"]
WAYS += ["tpe", "tpe", "local step", "tpe", "tpe", "local step"]

SCORE = {"a": 0.0, "b": 0.5, "c": 0.2}


def weigh(candidate: Candidate) -> tuple[float, bool]:
    parameters = float(candidate.arch.depth * candidate.arch.width)
    return parameters, parameters <= 300


def proposer(name: str, *, directions: Directions = ("maximize",), **changes: Any) -> Proposer:
    plain = SearchView(SPACE, SPEC, directions, 5, trials=16, epochs=3, weigh=weigh, limited=False)
    return Proposer(sampler_of(name), replace(plain, **changes))


def attempted(given: Proposer, trials: Sequence[FrozenTrial], attempt: int) -> Candidate | None:
    """What the sampler itself proposes at an attempt, known or not."""
    seed = derive_seed(given.view.seed, "propose", len(trials), attempt)
    return given.sampler.propose(trials, Ask(len(trials), attempt, seed, frozenset()), given.view)


def told(
    candidate: Candidate, number: int, directions: Sequence[str], constraints: dict[str, float] | None = None
) -> FrozenTrial:
    """A finished trial whose values are arithmetic on its parameters."""
    arch, training = candidate.arch, candidate.training
    score = SCORE[arch.kind] - abs(arch.depth - 4) / 5 - (arch.rate - 0.3) ** 2 - abs(math.log10(training.lr) + 2) / 4
    values = [score, float(arch.depth * arch.width)][: len(directions)]
    trial = create_trial(
        values=values,
        params=candidate.params,
        distributions=candidate.distributions,
        system_attrs=dict(candidate.system_attrs),
        constraints=constraints,
    )
    trial.number = number
    return trial


def proposals(given: Proposer, n: int) -> tuple[list[Candidate], list[FrozenTrial]]:
    """n candidates, each proposed after those before it were told; and the trials before the last."""
    found: list[Candidate] = []
    trials: list[FrozenTrial] = []
    for number in range(n):
        if found:
            trials.append(told(found[-1], number - 1, given.view.directions))
        candidate = given.propose(trials, {c.key for c in found})
        assert candidate is not None
        found.append(candidate)
    return found, trials


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
    for name in ("tpe", "random", "grid", "nsga2"):
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


# ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_local_step_changes_one_parameter_and_sometimes_two() -> None:
    (parent,) = proposals(proposer("random"), 2)[1]
    rng, given = random.Random(0), proposer("tpe")
    steps = [_step_from(parent, rng, given.view) for _ in range(400)]
    changed = [sum(step.params[k] != parent.params[k] for k in parent.params) for step in steps]
    assert set(changed) <= {0, 1, 2} and 80 < changed.count(2) < 160  # 30 %, less those that moved nowhere
    assert changed.count(1) > 200
    touched = {k for step in steps for k in parent.params if step.params[k] != parent.params[k]}
    assert touched == set(parent.params)


@pytest.mark.parametrize(
    ("distribution", "value", "least", "most"),
    [
        (IntDistribution(0, 100), 50, 30, 70),
        (IntDistribution(0, 100, step=10), 50, 30, 70),
        (IntDistribution(1, 3), 2, 1, 3),
        (FloatDistribution(0.0, 1.0, step=0.1), 0.5, 0.3, 0.7),
    ],
    ids=str,
)
def test_a_step_on_a_grid_goes_up_to_a_fifth_of_the_range(
    distribution: Any, value: float, least: float, most: float
) -> None:
    rng = random.Random(0)
    found = {round(neighbor(distribution, value, rng), 9) for _ in range(600)}
    assert min(found) == pytest.approx(least) and max(found) == pytest.approx(most)
    assert value not in found, "a step that stays"


def test_a_step_of_a_number_is_a_fifth_of_its_range_on_its_own_scale() -> None:
    rng = random.Random(0)
    plain = [neighbor(FloatDistribution(0.0, 10.0), 5.0, rng) - 5.0 for _ in range(2000)]
    spread = math.sqrt(sum(v * v for v in plain) / 2000)
    assert spread == pytest.approx(2.0, rel=0.08)
    logs = [math.log10(neighbor(FloatDistribution(1e-5, 1e5, log=True), 1.0, rng)) for _ in range(2000)]
    assert math.sqrt(sum(v * v for v in logs) / 2000) == pytest.approx(2.0, rel=0.08)
    assert {neighbor(CategoricalDistribution(("a", "b", "c")), "b", rng) for _ in range(50)} == {"a", "c"}
    assert neighbor(CategoricalDistribution(("a",)), "a", rng) == "a"


def test_the_best_so_far_are_the_front_and_at_least_three() -> None:
    directions: Directions = ("maximize", "minimize")
    _, trials = proposals(proposer("random", directions=directions), 11)
    found = best_so_far(trials, directions)
    front = [
        t.number
        for t in trials
        if not any(
            o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values for o in trials
        )
    ]  # fmt: skip
    assert sorted(t.number for t in found[: len(front)]) == sorted(front) and len(found) == max(3, len(front))
    single = best_so_far([replace_values(t, t.values[:1]) for t in trials], ("maximize",))
    assert [t.values[0] for t in single] == sorted((t.values[0] for t in trials), reverse=True)[:3]
    assert best_so_far([], ("maximize",)) == []


def replace_values(trial: FrozenTrial, values: list[float]) -> FrozenTrial:
    copy = create_trial(values=values, params=trial.params, distributions=trial.distributions)
    copy.number = trial.number
    return copy


def test_failed_trials_are_not_built_upon() -> None:
    _, trials = proposals(proposer("random"), 4)
    failed = create_trial(state=TrialState.FAIL, params=trials[0].params, distributions=trials[0].distributions)
    refused = told(proposals(proposer("random"), 1)[0][0], 9, ("maximize",), constraints={"params": 0.5})
    assert feasible([*trials, failed, refused]) == trials


def test_an_infeasible_draw_is_known_by_its_parameters() -> None:
    def refuse(trial: Trial, spec: DataSpec) -> Arch:
        trial.suggest_int("depth", 1, 9)
        raise Infeasible("never")

    one, other = (draw(replace(SPACE, sample=refuse), SPEC, at(share), epochs=2, way="test") for share in (0.0, 1.0))
    assert one.arch is None and one.reason == "never" and one.key != other.key


# ── training fields ──────────────────────────────────────────────────────────────────────────────────────────────────


def drawn_training(ranges: dict[str, Any], spec: DataSpec, share: float, default: Training) -> Training:
    space = replace(SPACE, training=TrainingSpace(default, ranges))
    return draw(space, spec, at(share), epochs=7, way="test").training


def test_the_ranges_of_a_training_are_drawn_and_the_rest_is_the_default() -> None:
    ranges = {
        "lr": LogUniform(1e-4, 1e-2),
        "mixup": Uniform(0.0, 0.4),
        "optimizer": Categorical(("sgd", "adamw")),
        "augment": Categorical(((), ("crop",), ("crop", "flip"))),
        "batch_size": Categorical((16, 32, 64)),
    }
    default = Training(momentum=0.7, epochs=99, augment=("flip",))
    spec = replace(SPEC, augmentations=("crop", "flip"))
    low, middle, high = (drawn_training(ranges, spec, share, default) for share in (0.0, 0.5, 1.0))
    assert (low.lr, low.mixup, low.optimizer, low.augment, low.batch_size) == (1e-4, 0.0, "sgd", (), 16)
    assert (middle.lr, middle.mixup) == pytest.approx((1e-3, 0.2))
    assert (middle.augment, middle.batch_size) == (("crop",), 32)
    assert (high.lr, high.mixup, high.optimizer, high.batch_size) == (1e-2, 0.4, "adamw", 64)
    assert high.augment == ("crop", "flip")
    assert {low.momentum, middle.momentum, high.momentum} == {0.7}
    assert {low.epochs, middle.epochs, high.epochs} == {7}


def test_augmentations_and_pre_training_that_the_data_lack_are_left_out() -> None:
    default = Training(augment=("crop", "jitter"), pretrain_epochs=4)
    spec = replace(SPEC, augmentations=("jitter",))
    found = drawn_training({"pretrain_epochs": Categorical((2, 6))}, spec, 1.0, default)
    assert found.augment == ("jitter",) and found.pretrain_epochs == 0
    tokens = replace(spec, modality="tokens")
    assert drawn_training({"pretrain_epochs": Categorical((2, 6))}, tokens, 1.0, default).pretrain_epochs == 6
    assert drawn_training({}, tokens, 1.0, default).pretrain_epochs == 4


# ── what a space may ask ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_asked_for_is_kept_with_its_range_and_answered_alike_twice() -> None:
    draft = Draft(at(1.0))
    assert draft.suggest_int("a", 2, 10, step=4) == 10 == draft.suggest_int("a", 2, 10, step=4)
    assert draft.suggest_int("b", 1, 9, log=True) == 9
    assert draft.suggest_float("c", 0.0, 1.0, step=0.5) == 1.0
    assert draft.suggest_float("d", 0.1, 0.9, log=True) == 0.9
    assert draft.suggest_categorical("e", ["x", "y"]) == "y"
    assert draft.distributions == {
        "a": IntDistribution(2, 10, step=4),
        "b": IntDistribution(1, 9, log=True),
        "c": FloatDistribution(0.0, 1.0, step=0.5),
        "d": FloatDistribution(0.1, 0.9, log=True),
        "e": CategoricalDistribution(("x", "y")),
    }


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 10, step=4), (2, 6, 10), (1, 4, 14, 6.0, "6", -2)),
        (FloatDistribution(0.5, 2.0), (0.5, 1, 2.0), (0.4, 2.1, "1", None)),
        (CategoricalDistribution(("a", 1)), ("a", 1), ("b", 2, None)),
    ],
    ids=str,
)
def test_a_value_is_held_by_what_may_have_it(distribution: Any, inside: Any, outside: Any) -> None:
    assert all(holds(distribution, value) for value in inside)
    assert not any(holds(distribution, value) for value in outside)
    for value in outside:
        assert like({"x": value}, lambda name, d: "otherwise")("x", distribution) == "otherwise"


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (IntDistribution(1, 5), [1, 2, 3, 4, 5]),
        (IntDistribution(1, 6), [1, 2, 3, 5, 6]),
        (IntDistribution(1, 16, log=True), [1, 2, 4, 8, 16]),
        (IntDistribution(0, 12, step=3), [0, 3, 6, 9, 12]),
        (IntDistribution(0, 20, step=2), [0, 4, 10, 16, 20]),
        (FloatDistribution(0.0, 2.0), [0.0, 0.5, 1.0, 1.5, 2.0]),
        (FloatDistribution(1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (FloatDistribution(0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (FloatDistribution(0.0, 0.8, step=0.1), [0.0, 0.2, 0.4, 0.6, 0.8]),
        (CategoricalDistribution(("b", "a")), ["b", "a"]),
    ],
    ids=str,
)
def test_the_grid_of_a_parameter(distribution: Any, expected: list[Any]) -> None:
    found = grid_values(distribution)
    assert found == (pytest.approx(expected) if isinstance(expected[0], (int, float)) else expected)
    assert [at(share)("x", distribution) for share in (0.0, 1.0)] == [found[0], found[-1]]


def test_random_values_fill_their_range_evenly_on_their_own_scale() -> None:
    choose = at_random(random.Random(0))

    def drawn(distribution: Any) -> list[Any]:
        return [choose("x", distribution) for _ in range(3000)]

    logs = [math.log10(v) for v in drawn(FloatDistribution(1e-4, 1.0, log=True))]
    assert sum(logs) / 3000 == pytest.approx(-2.0, abs=0.1) and min(logs) < -3.9 and max(logs) > -0.1
    plain = drawn(FloatDistribution(2.0, 4.0))
    assert sum(plain) / 3000 == pytest.approx(3.0, abs=0.05) and min(plain) < 2.05 and max(plain) > 3.95
    for distribution in (IntDistribution(3, 11, step=4), FloatDistribution(0.0, 1.0, step=0.5)):
        counts = Counter(drawn(distribution))
        assert len(counts) == 3 and min(counts.values()) > 900
    ones = Counter(drawn(IntDistribution(1, 4, log=True)))  # each from half a step below to half a step above
    shares = [math.log((n + 0.5) / (n - 0.5)) / math.log(4.5 / 0.5) for n in (1, 2, 3, 4)]
    assert [ones[n] / 3000 for n in (1, 2, 3, 4)] == pytest.approx(shares, abs=0.03)
