"""The metric to improve, the loss of it that is accepted, and the result of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.typed import Positive


@dataclass(frozen=True, slots=True)
class Goal:
    """The metric that the search improves: the mean of per-example scores, or the root of that mean.

    Attributes:
        metric: Name of the metric.
        direction: Whether larger or smaller is better.
        root: Whether the value is the square root of the mean score, as for RMSE.
        span: Range of a maximized metric from useless to good, in its own unit: 1 for a share; 450 for a game in which
            random play scores 25 and a good player 475. Accepted losses are shares of it.
        most: Largest possible value, or None. Scores of single examples may exceed it.
        unit: Scale of each entry of an output's first axis, shape (K,). Errors are divided by it first, so that
            channels with different units have equal weight. Empty if outputs keep their own unit.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    root: bool = False
    span: Positive = 1.0
    most: float | None = None
    unit: tuple[float, ...] = ()

    def value(self, scores: np.ndarray) -> float:
        """Return the metric for per-example scores.

        Args:
            scores: Per-example scores, (n,) float64.
        """
        mean = float(np.mean(scores))
        return math.sqrt(mean) if self.root else mean

    def standard_error(self, scores: np.ndarray, reference: np.ndarray) -> float:
        """Return the standard error of the difference between two values on the same examples.

        Args:
            scores: Per-example scores, (n,).
            reference: Per-example scores of the other model, (n,), in the same order.
        """
        error = float(np.std(scores - reference)) / math.sqrt(len(scores))
        before = self.value(reference)
        return error / (2 * before) if self.root and before > 0 else error  # of the root, to first order

    def better(self, a: float, b: float) -> bool:
        """Return whether value `a` is strictly better than `b`; any number is better than one that is not finite."""
        return self.loss(a) < self.loss(b)

    def loss(self, value: float) -> float:
        """Return `value` on a scale on which smaller is better; one that is not finite is infinitely bad.

        NaN compares as false with everything: the first of a row would win, and a sort would come out in any order.
        """
        if not math.isfinite(value):
            return math.inf
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The loss of the metric that counts as none.

    Attributes:
        goal: The metric.
        max_drop: Accepted drop of a maximized metric as a share of its span; 0.005 is half a point of accuracy.
        max_rise: Accepted relative rise of an error; 0.02 is 2 %.
    """

    goal: Goal
    max_drop: float = 0.005
    max_rise: float = 0.02

    @property
    def shown(self) -> str:
        """The accepted loss as text, for reports."""
        if self.goal.direction == "maximize":
            return f"{self.max_drop * self.goal.span:.3g}"
        return f"{self.max_rise:.3g} of it"

    def admits(self, value: float, reference: float, *, error: float = 0.0) -> bool:
        """Return whether a value is as good as the reference; one that is not finite is not.

        Args:
            value: The value.
            reference: The value that it must keep up with.
            error: Standard error of the difference. Differences within one standard error also pass, since the examples
                cannot distinguish them from zero.
        """
        if not math.isfinite(value):
            return False
        slack = 1e-9  # half a point is half a point in floating point too
        if abs(value - reference) <= error:
            return True
        if self.goal.direction == "maximize":
            return value >= reference - self.max_drop * self.goal.span - slack
        return value <= reference * (1 + self.max_rise) + slack

    def admits_in_pairs(self, scores: np.ndarray, reference: np.ndarray) -> bool:
        """Return whether scores are as good as the reference scores of the same examples, each (n,)."""
        error = self.goal.standard_error(scores, reference)
        return self.admits(self.goal.value(scores), self.goal.value(reference), error=error)


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on one split.

    Attributes:
        metrics: All metrics of the task by name, including the goal's.
        scores: Per-example scores, (n,) float64; `goal.value(scores)` is the goal's metric.
        decisions: Class indices (n,) or values (n, …); two models agree on an example if their decisions are equal.
        targets: True values on the scale of `decisions`, (n,) or (n, …). Empty, (0,), if there are none, e.g. for an
            agent's actions. For generators, real examples that are not paired with the outputs.
    """

    metrics: dict[str, float]
    scores: np.ndarray
    decisions: np.ndarray
    targets: np.ndarray


class Predict(Protocol):
    """A function from raw arrays to outputs, backed by a torch module or an ONNX Runtime session."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Predict for a batch.

        Args:
            inputs: Raw inputs by name.

        Returns:
            Outputs by name, one row per example.
        """
