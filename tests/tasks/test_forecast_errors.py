"""Series that cannot be continued are refused in one sentence."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hourly_series import Source, write

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

Case = Callable[[Path], Source]
REFUSED: dict[str, tuple[Case, tuple[str, ...]]] = {}


def refused(*patterns: str) -> Callable[[Case], Case]:
    def keep(case: Case) -> Case:
        REFUSED[case.__name__] = (case, patterns)
        return case

    return keep


def edit(folder: Path, change: Callable[[list[list[str]]], None]) -> Source:
    return write(folder, change=change)


@refused("'2016-07-01 03:00:00' on line 6", "comes after '2016-07-01 04:00:00' on line 5", "sort the rows by 'when'")
def out_of_order(folder: Path) -> Source:
    def swap(rows: list[list[str]]) -> None:
        rows[4], rows[5] = rows[5], rows[4]

    return edit(folder, swap)


@refused(
    "There is a gap in the times", "'2016-07-01 09:00:00' on line 11", "followed by '2016-07-01 12:00:00'", "1 hour"
)
def gap(folder: Path) -> Source:
    def cut(rows: list[list[str]]) -> None:
        del rows[11:13]

    return edit(folder, cut)


@refused("There is a gap", "'1901-12' on line 25", "a month")
def missing_month(folder: Path) -> Source:
    stamps = [f"{1900 + k // 12}-{1 + k % 12:02d}" for k in range(60) if k != 24]
    return write(folder, stamps=stamps) | {"window": 8, "horizon": 2}


@refused("steps are uneven", "'2016-07-01 04:00:00' on line 6", "bring them to one spacing")
def uneven(folder: Path) -> Source:
    def move(rows: list[list[str]]) -> None:
        for row in rows[6:]:
            row[0] = row[0].replace(":00:00", ":20:00")
        del rows[6]
        rows.insert(6, ["2016-07-01 04:20:00", "1", "2", "3"])

    return edit(folder, move)


@refused("The time '2016-07-01 04:00:00' on line 6", "stands again on line 7", "a file of its own")
def repeated(folder: Path) -> Source:
    return edit(folder, lambda rows: rows.insert(6, list(rows[5])))


@refused("The time on line 8", "'yesterday', which is no date", "2016-07-01 00:00:00")
def no_date(folder: Path) -> Source:
    def spoil(rows: list[list[str]]) -> None:
        rows[7][0] = "yesterday"

    return edit(folder, spoil)


@refused("The time on line 8", "missing; fill it in")
def missing_time(folder: Path) -> Source:
    def spoil(rows: list[list[str]]) -> None:
        rows[7][0] = ""

    return edit(folder, spoil)


@refused("A horizon of 400 steps does not fit into", "has 300", "shorter")
def horizon_longer_than_the_series(folder: Path) -> Source:
    return write(folder) | {"horizon": 400}


@refused("A window of 300 steps does not fit")
def window_longer_than_the_series(folder: Path) -> Source:
    return write(folder) | {"window": 300}


@refused("The train split of", "has 204 steps", "a window of 200", "needs 209", "--split")
def window_longer_than_train(folder: Path) -> Source:
    return write(folder) | {"window": 200}


@refused("The val split of", "has 30 steps, fewer than the horizon of 40", "--horizon", "--split")
def horizon_longer_than_val(folder: Path) -> Source:
    return write(folder) | {"horizon": 40, "split": "0.7,0.1,0.2"}


@refused("Column 'pulse'", "holds the text 'high' on line 12", "take it out", "--time-column")
def words_among_channels(folder: Path) -> Source:
    def spoil(rows: list[list[str]]) -> None:
        rows[11][2] = "high"

    return edit(folder, spoil)


@refused("Column 'walk'", "missing in 2 rows, the first on line 4", "fill them in")
def missing_values(folder: Path) -> Source:
    def spoil(rows: list[list[str]]) -> None:
        rows[3][3] = ""
        rows[8][3] = "NaN"

    return edit(folder, spoil)


@refused("Column 'walk'", "is inf on line 4", "finite")
def infinite_value(folder: Path) -> Source:
    def spoil(rows: list[list[str]]) -> None:
        rows[3][3] = "inf"

    return edit(folder, spoil)


@refused("no channel 'OT'", "its channels are wave, pulse, walk")
def unknown_channel(folder: Path) -> Source:
    return write(folder) | {"target": "wave,OT"}


@refused("The channel 'wave'", "is 1 in every row of train", "--target")
def constant_channel(folder: Path) -> Source:
    def flatten(rows: list[list[str]]) -> None:
        for row in rows[1:250]:
            row[1] = "1"

    return edit(folder, flatten)


@refused("no column but the times 'when'")
def nothing_but_times(folder: Path) -> Source:
    def leave_out(rows: list[list[str]]) -> None:
        for row in rows:
            del row[1:]

    return edit(folder, leave_out)


@refused("no column 'hour'", "its columns are when, wave, pulse, walk")
def unknown_time_column(folder: Path) -> Source:
    return write(folder) | {"time_column": "hour"}


@refused("--split '0.6,0.2'", "write 0.6,0.2,0.2 or 8640,2880,2880")
def split_of_two(folder: Path) -> Source:
    return write(folder) | {"split": "0.6,0.2"}


@refused("--split '0.6,0.3,0.2'", "sums to 1.1")
def split_of_too_much(folder: Path) -> Source:
    return write(folder) | {"split": "0.6,0.3,0.2"}


@refused("--split '200,100,100'", "asks for 400 rows", "has 300")
def split_of_too_many_rows(folder: Path) -> Source:
    return write(folder) | {"split": "200,100,100"}


def split_of(split: str) -> Case:
    return lambda folder: write(folder) | {"split": split}


for part in ("inf", "-inf", "nan", "1e400", "-1", "0", "1.5"):
    REFUSED[f"split_of_{part}"] = split_of(f"{part},1,1"), (f"--split '{part},1,1' is neither", "write 0.6,0.2,0.2")
REFUSED["split_of_1e300"] = split_of("1e300,1,1"), (r"asks for 1e\+300 rows", "has 300")


@refused("--split-seed 3", "follow one another in time", "--split")
def split_seed(folder: Path) -> Source:
    return write(folder) | {"split_seed": 3}


@refused("--horizon 0 is out of range", "at least 1")
def no_horizon(folder: Path) -> Source:
    return write(folder) | {"horizon": 0}


@refused("--horizon 8 is for forecasting a series", "add --problem forecasting")
def horizon_of_a_table(folder: Path) -> Source:
    return {"data": write(folder)["data"], "target": "wave", "horizon": 8}


@refused("--horizon 8 is for --problem forecasting", "iris", "leave it out")
def horizon_of_a_table_task(folder: Path) -> Source:
    return {"task": "iris", "horizon": 8}


@refused("is no series to be continued", "leave out --problem forecasting")
def a_task_that_is_no_series(folder: Path) -> Source:
    return {"task": "digits", "kind": "forecasting"}


@refused("is a series to forecast, which 'regression' is not for")
def another_kind_for_a_series(folder: Path) -> Source:
    return {"task": "mackey-glass", "kind": "regression"}


@refused("task 'mackey-glass' brings its own splits", "--split")
def split_of_a_task(folder: Path) -> Source:
    return {"task": "mackey-glass", "split": "0.6,0.2,0.2"}


@refused("--problem forecasting continues a table", "a.npz")
def an_archive(folder: Path) -> Source:
    np.savez(folder / "a.npz", x=np.zeros((20, 2)))
    return {"data": str(folder / "a.npz"), "kind": "forecasting"}


@refused("--test-data", "is for")
def a_second_table(folder: Path) -> Source:
    source = write(folder)
    return source | {"test_data": source["data"]}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_series_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    case, patterns = REFUSED[name]
    with pytest.raises(BadInput) as caught:
        registry.load(case(tmp_path))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 400
    for pattern in patterns:
        assert re.search(pattern, sentence), sentence
