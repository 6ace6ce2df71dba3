"""Data given in memory become files that the readers read, so that a run can be resumed and moved as any other can.

Arrays become an `.npz` archive, tables a `.csv` file, labeled texts a folder of `label text` lines. pandas, polars,
pyarrow, torch and datasets are recognized by their protocols (column names and a way to a column; a length and a way to
an example), and none of them is imported here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.data.dataset import Column
from searchkit.data.readers.csv import DELIMITERS, MISSING, Table, encode, read_columns

FOLDER = "data"
"""The folder inside a run that holds its data, if they were given in memory."""

SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val", "test": "test"}
"""The names that a split may have in what was given, and ours for it."""

ARCHIVE = ("x", "y", "lengths", "edges", "a", "b")
"""Keys, up to the first underscore, of a dictionary of arrays that is laid out as an .npz archive is."""

ALLOWED = (
    "arrays (x, y), a dictionary of arrays, a pandas, polars or pyarrow table with a target column, a torch or Hugging "
    "Face dataset, or a path"
)


@dataclass(frozen=True)
class Examples:
    """Examples as arrays. x: (n, …); y: (n,) or (n, n_targets); lengths: (n,), the valid steps of padded examples."""

    x: np.ndarray
    y: np.ndarray | None = None
    lengths: np.ndarray | None = None


@dataclass(frozen=True)
class Columns:
    """A table: values by column name, as Python objects; all columns are equally long."""

    values: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Texts:
    """Texts with a label each; without labels if only answers are wanted."""

    texts: Sequence[str]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Archive:
    """Arrays by the names that an .npz archive gives them."""

    arrays: Arrays = field(default_factory=dict)


Part: TypeAlias = Examples | Columns | Texts | Archive


def is_path(data: object) -> bool:
    """Whether the data are named by a path instead of given in memory."""
    return isinstance(data, (str, Path))


def store(data: object, folder: Path, *, name: str = "data", target: object = None, test: object = None) -> JSON:
    """Write data given in memory into `folder`, in a format that the readers read.

    Args:
        data: arrays, a table or a dataset; or a dictionary of them by split: "train", "val" and "test".
        folder: an empty folder.
        name: the stem of the file; it becomes the name of the task.
        target: the name of the target column, or the targets themselves, one for each example.
        test: the examples of the test split, if they are given apart from `data`.

    Returns:
        The entries of `Source` that name what was written: "data", and "test_data" and "target" if they apply.

    Raises:
        BadInput: the data are of no known form, or cannot be written without loss.
    """
    parts = {split: part_of(given, target) for split, given in _by_split(data, test).items()}
    kinds = {type(part) for part in parts.values()}
    if len(kinds) > 1:
        raise BadInput("The splits are of different kinds; give all of them as arrays, or all of them as tables.")
    first = next(iter(parts.values()))
    if isinstance(first, Columns):
        return _store_tables({k: part for k, part in parts.items() if isinstance(part, Columns)}, folder, name, target)
    if isinstance(first, Texts):
        return _store_texts({k: part for k, part in parts.items() if isinstance(part, Texts)}, folder, name)
    arrays = first.arrays if isinstance(first, Archive) else _arrays(parts)
    if isinstance(first, Archive) and len(parts) > 1:
        raise BadInput("A dictionary of arrays holds its own splits; name them x_train, y_train, x_test and y_test.")
    path = folder / f"{name}.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return {"data": str(path)}


def relocated(source: Mapping[str, JSON], run: Path) -> dict[str, JSON]:
    """The stored source of a run, with the paths of data inside the run as they are now that the run lies at `run`."""

    def moved(path: str) -> str:
        parts = Path(path).parts
        if FOLDER not in parts:
            return path
        inside = run.joinpath(*parts[len(parts) - 1 - parts[::-1].index(FOLDER) :]).resolve()
        return str(inside) if inside.exists() else path

    return {key: moved(value) if key in ("data", "test_data") else value for key, value in source.items()}


def part_of(data: object, target: object = None, *, strict: bool = True) -> Part:
    """Recognize one split of data given in memory.

    Args:
        data: see `store`.
        target: see `store`.
        strict: False leaves out the columns beside the one that holds arrays or texts, as is right for prediction.

    Raises:
        BadInput: the data are of no known form.
    """
    if isinstance(data, (Examples, Columns, Texts, Archive)):
        return data
    data = data.collect() if hasattr(data, "collect") and not hasattr(data, "__len__") else data  # a lazy polars frame
    if isinstance(data, Mapping) and target is None and {str(key).split("_")[0] for key in data} <= set(ARCHIVE):
        return Archive({str(key): _array(values, f"'{key}'") for key, values in data.items()})
    if isinstance(data, tuple) and len(data) == 2 and target is None:
        return part_of(data[0], data[1])
    columns = _columns(data)
    if columns is not None:
        return _from_columns(columns, target, strict)
    if hasattr(data, "__array__") and np.ndim(data) == 1 and _is_item(_first(_values(data))):
        return _from_items(list(_values(data)), target)
    if hasattr(data, "__array__") or hasattr(data, "detach"):
        return Examples(_array(data, "x"), _labels(target))
    if isinstance(data, (str, bytes)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise BadInput(f"Data of type {type(data).__name__} cannot be read; give {ALLOWED}.")
    return _from_items([data[k] for k in range(len(data))], target)


def encode_table(part: Columns, columns: Sequence[Column]) -> np.ndarray:
    """Encode a table as the training table was encoded.

    Args:
        part: a table that has at least these columns.
        columns: the feature columns of the training table, in order.

    Returns:
        (n, n_columns) float64: numbers, category indices (-1 for an unknown category), and NaN for a missing value.

    Raises:
        BadInput: a column is absent, or a value of a numeric column is not a number.
    """
    given = _texts_by_name(part)
    missing = [column.name for column in columns if column.name not in given]
    if missing:
        raise BadInput(f"The table has no column '{missing[0]}'; it needs {', '.join(c.name for c in columns)}.")
    cells = tuple(tuple(_present(cell) for cell in given[column.name]) for column in columns)
    table = Table(Path("the given table"), tuple(column.name for column in columns), cells, 0)
    return np.stack([encode(table, k, column) for k, column in enumerate(columns)], axis=1)


# ── Recognizing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_split(data: object, test: object) -> dict[str, object]:
    """The data by split; all of them under "" if they are not split."""
    is_split = isinstance(data, Mapping) and "train" in data and set(data) <= set(SPLITS)
    if isinstance(data, Mapping) and is_split:
        if test is not None:
            raise BadInput("The test split is given twice, in data and in test_data; leave one of them out.")
        return {SPLITS[str(split)]: part for split, part in data.items()}
    return {"": data} if test is None else {"train": data, "test": test}


def _columns(data: Any) -> dict[Any, Sequence[Any]] | None:
    """Values by column of a table, a Hugging Face dataset, a record array or a dictionary; None for anything else."""
    if isinstance(data, Mapping):
        names: list[Any] = list(data)
    elif isinstance(data, np.ndarray) and data.dtype.names:
        names = list(data.dtype.names)
    else:  # pyarrow and datasets say column_names; pandas and polars say columns
        found = getattr(data, "column_names", None)
        found = getattr(data, "columns", None) if found is None else found
        if found is None or not hasattr(data, "__getitem__"):
            return None
        names = list(found)
    repeated = [name for k, name in enumerate(names) if name in names[:k]]
    if repeated:
        raise BadInput(f"The table has more than one column named '{repeated[0]}'; rename one.")
    return {name: _values(data[name]) for name in names}


def _from_columns(columns: dict[Any, Sequence[Any]], target: object, strict: bool) -> Part:
    """A column of arrays, pictures or texts is what the network reads; else the columns are a table."""
    of_target = _column_named(columns, target)
    if isinstance(target, (list, tuple)) and target and all(isinstance(n, str) and n in columns for n in target):
        raise BadInput(
            f"A table has one target column, and {len(target)} were named; give the features and the targets as arrays, "
            "(n, features) and (n, n_targets)."
        )
    if target is not None and of_target is None and not isinstance(target, (str, int)):
        of_target = str(getattr(target, "name", None) or "target")
        columns = {**columns, of_target: _values(target)}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise BadInput(f"The columns have {sorted(lengths)} rows; all columns of a table have equally many.")
    features = {name: values for name, values in columns.items() if name != of_target}
    whole = [name for name, values in features.items() if _is_array(_first(values)) or _are_texts(values)]
    if whole and (len(whole) == 1 or not strict) and (len(features) == 1 or not strict):
        values, labels = features[whole[0]], None if of_target is None else columns[of_target]
        if not _is_array(_first(values)):
            return Texts([str(text) for text in values], [] if labels is None else [_word(label) for label in labels])
        x, steps = _stacked(values)
        return Examples(x, _labels(labels), steps)
    if whole and _is_array(_first(features[whole[0]])):
        raise BadInput(
            f"Column '{whole[0]}' holds arrays, and there are {len(features)} columns beside the target; select that "
            "column and the target alone."
        )
    return Columns({_safe_name(name): values for name, values in columns.items()})


def _column_named(columns: Mapping[Any, object], target: object) -> Any:
    """The column that a target names; None if it names none, or is the values themselves."""
    return target if isinstance(target, (str, int)) and target in columns else None


def _from_items(items: list[Any], target: object) -> Part:
    """A torch dataset, or a list: each item is x, (x, y), or a dictionary with the target's key."""
    if not items:
        raise BadInput("The dataset is empty; give examples.")
    if isinstance(items[0], Mapping):
        return _from_columns({name: [item[name] for item in items] for name in items[0]}, target, strict=True)
    if isinstance(items[0], tuple):
        if len(items[0]) != 2:
            raise BadInput(f"An item of the dataset has {len(items[0])} parts; an item is x, or (x, y).")
        items, target = [item[0] for item in items], [item[1] for item in items]
    if isinstance(items[0], str):
        return Texts(items, [] if target is None else [_word(label) for label in _values(target)])
    x, lengths = _stacked(items)
    return Examples(x, _labels(target), lengths)


