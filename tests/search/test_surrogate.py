"""The Gaussian process by its definitions: distances, gradient, prediction, expected improvement."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from searchkit.search.surrogate import (
    REFERENCE,
    Encoder,
    Process,
    _improbability,
    expected_improvement,
    normal_scores,
    shortfall,
)

KIND = CategoricalDistribution(("a", "b", "c"))
WIDTH = IntDistribution(4, 64, log=True)
RATE = FloatDistribution(0.0, 2.0)


def test_distances_are_those_of_the_parameters_own_scale() -> None:
    encoder = Encoder([{"kind": KIND, "width": WIDTH, "rate": RATE}, {"kind": KIND}])
    assert encoder.names == ["kind", "rate", "width"]
    rows = encoder.rows(
        [{"kind": "a", "width": 4, "rate": 0.5}, {"kind": "b", "width": 16, "rate": 2.0}, {"kind": "a"}]
    )
    found = encoder.distances(rows, rows)
    assert found[0].tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]], "a choice is the same or not"
    assert found[1] == pytest.approx(np.array([[0, 0.75, 1], [0.75, 0, 1], [1, 1, 0]])), "one has it and one not: 1"
    assert found[2] == pytest.approx(np.array([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]])), "16 is half of 4 to 64 in logs"


def test_a_range_is_the_widest_that_occurs_and_an_unknown_choice_is_like_no_other() -> None:
    encoder = Encoder([{"n": IntDistribution(2, 4), "kind": KIND}, {"n": IntDistribution(0, 3)}])
    rows = encoder.rows([{"n": 0, "kind": "z"}, {"n": 4, "kind": "a"}, {"n": 1, "unheard": 3, "kind": "z"}])
    assert rows[:, 1].tolist() == [0.0, 1.0, 0.25]
    assert encoder.distances(rows, rows)[0].tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def sample(n: int, columns: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose value is their first column's, nearly."""
    rng = np.random.default_rng(0)
    rows = rng.random((n, columns))
    return np.abs(rows.T[:, :, None] - rows.T[:, None, :]), 2 * rows[:, 0] - 1 + 0.05 * rng.normal(size=n)


def test_the_gradient_is_that_of_the_loss() -> None:
    distances, values = sample(12)
    logs = np.array([-0.3, 0.4, -1.1, -3.0])
    _, slope = _improbability(logs, distances, values)
    for i in range(len(logs)):
        step = np.zeros(4)
        step[i] = 1e-5
        around = [_improbability(logs + sign * step, distances, values)[0] for sign in (1, -1)]
        assert slope[i] == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-4)


def test_fitting_finds_the_column_that_matters_and_is_better_than_the_start() -> None:
    distances, values = sample(40)
    process = Process.fitted(distances, values)
    assert process.weights[0] > 3 * max(process.weights[1:])
    usual = np.array([np.log(0.5)] * 3 + [np.log(0.02)])
    fitted = np.append(np.log(process.weights), np.log(process.noise))
    assert _improbability(fitted, distances, values)[0] < _improbability(usual, distances, values)[0] - 3


def test_a_prediction_is_sure_where_values_are_and_the_prior_far_away() -> None:
    distances, values = sample(15)
    process = Process.of(np.array([3.0, 1.0, 1.0]), 1e-4, distances, values)
    mean, deviation = process.predict(distances)
    assert mean == pytest.approx(values, abs=0.01) and deviation.max() < 0.05 * process.scale**0.5
    mean, deviation = process.predict(np.full((3, 1, 15), 50.0))
    assert mean[0] == pytest.approx(0.0) and deviation[0] == pytest.approx(process.scale**0.5)


def test_normal_scores_go_by_rank_and_equal_values_share_one() -> None:
    found = normal_scores(np.array([5.0, 1e9, -3.0, 5.0]), [1, 0, 3, 2])
    assert found == pytest.approx([NormalDist().inv_cdf(share) for share in (7 / 8, 1 / 2, 1 / 2, 1 / 8)])


def test_the_shortfall_is_the_mean_of_draws_and_orders_what_is_far_above() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.5, 200_000)
    wanted = np.maximum(0.1 - draws, 0).mean()
    assert shortfall(0.1, np.array([0.3]), np.array([0.5]))[0] == pytest.approx(wanted, rel=0.02)
    far = shortfall(-4.0, np.array([4.0, 5.0, 6.0]), np.ones(3))
    assert far[0] > far[1] > far[2] > 0


def test_the_expected_hypervolume_is_the_mean_of_draws() -> None:
    front = np.array([[0.5, -0.5], [-1.0, 1.0], [0.0, 0.2]])
    means, deviations = (
        np.array([[-0.4, 0.1], [2.0, 2.0], [-0.9, -0.9]]),
        np.array([[0.5, 0.7], [0.3, 0.3], [0.1, 0.2]]),
    )
    found = expected_improvement(front, means, deviations)
    rng = np.random.default_rng(0)

    def dominated(points: np.ndarray) -> float:
        area, height = 0.0, REFERENCE
        for one, other in sorted(map(tuple, points)):
            if other < height and one < REFERENCE:
                area, height = area + (REFERENCE - one) * (height - other), other
        return area

    before = dominated(front)
    for mean, deviation, gain in zip(means, deviations, found, strict=True):
        draws = rng.normal(mean, deviation, (4000, 2))
        wanted = np.mean([dominated(np.vstack([front, draw])) for draw in draws]) - before
        assert gain == pytest.approx(wanted, rel=0.05, abs=2e-3)


def test_with_one_objective_only_the_best_counts() -> None:
    front, mean, deviation = np.array([[0.4], [-0.2]]), np.array([[0.1]]), np.array([[0.6]])
    assert expected_improvement(front, mean, deviation) == shortfall(-0.2, mean[:, 0], deviation[:, 0])
