"""The metric to improve, how much of it may be given up, and what an evaluation holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from searchkit.core.data_spec import Arrays

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Goal:
    """The metric that the search improves. Its value is the mean of per-example scores, or the root of that mean.

    span: of a metric that is maximized, from useless to good, in its own unit: 1 for a share, 450 for a game in which
    chance makes 25 points and a good player 475. A tolerated drop is a share of it. most: a value that it cannot
    exceed, though scores of single examples may.
    unit: (K,), what an answer's entries along its first axis are measured in: an error is divided by it before anything
    else, so that channels of different units weigh alike. () where answers are measured in their own unit.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    root: bool = False
    span: float = 1.0
    most: float | None = None
    unit: tuple[float, ...] = ()

    def value(self, scores: np.ndarray) -> float:
        """scores: (n,) float64, one an example."""
        mean = float(np.mean(scores))
        return math.sqrt(mean) if self.root else mean

    def standard_error(self, scores: np.ndarray, reference: np.ndarray) -> float:
        """Of the difference between two values over the same examples, in pairs: (n,) each."""
        error = float(np.std(scores - reference)) / math.sqrt(len(scores))
        before = self.value(reference)
        return error / (2 * before) if self.root and before > 0 else error  # of the root, to first order

    def better(self, a: float, b: float) -> bool:
        return a > b if self.direction == "maximize" else a < b

    def loss(self, value: float) -> float:
        """`value` on a scale where smaller is better."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse is still as good. max_drop: of a metric that is maximized, a share of its span (.005 is half a
    point of accuracy). max_rise: of an error, relative (.02 is 2 % of it).
    """

    goal: Goal
    max_drop: float = 0.005
    max_rise: float = 0.02

    @property
    def shown(self) -> str:
        if self.goal.direction == "maximize":
            return f"{self.max_drop * self.goal.span:.3g}"
        return f"{self.max_rise:.3g} of it"

    def admits(self, value: float, reference: float, *, error: float = 0.0) -> bool:
        """error: the standard error of the difference. A smaller one passes too, for the examples cannot tell it from
        none.
        """
        slack = 1e-9  # half a point is half a point in floating point too
        if abs(value - reference) <= error:
            return True
        if self.goal.direction == "maximize":
            return value >= reference - self.max_drop * self.goal.span - slack
        return value <= reference * (1 + self.max_rise) + slack

    def admits_in_pairs(self, scores: np.ndarray, reference: np.ndarray) -> bool:
        """As `admits`, from the scores of the same examples: (n,) each."""
        error = self.goal.standard_error(scores, reference)
        return self.admits(self.goal.value(scores), self.goal.value(reference), error=error)


@dataclass(frozen=True)
class Evaluation:
    """A model on one split, by the task's own measure.

    metrics: every metric of the task, the goal's among them. scores: (n,) float64, the goal is `goal.value(scores)`.
    decisions: (n,) class indices, or (n, …) values: two models agree on an example when their decisions do.
    targets: (n,) or (n, …), the truth on the scale of `decisions`; (0,) where nobody knows it: of an agent's actions.
        Where the spec generates, examples that are not paired with them.
    """

    metrics: dict[str, float]
    scores: np.ndarray
    decisions: np.ndarray
    targets: np.ndarray


class Predict(Protocol):
    """Raw arrays in, answers out: a torch module and an ONNX Runtime session alike."""

    def __call__(self, inputs: Arrays) -> Arrays: ...
