"""How sure a figure is: a metric with its interval, and two files on the same examples, in pairs.

The one idea: two files that answered the same examples are compared example by example, never through two separate
intervals, and a difference whose interval holds zero is called indistinguishable. Intervals: Wilson (1927) for shares;
the bias-corrected and accelerated bootstrap (Efron 1987) for means and root means; Bonett and Price (2012) for the
difference of two shares that differ on few examples. If examples belong together (`task.Grouped`), whole groups are
resampled (Davison and Hinkley 1997, section 3.8), and an interval is as wide as their number makes it. Tests: McNemar's
(1947), in its exact form.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from searchkit.core.estimates import Difference, Interval, McNemar
from searchkit.core.goal import Goal
from searchkit.tasks.predictions import Prediction

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW = 10  # discordant pairs; below this the bootstrap of a difference of shares is too narrow

ROUNDING = 1e-12
"""Of the scores: what is smaller is left over from adding floating-point numbers, and says nothing."""

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
_CHUNK = 4_000_000  # resampled scores held at once: 32 MB


# ── Intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def metric_interval(goal: Goal, scores: np.ndarray, *, seed: int = 0, groups: np.ndarray | None = None) -> Interval:
    """The goal's value and its interval: Wilson's for a mean of zeros and ones, else the BCa bootstrap's.

    Args:
        goal: Says how scores become a value.
        scores: (n,), one an example.
        seed: Of the bootstrap.
        groups: (n,) whole numbers: examples with the same one are resampled together. None: each is by itself.

    Raises:
        ValueError: The scores are not (n,) with n > 0.
    """
    scores = _checked(scores)
    value = goal.value(scores)
    if not goal.root and groups is None and is_binary(scores):
        low, high = wilson(int(scores.sum()), len(scores))
        return Interval(value, low, high, "wilson", len(scores))
    low, high = _bca(scores, seed, groups)
    if goal.root:
        low, high = math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))
    if goal.most is not None:
        high = min(high, goal.most)
    return Interval(value, low, high, _named("bca", groups), len(scores))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927): unlike Wald's it holds near 0 and 1, where good models are.

    Args:
        successes: Of n.
        n: At least 1.

    Returns:
        Its lower and its upper end.
    """
    share, z2 = successes / n, _Z * _Z
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At a share of 0 or 1, rounding may put an end just beside the share, which has to lie within.
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def paired_difference(
    goal: Goal, a: np.ndarray, b: np.ndarray, *, seed: int = 0, groups: np.ndarray | None = None
) -> Difference:
    """goal.value(a) − goal.value(b) of two models on the same examples, with its interval.

    Args:
        goal: Says how scores become a value.
        a: (n,): a[i] is the score of the one model on example i.
        b: (n,): the same of the other.
        seed: Of the bootstrap.
        groups: As in `metric_interval`.

    Raises:
        ValueError: The two have not one shape, (n,) with n > 0.
    """
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise ValueError(f"pairs need one score an example from each: {a.shape} against {b.shape}")
    value = goal.value(a) - goal.value(b)
    if goal.root:
        # (n, 2): both scores of an example are drawn together, so what the models have in common cancels.
        means = _bootstrap_means(np.stack([a, b], axis=1), seed, groups)
        low, high = _percentiles(np.sqrt(means[:, 0]) - np.sqrt(means[:, 1]))
        method = _named("percentile", groups)
    elif groups is None and is_binary(a) and is_binary(b) and np.count_nonzero(a != b) < FEW:
        low, high = _bonett_price(int(np.sum(a > b)), int(np.sum(b > a)), len(a))
        method = "bonett-price"
    else:
        low, high = _bca(a - b, seed, groups)
        method = _named("bca", groups)
    # Equal up to the order in which they were added: the sign of what is left is no result.
    if max(abs(value), abs(low), abs(high)) <= ROUNDING * max(goal.value(np.abs(a)), goal.value(np.abs(b))):
        value = low = high = 0.0
    same = low <= 0.0 <= high
    better = None if same else goal.better(value, 0.0)
    return Difference(value, low, high, method, len(a), same, better)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores are one number an example, (n,) with n > 0; these are {scores.shape}")
    return scores


def is_binary(scores: np.ndarray) -> bool:
    """Whether all scores are 0 or 1."""
    return bool(np.all((scores == 0.0) | (scores == 1.0)))


