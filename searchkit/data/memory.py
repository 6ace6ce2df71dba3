"""Data given in memory, recognized: arrays, tables, texts, and datasets of examples.

pandas, polars, pyarrow, torch and datasets are known by their protocols (column names and a way to a column; a length
and a way to an example), and none of them is imported here. `memory_files` writes what was recognized.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.data.dataset import Column
from searchkit.data.readers.csv import MISSING, Table, encode

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
    """A table.

    Attributes:
        values: By column name, as Python objects; all columns are equally long.
        target: The name of the column that holds the targets; None if no column of the table was named.
    """

    values: Mapping[str, Sequence[Any]]
    target: str | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.values.values()), ()))


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
    # Keys such as x and y make an archive only if there is no target: else they are the columns of a table.
    if isinstance(data, Mapping) and target is None and {str(key).split("_")[0] for key in data} <= set(ARCHIVE):
        return Archive({str(key): _array(values, f"'{key}'") for key, values in data.items()})
    if isinstance(data, tuple) and target is None:
        if len(data) != 2:
            raise BadInput(f"A tuple of data is (x, y), and {len(data)} parts were given.")
        return part_of(data[0], data[1])
    columns = _columns(data)
    if columns is not None:
        return _from_columns(columns, target, strict)
    # A 1-D array whose elements are texts or arrays is a list of examples, and not one array of numbers.
    if hasattr(data, "__array__") and np.ndim(data) == 1 and _is_item(_first(_values(data))):
        return _from_items(list(_values(data)), target)
    if hasattr(data, "__array__") or hasattr(data, "detach"):
        return Examples(_array(data, "x"), _labels(target))
    if isinstance(data, (str, bytes)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise BadInput(f"Data of type {type(data).__name__} cannot be read; give {ALLOWED}.")
    items: Any = data
    # By index up to the length: a torch dataset need not raise the IndexError at which Python's own iteration ends.
    return _from_items([items[k] for k in range(len(items))], target)


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
    given = texts_by_name(part)
    missing = [column.name for column in columns if column.name not in given]
    if missing:
        raise BadInput(f"The table has no column '{missing[0]}'; it needs {', '.join(c.name for c in columns)}.")
    cells = tuple(tuple(_present(cell) for cell in given[column.name]) for column in columns)
    table = Table(Path("the given table"), tuple(column.name for column in columns), cells, range(part.n_rows))
    return np.stack([encode(table, k, column) for k, column in enumerate(columns)], axis=1)


# ── Recognizing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _columns(data: object) -> dict[Any, Sequence[Any]] | None:
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
    _refuse_repeated(names)  # pandas gives a table instead of a column for a name that occurs twice
    return {name: _values(data[name]) for name in names}


def _from_columns(columns: dict[Any, Sequence[Any]], target: object, strict: bool) -> Part:
    """A column of arrays, pictures or texts is what the network reads; else the columns are a table."""
    of_target = _column_named(columns, target)
    if isinstance(target, (list, tuple)) and target and all(isinstance(n, str) and n in columns for n in target):
        raise BadInput(
            f"A table has one target column, and {len(target)} were named; give features and targets as arrays, (n, "
            "features) and (n, n_targets)."
        )
    if target is not None and of_target is None and not isinstance(target, (str, int)):
        # Neither a name nor a number: these are the targets themselves, and become a column. Those that were taken out
        # of the table, as by frame["y"], are the column of their name: left in as a feature, it would tell the answer.
        name, given = getattr(target, "name", None), _values(target)
        of_target = "target" if name is None or name == "" else name
        if of_target in columns and not _are_same(columns[of_target], given):
            raise BadInput(
                f"The table has a column '{of_target}', and other targets of that name were given beside it; rename "
                "the column, or take it out."
            )
        columns = {**columns, of_target: given}
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
    names = [safe_name(name) for name in columns]
    _refuse_repeated(names)
    return Columns(dict(zip(names, columns.values(), strict=True)), None if of_target is None else safe_name(of_target))


def _are_same(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two columns have the same values; a missing one equals a missing one."""
    return len(ones) == len(others) and all(
        one is other or (_is_missing(one) and _is_missing(other)) or np.array_equal(one, other)
        for one, other in zip(ones, others, strict=True)
    )


def _refuse_repeated(names: Sequence[object]) -> None:
    """Raises BadInput if a name occurs twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BadInput(f"The table has more than one column named '{repeated[0]}'; rename one.")


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
        if target is not None and not isinstance(target, (str, int)):
            raise BadInput("Targets were given beside pairs (x, y); leave them out, or give the examples as an array.")
        items, target = [item[0] for item in items], [item[1] for item in items]
    if isinstance(items[0], str):
        return Texts(items, [] if target is None else [_word(label) for label in _values(target)])
    x, lengths = _stacked(items)
    return Examples(x, _labels(target), lengths)


def _values(column: object) -> Sequence[Any]:
    """A column, or targets, as a sequence of Python objects."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        # tolist gives datetime objects for microseconds, and plain integers for nanoseconds.
        return list(column.astype("datetime64[us]").tolist())
    if isinstance(column, np.ndarray) and column.dtype.kind == "O":
        return list(column)
    if hasattr(column, "detach"):
        return list(_array(column, "target"))
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    if isinstance(column, (str, bytes)) or not isinstance(column, Iterable):
        raise BadInput(f"{column!r} is neither a column of the data nor a sequence of targets.")
    return list(column)


