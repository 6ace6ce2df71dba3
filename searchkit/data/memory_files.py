"""Data given in memory, written as files that the readers read: a run can be resumed, reported and moved as any other.

Arrays become an `.npz` archive, tables a `.csv` file, labeled texts a folder of `label text` lines. What the reader
would not find again is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.data.memory import Archive, Columns, Examples, Part, Texts, part_of, safe_name, texts_by_name
from searchkit.data.readers.csv import DELIMITERS, read_columns

FOLDER = "data"
"""The folder inside a run that holds its data, if they were given in memory."""

SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val", "test": "test"}
"""The names that a split may have in what was given, and ours for it."""


def store(data: object, folder: Path, *, name: str = "data", target: object = None, test: object = None) -> JSON:
    """Write data given in memory into `folder`, in a format that the readers read.

    Args:
        data: arrays, a table or a dataset; or a dictionary of them by split: "train", "val" and "test".
        folder: an empty folder.
        name: the stem of the file; it becomes the name of the task.
        target: the name of the target column; or the targets themselves, one for each example, if `data` are not split.
        test: the examples of the test split, if they are given apart from `data`.

    Returns:
        The entries of `Source` that name what was written: "data", and "test_data" and "target" if they apply.

    Raises:
        BadInput: the data are of no known form, or cannot be written without loss.
    """
    splits = _by_split(data, test)
    if len(splits) > 1 and target is not None and not isinstance(target, (str, int)):
        raise BadInput(
            "The targets are values, and the data are split; name their column, or give each split as (x, y)."
        )
    parts = {split: part_of(given, target) for split, given in splits.items()}
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
        # From the last folder of this name on, for a run may itself lie in a folder called data. A path of the user's
        # own may contain one as well; it is kept unless the run has such a file.
        inside = run.joinpath(*parts[len(parts) - 1 - parts[::-1].index(FOLDER) :]).resolve()
        return str(inside) if inside.exists() else path

    return {key: moved(value) if key in ("data", "test_data") else value for key, value in source.items()}


def _by_split(data: object, test: object) -> dict[str, object]:
    """The data by split; all of them under "" if they are not split."""
    is_split = isinstance(data, Mapping) and "train" in data and set(data) <= set(SPLITS)
    if isinstance(data, Mapping) and is_split:
        if test is not None:
            raise BadInput("The test split is given twice, in data and in test_data; leave one of them out.")
        return {SPLITS[str(split)]: part for split, part in data.items()}
    return {"": data} if test is None else {"train": data, "test": test}


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
        raise BadInput("A table brings train and test alone; put the validation rows to train: val is drawn from it.")
    found: dict[str, JSON] = {}
    for split, part in parts.items():
        path = folder / (f"{name}-test.csv" if split == "test" else f"{name}.csv")
        _write_table(part, path)
        found["test_data" if split == "test" else "data"] = str(path)
    if target is None:
        return found
    table = next(iter(parts.values()))
    # A target that is no column is left to the reader, which takes it as a column's number or refuses it.
    name_or_number = safe_name(target) if safe_name(target) in table.values else str(target)
    return {**found, "target": name_or_number if table.target is None else table.target}


def _write_table(part: Columns, path: Path) -> None:
    """Raises BadInput if the reader would not find the same columns and rows again."""
    cells = texts_by_name(part)
    # The delimiter that the fewest names contain: the reader takes the one that is most frequent in the header.
    delimiter = max(DELIMITERS, key=lambda mark: -sum(mark in name for name in cells))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
    try:
        # Read back at once: a row without any value, for one, would be skipped by the reader without a word.
        table = read_columns(path)
    except BadInput as error:
        raise BadInput(str(error).replace(f"'{path}'", "the given table")) from error
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
