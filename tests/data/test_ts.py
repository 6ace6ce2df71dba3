"""Series in .ts files: one channel and many, equal lengths and not, with the test split beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from searchkit.tasks import registry

HEADER = "# a comment\n@problemName X\n@timeStamps false\n@missing false\n"


def write_ts(path: Path, rows: list[str], says: str, classes: str = "@classLabel true up down") -> str:
    path.write_text(f"{HEADER}{says}\n{classes}\n@data\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def row(length: int, seed: int, label: str, channels: int = 2) -> str:
    values = np.random.default_rng(seed).normal(size=(channels, length)).round(3)
    return ":".join([*(",".join(map(str, channel)) for channel in values), label])


def test_unequal_lengths_and_a_test_split(tmp_path: Path) -> None:
    labels = ("down", "up")
    says = "@univariate false\n@dimensions 2\n@equalLength false"
    train = [row(5 + k % 4, k, labels[k % 2]) for k in range(24)]
    test = [row(9, 100 + k, labels[k % 2]) for k in range(6)]
    path = write_ts(tmp_path / "X_TRAIN.ts", train, says)
    write_ts(tmp_path / "X_TEST.ts", test, says)
    task = registry.load({"data": path})
    assert task.name == "X" and task.labels == ("up", "down") and task.spec.varies_in_length
    assert task.inputs[0].shape == (2, 9) and task.data.rows["test"].tolist() == list(range(24, 30))
    assert task.data.inputs["lengths"].tolist() == [5 + k % 4 for k in range(24)] + [9] * 6
    values = np.array([[float(v) for v in channel.split(",")] for channel in test[3].split(":")[:-1]], np.float32)
    assert np.array_equal(task.data.inputs["series"][27], values) and task.data.target[27] == 0
    even = registry.load({"data": path, "steps": 6})
    assert even.inputs[0].shape == (2, 6) and not even.spec.varies_in_length
    other = registry.load({"data": path, "test_data": write_ts(tmp_path / "other.ts", test[:4], says)})
    assert other.n_examples("test") == 4


def test_a_quantity_at_the_end_of_a_row(tmp_path: Path) -> None:
    rows = [row(7, k, str(k % 5), channels=1) for k in range(30)]
    path = write_ts(
        tmp_path / "q.ts", rows, "@univariate true\n@equalLength true\n@seriesLength 7", "@targetLabel true"
    )
    task = registry.load({"data": path})
    assert task.goal.metric == "rmse" and task.inputs[0].shape == (1, 7)
    assert task.data.target[:, 0].tolist() == [k % 5 for k in range(30)]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """U+2028 and others are line ends for str.splitlines, and characters like any in a comment."""
    rows = [row(7, k, ("up", "down")[k % 2]) for k in range(30)]
    path = write_ts(tmp_path / "c.ts", rows, "# by \u2028 him \x85 and \x0c her\n@univariate false")
    assert registry.load({"data": path}).n_examples("train") > 0


def test_rows_without_a_class_are_rebuilt(tmp_path: Path) -> None:
    rows = [row(7, k, "x", channels=1).rpartition(":")[0] for k in range(30)]
    path = write_ts(tmp_path / "r.ts", rows, "@univariate true", "@classLabel false")
    assert registry.load({"data": path}).spec.reconstructs


@pytest.mark.parametrize(
    ("name", "shape", "rows", "n_classes", "varies"),
    [("ItalyPowerDemand", (1, 24), (67, 1029), 2, False), ("JapaneseVowels", (12, 29), (270, 370), 9, True)],
)
def test_the_archives(
    stored_data: Callable[[str], Path],
    name: str,
    shape: tuple[int, int],
    rows: tuple[int, int],
    n_classes: int,
    varies: bool,
) -> None:
    task = registry.load({"data": str(stored_data("ucr") / f"{name}_TRAIN.ts")})
    assert task.inputs[0].shape == shape and task.spec.n_classes == n_classes and task.spec.varies_in_length == varies
    assert (task.n_examples("train") + task.n_examples("val"), task.n_examples("test")) == rows
    if varies:
        assert (task.data.inputs["lengths"].min(), task.data.inputs["lengths"].max()) == (7, 29)