def _first(values: Sequence[object]) -> Any:
    return next((value for value in values if not _is_missing(value)), None)


def _is_item(value: object) -> bool:
    """A whole example inside an array of objects: a text, or an array of its own."""
    return isinstance(value, str) or _is_array(value)


def _is_array(value: Any) -> bool:
    """An array, a tensor, a picture, or a list of numbers: more than one number."""
    if isinstance(value, (list, tuple)):
        return True
    # numpy's scalars have __array__ too.
    if isinstance(value, np.generic):
        return False
    return (hasattr(value, "__array__") or hasattr(value, "__array_interface__")) and np.ndim(value) > 0


MOST_REPEATED = 0.5
"""Texts are mostly different from one another; a column of phrases that occur again is a category."""


def _are_texts(values: Sequence[object]) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) or not texts:
        return False
    spaced = sum(" " in text.strip() for text in texts)
    return spaced > len(texts) / 2 and len(set(texts)) > MOST_REPEATED * len(texts)


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _array(values: object, what: str) -> np.ndarray:
    """As an array of numbers or strings. Raises BadInput on objects, and on lists of different lengths."""
    try:
        found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except ValueError as error:
        raise BadInput(f"{what} holds lists of different lengths; give all of them one length.") from error
    if found.dtype.kind == "O":
        return _unboxed(found, what)
    if found.dtype.kind not in "biufUS":
        raise BadInput(f"{what} is of type {found.dtype}; give numbers or strings.")
    return found


def _unboxed(boxes: np.ndarray, what: str) -> np.ndarray:
    """What only stood in an array of objects: plain numbers or strings, or arrays of one shape, as one array."""
    cells = list(boxes.reshape(-1))
    if any(_is_missing(cell) for cell in cells):
        raise BadInput(f"{what} has a missing value; remove that example, or fill in the value.")
    if any(_is_array(cell) for cell in cells):
        found = _of_one_shape([_array(cell, what) for cell in cells], what)
    else:  # numpy finds their common type
        found = np.array([cell.item() if hasattr(cell, "item") else cell for cell in cells])
    if found.dtype.kind == "O" or len(found) != len(cells):
        raise BadInput(f"{what} holds objects that are neither numbers nor strings; give a plain array.")
    return found.reshape(boxes.shape + found.shape[1:])


def _of_one_shape(arrays: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Stack arrays. Raises BadInput if their shapes differ."""
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise BadInput(
            f"{what} holds parts of different shapes, such as {shapes[0]} and {shapes[1]}; give all of them one."
        )
    return np.stack(arrays)


def _labels(target: object) -> np.ndarray | None:
    """The targets as an array; None if there are none."""
    if target is None:
        return None
    values = target if hasattr(target, "__array__") or hasattr(target, "detach") else _values(target)
    if isinstance(values, Sequence):
        if any(_is_array(value) for value in values):
            return _of_one_shape([_array(value, "The target") for value in values], "The target")
        parts = [np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for v in values]
        # As objects if the types differ: numpy would turn the missing value of ["a", nan] into the text "nan".
        alike = len({part.dtype.kind for part in parts}) == 1
        values = np.array([part.item() for part in parts], dtype=None if alike else object)
    return _array(values, "The target")


def _stacked(values: Sequence[object]) -> tuple[np.ndarray, np.ndarray | None]:
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


def _is_missing(value: object) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _cell(value: object, name: str) -> str:
    """A value of a table as the text that a CSV file has for it."""
    if _is_missing(value):
        return ""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        return " ".join(value.split())
    if _is_array(value) or isinstance(value, (Mapping, bytes)):
        raise BadInput(f"Column '{name}' holds a {type(value).__name__}; a table holds numbers, words and times.")
    return repr(value) if isinstance(value, float) else str(value)


def _word(label: object) -> str:
    """A label as one word: a line of text begins with it."""
    return "_".join(_cell(label, "the target").split())


def _present(cell: str) -> str:
    return "" if cell.lower() in MISSING else cell


def safe_name(name: object) -> str:
    """A column's name as a header holds it: a number, or a word for a missing value, would be taken for a value."""
    text = " ".join(str(name).split())
    try:
        float(text)
    except ValueError:
        return f"c{text}" if text.lower() in MISSING else text
    return f"c{text}"


def texts_by_name(part: Columns) -> dict[str, list[str]]:
    """The table as the text of a CSV file, by column. Raises BadInput on a value that is no cell of a table."""
    return {name: [_cell(value, name) for value in values] for name, values in part.values.items()}
