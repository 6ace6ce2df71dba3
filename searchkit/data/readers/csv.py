"""Read tables of text (CSV, TSV) and Parquet files.

The training file decides whether a column is numeric, and the test file is read by the same columns. Python's csv
module reads; a column is numeric if every value present is a number. Parquet needs pyarrow, an extra, and follows the
same rules.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchkit.config import naming
from searchkit.core.errors import BadInput
from searchkit.data.dataset import Column, RawDataset
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.source import Source

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
DELIMITERS = ",;\t|"
FREE_TEXT_VALUES = 50  # a column of more different words than this, most of them standing once, is no category


@dataclass(frozen=True)
class Table:
    """A table as stripped text.

    Attributes:
        path: The file, named in errors.
        names: Column names.
        columns: The cells of each column; "" is a missing value.
        lines: Line number in the file at which each row begins, from 1. Blank lines are no rows, and a quoted cell may
            hold line breaks.
    """

    path: Path
    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    lines: Sequence[int]

    @property
    def n_rows(self) -> int:
        """Number of rows, without the header."""
        return len(self.columns[0])

    def line(self, row: int) -> str:
        """Name a row by its line in the file, for errors. `row` counts from 0."""
        return f"line {self.lines[row]}"


def read_table(path: Path, source: Source) -> RawDataset:
    """Read a table as features and a target, and a second table as the test split if one is given.

    Raises:
        BadInput: The file is no table, has fewer than MIN_ROWS rows, or lacks the target column.
    """
    table = read_columns(path)
    if table.n_rows < MIN_ROWS:
        rows = "1 row" if table.n_rows == 1 else f"{table.n_rows} rows"
        raise BadInput(f"'{path}' has {rows}; at least {MIN_ROWS} are needed for train, val and test.")
    target = _target_index(table, source)
    tables = [table]
    if source.test_data is not None:
        tables.append(_read_test(Path(source.test_data), table))
    features = [k for k in range(len(table.names)) if k != target]
    if not features:
        raise BadInput(
            f"'{path}' has no column but the target '{table.names[target or 0]}'; at least one feature is needed."
        )
    columns = [_judge(table, k) for k in features]
    x = np.stack(
        [
            np.concatenate([encode(part, k, column) for part in tables])
            for k, column in zip(features, columns, strict=True)
        ],
        axis=1,
    )
    return RawDataset(
        name=path.stem,
        x=x,
        target=None if target is None else _read_target(tables, target),
        where=f"'{path}'",
        modality="tabular",
        given={} if len(tables) == 1 else {"test": np.arange(table.n_rows, len(x))},
        columns=tuple(columns),
        targets=() if target is None else (table.names[target],),
    )


def read_columns(path: Path) -> Table:
    """Read the cells of a CSV or Parquet file.

    Raises:
        BadInput: The file is missing, is no table, or its lines have different numbers of cells.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        # utf-8-sig drops the byte order mark that some spreadsheets write, which would be part of the first name.
        # newline="": the csv module splits lines itself, and a quoted cell may hold a line break.
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(DELIMITERS, key=first.count)  # a comma if the line has none of them
            file.seek(0)
            rows = [(number, row) for number, row in _numbered(csv.reader(file, delimiter=delimiter)) if any(row)]
    except FileNotFoundError as error:
        raise BadInput(f"There is no file '{path}'; give the path of a .csv or .parquet table.") from error
    except UnicodeDecodeError as error:
        raise BadInput(
            f"'{path}' is no text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise BadInput(f"'{path}' is no CSV that can be read ({error}); save it again.") from error
    if not rows:
        raise BadInput(f"The file '{path}' is empty; a table has a header and at least {MIN_ROWS} rows.")
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise BadInput(
                f"Line {number} of '{path}' has {len(row)} cells and the first has {width}; every line must have as "
                "many."
            )
    cells = [row for _, row in rows]
    has_header = _has_header(cells)
    names = tuple(cells[0]) if has_header else tuple(f"c{k}" for k in range(width))
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BadInput(f"'{path}' has more than one column named '{repeated[0]}'; rename one.")
    body = rows[1:] if has_header else rows
    if not body:
        raise BadInput(f"'{path}' has a header and 0 rows; at least {MIN_ROWS} are needed.")
    columns = zip(*(["" if cell.lower() in MISSING else cell for cell in row] for _, row in body), strict=True)
    return Table(path, names, tuple(columns), [number for number, _ in body])


def _numbered(reader: csv.Reader) -> list[tuple[int, list[str]]]:  # type: ignore[name-defined]
    """Each row with the number of the line at which it begins; `reader.line_num` is that of the line at its end."""
    rows, end = [], 0
    for row in reader:
        rows.append((end + 1, [cell.strip() for cell in row]))
        end = reader.line_num
    return rows


def _present(cell: str) -> str:
    return "" if cell.lower() in MISSING else cell


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first line is a header.

    It is one if no cell of it is a number or missing, and it differs from the rows below: some column is numeric there,
    or no cell of it occurs again in its column.
    """
    if any(_present(cell) == "" or _number(cell) is not None for cell in rows[0]):
        return False
    below = list(zip(*rows[1:], strict=True))
    if not below:
        return True
    if any(all(_present(cell) == "" or _number(cell) is not None for cell in column) for column in below):
        return True
    return all(name not in column for name, column in zip(rows[0], below, strict=True))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(
            f"'{path}' needs pyarrow, which is not installed; run pip install 'searchkit[parquet]', or use CSV."
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise BadInput(f"There is no file '{path}'; give the path of a .csv or .parquet table.") from error
    except (pyarrow.ArrowException, OSError) as error:
        # `find` says for all readers that a file may not be read.
        if isinstance(error, PermissionError):
            raise
        raise BadInput(
            f"'{path}' is not a complete Parquet file ({str(error).splitlines()[0]}); save it again."
        ) from error
    if table.num_rows == 0 or table.num_columns == 0:
        raise BadInput(
            f"'{path}' has {table.num_rows} rows and {table.num_columns} columns; at least {MIN_ROWS} rows are needed."
        )
    columns = tuple(
        tuple("" if cell is None else _present(str(cell).strip()) for cell in column.to_pylist())
        for column in table.columns
    )
    return Table(path, tuple(table.column_names), columns, range(1, table.num_rows + 1))


def _read_test(path: Path, train: Table) -> Table:
    table = read_columns(path)
    if len(table.names) != len(train.names):
        raise BadInput(
            f"The test table '{path}' has {len(table.names)} columns and '{train.path}' has {len(train.names)}; they "
            "must be the same."
        )
    for ours, theirs in zip(train.names, table.names, strict=True):
        if ours != theirs:
            raise BadInput(
                f"The test table '{path}' has the column '{theirs}' where '{train.path}' has '{ours}'; they must be "
                "the same."
            )
    return table


def _target_index(table: Table, source: Source) -> int | None:
    if source.target is None:
        if not source.labeled:
            return None
        column = naming.advice("target", "COLUMN")
        raise BadInput(f"'{table.path}' is a table and needs {column}; its columns are {_some(table.names)}.")
    if not source.labeled:
        raise BadInput(
            f"A {source.kind} has no target, and --target '{source.target}' was given; leave one of them out."
        )
    if source.target in table.names:
        return table.names.index(source.target)
    # Negative numbers count from the end; range raises IndexError beyond either end.
    try:
        index = int(source.target)
        return range(len(table.names))[index]
    except (ValueError, IndexError) as error:
        raise BadInput(
            f"'{table.path}' has no column '{source.target}'; its columns are {_some(table.names)}."
        ) from error


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _judge(table: Table, index: int) -> Column:
    """Decide the type of a column: numeric if every value present is a number, else categorical."""
    name, cells = table.names[index], table.columns[index]
    categories = Counter(cell for cell in cells if cell)
    words = [cell for cell in categories if _number(cell) is None]
    if not words:
        return Column(name, "numeric")
    # Values that mostly occur once are free text; if fewer than a tenth are words, they are numbers with typing errors.
    once = sum(count == 1 for count in categories.values())
    if once == len(categories) or (len(categories) > FREE_TEXT_VALUES and once > len(categories) / 2):
        if len(words) < len(categories) / 10:
            row = cells.index(words[0])
            raise BadInput(
                f"Column '{name}' of '{table.path}' is numbers but for '{words[0]}' on {table.line(row)}; "
                "correct it, or leave the cell empty if the value is missing."
            )
        raise BadInput(
            f"Column '{name}' of '{table.path}' is text: {len(categories)} different values such as '{words[0][:40]}' "
            "in "
            f"{len(cells)} rows; a column is numbers, or categories that occur again, so take it out of the table."
        )
    return Column(name, "categorical", tuple(sorted(categories)))


def encode(table: Table, index: int, column: Column) -> np.ndarray:
    """Encode a column as (n,) float64: numbers or category indices; NaN if missing, -1 if train lacks the category."""
    cells = table.columns[index]
    if column.kind == "categorical":
        codes = {category: float(code) for code, category in enumerate(column.categories)} | {"": float("nan")}
        return np.array([codes.get(cell, -1.0) for cell in cells])
    numbers = {cell: _number(cell or "nan") for cell in set(cells)}
    values = [numbers[cell] for cell in cells]
    if None in values:
        row = values.index(None)
        raise BadInput(
            f"Column '{column.name}' of '{table.path}' is '{cells[row]}' on {table.line(row)}, and it is numeric in "
            "train; correct it."
        )
    return np.array(values, dtype=np.float64)


def _read_target(tables: list[Table], index: int) -> np.ndarray:
    """Read the target: int64 if all values are whole numbers, float64 if all are numbers, else text.

    Raises:
        BadInput: A value is missing.
    """
    cells: list[str] = []
    for table in tables:
        missing = [row for row, cell in enumerate(table.columns[index]) if cell == ""]
        if missing:
            rows = "1 row" if len(missing) == 1 else f"{len(missing)} rows"
            raise BadInput(
                f"The target '{table.names[index]}' of '{table.path}' is missing (NaN or empty) in {rows}, the first "
                "on "
                f"{table.line(missing[0])}; remove those rows or fill in the value."
            )
        cells += _without_full_stop(table.columns[index], tables[0].columns[index])
    numbers = {cell: _number(cell) for cell in set(cells)}
    if None in numbers.values():
        return np.array(cells)
    values = np.array([numbers[cell] for cell in cells], dtype=np.float64)
    # From 2**53 on a float64 skips whole numbers: values that large may be rounded already, and stay floats.
    is_whole = bool(np.isfinite(values).all() and (values == np.round(values)).all() and np.abs(values).max() < 2**53)
    return values.astype(np.int64) if is_whole else values


def _without_full_stop(cells: tuple[str, ...], train: tuple[str, ...]) -> list[str]:
    """Drop the full stop that ends every label in some UCI test files (adult) and in none of the training file."""
    known = set(train)
    return [cell[:-1] if cell not in known and cell.endswith(".") and cell[:-1] in known else cell for cell in cells]
