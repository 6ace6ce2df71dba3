"""Local steps: from which trials they start, and how far they go."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from golden_space import SPACE, SPEC, Arch, proposals, proposer, told
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Trial
from searchkit.search.candidates import draw
from searchkit.search.choices import at, neighbor
from searchkit.search.fronts import best_so_far, feasible
from searchkit.search.named_samplers import _step_from
from searchkit.search.sampler import Directions


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


@pytest.mark.parametrize(
    ("low", "high", "value"), [(16, 512, 16), (16, 512, 90), (16, 512, 512), (2, 8, 4), (1, 2, 1), (3, 3, 3)]
)
def test_a_step_of_a_whole_number_on_a_log_scale_is_a_share_of_it(low: int, high: int, value: int) -> None:
    """It always goes somewhere, within the range, up as far as down in logarithms."""
    rng, distribution = random.Random(0), IntDistribution(low, high, log=True)
    found = [neighbor(distribution, value, rng) for _ in range(2000)]
    assert all(type(v) is int and low <= v <= high for v in found)
    assert (value in found) == (low == high), "a step that stays"
    if low == 16:
        shares = [math.log(v / value) / math.log(high / low) for v in found]
        assert math.sqrt(sum(v * v for v in shares) / 2000) == pytest.approx(0.2, rel=0.08)
        up = sum(v > 0 for v in shares) / 2000
        assert up == pytest.approx({16: 1.0, 90: 0.5, 512: 0.0}[value], abs=0.04)


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
