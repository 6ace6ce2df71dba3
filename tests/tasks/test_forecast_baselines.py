"""Forecasts without a network: ridge regression, a season, and published figures."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hourly_series import made

from searchkit.tasks import predictions, registry
from searchkit.tasks.problems.forecasting import ForecastTask
from searchkit.tasks.problems.mackey_glass import mackey_glass


def test_ridge_finds_a_linear_rule() -> None:
    """A sum of two waves obeys a linear recurrence: from a window, every later step is a linear map."""
    t = np.arange(1200)
    stream = (np.sin(t / 3) + 0.5 * np.sin(t / 7 + 1))[:, None].astype(np.float32)
    found = _task_of(stream)
    scores = {name: found.evaluate(rival, "test").metrics["mse"] for name, rival in found.baselines().items()}
    assert scores["ridge regression"] < 1e-3 < scores["the last step again"]


def _task_of(stream: np.ndarray) -> ForecastTask:
    from searchkit.data.dataset import Column, RawDataset
    from searchkit.data.source import Source as Said
    from searchkit.tasks.prepare import make_task

    names = tuple(f"c{k}" for k in range(stream.shape[1]))
    made = make_task(
        RawDataset("s", stream, None, "the series", "series", kind="forecasting", targets=names,
              columns=tuple(Column(name, "numeric") for name in names)),
        Said(data="s.csv", problem="forecasting", window=32, horizon=16),
    )  # fmt: skip
    assert isinstance(made, ForecastTask)
    return made


def test_a_season_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stream = (np.tile(rng.normal(size=12), 50) + 0.01 * rng.normal(size=600))[:, None].astype(np.float32)
    found = _task_of(stream)
    names = list(found.baselines())
    assert names[1] in ("the last 12 steps again", "the last 24 steps again")
    assert found.evaluate(found.baselines()[names[1]], "test").metrics["mse"] < 0.01


def test_mackey_glass_solves_its_equation() -> None:
    """Until the delay is over the past is 1.2, and the equation has a solution in closed form."""
    rise = 0.2 * 1.2 / (1 + 1.2**10) / 0.1
    wanted = [rise + (1.2 - rise) * math.exp(-0.1 * t) for t in range(1, 18)]
    np.testing.assert_allclose(mackey_glass(17, transient=0), wanted, rtol=1e-7)
    series = mackey_glass()
    assert series.shape == (3000,) and 0.2 < series.min() < 0.5 and 1.2 < series.max() < 1.4
    np.testing.assert_array_equal(mackey_glass(50, transient=0)[17:], mackey_glass(33, transient=17))


def test_etth1_has_its_published_figures(stored_data: Callable[[str], Path]) -> None:
    """12/4/4 months, 336 -> 96: repeat-last 1.294, ridge .370 (measured apart); 2,785 test windows (Zhou et al.)."""
    source = {"data": str(stored_data("ett") / "ETTh1.csv"), "kind": "forecasting", "split": "8640,2880,2880"}
    task = registry.load(source | {"window": 336, "horizon": 96})
    assert isinstance(task, ForecastTask)
    assert [task.n_examples(split) for split in ("train", "val", "test")] == [8209, 2785, 2785]
    scores = {name: task.evaluate(rival, "test").metrics for name, rival in task.baselines().items()}
    assert scores["the last step again"]["mse"] == pytest.approx(1.294, abs=1e-3)
    assert scores["ridge regression"]["mse"] == pytest.approx(0.370, abs=2e-3)
    assert scores["ridge regression"]["mae"] == pytest.approx(0.392, abs=2e-3)
    assert "the last 24 steps again" in scores
    assert "a step is 1 hour" in task.cut.times and task.data.targets[-1] == "OT"


def test_errors_by_step_are_those_of_the_answers(tmp_path: Path) -> None:
    task = made(tmp_path)
    found = {name: task.evaluate(rival, "test") for name, rival in task.baselines().items()}
    first = found["the last step again"]
    drawn = predictions.FORECAST.errors(first, found)["by_step"]
    assert list(drawn) == ["the network", *found] and drawn["the network"] == drawn["the last step again"]
    assert np.mean(drawn["the network"]) == pytest.approx(first.metrics["mse"], rel=1e-4)
