"""The column of times in a table of series."""

from pathlib import Path

import numpy as np
import pytest
from hourly_series import write

from searchkit.tasks import registry
from searchkit.tasks.problems.forecasting import ForecastTask


@pytest.mark.parametrize(
    ("stamps", "said"),
    [
        ([f"{1900 + k // 12}-{1 + k % 12:02d}" for k in range(60)], "a step is a month"),
        ([f"{1900 + k}" for k in range(60)], "a step is 1"),
        ([f"{1900 + k}-01-01" for k in range(60)], "a step is a year"),
        ([f"{1467331200 + 900 * k}" for k in range(60)], "a step is 900"),
        ([f"2016/07/01 00:{k:02d}:30" for k in range(60)], "a step is 1 minute"),
        ([f"{0.25 * k:.2f}" for k in range(60)], "a step is 0.25"),
        ([str(np.datetime64("2015-12-30") + k).replace("-", "") for k in range(60)], "a step is 1 day"),
        ([str(np.datetime64("1969-12-15") + k).replace("-", "") for k in range(60)], "a step is 1 day"),
    ],
)
def test_times_are_read(stamps: list[str], said: str, tmp_path: Path) -> None:
    def name(rows: list[list[str]]) -> None:
        rows[0][0] = "Date"

    task = registry.load(write(tmp_path, stamps=stamps, change=name) | {"window": 8, "horizon": 2})
    assert isinstance(task, ForecastTask)
    assert task.cut.times.startswith(f"column 'Date', {stamps[0]} to {stamps[-1]}") and said in task.cut.times
    assert [column.name for column in task.columns] == ["wave", "pulse", "walk"]


def test_without_times_the_rows_are_steps(tmp_path: Path) -> None:
    def leave_out(rows: list[list[str]]) -> None:
        for row in rows:
            del row[0]

    task = registry.load(write(tmp_path, change=leave_out))
    assert (
        isinstance(task, ForecastTask) and "no column of times" in task.cut.times and task.spec.inputs[0].shape[0] == 3
    )


def test_a_column_of_times_may_be_named(tmp_path: Path) -> None:
    def number(rows: list[list[str]]) -> None:
        for k, row in enumerate(rows[1:]):
            row[0] = str(3 * k)

    source = write(tmp_path, change=number)
    named, taken = registry.load(source | {"time_column": "when"}), registry.load(source)
    assert named.spec.inputs[0].shape[0] == 3 and taken.spec.inputs[0].shape[0] == 4
