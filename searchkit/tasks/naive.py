"""Forecasts without a network, which one has to beat: the last step or season again, and ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from searchkit.types import Arrays

if TYPE_CHECKING:
    from .forecasting import Cut, ForecastTask

RIDGE_ROWS = 50_000
"""Windows of single channels that the ridge regression is fitted to, evenly spread."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge regression, over the mean square of its inputs; val chooses."""

SEASON_WINDOWS = 200
"""Of val, evenly spread, by which the length of a season is chosen."""


@dataclass(frozen=True)
class Again:
    """The last `season` steps of a window, as often as the horizon needs them."""

    cut: Cut
    season: int

    def __call__(self, inputs: Arrays) -> Arrays:
        at = self.cut.window - self.season + np.arange(self.cut.horizon) % self.season
        return {"forecast": inputs["series"][:, list(self.cut.targets)][:, :, at]}


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression (Hoerl & Kennard 1970) from a window to what follows, both less the window's last value: weights
    (window + 1, horizon) in float64 that all channels share, the last row for the constant. std: (K,)."""

    cut: Cut
    std: np.ndarray
    weights: np.ndarray

    def __call__(self, inputs: Arrays) -> Arrays:
        series = inputs["series"]
        parts = []
        for start in range(0, len(series), 1024):
            seen = series[start : start + 1024, list(self.cut.targets)].astype(np.float64)
            last = seen[:, :, -1:]
            moves = (seen - last) / self.std[:, None]
            parts.append(last + (moves @ self.weights[:-1] + self.weights[-1]) * self.std[:, None])
        return {"forecast": np.concatenate(parts).astype(np.float32)}


def best_season(task: ForecastTask) -> int:
    """By the error of repeating it over some windows of val; 1 where none does better than the last step alone."""
    raw, truth = task.raw("val")["series"], task.truth("val")
    some = np.unique(np.linspace(0, len(raw) - 1, SEASON_WINDOWS).astype(int))
    scaled = np.array(task.goal.unit)[:, None]
    seen, to_come = {"series": raw[some]}, truth[some]
    errors = [
        float(np.square((Again(task.cut, season)(seen)["forecast"] - to_come) / scaled).mean())
        for season in range(1, task.cut.window + 1)
    ]
    return 1 + int(np.argmin(errors))


def ridge(task: ForecastTask) -> Ridge:
    cut, std = task.cut, np.array(task.goal.unit)
    n, n_channels = task.n_examples("train"), len(cut.targets)
    some = np.unique(np.linspace(0, n - 1, max(1, min(n, RIDGE_ROWS // n_channels))).astype(int))
    seen = task.raw("train")["series"][some][:, list(cut.targets)].astype(np.float64)
    last = seen[:, :, -1:]
    x = ((seen - last) / std[:, None]).reshape(-1, cut.window)
    y = ((task.truth("train")[some] - last) / std[:, None]).reshape(-1, cut.horizon)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    gram, moments, found = x.T @ x, x.T @ y, []
    for penalty in PENALTIES:
        diagonal = np.full(cut.window + 1, penalty * np.trace(gram) / len(gram))
        diagonal[-1] = 0.0
        weights = np.linalg.lstsq(gram + np.diag(diagonal), moments, rcond=None)[0]
        found.append(Ridge(cut, std, weights))
    return min(found, key=lambda one: task.evaluate(one, "val").metrics["mse"])
