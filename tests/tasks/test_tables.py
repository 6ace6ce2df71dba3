"""Tables: headers, delimiters, imputation, categories, and rows that stand twice."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import make_csv, write_npz

from searchkit.core.serialization import JSON
from searchkit.data.summary import describe
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask
from searchkit.testing.fixture import CheckFailed
from searchkit.testing.tasks import TASK_CHECKS

random = np.random.default_rng(0)


def test_a_table_is_imputed_flagged_scaled_and_encoded(tmp_path: Path) -> None:
    task = registry.load({"data": make_csv(tmp_path / "people.csv"), "target": "good"})
    assert [(c.name, c.kind, c.categories) for c in task.columns] == [
        ("age", "numeric", ()),
        ("pay", "numeric", ()),
        ("job", "categorical", ("clerk", "cook", "smith")),
    ]
    assert task.labels == ("no", "yes") and task.spec.inputs[0].shape == (2 + 1 + 3,)
    summary = task.summary()
    assert summary["missing_by_column"] == {"pay": 12} and summary["kind"] == "classification"
    train = task.raw("train")["features"]
    scaled = task.preprocessor()(torch.from_numpy(train)).numpy()
    assert np.array_equal(scaled[:, 2], np.isnan(train[:, 1]))
    assert np.array_equal(scaled[:, 3:], np.eye(3)[train[:, 2].astype(int)])
    pay = np.where(np.isnan(train[:, 1]), np.nanmedian(train[:, 1]), train[:, 1])
    assert np.allclose(scaled[:, 1], (pay - pay.mean()) / pay.std(), atol=1e-5)
    strange = task.preprocessor()(torch.tensor([[30.0, 2.5, -1.0], [30.0, 2.5, float("nan")]]))
    assert not strange[:, 3:].any()


@pytest.mark.parametrize("target", ["c3", "3", "-1"])
def test_a_table_without_a_header(tmp_path: Path, target: str) -> None:
    task = registry.load({"data": make_csv(tmp_path / "people.csv", header=False), "target": target})
    assert [column.name for column in task.columns] == ["c0", "c1", "c2"] and task.data.targets == ("c3",)
    assert sum(task.summary()["rows"].values()) == 120


def test_a_header_of_words_over_words(tmp_path: Path) -> None:
    lines = ["color,taste"] + [f"{'red' if k % 2 else 'blue'},{'sweet' if k % 4 else 'sour'}" for k in range(40)]
    (tmp_path / "fruit.csv").write_text("\n".join(lines))
    task = registry.load({"data": str(tmp_path / "fruit.csv"), "target": "taste"})
    assert task.labels == ("sour", "sweet") and sum(task.summary()["rows"].values()) == 40
    (tmp_path / "bare.csv").write_text("\n".join(lines[1:]))
    assert registry.load({"data": str(tmp_path / "bare.csv"), "target": "-1"}).data.targets == ("c1",)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    text = Path(make_csv(tmp_path / "people.csv")).read_text().replace(",", delimiter)
    (tmp_path / "people.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert [c.name for c in registry.load({"data": str(tmp_path / "people.csv"), "target": "good"}).columns][0] == "age"


def test_a_second_table_is_the_test_split(tmp_path: Path) -> None:
    train, test = make_csv(tmp_path / "a.csv"), make_csv(tmp_path / "b.csv", 30)
    lines = Path(test).read_text().replace("smith", "pilot").replace("yes", "yes.").replace("no", "no.")
    Path(test).write_text(lines)
    task = registry.load({"data": train, "test_data": test, "target": "good"})
    assert task.data.rows["test"].tolist() == list(range(120, 150)) and task.labels == ("no", "yes")
    assert set(task.raw("test")["features"][:, 2]) == {0.0, 1.0, -1.0}  # pilot stands in no training row
    summary = task.summary()
    assert summary["in_train_and_test"] == 20 and summary["duplicates"] == 0


def test_the_check_of_splits_knows_honest_overlap_from_rows_in_two_splits(tmp_path: Path) -> None:
    x = random.normal(size=(60, 4)).astype(np.float32)
    y = np.arange(60) % 2
    path = write_npz(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    honest = registry.load({"data": path})
    assert honest.summary()["in_train_and_test"] == 20
    TASK_CHECKS["splits_are_apart"](honest)
    rows = honest.data.rows
    leaky = ArrayTask(replace(honest.data, rows={**rows, "train": np.union1d(rows["train"], rows["test"][:3])}))
    with pytest.raises(CheckFailed, match="3 rows are in train and in test"):
        TASK_CHECKS["splits_are_apart"](leaky)

    class Silent(ArrayTask):
        def summary(self) -> dict[str, JSON]:
            return {**super().summary(), "in_train_and_test": 0}

    with pytest.raises(CheckFailed, match="are in train too, and the summary counts 0"):
        TASK_CHECKS["splits_are_apart"](Silent(honest.data))


def test_the_summary_is_told_in_words(tmp_path: Path) -> None:
    table = describe(registry.load({"data": make_csv(tmp_path / "people.csv"), "target": "good"}).summary())
    assert table["rows"] == "120: train 82, val 14, test 24 (split seed 0)"
    assert table["columns"] == "2 numeric: age, pay; 1 categorical: job (3)"
    assert re.fullmatch(r"one of 2 classes: no \(\d+\), yes \(\d+\)", table["predicts"])
    assert table["missing"] == "12 values: pay (12)" and list(table)[-1] == "fingerprint"
    assert table["overlap"] == "0 rows of test also in train or val"
    assert describe(registry.load({"task": "diabetes"}).summary())["predicts"] == "a quantity: progression"
    pictures = describe(registry.load({"task": "digits-reconstruction"}).summary())
    assert pictures["predicts"] == "the input itself" and "columns" not in pictures
    assert all("_" not in what and words for what, words in pictures.items())


def test_duplicates_are_counted(tmp_path: Path) -> None:
    x = random.normal(size=(50, 4)).astype(np.float32)
    x[1] = x[0]
    path = write_npz(
        tmp_path / "d.npz", x_train=x, y_train=np.arange(50) % 2, x_test=x[:5] * 1, y_test=np.arange(5) % 2
    )
    summary = registry.load({"data": path}).summary()
    in_one = 1 if summary["duplicates"] == 2 else 0  # rows 0 and 1 are in one of train and val, or in both
    assert summary["duplicates"] == 1 + in_one and summary["in_train_and_test"] == 5


def test_quantities_and_classes_among_whole_numbers(tmp_path: Path) -> None:
    lines = ["x,few,many"] + [f"{k * 0.5},{k % 4},{(k * 7) % 50}" for k in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert registry.load({"data": str(tmp_path / "t.csv"), "target": "few"}).spec.n_classes == 4
    many = registry.load({"data": str(tmp_path / "t.csv"), "target": "many"})
    assert many.goal.metric == "rmse" and many.data.targets == ("many",)
    assert registry.load({"data": str(tmp_path / "t.csv"), "target": "few", "kind": "regression"}).goal.metric == "rmse"
    rebuilt = registry.load({"data": str(tmp_path / "t.csv"), "kind": "reconstruction"})
    assert rebuilt.spec.reconstructs and rebuilt.answers[0].shape == (3,)


def test_parquet_equals_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    csv = pytest.importorskip("pyarrow.csv")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = make_csv(tmp_path / "people.csv")
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    assert isinstance(table, pyarrow.Table)
    parquet.write_table(table, tmp_path / "people.parquet")
    ours = registry.load({"data": path, "target": "good"})
    theirs = registry.load({"data": str(tmp_path / "people.parquet"), "target": "good"})
    assert ours.fingerprint == theirs.fingerprint and ours.columns == theirs.columns
