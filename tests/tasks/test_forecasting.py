"""Series to be continued: windows and their borders, scales, batches, scores and the summary."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hourly_series import channels, made, times, write

from searchkit.core.data_spec import TensorSpec
from searchkit.core.task import Grouped, HasBaselines
from searchkit.core.training import Training
from searchkit.data.summary import describe
from searchkit.data.windows import Cut
from searchkit.tasks import registry
from searchkit.tasks.problems.forecasting import ForecastTask


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


def test_cut_survives_json() -> None:
    from searchkit.core.serialization import freeze, thaw

    cut = Cut(24, 8, (0, 2), (100, 120, 150), "hourly")
    assert thaw(Cut, json.loads(json.dumps(freeze(cut)))) == cut
