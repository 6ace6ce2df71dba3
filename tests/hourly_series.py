"""A small table with a row an hour, and its task: what the tests of forecasting share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from searchkit.core.serialization import JSON
from searchkit.tasks import registry
from searchkit.tasks.problems.forecasting import ForecastTask

Source = dict[str, JSON]


def times(n: int, hours: int = 1) -> list[str]:
    start = np.datetime64("2016-07-01T00:00:00")
    return [str(start + np.timedelta64(hours * k, "h")).replace("T", " ") for k in range(n)]


def channels(n: int, seed: int = 0) -> np.ndarray:
    """A wave of a day, another of its own level and unit, and a walk."""
    t, noise = np.arange(n), np.random.default_rng(seed).normal(size=(2, n))
    return np.stack([np.sin(t * 2 * np.pi / 24) + 0.1 * noise[0], 500 + 40 * np.cos(t / 5), noise[1].cumsum()], axis=1)


def write(
    folder: Path,
    n: int = 300,
    *,
    stamps: list[str] | None = None,
    change: Callable[[list[list[str]]], None] = lambda x: None,
) -> Source:
    """A table with a row an hour; change: of its rows, the header the first of them."""
    stamps = times(n) if stamps is None else stamps
    values = channels(len(stamps))
    rows = [["when", "wave", "pulse", "walk"]]
    rows += [[stamp, *(f"{v:.6f}" for v in row)] for stamp, row in zip(stamps, values, strict=True)]
    change(rows)
    path = folder / "hours.csv"
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return {"data": str(path), "kind": "forecasting", "window": 24, "horizon": 8}


def made(folder: Path, **source: JSON) -> ForecastTask:
    task = registry.load(write(folder) | source)
    assert isinstance(task, ForecastTask)
    return task
