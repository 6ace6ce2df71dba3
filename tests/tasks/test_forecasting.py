"""Series to be continued: windows and their borders, times in tables, what needs no network, the families' heads."""

import json
import math
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.serialization import JSON
from searchkit.core.space import Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Grouped, HasBaselines
from searchkit.core.training import Training
from searchkit.data.summary import describe
from searchkit.data.windows import Cut
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor, deploy
from searchkit.tasks import predictions, registry
from searchkit.tasks.problems.forecasting import ForecastTask
from searchkit.tasks.problems.mackey_glass import mackey_glass
from searchkit.testing.families import parameter_names
from searchkit.testing.fixture import Fixture
from searchkit.testing.suite import run_check

ROOT = Path(__file__).parents[2]
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


# ── Windows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_forecast_lies_within_its_split_and_no_step_is_forecast_in_two(tmp_path: Path) -> None:
    task = made(tmp_path, split="0.6,0.2,0.2")
    ends = {"train": (0, 180), "val": (180, 240), "test": (240, 300)}
    values = channels(300).round(6).astype(np.float32)
    seen_by: dict[str, set[int]] = {}
    for split, (first, end) in ends.items():
        raw, truth, rows = task.raw(split)["series"], task.truth(split), task.splits()[split]
        assert len(raw) == len(truth) == len(rows) == task.n_examples(split)
        forecast = [int(row) + 24 + h for row in rows for h in range(8)]
        assert max(forecast) == end - 1 and min(forecast) == (24 if split == "train" else first)
        seen_by[split] = set(forecast)
        for i in (0, len(rows) - 1):
            np.testing.assert_allclose(raw[i], values[rows[i] : rows[i] + 24].T, rtol=1e-6)
            np.testing.assert_allclose(truth[i], values[rows[i] + 24 : rows[i] + 32].T, rtol=1e-6)
    assert not seen_by["train"] & seen_by["val"] and not seen_by["val"] & seen_by["test"]
    assert int(task.splits()["train"][-1]) + 32 == 180  # neither does a window of train see a step of val


def test_splits_by_rows_leave_the_rest_out(tmp_path: Path) -> None:
    task = made(tmp_path, split="150,50,60")
    assert task.cut.ends == (150, 200, 260)
    assert {split: task.n_examples(split) for split in ("train", "val", "test")} == {
        "train": 150 - 32 + 1,
        "val": 50 - 8 + 1,
        "test": 60 - 8 + 1,
    }


