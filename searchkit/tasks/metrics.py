"""Metrics in numpy, macro-F1, the area under the ROC curve and R² equal to scikit-learn's, and distances of sets."""

from __future__ import annotations

import numpy as np


def roc_auc(targets: np.ndarray, answers: np.ndarray) -> float:
    """The area under the ROC curve, the mean over the classes (one against the rest: Fawcett 2006).

    It is how often an example of a class gets a higher probability of it than one of another class, a tie counting
    half. Classes without examples, or without others, are left out.

    Args:
        targets: (n,) class indices.
        answers: (n, n_classes); what is no number ranks lowest.

    Returns:
        From 0 to 1; .5 for a single class.
    """
    ranked = np.where(np.isfinite(answers), answers.astype(np.float64), -np.inf)
    areas = []
    for k in np.unique(targets):
        own = targets == k
        n_own, n_rest = int(own.sum()), int((~own).sum())
        if n_rest:
            # Ties share the mean of their ranks. The rank sum of a class less its smallest possible value is the number
            # of pairs in the right order (Mann & Whitney's U).
            _, position, count = np.unique(ranked[:, k], return_inverse=True, return_counts=True)
            rank = (np.cumsum(count) - (count - 1) / 2)[position]
            areas.append((rank[own].sum() - n_own * (n_own + 1) / 2) / (n_own * n_rest))
    return float(np.mean(areas)) if areas else 0.5


def roc_components(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """One number an example whose mean is the area under the ROC curve (DeLong, DeLong & Clarke-Pearson 1988).

    The variance of that mean is the area's, so that what holds of means (intervals, comparisons in pairs) holds of the
    area. An example's share in the area is how much of the other side it stands on the right side of, a tie counting
    half; its distance from the area weighs by how few of its own side there are.

    Args:
        positive: (n,) bool.
        scores: (n,), higher if positive is more likely.

    Returns:
        (n,) float64; .5 each if one side is empty.
    """
    sides = (positive, ~positive)
    if not all(side.any() for side in sides):
        return np.full(len(scores), 0.5)
    found = np.empty(len(scores))
    for own, other in (sides, sides[::-1]):
        ranked = np.sort(scores[other])
        below = (np.searchsorted(ranked, scores[own], "left") + np.searchsorted(ranked, scores[own], "right")) / 2
        found[own] = below / len(ranked)
    found[~positive] = 1 - found[~positive]
    area = found[positive].mean()
    # The area is the mean of either side, so the weighted distances of each side sum to 0: the mean stays the area.
    weight = np.where(positive, len(scores) / positive.sum(), len(scores) / (~positive).sum())
    return np.asarray(area + weight * (found - area))


def macro_f1(targets: np.ndarray, decisions: np.ndarray) -> float:
    """The mean of F1 = 2TP / (2TP + FP + FN) over the classes that targets or decisions, (n,) each, name."""
    classes = np.unique(np.concatenate([targets, decisions]))
    return float(np.mean([_f1(targets == k, decisions == k) for k in classes]))


def macro_f1_labels(targets: np.ndarray, decisions: np.ndarray) -> float:
    """The mean over labels of F1; 0 for a label that is neither given nor decided.

    Args:
        targets: (n, n_labels) of 0 and 1.
        decisions: The same.
    """
    return float(np.mean([_f1(t == 1, d == 1) for t, d in zip(targets.T, decisions.T, strict=True)]))


def _f1(targets: np.ndarray, decisions: np.ndarray) -> float:
    hits = int((targets & decisions).sum())
    total = int(targets.sum()) + int(decisions.sum())
    return 2 * hits / total if total else 0.0


def r2(targets: np.ndarray, values: np.ndarray) -> float:
    """1 less the share of variance left over, averaged over targets.

    A constant target counts 0, or 1 if it is met.

    Args:
        targets: (n, n_targets).
        values: The same.
    """
    left = ((targets - values) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    # np.where computes both branches: without the inner one a constant target would be divided by 0, with a warning.
    shares = np.where(total > 0, 1 - left / np.where(total > 0, total, 1), np.where(left > 0, 0.0, 1.0))
    return float(shares.mean())


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) float64 of the rows of a, (n, k), to those of b, (m, k)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    # |a − b|² = |a|² + |b|² − 2 a·b needs (n, m) numbers at once, not (n, m, k). Rounding can make it negative.
    products = a @ b.T
    return np.asarray(np.maximum(np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * products, 0.0))


ROWS_AT_ONCE = 512
"""Rows of which the distances to all others are held together."""


def errors_to_nearest(values: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """(n, k) squared differences between each of the values, (n, …), and the nearest of the examples, (m, …)."""
    rows = values.reshape(len(values), -1)
    others = examples.reshape(len(examples), -1)
    nearest = [
        squared_distances(rows[start : start + ROWS_AT_ONCE], others).argmin(axis=1)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    return np.asarray(np.square(rows - others[np.concatenate(nearest)], dtype=np.float64))
