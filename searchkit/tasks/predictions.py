"""What the answers of a problem are: when two models answer alike, and what a figure of the errors shows.

A problem names one of these in its `ProblemSpec`, or brings its own. The evidence and the report ask it, so that they
name no problem. `errors` returns one of five forms, which the report can draw: "confusion", "labels", "points",
"by_step" or "histogram"; see the functions below. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from searchkit.core.goal import Evaluation
from searchkit.core.serialization import JSON
from searchkit.tasks.metrics import errors_to_nearest

Alike = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(decisions of a model, decisions of the reference, targets) to (n,): bool, whether an example is answered alike, or
float64, the share of it that is."""

Errors = Callable[[Evaluation, Mapping[str, Evaluation]], dict[str, JSON]]
"""The evaluation of a model, and by name what stands beside it, to the plain data of a figure."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The form of the answers of a problem.

    Attributes:
        name: What evidence.json and report.json call it.
        alike: When two models answer an example alike.
        errors: The plain data of the figure of errors.
        row: What "alike" means, in a few words below the row of a table.
        note: The same as a sentence below the table; "" if the words of the row say enough.
        decides: Whether alike means the same decision, not a small difference.
        paired: Whether each answer has a truth of its own, not only all answers together.
        right_or_wrong: Whether an example with a score of 1 is right and one with 0 is wrong, as McNemar's test needs.
        multiple: Whether an example may have several labels at once, each with a probability of its own.
    """

    name: str
    alike: Alike
    errors: Errors
    row: str
    note: str = ""
    decides: bool = False
    paired: bool = True
    right_or_wrong: bool = False
    multiple: bool = False

    def words(self) -> dict[str, JSON]:
        """What the report says of it, as plain data."""
        return {"row": self.row, "note": self.note, "decides": self.decides, "paired": self.paired}


# ── When two models answer alike ─────────────────────────────────────────────────────────────────────────────────────


def same(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) bool: the same decision; of several labels all the same."""
    return np.asarray(np.all((a == b).reshape(len(a), -1), axis=1))


def same_steps(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) float64: the share of an example's steps with the same class. A target of -1 marks that there is no step."""
    there = targets.reshape(len(a), -1) >= 0
    return np.asarray(((a == b).reshape(len(a), -1) & there).sum(axis=1) / there.sum(axis=1))


def within_error(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) bool: a and b differ, root mean square over the example's values, by no more than b errs over the split."""
    error = np.square(b - targets, dtype=np.float64).reshape(len(a), -1)
    return _within(a, b, error.mean())


def within_error_of_each(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) bool: as `within_error`, with each difference in the unit of b's error on its own target or step."""
    error = np.square(b - targets, dtype=np.float64).reshape(len(a), -1)
    return _within(a, b, error.mean(axis=0))