def _values(column: Any) -> Sequence[Any]:
    """A column, or targets, as a sequence of Python objects."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        return list(column.astype("datetime64[us]").tolist())
    if isinstance(column, np.ndarray) and column.dtype.kind == "O":
        return list(column)
    if hasattr(column, "detach"):
        return list(_array(column, "target"))
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    if isinstance(column, (str, bytes)) or not isinstance(column, Iterable):
        raise BadInput(f"'{column}' is neither a column of the data nor a sequence of targets.")
    return list(column)


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if not _is_missing(value)), None)


def _is_item(value: Any) -> bool:
    """A whole example inside an array of objects: a text, or an array of its own."""
    return isinstance(value, str) or _is_array(value)


def _is_array(value: Any) -> bool:
    """An array, a tensor, a picture, or a list of numbers: more than one number."""
    if isinstance(value, (list, tuple)):
        return True
    if isinstance(value, np.generic):
        return False
    return (hasattr(value, "__array__") or hasattr(value, "__array_interface__")) and np.ndim(value) > 0


MOST_REPEATED = 0.5
"""Texts are mostly different from one another; a column of phrases that occur again is a category."""


def _are_texts(values: Sequence[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) or not texts:
        return False
    spaced = sum(" " in text.strip() for text in texts)
    return spaced > len(texts) / 2 and len(set(texts)) > MOST_REPEATED * len(texts)


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _array(values: Any, what: str) -> np.ndarray:
    """As an array of numbers or strings. Raises BadInput on objects."""
    found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if found.dtype.kind == "O":
        if any(_is_missing(value) for value in found.reshape(-1)):
            raise BadInput(f"{what} has a missing value; remove that example, or fill in the value.")
        found = np.array([value.item() if hasattr(value, "item") else value for value in found.reshape(-1)])
        if found.dtype.kind == "O" or len(found) != np.asarray(values).size:
            raise BadInput(f"{what} holds objects that are neither numbers nor strings; give a plain array.")
        return found.reshape(np.asarray(values).shape)
    if found.dtype.kind not in "biufUS":
        raise BadInput(f"{what} is of type {found.dtype}; give numbers or strings.")
    return found


def _labels(target: Any) -> np.ndarray | None:
    """The targets as an array; None if there are none."""
    if target is None:
        return None
    values = target if hasattr(target, "__array__") or hasattr(target, "detach") else _values(target)
    if isinstance(values, Sequence):
        values = [np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for v in values]
        values = np.stack(values) if len({v.dtype.kind for v in values}) == 1 else np.array(values, dtype=object)
    return _array(values, "The target")


def _stacked(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """(n, …) examples; those that differ along their last axis are padded with zeros, and their lengths returned."""
    arrays = [_array(value, f"Example {k}") for k, value in enumerate(values)]
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return np.stack(arrays), None
    if len({shape[:-1] for shape in shapes}) > 1 or any(len(shape) not in (1, 2) for shape in shapes):
        one, other = sorted(shapes)[:2]
        raise BadInput(f"The examples have different shapes, such as {one} and {other}; resize them to one shape.")
    lengths = np.array([array.shape[-1] for array in arrays])
    padded = np.zeros((len(arrays), *arrays[0].shape[:-1], int(lengths.max())), np.result_type(*arrays))
    for row, array in zip(padded, arrays, strict=True):
        row[..., : array.shape[-1]] = array
    return padded, lengths


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _cell(value: Any, name: str) -> str:
    """A value of a table as the text that a CSV file has for it."""
    if _is_missing(value):
        return ""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        return " ".join(value.split())
    if _is_array(value) or isinstance(value, (Mapping, bytes)):
        raise BadInput(f"Column '{name}' holds a {type(value).__name__}; a table holds numbers, words and times.")
    return repr(value) if isinstance(value, float) else str(value)


def _word(label: Any) -> str:
    """A label as one word: a line of text begins with it."""
    return "_".join(_cell(label, "the target").split())


def _present(cell: str) -> str:
    return "" if cell.lower() in MISSING else cell


def _safe_name(name: Any) -> str:
    """A column's name as a header holds it: one that is a number, missing or spaced apart would be taken for a value."""
    text = " ".join(str(name).split())
    try:
        float(text)
    except ValueError:
        return f"c{text}" if text.lower() in MISSING else text
    return f"c{text}"


