"""A Gaussian process over the parameters of trials: what an untrained candidate is likely to reach, and how surely.

Its kernel is exp(-Σ w·d): the d of two choices is 0 if they are the same and 1 if not (Hamming), that of two numbers is
the part of the range between them, and a parameter that only one of the two has counts as wholly different. The weights
w, one a parameter, are the most probable ones. Values are replaced by the normal scores of their ranks, so that a
network that learned nothing does not flatten the differences among good ones.

Rasmussen & Williams 2006, Gaussian Processes for Machine Learning; expected improvement: Jones et al. 1998; of the
hypervolume of two objectives: Emmerich et al. 2011. In numpy alone: scikit-learn takes a second to import and its
kernels know numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]

USUAL_WEIGHT, SPREAD_OF_WEIGHTS = math.log(0.5), 1.0
"""The weights' prior, of their logarithms: a different choice alone leaves a correlation of .6."""

USUAL_NOISE, SPREAD_OF_NOISE = math.log(0.02), 1.5
"""The noise's prior, of its logarithm: a part of the variance."""

LOW_LOGS, HIGH_LOGS = (-7.0, math.log(1e-4)), (3.0, math.log(0.5))
"""The bounds of the logarithms: of a weight, of the noise."""

STEPS = 15
"""Of the search for weights."""


class Encoder:
    """Parameters as rows of numbers, one column a parameter that occurs.

    A choice is its index, a number its place in the range on the parameter's own scale, from 0 to 1; NaN stands for a
    parameter that is not there, as in a define-by-run space some are not.

    Args:
        distributions: Of each trial. A number's range is the widest that occurs.
    """

    def __init__(self, distributions: Sequence[Mapping[str, BaseDistribution]]) -> None:
        self._codes: dict[str, dict[Any, int]] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._logs: set[str] = set()
        for name, distribution in ((n, d) for row in distributions for n, d in row.items()):
            if name in self._codes:
                continue  # Optuna allows one set of choices by a name
            match distribution:
                case CategoricalDistribution(choices=choices):
                    self._codes[name] = {choice: index for index, choice in enumerate(choices)}
                case IntDistribution(low=low, high=high, log=log) | FloatDistribution(low=low, high=high, log=log):
                    least, most = self._ranges.get(name, (math.inf, -math.inf))
                    self._ranges[name] = min(least, low), max(most, high)
                    if log:
                        self._logs.add(name)
        self.names = sorted({*self._codes, *self._ranges})
        self.is_choice = np.array([name in self._codes for name in self.names])

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """The rows of these parameters: (n, columns). A parameter that the encoder has not met is left out."""
        return np.array([[self._number(name, row) for name in self.names] for row in params]).reshape(
            len(params), len(self.names)
        )

    def _number(self, name: str, params: Mapping[str, Any]) -> float:
        if name not in params:
            return math.nan
        value = params[name]
        if name in self._codes:
            return self._codes[name].get(value, len(self._codes[name]))
        low, high = self._ranges[name]
        if name in self._logs:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.0

    def distances(self, a: Array, b: Array) -> Array:
        """How far each row of `a` is from each of `b` in each column, from 0 to 1: (columns, rows of a, rows of b)."""
        one, other = a.T[:, :, None], b.T[:, None, :]
        found: Array = np.abs(one - other)
        found[self.is_choice] = found[self.is_choice] > 0
        if np.isnan(a).any() or np.isnan(b).any():
            # one of the two has no such parameter: wholly different; neither has: the same
            found = np.where(np.isnan(one) != np.isnan(other), 1.0, np.nan_to_num(found))
        return found


