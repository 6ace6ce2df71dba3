"""Data given in memory reach the readers unchanged: arrays, tables, texts and datasets, each in every form it has.

pandas, polars and datasets are used if they are installed; stand-ins with the same protocol (columns and a way to one,
a length and a way to an item) are used always.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

import searchkit
from searchkit.config.data import DataConfig
from searchkit.core import scratch
from searchkit.core.errors import BadInput
from searchkit.data import memory, memory_files
from searchkit.data.dataset import RawDataset
from searchkit.data.find import find
from searchkit.data.memory_files import relocated, store

N = 12
WORDS = ["red", "green", None] * (N // 3)
TABLE: dict[str, list[Any]] = {
    "size": [0.1 * k for k in range(N - 1)] + [float("nan")],
    "count": list(range(N)),
    "color": WORDS,
    "label": [k % 2 for k in range(N)],
}


class Series:
    """A column as pandas and polars have it."""

    def __init__(self, values: Sequence[Any], name: Any = None) -> None:
        self.values = values
        self.name = name

    def to_list(self) -> list[Any]:
        return list(self.values)


class Frame:
    """A table as pandas and polars have it: columns, and a column by its name."""

    def __init__(self, columns: Mapping[Any, Sequence[Any]]) -> None:
        self.held = dict(columns)

    @property
    def columns(self) -> list[Any]:
        return list(self.held)

    def __getitem__(self, name: Any) -> Series:
        return Series(self.held[name], name)

    def __len__(self) -> int:
        return N


class Hosted:
    """A dataset as Hugging Face's library has it: column_names, columns by name, examples by number."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.held = dict(columns)
        self.column_names = list(columns)

    def __getitem__(self, key: str | int) -> Any:
        return self.held[key] if isinstance(key, str) else {name: values[key] for name, values in self.held.items()}

    def __len__(self) -> int:
        return len(next(iter(self.held.values())))