def _texts_by_name(part: Columns) -> dict[str, list[str]]:
    return {name: [_cell(value, name) for value in values] for name, values in part.values.items()}


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arrays(parts: Mapping[str, Part]) -> Arrays:
    """x, y and lengths of each split, under the names that `read_npz` reads."""
    found: Arrays = {}
    for split, part in parts.items():
        assert isinstance(part, Examples)
        suffix = f"_{split}" if split else ""
        if part.y is not None and len(part.y) != len(part.x):
            raise BadInput(
                f"There are {len(part.x)} examples and {len(part.y)} targets; give one target for each example."
            )
        for name, values in (("x", part.x), ("y", part.y), ("lengths", part.lengths)):
            if values is not None:
                found[name + suffix] = values
    return found


def _store_tables(parts: dict[str, Columns], folder: Path, name: str, target: object) -> JSON:
    if "val" in parts:
        raise BadInput("A table brings train and test alone; put the validation rows to train, which they are drawn from.")
    found: dict[str, JSON] = {}
    for split, part in parts.items():
        path = folder / (f"{name}-test.csv" if split == "test" else f"{name}.csv")
        _write_table(part, path)
        found["test_data" if split == "test" else "data"] = str(path)
    if target is None:
        return found
    names = list(next(iter(parts.values())).values)
    if not isinstance(target, (str, int)):  # the targets themselves became the last column
        return {**found, "target": names[-1]}
    return {**found, "target": _safe_name(target) if _safe_name(target) in names else str(target)}