def within_distance_to_nearest(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n,) bool: as `within_error`, where the error of an answer is its distance to the nearest of all targets."""
    return _within(a, b, errors_to_nearest(b, targets).mean())


def _within(a: np.ndarray, b: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    gap = np.square(a - b, dtype=np.float64).reshape(len(a), -1)
    # a reference without error allows no difference, and none is 0 of it
    return np.asarray(np.mean(gap / np.maximum(allowed, 1e-100), axis=1) <= 1)


# ── The data of a figure of errors ───────────────────────────────────────────────────────────────────────────────────


def confusion(found: Evaluation, beside: Mapping[str, Evaluation]) -> dict[str, JSON]:
    """Count one class an example: rows are the truth, columns the decision.

    "unanswered" counts decisions of -1, where the answer was not a number.
    """
    truth, given = found.targets, found.decisions
    size = int(max(truth.max(), given.max())) + 1
    table = np.zeros((size, size), dtype=np.int64)
    answered = given >= 0
    # add.at counts a pair of indices as often as it occurs; table[rows, columns] += 1 would count it once.
    np.add.at(table, (truth[answered].astype(np.int64), given[answered].astype(np.int64)), 1)
    return {"confusion": table.tolist(), "unanswered": int(np.sum(~answered))}


def by_label(found: Evaluation, beside: Mapping[str, Evaluation]) -> dict[str, JSON]:
    """Counts of several labels an example, by label: hits, misses and false alarms."""
    yes, said = found.targets.astype(bool), found.decisions.astype(bool)
    cells = {"hit": yes & said, "missed": yes & ~said, "false_alarm": ~yes & said}
    return {"labels": {name: cell.sum(axis=0).tolist() for name, cell in cells.items()}}


POINTS = 400
"""Examples at most in a figure of predicted against true values."""


def points(found: Evaluation, beside: Mapping[str, Evaluation], *, most: int = POINTS) -> dict[str, JSON]:
    """(truth, predicted) of each target, of at most so many examples, evenly spread."""
    truth, given = found.targets, found.decisions
    rows = np.unique(np.linspace(0, len(truth) - 1, min(most, len(truth))).astype(int))
    pairs = np.stack([truth.reshape(len(truth), -1)[rows], given.reshape(len(given), -1)[rows]], axis=-1)
    return {"points": [[[float(f"{v:.6g}") for v in pair] for pair in target] for target in pairs.swapaxes(0, 1)]}


def by_step(found: Evaluation, beside: Mapping[str, Evaluation]) -> dict[str, JSON]:
    """The mean squared error of each step to come, by name: of the network, and of what stands beside it."""
    return {"by_step": {name: _error_by_step(one) for name, one in {"the network": found, **beside}.items()}}


def _error_by_step(found: Evaluation) -> list[float]:
    """(H,) of answers (n, K, H)."""
    error = np.square(found.decisions - found.targets, dtype=np.float64)
    return [float(f"{value:.6g}") for value in error.mean(axis=(0, 1))]


def histogram(found: Evaluation, beside: Mapping[str, Evaluation]) -> dict[str, JSON]:
    """Counts of the scores of single examples, and the edges of the bins."""
    counts, edges = np.histogram(found.scores, bins=min(30, max(5, len(found.scores) // 10)))
    return {"histogram": counts.tolist(), "edges": edges.tolist()}


# ── The forms ────────────────────────────────────────────────────────────────────────────────────────────────────────

_DIFFERENCE = "difference within the error of fp32"
_WITHIN = (
    "An answer agrees with fp32 if the two differ, root mean square over the example, by no more than the fp32 "
    "winner’s own root mean squared error on test."
)

CLASSES = Prediction("classes", same, confusion, "same class", decides=True, right_or_wrong=True)
LABELS = replace(CLASSES, errors=by_label, multiple=True)
ACTIONS = Prediction("actions", same, histogram, "same action", decides=True)
STEPS = Prediction(
    "steps",
    same_steps,
    histogram,
    "same class at a step",
    "The agreement of an answer with fp32 is the share of its steps with the same class.",
    decides=True,
)
VALUES = Prediction("values", within_error_of_each, points, _DIFFERENCE, _WITHIN)
FORECAST = Prediction("forecast", within_error_of_each, by_step, _DIFFERENCE, _WITHIN)
RECONSTRUCTION = Prediction("reconstruction", within_error, histogram, _DIFFERENCE, _WITHIN)
GENERATION = Prediction(
    "generation",
    within_distance_to_nearest,
    histogram,
    _DIFFERENCE,
    "An answer agrees with fp32 if the two, for the same input, differ by no more than the fp32 winner’s pictures "
    "are from the nearest real ones, root mean square.",
    paired=False,
)

# Without LABELS, which has the name and the words of CLASSES.
_KNOWN = (CLASSES, ACTIONS, STEPS, VALUES, FORECAST, RECONSTRUCTION, GENERATION)


def words_of(name: str) -> dict[str, JSON]:
    """Of a form by its name: what the report says of evidence that an earlier version wrote without these words.

    Raises:
        KeyError: no form of this module has the name.
    """
    return {known.name: known for known in _KNOWN}[name].words()