def test_scales_come_from_train_alone(tmp_path: Path) -> None:
    task = made(tmp_path, split="0.6,0.2,0.2")
    train = task.stream[:180].astype(np.float64)

    def change(rows: list[list[str]]) -> None:
        for row in rows[181:]:
            row[1:] = [f"{9 + 7 * float(cell):.6f}" for cell in row[1:]]

    (tmp_path / "b").mkdir()
    other = registry.load(write(tmp_path / "b", change=change) | {"split": "0.6,0.2,0.2"})
    for name, values in task.preprocessor().state_dict().items():
        assert torch.equal(values, other.preprocessor().state_dict()[name])
    assert task.goal.unit == pytest.approx(tuple(train.std(axis=0)), rel=1e-6)
    scaled = task.preprocessor()(torch.from_numpy(task.stream[None, :180].transpose(0, 2, 1).copy()))
    torch.testing.assert_close(scaled.mean(2), torch.zeros(1, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(2, correction=0), torch.ones(1, 3), rtol=0, atol=1e-4)


def test_targets_come_first_to_the_network_and_leave_in_their_own_unit(tmp_path: Path) -> None:
    task = made(tmp_path, target="walk,wave")
    assert task.spec.outputs == (TensorSpec("forecast", (2, 8)),) and task.spec.inputs[0].shape == (3, 24)
    assert task.spec.forecasts and not task.spec.by_step and not task.spec.reconstructs
    raw = task.raw("val")["series"]
    scaled = task.preprocessor()(torch.from_numpy(raw.copy()))
    for place, channel in enumerate((2, 0, 1)):
        column = task.stream[: task.cut.ends[0], channel].astype(np.float64)
        wanted = (raw[:, channel] - column.mean()) / column.std()
        np.testing.assert_allclose(scaled[:, place].numpy(), wanted, rtol=1e-4, atol=1e-4)
    batch = next(iter(task.batches("val", Training(batch_size=64), seed=0, device="cpu")))
    torch.testing.assert_close(batch.inputs[0], scaled[:64])
    np.testing.assert_allclose(task.postprocessor()(batch.target).numpy(), task.truth("val")[:64], rtol=1e-4, atol=1e-3)


def test_a_batch_is_its_windows_with_what_follows(tmp_path: Path) -> None:
    task = made(tmp_path, target="wave")
    n_seen = 0
    for batch in task.batches("train", Training(batch_size=32), seed=3, device="cpu"):
        x, y = batch.inputs[0], batch.target
        assert x.shape[1:] == (3, 24) and y.shape[1:] == (1, 8) and len(x) == len(y)
        n_seen += len(x)
        scaled = task.preprocessor()(torch.from_numpy(task.raw("train")["series"].copy()))
        at = [int((scaled == one).flatten(1).all(1).nonzero()[0]) for one in x[:4]]
        for one, row in zip(y[:4], at, strict=True):
            torch.testing.assert_close(one, scaled[row + 8, :1, -8:])
        break
    assert n_seen == 32


def test_errors_are_in_deviations_of_train(tmp_path: Path) -> None:
    task = made(tmp_path)
    again = task.baselines()["the last step again"]
    found = task.evaluate(again, "test")
    raw, truth = task.raw("test")["series"], task.truth("test")
    unit = np.array(task.goal.unit)[:, None]
    wanted = (((raw[:, :, -1:] - truth) / unit) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4)
    assert found.metrics["mse"] == pytest.approx(wanted.mean(), rel=1e-4)
    assert found.metrics["mae"] == pytest.approx(np.abs((raw[:, :, -1:] - truth) / unit).mean(), rel=1e-4)
    assert found.decisions.shape == found.targets.shape == (len(raw), 3, 8)


def test_packing_keeps_the_stream_and_not_the_windows(tmp_path: Path) -> None:
    task = made(tmp_path, target="walk")
    config, arrays = task.pack()
    assert sum(array.size for name, array in arrays.items() if name.startswith("input")) == 300 * 3
    other = registry.unpack(json.loads(json.dumps(config)), {name: array.copy() for name, array in arrays.items()})
    assert isinstance(other, ForecastTask) and other.cut == task.cut and other.fingerprint == task.fingerprint
    assert (other.spec, other.goal, other.answers) == (task.spec, task.goal, task.answers)
    assert made(tmp_path, target="wave").fingerprint != task.fingerprint
    assert made(tmp_path, target="walk", horizon=9).fingerprint != task.fingerprint


def test_the_summary_tells_times_splits_and_what_needs_no_network(tmp_path: Path) -> None:
    task = made(tmp_path, target="wave")
    told = describe(json.loads(json.dumps(task.summary())))
    assert told["times"] == "column 'when', 2016-07-01 00:00:00 to 2016-07-13 11:00:00, a step is 1 hour"
    assert "train 0 to 203" in told["rows"] and "test 240 to 299 (53)" in told["rows"]
    assert told["window"] == "24 steps, of which 8 more are answered" and "wave" in told["predicts"]
    assert "the last step again" in told["no network"] and "the last 24 steps again" in told["no network"]


def test_windows_that_stand_twice_are_counted(tmp_path: Path) -> None:
    stamps = times(240)

    def repeat(rows: list[list[str]]) -> None:
        for k in range(1, 241):
            rows[k][1:] = rows[1 + (k - 1) % 24][1:]

    task = registry.load(write(tmp_path, stamps=stamps, change=repeat) | {"target": "wave"})
    summary = task.summary()
    assert summary["in_train_and_test"] == task.n_examples("test")
    assert summary["duplicates"] == sum(max(0, task.n_examples(split) - 24) for split in ("train", "val", "test"))


def test_blocks_of_windows_hang_together(tmp_path: Path) -> None:
    task = made(tmp_path)
    assert isinstance(task, Grouped) and isinstance(task, HasBaselines)
    groups = task.groups("test")
    assert groups is not None and len(groups) == task.n_examples("test")
    assert np.bincount(groups)[:-1].tolist() == [8] * (len(groups) // 8)


# ── Without a network ────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Refused ──────────────────────────────────────────────────────────────────────────────────────────────────────────

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


@refused("is a series to be continued, which 'regression' is not for")
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


# ── Networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

FAMILIES = ("rnn", "mlp", "cnn1d", "transformer")
FORECAST = DataSpec("series", (TensorSpec("series", (3, 32)),), (TensorSpec("forecast", (2, 8)),))


def family(name: str) -> Space:
    return load_space(ROOT / "spaces" / f"{name}.py")


@pytest.mark.parametrize("name", FAMILIES)
def test_families_answer_each_step_to_come(name: str) -> None:
    space = family(name)
    assert space.accepts(FORECAST) is None
    x = torch.randn(4, 3, 32)
    for apart in (True, False):
        for direct in (True, False):
            torch.manual_seed(0)
            net = space.build(replace(space.arch(), apart=apart, direct=direct, level=True), FORECAST).eval()
            with torch.no_grad():
                out = net(x)
                moved = net(x + torch.tensor([5.0, -2.0, 3.0])[:, None])
            assert out.shape == (4, 2, 8)
            # a series that stands higher is answered as much higher
            torch.testing.assert_close(
                moved - out, torch.tensor([5.0, -2.0])[:, None].expand(4, 2, 8), rtol=0, atol=1e-4
            )
            if apart:
                with torch.no_grad():
                    torch.testing.assert_close(net(x[:, [1, 0, 2]]), out[:, [1, 0]], rtol=1e-4, atol=1e-5)
                    torch.testing.assert_close(net(torch.cat([x[:, :2], 9 + x[:, 2:]], 1)), out)


def test_the_linear_map_starts_as_nothing_and_adds_to_the_network() -> None:
    space = family("rnn")
    with_map, without = (
        _seeded(lambda direct=direct: space.build(space.arch(apart=True, direct=direct, level=True), FORECAST))
        for direct in (True, False)
    )
    x = torch.randn(4, 3, 32)
    without.load_state_dict({k: v for k, v in with_map.state_dict().items() if not k.startswith("direct")})
    with torch.no_grad():
        torch.testing.assert_close(with_map(x), without(x))
        with_map.direct.weight.copy_(torch.randn(8, 32))
        added = (x - x[:, :, -1:])[:, :2] @ with_map.direct.weight.T
        torch.testing.assert_close(with_map(x), without(x) + added, rtol=1e-4, atol=1e-4)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def test_other_families_refuse_a_forecast() -> None:
    for name in ("hybrid", "autoencoder", "cnn", "gpt"):
        reason = family(name).accepts(FORECAST)
        assert reason is not None and len(reason) > 10


def test_parameters_of_a_forecast_keep_their_names(tmp_path: Path) -> None:
    """A stored study knows its trials by them; those of other data are in tests/golden."""
    spec = made(tmp_path).spec
    for name in FAMILIES:
        asked = set(parameter_names(family(name), spec))
        assert {"apart", "direct", "level"} <= asked and "hop" not in asked
        assert ("frames" in asked) == (name in ("rnn", "transformer"))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return Fixture(family("rnn"), registry.load({"task": "mackey-glass"}), tmp_path_factory.mktemp("rnn"))


CHECKED = (
    "parameters_keep_their_kind", "every_parameter_matters", "output_shape", "gradients", "eval_ignores_other_rows",
    "weights_round_trip", "export_agrees", "prune_shrinks", "distill_matches", "quantize_shrinks",
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKED)
def test_rnn_holds_on_a_series_to_be_continued(check: str, subject: Fixture) -> None:
    result = run_check(check, subject)
    assert result.outcome == "passed", result.detail


def test_the_exported_file_takes_and_gives_the_series_own_units(tmp_path: Path) -> None:
    """Channels in the table's order, though one in the middle is forecast; any number of windows."""
    task = made(tmp_path, target="pulse")
    space = family("rnn")
    torch.manual_seed(0)
    net = space.build(space.arch(hidden=8, stem_width=8, apart=True, direct=True, level=True), task.spec)
    deployed = deploy(task.preprocessor(), net, task.postprocessor())
    raw = task.raw("val")
    onnx_io.export(
        deployed, task.inputs, task.answers, tmp_path / "m.onnx", example={"series": raw["series"][:1].copy()}
    )
    found = OnnxPredictor(tmp_path / "m.onnx")(raw)["forecast"]
    wanted = TorchPredictor(deployed, task.inputs, task.answers)(raw)["forecast"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    assert found.shape == task.truth("val").shape and 400 < found.mean() < 600


def test_verify_measures_in_the_channels_units() -> None:
    verify = runpy.run_path(str(ROOT / "searchkit" / "stages" / "bundle" / "verify.py"), run_name="verify")
    rng = np.random.default_rng(0)
    answers, target, unit = rng.normal(size=(5, 2, 4)), rng.normal(size=(5, 2, 4)), [0.5, 20.0]
    wanted = float((((answers - target) / np.array(unit)[:, None]) ** 2).mean())
    assert verify["metric"]("mse", answers, {}, target, [], unit) == pytest.approx(wanted)
    assert verify["metric"]("mse", answers, {}, target, []) == pytest.approx(float(((answers - target) ** 2).mean()))
    with pytest.raises(Exception, match="no targets 'y'"):
        verify["metric"]("mse", answers, {"series": answers}, None, [], unit)


# ── Intervals of examples that hang together ─────────────────────────────────────────────────────────────────────────


def test_errors_by_step_are_those_of_the_answers(tmp_path: Path) -> None:
    task = made(tmp_path)
    found = {name: task.evaluate(rival, "test") for name, rival in task.baselines().items()}
    first = found["the last step again"]
    drawn = predictions.FORECAST.errors(first, found)["by_step"]
    assert list(drawn) == ["the network", *found] and drawn["the network"] == drawn["the last step again"]
    assert np.mean(drawn["the network"]) == pytest.approx(first.metrics["mse"], rel=1e-4)


def test_cut_survives_json() -> None:
    from searchkit.core.serialization import freeze, thaw

    cut = Cut(24, 8, (0, 2), (100, 120, 150), "hourly")
    assert thaw(Cut, json.loads(json.dumps(freeze(cut)))) == cut


def test_a_window_too_short_for_the_stem_is_infeasible() -> None:
    space = family("rnn")
    short = DataSpec("series", (TensorSpec("series", (1, 8)),), (TensorSpec("forecast", (1, 2)),))
    with pytest.raises(Infeasible, match="a frame of 9"):
        space.build(space.arch(frame=9), short)