class Items(Dataset[Any]):
    """A torch dataset of any items."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


def real(library: str, make: str) -> Any:
    """A table of a library that may be absent."""
    absent = importlib.util.find_spec(library) is None
    skip = pytest.mark.skipif(absent, reason=f"{library} is not installed")

    def table(columns: Mapping[str, Sequence[Any]]) -> Any:
        found: Any = importlib.import_module(library)
        for part in make.split("."):
            found = getattr(found, part)
        return found(columns)

    return pytest.param(table, marks=skip, id=library)


TABLES = [
    pytest.param(Frame, id="stand-in"),
    pytest.param(dict, id="dict"),
    pytest.param(pyarrow.table, id="pyarrow"),
    pytest.param(Hosted, id="hosted stand-in"),
    real("pandas", "DataFrame"),
    real("polars", "DataFrame"),
    real("polars", "LazyFrame"),
    real("datasets", "Dataset.from_dict"),
]


def read(data: Any, folder: Path, **more: Any) -> RawDataset:
    """Through the file, as a run reads it."""
    options = {key: more.pop(key) for key in ("problem", "modality") if key in more}
    return find(DataConfig.parse({**store(data, folder, **more), **options}))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_keeps_its_columns_and_missing_values(table: Callable[..., Any], tmp_path: Path) -> None:
    found = read(table(TABLE), tmp_path, target="label")
    assert [(c.name, c.kind, c.categories) for c in found.columns] == [
        ("size", "numeric", ()),
        ("count", "numeric", ()),
        ("color", "categorical", ("green", "red")),
    ]
    np.testing.assert_array_equal(found.x[:, 0], TABLE["size"])  # every digit of a float
    np.testing.assert_array_equal(found.x[:3, 2], [1.0, 0.0, np.nan])
    assert found.target is not None and found.target.tolist() == TABLE["label"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_may_have_its_targets_beside(table: Callable[..., Any], tmp_path: Path) -> None:
    features = {name: values for name, values in TABLE.items() if name != "label"}
    found = read(table(features), tmp_path, target=np.array(["no", "yes"] * (N // 2)))
    assert found.targets == ("target",) and len(found.columns) == 3
    assert found.target is not None and found.target[:2].tolist() == ["no", "yes"]


@pytest.mark.parametrize("name", ["y", "target", 0, 3])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("table", [pytest.param(Frame, id="stand-in"), real("pandas", "DataFrame")])
def test_targets_that_are_a_column_of_the_table_are_that_column(
    table: Callable[..., Any], place: str, name: Any, tmp_path: Path
) -> None:
    """And no feature, which would tell the answer."""
    labels, features = {name: TABLE["label"]}, {"a": list(range(N)), "b": list(range(N, 0, -1))}
    frame = table({**labels, **features} if place == "first" else {**features, **labels})
    found = read(frame, tmp_path, target=frame[name])
    assert [column.name for column in found.columns] == ["a", "b"] and found.targets == (memory.safe_name(name),)
    assert found.target is not None and found.target.tolist() == TABLE["label"]


def test_a_missing_value_is_the_same_in_the_table_and_beside_it() -> None:
    part = memory.part_of(Frame({"y": [1.0, None, float("nan")], "a": [1, 2, 3]}), Series([1, float("nan"), None], "y"))
    assert isinstance(part, memory.Columns) and part.target == "y" and list(part.values) == ["y", "a"]


def test_the_test_split_is_a_table_of_its_own(tmp_path: Path) -> None:
    later = {name: values[:3] for name, values in TABLE.items()}
    for given in (store(dict(TABLE), tmp_path, target="label", test=later),
                  store({"train": Frame(TABLE), "test": later}, tmp_path, target="label")):  # fmt: skip
        found = find(DataConfig.parse(given))
        assert found.given["test"].tolist() == [N, N + 1, N + 2]


@pytest.mark.parametrize("name", [3, "2019", "na", "1e5"])
def test_a_header_is_no_value(name: Any, tmp_path: Path) -> None:
    """A column whose name is a number or a missing value would make the header look like a row."""
    found = read(Frame({name: list(range(N)), "label": TABLE["label"]}), tmp_path, target="label")
    assert [column.name for column in found.columns] == [f"c{name}"] and len(found.x) == N
    found = read(Frame({"x": [0.5 + k for k in range(N)], name: TABLE["label"]}), tmp_path, target=name)
    assert found.targets == (f"c{name}",)


def test_a_record_array_and_times(tmp_path: Path) -> None:
    records = np.array([(k, 0.5 * k) for k in range(N)], dtype=[("a", int), ("b", float)])
    assert [c.name for c in read(records, tmp_path, target="b").columns] == ["a"]
    moments = np.arange("2024-01-01", "2024-01-13", dtype="datetime64[D]")
    part = memory.part_of({"when": moments, "v": [datetime(2024, 1, 1)] * N}, "v")
    assert memory.texts_by_name(part)["when"][0].startswith("2024-01-01")  # type: ignore[arg-type]


X = np.arange(N * 4, dtype=np.float64).reshape(N, 4)
Y = np.arange(N) % 3


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (torch.tensor(X, requires_grad=True), torch.tensor(Y)),
        (X.tolist(), Y.tolist()),
        {"x": X, "y": Y},
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
        Items([(row, label) for row, label in zip(X, Y, strict=True)]),
        Subset(TensorDataset(torch.tensor(X), torch.tensor(Y)), range(N)),
    ],
    ids=["arrays", "tensors", "lists", "archive", "torch", "items", "subset"],
)
def test_arrays_keep_values_and_types(data: Any, tmp_path: Path) -> None:
    found = read(data, tmp_path)
    np.testing.assert_array_equal(found.x, X)
    assert found.x.dtype == np.float64
    assert found.target is not None and found.target.tolist() == Y.tolist()


def boxed(parts: Sequence[Any]) -> np.ndarray:
    """An array of objects, as pandas and numpy hold lists and arrays."""
    boxes = np.empty(len(parts), dtype=object)
    for k, part in enumerate(parts):
        boxes[k] = part
    return boxes


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("form", ["dictionary", "pair", "targets"])
@pytest.mark.parametrize("width", [1, 4])
def test_an_array_of_equally_long_lists_is_a_matrix(
    width: int, form: str, kind: Callable[..., Any], tmp_path: Path
) -> None:
    x = boxed([kind(row[:width].tolist()) for row in X])
    store({"x": x, "y": Y} if form == "dictionary" else (x, Y) if form == "pair" else (X, x), tmp_path)
    with np.load(tmp_path / "data.npz") as stored:
        np.testing.assert_array_equal(stored["y" if form == "targets" else "x"], X[:, :width])


def test_splits_of_arrays_are_kept(tmp_path: Path) -> None:
    found = read({"train": (X, Y), "validation": (X[:4], Y[:4]), "test": (X[:5], Y[:5])}, tmp_path)
    assert found.given["val"].tolist() == [12, 13, 14, 15] and found.given["test"].tolist() == [16, 17, 18, 19, 20]
    assert len(found.x) == N + 9


def test_a_column_of_pictures_is_what_the_network_reads(tmp_path: Path) -> None:
    pictures = [np.full((8, 8), k, np.uint8) for k in range(N)]
    labels = TABLE["label"]
    items = [{"image": image, "label": label} for image, label in zip(pictures, labels, strict=True)]
    for data in (Hosted({"image": pictures, "label": labels}), Items(items)):
        found = read(data, tmp_path, target="label")
        assert found.x.shape == (N, 8, 8) and found.x.dtype == np.uint8
        assert found.target is not None and found.target.tolist() == TABLE["label"]


def test_examples_of_different_lengths_are_padded(tmp_path: Path) -> None:
    series = [np.ones((2, 3 + k % 4), np.float32) for k in range(N)]
    found = read(Items([(row, label) for row, label in zip(series, Y, strict=True)]), tmp_path)
    assert found.x.shape == (N, 2, 6)
    assert found.lengths is not None and found.lengths.tolist() == [3 + k % 4 for k in range(N)]
    assert found.x[0, :, 3:].sum() == 0 and found.x[0, :, :3].sum() == 6


TEXTS = [f"this is text number {k}\nof two lines" for k in range(N)]


@pytest.mark.parametrize(
    "data",
    [Hosted({"text": TEXTS, "label": Y.tolist()}), Frame({"text": TEXTS, "label": Y.tolist()}), (TEXTS, Y),
     (np.array(TEXTS), Y), Items(list(zip(TEXTS, Y, strict=True)))],
    ids=["hosted", "table", "lists", "array", "torch"],
)  # fmt: skip
def test_texts_become_tokens(data: Any, tmp_path: Path) -> None:
    found = read(data, tmp_path, target=None if isinstance(data, (tuple, Items)) else "label")
    assert found.kind == "classification" and found.tokenizer is not None
    assert found.target is not None and found.target.tolist() == [str(label) for label in Y]
    assert found.lengths is not None and found.lengths.tolist() == [8] * N


@pytest.mark.parametrize(
    ("data", "target", "says"),
    [
        (iter([1, 2]), None, "cannot be read; give arrays"),
        (Items([]), None, "is empty"),
        (Frame({"a": [1, 2], "b": [1]}), "b", "[1, 2] rows"),
        (Frame({"a": TABLE["size"], "b": TABLE["count"]}), ["a", "b"], "one target column"),
        ({"image": [np.ones((2, 2))] * N, "size": TABLE["size"], "label": Y}, "label", "holds arrays"),
        ([np.ones((3, 2, 2)), np.ones((3, 4, 4))], [0, 1], "different shapes"),
        ((X, [None, *Y[1:]]), None, "missing value"),
        ((X, Y[:3]), None, "12 examples and 3 targets"),
        ((X, [object()] * N), None, "neither numbers nor strings"),
        ({"train": (X, Y), "test": Frame(TABLE)}, None, "different kinds"),
        (Frame({"a": [b"1"] * N, "b": Y}), "b", "holds a bytes"),
        (Frame({"a": [None] * N, "b": [None] * N}), None, "the given table has a header and 0 rows"),
        (Frame({"a": [None, *range(1, N)], "b": [None, *range(1, N)]}), None, "without loss"),
        (Frame({"a;b;c": [1] * N, "b": Y, "a;b;d": Y}), None, "every line must have as many"),
        ((["a text", " "] * (N // 2), Y), None, "lacks its text"),
        ((TEXTS, None), None, "need a label each"),
        ({"train": Frame(TABLE), "val": Frame(TABLE)}, "label", "train and test alone"),
        ((X, Y, Y), None, "3"),
        (Frame({"y": TABLE["count"], "a": TABLE["size"]}), Series(Y.tolist(), "y"), "a column 'y', and other targets"),
        (Frame({"target": TABLE["count"], "a": TABLE["size"]}), Y, "a column 'target', and other targets"),
        (Frame({3: TABLE["count"], "c3": TABLE["size"]}), None, "more than one column named 'c3'"),
        ({"train": Frame(TABLE), "test": Frame(TABLE)}, Y, "the data are split; name their column"),
        ((Items(list(zip(X, Y, strict=True))), Y), None, "Targets were given beside pairs"),
        (([(0.5, 1.5)] * N, Y), None, "Targets were given beside pairs"),
        ({"x": [[1], [1, 2]], "y": [0, 1]}, None, "'x' holds lists of different lengths"),
        ({"x": boxed([[1], [1, 2]]), "y": [0, 1]}, None, "shapes, such as (1,) and (2,)"),
        ({"x": boxed([[1, None], [1, 2]]), "y": [0, 1]}, None, "missing value"),
        ((X, [[1], [1, 2]] * (N // 2)), None, "The target holds parts of different shapes"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(data: Any, target: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        store(data, tmp_path, target=target)
    sentence = str(refused.value)
    assert says in sentence and len(sentence) <= 250 and sentence.endswith(".")


def test_an_unknown_category_and_a_missing_value_are_encoded(tmp_path: Path) -> None:
    columns = read(Frame(TABLE), tmp_path, target="label").columns
    given = memory.part_of(
        {"color": ["red", "blue", None], "size": [1, 2, None], "count": [1, 2, 3], "more": list("abc")}
    )
    assert isinstance(given, memory.Columns)
    encoded = memory.encode_table(given, columns)
    np.testing.assert_array_equal(encoded, [[1, 1, 1], [2, 2, -1], [np.nan, 3, np.nan]])
    with pytest.raises(BadInput, match="no column 'size'"):
        memory.encode_table(memory.Columns({"color": ["red"]}), columns)


def test_data_are_staged_where_the_next_start_finds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A search that is killed meanwhile cannot remove them."""
    staged: list[Path] = []

    def killed(data: Any, folder: Path, **more: Any) -> Any:
        staged.append(folder)
        raise BadInput("Stop here.")

    monkeypatch.setattr(memory_files, "store", killed)
    with pytest.raises(BadInput, match="Stop here"):
        searchkit.search("mlp", (X, Y), runs=tmp_path, progress="none")
    found = scratch.NAME.fullmatch(staged[0].name)
    assert found is not None and int(found[2]) == os.getpid() and not staged[0].exists()


def test_data_inside_a_run_are_found_after_it_moved(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (after / "data").mkdir(parents=True)
    (after / "data" / "data.csv").write_text("")
    source = {"data": str(before / "data" / "data.csv"), "target": "label"}
    assert relocated(source, after) == {"data": str(after / "data" / "data.csv"), "target": "label"}
    outside = {"data": "/elsewhere/data/other.csv"}
    assert relocated(outside, after) == outside
