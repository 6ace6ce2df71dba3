"""Forecasts without a network, which one has to beat: the last step or season again, and ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.data.windows import Cut

RIDGE_ROWS = 50_000
"""Windows of single channels that the ridge regression is fitted to, evenly spread."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge regression, over the mean square of its inputs; val chooses."""

SEASON_WINDOWS = 200
"""Of val, evenly spread, by which the length of a season is chosen."""


@dataclass(frozen=True)
class SeasonalNaive:
    """Repeats the last `season` steps of a window, as often as the horizon needs them."""

    cut: Cut
    season: int

    def __call__(self, inputs: Arrays) -> Arrays:
        """See `Predict`."""
        at = self.cut.window - self.season + np.arange(self.cut.horizon) % self.season
        return {"forecast": inputs["series"][:, list(self.cut.targets)][:, :, at]}


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression (Hoerl & Kennard 1970) from a window to what follows, both less the window's last value.

    Attributes:
        cut: How windows are cut.
        std: (K,) the unit of each channel.
        weights: (window + 1, horizon) float64, which all channels share; the last row is the constant.
    """

    cut: Cut
    std: np.ndarray
    weights: np.ndarray

    def __call__(self, inputs: Arrays) -> Arrays:
        """See `Predict`."""
        series = inputs["series"]
        parts = []
        # In parts: the windows are overlapping views, and a float64 copy of all is many times the stream.
        for start in range(0, len(series), 1024):
            seen = series[start : start + 1024, list(self.cut.targets)].astype(np.float64)
            last = seen[:, :, -1:]
            moves = (seen - last) / self.std[:, None]
            parts.append(last + (moves @ self.weights[:-1] + self.weights[-1]) * self.std[:, None])
        return {"forecast": np.concatenate(parts).astype(np.float32)}


def best_season(cut: Cut, unit: np.ndarray, seen: np.ndarray, to_come: np.ndarray) -> int:
    """Choose the length of a season by the error of repeating it.

    Args:
        cut: How windows are cut.
        unit: (K,) the unit of each channel.
        seen: (n, C, window).
        to_come: (n, K, horizon), what follows each window.

    Returns:
        Steps; 1 if no season does better than the last step alone.
    """
    errors = [
        float(np.square((SeasonalNaive(cut, season)({"series": seen})["forecast"] - to_come) / unit[:, None]).mean())
        for season in range(1, cut.window + 1)
    ]
    return 1 + int(np.argmin(errors))


def ridge(cut: Cut, unit: np.ndarray, seen: np.ndarray, to_come: np.ndarray, error: Callable[[Ridge], float]) -> Ridge:
    """Fit a ridge regression, with the best of PENALTIES.

    Args:
        cut: How windows are cut.
        unit: (K,) the unit of each channel.
        seen: (n, C, window).
        to_come: (n, K, horizon), what follows each window.
        error: By which the penalty is chosen.
    """
    shown = seen[:, list(cut.targets)].astype(np.float64)
    last = shown[:, :, -1:]
    # (n · K, window) and (n · K, horizon): each channel of a window is an example of its own.
    x = ((shown - last) / unit[:, None]).reshape(-1, cut.window)
    y = ((to_come - last) / unit[:, None]).reshape(-1, cut.horizon)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    gram, moments, found = x.T @ x, x.T @ y, []
    for penalty in PENALTIES:
        diagonal = np.full(cut.window + 1, penalty * np.trace(gram) / len(gram))
        diagonal[-1] = 0.0
        weights = np.linalg.lstsq(gram + np.diag(diagonal), moments, rcond=None)[0]
        found.append(Ridge(cut, unit, weights))
    return min(found, key=error)
