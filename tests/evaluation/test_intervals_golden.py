"""Golden numbers of the statistics: scipy's BCa over the very same resamples, and each interval's formula by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats._resampling import BootstrapResult

from searchkit.core.goal import Goal
from searchkit.evaluation import statistics
from searchkit.evaluation.statistics import agreement, mcnemar, metric_interval, paired_difference, wilson
from searchkit.tasks.predictions import FORECAST, RECONSTRUCTION, STEPS, VALUES

ACCURACY = Goal("accuracy", "maximize")
MSE = Goal("mse", "minimize")
RMSE = Goal("rmse", "minimize", root=True)
Z = 1.959963984540054
SKEWED = np.random.default_rng(5).gamma(0.3, size=14)
"""Few and skewed, so that the bias and the acceleration both move the interval."""


def by_scipy(scores: np.ndarray, means: np.ndarray, method: str = "BCa") -> tuple[float, float]:
    """scipy's interval of the mean from these resampled means, not its own."""
    given = BootstrapResult(confidence_interval=None, bootstrap_distribution=means, standard_error=None)
    found = stats.bootstrap((scores,), np.mean, n_resamples=0, bootstrap_result=given, method=method)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@pytest.mark.parametrize("scores", [SKEWED, -SKEWED, np.ceil(3 * SKEWED)], ids=["right", "left", "ties"])
def test_bca_is_scipys_over_the_same_resamples(scores: np.ndarray) -> None:
    means = statistics._bootstrap_means(scores, 7)
    assert means.shape == (statistics.RESAMPLES,)
    found = metric_interval(MSE, scores, seed=7)
    expected = by_scipy(scores, means)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    plain = by_scipy(scores, means, "percentile")
    width = plain[1] - plain[0]
    assert max(abs(a - b) for a, b in zip(expected, plain, strict=True)) > 0.02 * width, "nothing was corrected"


def test_the_bias_correction_by_hand() -> None:
    """Half of the resamples that equal the estimate count as below it."""
    means = statistics._bootstrap_means(SKEWED, 7)
    mean, deviations = SKEWED.mean(), SKEWED - SKEWED.mean()
    bias = stats.norm.ppf(np.mean(means < mean) + 0.5 * np.mean(means == mean))
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    assert abs(bias) > 0.04 and abs(acceleration) > 0.04
    levels = [stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-Z, Z)]
    found = metric_interval(MSE, SKEWED, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, levels)), rel=1e-9)


def test_a_root_mean_has_the_roots_of_the_means_interval() -> None:
    mean, root = metric_interval(MSE, SKEWED, seed=7), metric_interval(RMSE, SKEWED, seed=7)
    assert (root.low, root.value, root.high) == pytest.approx(
        (math.sqrt(mean.low), math.sqrt(SKEWED.mean()), math.sqrt(mean.high))
    )


def test_a_difference_is_bca_of_the_differences_in_pairs() -> None:
    a, b = SKEWED, np.random.default_rng(6).gamma(0.3, size=14)
    found = paired_difference(MSE, a, b, seed=3)
    expected = by_scipy(a - b, statistics._bootstrap_means(a - b, 3))
    assert (found.value, found.method, found.n) == (pytest.approx(a.mean() - b.mean()), "bca", 14)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6)


def test_a_difference_of_root_means_is_the_percentiles_of_the_roots_in_pairs() -> None:
    a, b = SKEWED, np.random.default_rng(6).gamma(0.3, size=14)
    means = statistics._bootstrap_means(np.stack([a, b], axis=1), 3)
    found = paired_difference(RMSE, a, b, seed=3)
    roots = np.sqrt(means[:, 0]) - np.sqrt(means[:, 1])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(roots, [2.5, 97.5])), rel=1e-12)
    assert found.method == "percentile" and found.value == pytest.approx(math.sqrt(a.mean()) - math.sqrt(b.mean()))


def test_resamples_draw_every_example_as_often() -> None:
    """Over 65 values or more the examples are drawn, else their counts: mean and variance are those of theory."""
    for n in (60, 200):
        scores = np.random.default_rng(1).normal(3.0, 2.0, size=n)
        means = statistics._bootstrap_means(scores, 11)
        assert means.mean() == pytest.approx(scores.mean(), abs=5 * scores.std() / math.sqrt(n * len(means)))
        assert means.std() == pytest.approx(scores.std() / math.sqrt(n), rel=0.03)
        pairs = statistics._bootstrap_means(np.stack([scores, 2 * scores], axis=1), 11)
        np.testing.assert_allclose(pairs[:, 1], 2 * pairs[:, 0])  # rows are drawn whole


def test_groups_are_drawn_whole_and_weigh_by_their_size() -> None:
    scores, groups = np.array([0.0, 0.0, 0.0, 4.0, 8.0, 6.0]), np.array([3, 3, 3, 5, 5, 9])
    means = statistics._bootstrap_means(scores, 0, groups)
    totals, sizes = np.array([0.0, 12.0, 6.0]), np.array([3, 2, 1])
    possible = {
        round(float(totals[list(drawn)].sum() / sizes[list(drawn)].sum()), 9)
        for drawn in np.ndindex(3, 3, 3)
    }  # fmt: skip
    assert {round(float(m), 9) for m in np.unique(means)} == possible
    deviations = np.array([totals[k] - sizes[k] * scores.mean() for k in range(3)])
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    bias = stats.norm.ppf(np.mean(means < scores.mean()) + 0.5 * np.mean(means == scores.mean()))
    levels = [stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-Z, Z)]
    found = metric_interval(MSE, scores, groups=groups)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, levels)))
    assert (found.method, found.n) == ("bca of groups", 6)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 1), (0, 9)])