@dataclass(frozen=True)
class Process:
    """A Gaussian process that has seen values.

    Attributes:
        weights: Of the columns.
        noise: Variance of a value at one point, as a part of the whole.
        inverse: Of the rows' covariance: (n, n).
        pull: `inverse` times the values.
        scale: The whole variance.
    """

    weights: Array
    noise: float
    inverse: Array
    pull: Array
    scale: float

    @classmethod
    def of(cls, weights: Array, noise: float, distances: Array, values: Array) -> Process:
        """The process with this kernel, given values.

        Args:
            weights: Of the columns.
            noise: See the class.
            distances: Between the rows that have values: (columns, n, n).
            values: (n,)
        """
        inverse = _inverse(_kernel(weights, distances) + noise * np.eye(len(values)))
        pull = inverse @ values
        return cls(weights, noise, inverse, pull, max(float(values @ pull) / len(values), 1e-9))

    @classmethod
    def fitted(cls, distances: Array, values: Array) -> Process:
        """The process whose weights and noise are the most probable ones, found in `STEPS` steps of Rprop.

        Args:
            distances: Between the rows: (columns, n, n).
            values: (n,)
        """
        # Rprop (Riedmiller & Braun 1993) needs no line search and the same few evaluations each time.
        n_columns = len(distances)
        logs = np.append(np.full(n_columns, USUAL_WEIGHT), USUAL_NOISE)
        low, high = (np.append(np.full(n_columns, w), n) for w, n in (LOW_LOGS, HIGH_LOGS))
        step, before = np.full(len(logs), 0.4), np.zeros(len(logs))
        least, best = math.inf, logs
        for _ in range(STEPS):
            loss, slope = _improbability(logs, distances, values)
            if loss < least:
                least, best = loss, logs
            turned = slope * before
            step = np.clip(step * np.where(turned > 0, 1.3, np.where(turned < 0, 0.5, 1.0)), 1e-3, 1.0)
            before = np.where(turned < 0, 0.0, slope)
            logs = np.clip(logs - np.sign(before) * step, low, high)
        return cls.of(np.exp(best[:-1]), float(np.exp(best[-1])), distances, values)

    def predict(self, distances: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at other points.

        Args:
            distances: From them to the rows that have values: (columns, m, n).

        Returns:
            Two of (m,).
        """
        near = _kernel(self.weights, distances)
        variance = 1.0 - np.einsum("mn,mn->m", near @ self.inverse, near)
        return near @ self.pull, np.sqrt(np.maximum(variance, 1e-9) * self.scale)


def _kernel(weights: Array, distances: Array) -> Array:
    found: Array = np.exp(-np.tensordot(weights, distances, 1))
    return found


def _inverse(matrix: Array) -> Array:
    found: Array = np.linalg.inv(matrix).astype(np.float64, copy=False)
    return found


def _improbability(logs: Array, distances: Array, values: Array) -> tuple[float, Array]:
    """The negative log posterior of the weights and the noise, by their logarithms, and its gradient.

    The scale is the most probable one, which has a closed form.
    """
    weights, noise, n = np.exp(logs[:-1]), math.exp(logs[-1]), len(values)
    kernel = _kernel(weights, distances)
    covariance = kernel + noise * np.eye(n)
    inverse = _inverse(covariance)
    pull = inverse @ values
    scale = max(float(values @ pull) / n, 1e-9)
    loss = 0.5 * n * math.log(scale) + float(np.log(np.diag(np.linalg.cholesky(covariance))).sum())
    by_covariance = 0.5 * (inverse - np.outer(pull, pull) / scale)
    by_weights = -np.tensordot(distances, by_covariance * kernel, ([1, 2], [0, 1])) * weights
    slope = np.append(by_weights, noise * np.trace(by_covariance))
    usual = np.append(np.full(len(weights), USUAL_WEIGHT), USUAL_NOISE)
    spread = np.append(np.full(len(weights), SPREAD_OF_WEIGHTS), SPREAD_OF_NOISE)
    from_usual = (logs - usual) / spread
    return loss + 0.5 * float(from_usual @ from_usual), slope + from_usual / spread


def normal_scores(values: Array, wanted: Sequence[int]) -> Array:
    """The quantiles of the normal distribution that stand for some of the values, by their ranks among all.

    Args:
        values: (n,). Equal ones share a quantile.
        wanted: The indices of those that are asked for.
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shares = ((np.cumsum(counts) - counts / 2) / len(values))[place[list(wanted)]]
    return np.array([NormalDist().inv_cdf(share) for share in shares.tolist()])


def shortfall(bound: float, mean: Array, deviation: Array) -> Array:
    """How far a normal variable is expected to stay below a bound: E max(0, bound - x). Where it is above, 0 counts."""
    z = (bound - mean) / deviation
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * _ERFC(-z / math.sqrt(2))  # the complement: far below, 1 + erf would be rounding errors
    found: Array = np.maximum(deviation * (z * below + density), 0.0)
    return found


_ERFC = np.vectorize(math.erfc, otypes=[np.float64])


def expected_improvement(front: Array, means: Array, deviations: Array) -> Array:
    """By how much a candidate is expected to improve the best value, or the hypervolume that a front dominates.

    Args:
        front: Non-dominated values, smaller is better: (n, objectives), one objective or two.
        means: Of the candidates: (m, objectives).
        deviations: The same.

    Returns:
        (m,). With two objectives up to a reference point at 3, worse than all but 1 in 700 normal scores.
    """
    if front.shape[1] == 1:
        return shortfall(float(front.min()), means[:, 0], deviations[:, 0])
    # Exact for two objectives that are independent. The plane is cut into strips, each from one point of the front to
    # the next in the first objective; below its height, in the second, nothing is dominated yet.
    ordered = front[np.lexsort((front[:, 1], front[:, 0]))]
    rights = np.append(ordered[:, 0], REFERENCE)
    heights = np.insert(ordered[:, 1], 0, REFERENCE)
    total, before = np.zeros(len(means)), np.zeros(len(means))
    for right, height in zip(np.minimum(rights, REFERENCE).tolist(), heights.tolist(), strict=True):
        reached = shortfall(right, means[:, 0], deviations[:, 0])
        total = total + (reached - before) * shortfall(height, means[:, 1], deviations[:, 1])
        before = reached
    return total


REFERENCE = 3.0