def _write_table(part: Columns, path: Path) -> None:
    """Raises BadInput if the reader would not find the same columns and rows again."""
    cells = _texts_by_name(part)
    delimiter = max(DELIMITERS, key=lambda mark: -sum(mark in name for name in cells))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
    table = read_columns(path)
    n_rows = len(next(iter(cells.values())))
    if list(table.names) != list(cells) or table.n_rows != n_rows:
        raise BadInput(
            f"The table cannot be stored without loss: {len(cells)} columns of {n_rows} rows would be read as "
            f"{len(table.names)} of {table.n_rows}; give columns plain names, and remove rows without any value."
        )


def _store_texts(parts: dict[str, Texts], folder: Path, name: str) -> JSON:
    inside = folder / name
    inside.mkdir()
    for split, part in parts.items():
        if len(part.labels) != len(part.texts):
            raise BadInput("Texts need a label each; name the column of labels by target.")
        lines = []
        for row, (label, text) in enumerate(zip(part.labels, part.texts, strict=True)):
            if not label or not text.split():
                raise BadInput(f"Row {row} lacks its {'text' if label else 'label'}; remove the row or complete it.")
            lines.append(f"{label} {' '.join(text.split())}\n")
        (inside / f"{split or 'train'}.txt").write_text("".join(lines), encoding="utf-8")
    return {"data": str(inside)}