def test_few_discordant_pairs_have_the_interval_of_bonett_and_price(wins: int, losses: int) -> None:
    a, b = np.zeros(50), np.zeros(50)
    a[:wins], b[wins : wins + losses] = 1.0, 1.0
    up, down = (wins + 1) / 52, (losses + 1) / 52
    half = Z * math.sqrt((up + down - (up - down) ** 2) / 52)
    found = paired_difference(ACCURACY, a, b)
    assert found.method == "bonett-price" and found.value == pytest.approx((wins - losses) / 50)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))
    assert found.indistinguishable == (found.low <= 0 <= found.high)


def test_ten_discordant_pairs_are_enough_for_the_bootstrap() -> None:
    a, b = np.zeros(50), np.zeros(50)
    a[:10] = 1.0
    assert paired_difference(ACCURACY, a[:49], np.r_[1.0, b[:48]]).method == "bonett-price"  # nine of them
    assert paired_difference(ACCURACY, a, b).method == "bca"
    assert paired_difference(ACCURACY, a, b, groups=np.arange(50)).method == "bca of groups"
    assert paired_difference(ACCURACY, a / 2, b).method == "bca"  # not shares


def test_better_is_said_by_the_direction_and_only_where_the_interval_says_it() -> None:
    low, high = np.full(40, 0.1), np.full(40, 0.9)
    noise = np.random.default_rng(0).normal(0, 1e-3, 40)
    for goal, a_is_better in ((ACCURACY, True), (MSE, False), (RMSE, False)):
        assert paired_difference(goal, high + noise, low).better is a_is_better
        assert paired_difference(goal, low + noise, high).better is (not a_is_better)
    same = paired_difference(MSE, noise - noise.mean(), np.zeros(40))
    assert same.better is None and same.indistinguishable


def test_wilson_by_hand() -> None:
    for successes, n in ((0, 7), (3, 7), (7, 7)):
        share = successes / n
        roots = np.roots([1 + Z**2 / n, -(2 * share + Z**2 / n), share**2])  # (p − share)² = z² p (1 − p) / n
        assert wilson(successes, n) == pytest.approx(tuple(sorted(roots.real)), abs=1e-7)
    found = metric_interval(ACCURACY, np.array([1.0, 0.0, 1.0, 1.0]))
    assert (found.low, found.high) == wilson(3, 4) and (found.method, found.n, found.value) == ("wilson", 4, 0.75)
    assert metric_interval(ACCURACY, np.array([1.0, 0.0]), groups=np.array([0, 1])).method == "bca of groups"
    assert metric_interval(RMSE, np.array([1.0, 0.0, 1.0])).method == "bca"


def test_an_interval_ends_where_the_metric_does() -> None:
    scores = np.random.default_rng(2).normal(0.97, 0.2, size=30)
    free = metric_interval(Goal("score", "maximize"), scores)
    capped = metric_interval(Goal("score", "maximize", most=1.0), scores)
    assert free.high > 1.0 == capped.high and capped.low == free.low


def test_mcnemar_is_the_exact_binomial_test() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.random(60) < 0.8, rng.random(60) < 0.7
        found = mcnemar(a, b)
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        assert (found.only_a, found.only_b) == (only_a, only_b)
        assert found.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_agreement_of_steps_is_the_mean_share_of_the_steps_that_there_are() -> None:
    targets = np.array([[1, 2, 0], [4, -1, -1], [1, 1, -1]])
    a = np.array([[1, 2, 3], [4, 9, 9], [1, 0, 9]])
    b = np.array([[1, 0, 3], [4, 8, 8], [0, 1, 8]])
    shares = np.array([2 / 3, 1.0, 0.0])
    found = agreement(a, b, STEPS, targets=targets)
    expected = metric_interval(MSE, shares)
    assert found.value == pytest.approx(shares.mean()) and (found.method, found.n) == ("bca", 3)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_agreement_of_values_measures_each_target_by_the_references_own_error() -> None:
    """Errors of 1 and 10: a gap of (1, 10) is a mean of exactly 1 and agrees; a little more does not. A reconstruction
    is measured by one error for all of its values, of which the mean square is 50.5."""
    targets = np.zeros((2, 2))
    b = np.array([[1.0, 10.0], [-1.0, -10.0]])
    values = agreement(b + [[1.0, 10.0], [1.001, 10.0]], b, VALUES, targets=targets)
    assert values.value == 0.5 and (values.low, values.high) == wilson(1, 2)
    for form, expected in ((VALUES, 0.0), (FORECAST, 0.0), (RECONSTRUCTION, 1.0)):
        assert agreement(b + [[7.0, 7.0], [2.0, 9.8]], b, form, targets=targets).value == expected
    assert agreement(b + [[1.0, 10.03], [1.0, 10.04]], b, RECONSTRUCTION, targets=targets).value == 0.0
