"""Distance of two sets in feature space: the Fréchet distance with a score for each example, precision and recall.

The Fréchet distance of two Gaussians (Fréchet 1957; Dowson & Landau 1982; of features: Heusel et al. 2017,
arXiv:1706.08500), |m − m'|² + tr(C + C' − 2 (C C')^½), is no mean over examples as it stands. It is the squared
Wasserstein distance, so by Kantorovich duality it is the sum of the means of two potentials, one over generated and one
over real examples (Villani 2003, Topics in Optimal Transportation, section 2.1), quadratic here. They are its influence
functions too. Hence each example has a score; their mean is the distance exactly, and their bootstrap is the
infinitesimal jackknife (Efron 1982) in both sets. The published FID uses Inception's features; this one does not.
"""

from __future__ import annotations

import numpy as np

from searchkit.tasks.metrics import ROWS_AT_ONCE, squared_distances

NEIGHBOUR = 3
"""Kynkäänniemi et al. 2019 take the third nearest for the radius of an example."""

MOST_ROWS = 2000
"""Of each set, for precision and recall: their cost grows with the square."""

_RANK = 1e-10  # eigenvalues below this share of the largest are none


def potentials(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Scores whose mean is the Fréchet distance of two sets.

    Args:
        drawn: (n, k) features of generated examples.
        real: (n, k) features of real examples.

    Returns:
        (n,) float64: the potential of row i of the one plus that of row i of the other.
    """
    drawn, real = drawn.astype(np.float64), real.astype(np.float64)
    away, around = drawn - drawn.mean(axis=0), real - real.mean(axis=0)
    shift = drawn.mean(axis=0) - real.mean(axis=0)
    cov_drawn, cov_real = away.T @ away / len(away), around.T @ around / len(around)
    there, back = _transport(cov_drawn, cov_real), _transport(cov_real, cov_drawn)
    # Their means are tr C − tr (C C')^½ and tr C' − tr (C C')^½: the terms with the shift have the mean 0, since `away`
    # and `around` are centered.
    of_drawn = np.square(away).sum(axis=1) - ((away @ there) * away).sum(axis=1) + 2 * away @ shift
    of_real = np.square(around).sum(axis=1) - ((around @ back) * around).sum(axis=1) - 2 * around @ shift
    return np.asarray(of_drawn + of_real + shift @ shift)


def _transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The symmetric matrix of the optimal map between centered Gaussians with these covariances.

    It is T^½ (T^½ S T^½)^-½ T^½, with the inverse on the range alone.
    """
    root = _power(target, 0.5)
    return np.asarray(root @ _power(root @ source @ root, -0.5) @ root)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    # eigh reads one triangle, and a product is symmetric up to rounding only. Eigenvalues come in ascending order.
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    # The 1e-300 is for a matrix of zeros (all examples alike), of which no eigenvalue is kept.
    kept = values > _RANK * max(float(values[-1]), 1e-300)
    powers = np.zeros_like(values)
    powers[kept] = values[kept] ** exponent
    return np.asarray((vectors * powers) @ vectors.T)


def precision_and_recall(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Precision and recall of a generated set (Kynkäänniemi et al. 2019, arXiv:1904.06991).

    Precision is the share of generated examples that lie among the real ones; recall the reverse. An example lies among
    a set if it is nearer to one of its members than that member's third nearest neighbor.

    Args:
        drawn: (n, k) features of generated examples.
        real: (n, k) features of real examples.
    """
    drawn, real = _thinned(drawn), _thinned(real)
    return _share_among(drawn, real), _share_among(real, drawn)


def _share_among(rows: np.ndarray, examples: np.ndarray) -> float:
    """The share of `rows` within the radius of an example."""
    reach = min(NEIGHBOUR, len(examples) - 1)  # the nearest is the example itself
    radii = [np.partition(d, reach, axis=1)[:, reach] for d in _by_rows(examples, examples)]
    radius = np.concatenate(radii)
    return float(np.mean(np.concatenate([(d <= radius).any(axis=1) for d in _by_rows(rows, examples)])))


def _by_rows(rows: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    return [squared_distances(rows[i : i + ROWS_AT_ONCE], others) for i in range(0, len(rows), ROWS_AT_ONCE)]


def _thinned(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST_ROWS, len(rows))).astype(int))])