def _bonett_price(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Wald's interval after one more win and one more loss: at no discordant pair it is still ±z·√2/(n+2), not ±0."""
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _named(method: str, groups: np.ndarray | None) -> str:
    return method if groups is None else f"{method} of groups"


def _totals(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, …) sums of the scores of each group, and (G,) how many there are."""
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *scores.shape[1:]))
    # Not `sums[member] += scores`, which adds only one of the examples of a group.
    np.add.at(sums, member, scores)
    return sums, counts


def _bootstrap_means(scores: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Means of RESAMPLES resamples with replacement, of whole groups if there are any.

    (n,) gives (RESAMPLES,); (n, k) resamples rows: (RESAMPLES, k).
    """
    rng, n = np.random.default_rng(seed), len(scores)
    if groups is not None:
        sums, sizes = _totals(scores, groups)
        # In chunks of (step, G) counts: how often each of the G groups is drawn. The mean is a ratio of sums, since
        # groups and so resamples differ in size.
        drawn, step = [], max(1, _CHUNK // len(sizes))
        for start in range(0, RESAMPLES, step):
            times = rng.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=min(step, RESAMPLES - start))
            totals = times @ sizes
            drawn.append(times @ sums / totals.reshape(-1, *[1] * (sums.ndim - 1)))
        return np.concatenate(drawn)
    values, counts = np.unique(scores, axis=0, return_counts=True)
    if len(values) <= 64:  # the same distribution, drawn as counts: shares and their differences take milliseconds
        return np.asarray(rng.multinomial(n, counts / n, size=RESAMPLES) @ values / n)
    means = np.empty((RESAMPLES, *scores.shape[1:]))
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        means[start : start + rows] = scores[rng.integers(0, n, size=(rows, n), dtype=np.int32)].mean(axis=1)
    return means


def _percentiles(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _bca(scores: np.ndarray, seed: int, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Percentiles of the bootstrap means, moved for their bias and for the skewness of the scores (Efron 1987).

    For a mean the jackknife's acceleration is Σd³ / 6(Σd²)^1.5 with d the deviations, of groups their sums. sqrt is
    monotone and BCa respects such maps, so the interval of a root mean is the root of this one. If all scores, or the
    means of all groups, are equal, so is every resample's: both ends are the mean.
    """
    mean = float(scores.mean())
    deviations = scores - mean
    if groups is not None:
        deviations = _totals(deviations, groups)[0]
    spread = float(np.sum(deviations**2))
    if spread <= (ROUNDING * float(np.sum(np.abs(scores)))) ** 2:
        return mean, mean
    means = _bootstrap_means(scores, seed, groups)
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)
    # The share of resamples below the mean, of equal ones a half. At 0 and 1 the normal quantile is infinite, so it is
    # kept one resample away from them.
    below = (np.sum(means < mean) + 0.5 * np.sum(means == mean)) / len(means)
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / len(means), 1 - 1 / len(means))))
    levels = []
    for z in (-_Z, _Z):
        shifted = bias + z
        levels.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9)))
    low, high = np.quantile(means, levels)
    return float(low), float(high)


# ── Comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Do two classifiers err on different numbers of examples? correct_*: (n,) bool. Exact binomial, in integers."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    n = only_a + only_b
    # The tail is C(n, 0) + … + C(n, min): each term follows from the one before, in whole numbers, so no n is too
    # large.
    term = tail = 1
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def agreement(
    decisions_a: np.ndarray,
    decisions_b: np.ndarray,
    prediction: Prediction,
    *,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
) -> Interval:
    """The share of examples that model a answers as b, the reference, does. decisions, targets: (n,) or (n, …).

    The prediction says when an example is answered alike. Yes or no gives Wilson's interval; a share of each example,
    of which the parts are not independent, the bootstrap's over examples. groups: as in `metric_interval`; if all
    examples are alike in this, Wilson's interval of as many as there are groups.
    """
    a, b = np.asarray(decisions_a), np.asarray(decisions_b)
    if a.shape != b.shape:
        raise ValueError(f"decisions over the same examples have one shape: {a.shape} against {b.shape}")
    n, alike = len(a), prediction.alike(a, b, np.asarray(targets))
    if alike.dtype != bool:
        low, high = _bca(alike, 0, groups)
        return Interval(float(alike.mean()), low, high, _named("bca", groups), n)
    if groups is not None:
        n_groups = len(np.unique(groups))
        # A bootstrap of equal values would have no width.
        if alike.all() or not alike.any():
            return Interval(float(alike.mean()), *wilson(n_groups * int(alike[0]), n_groups), "wilson of groups", n)
        return Interval(float(alike.mean()), *_bca(alike.astype(np.float64), 0, groups), "bca of groups", n)
    low, high = wilson(int(alike.sum()), n)
    return Interval(float(alike.mean()), low, high, "wilson", n)
