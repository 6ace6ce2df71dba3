"""Read tables with one row a time step: find the time column, and check that its times are ordered and evenly spaced.

The time column is the first in which every cell is a date, or a column of numbers that is named for time. Without one,
rows count as steps in the order of the file. A series with gaps is refused, not filled: how to fill a gap is a decision
about the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import Column, RawDataset
from searchkit.data.readers.csv import Table, read_columns
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.source import Source

NAMED_FOR_TIME = frozenset({"t", "ds", "time", "date", "datetime", "timestamp", "times", "dates", "year"})

FORMATS = ("%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y-%m")
"""Beside ISO 8601: those in which day and month cannot be mistaken for each other."""

CALENDAR = {"month": (28, 31), "quarter": (90, 92), "year": (365, 366)}
"""Days of the steps that differ in length."""

UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))

DAY = 86_400

SLACK = 0.01
"""Of a step, by which times may be off an even spacing."""


def read_series(path: Path, source: Source) -> RawDataset:
    """Read a multivariate series for forecasting.

    Raises:
        BadInput: A channel is not numeric, or times are missing, unordered, repeated or uneven.
    """
    table = read_columns(path)
    if table.n_rows < MIN_ROWS:
        rows = "1 row" if table.n_rows == 1 else f"{table.n_rows} rows"
        raise BadInput(f"'{path}' has {rows}; a series needs at least {MIN_ROWS} for train, val and test.")
    time = _time_index(table, source)
    channels = [k for k in range(len(table.names)) if k != time]
    if not channels:
        raise BadInput(f"'{path}' has no column but the times '{table.names[time or 0]}'; a series has a channel.")
    x = np.stack([_channel(table, k) for k in channels], axis=1)
    names = tuple(table.names[k] for k in channels)
    return RawDataset(
        name=path.stem,
        x=x,
        target=None,
        where=f"'{path}'",
        modality="series",
        kind="forecasting",
        columns=tuple(Column(name, "numeric") for name in names),
        targets=_targets(table, names, source),
        about="no column of times was found; the rows are steps in the order of the file"
        if time is None
        else _evenly_spaced(table, time),
    )


def _targets(table: Table, names: tuple[str, ...], source: Source) -> tuple[str, ...]:
    """Channels to forecast: those of --target, separated by commas; all channels if it is not given."""
    if source.target is None or (source.target == "all" and "all" not in names):
        return names
    wanted = (source.target,) if source.target in names else tuple(part.strip() for part in source.target.split(","))
    for name in wanted:
        if name not in names:
            raise BadInput(
                f"'{table.path}' has no channel '{name}' to forecast; its channels are {', '.join(names[:20])}"
                + (f" and {len(names) - 20} more." if len(names) > 20 else ".")
            )
    return tuple(dict.fromkeys(wanted))


# ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _channel(table: Table, index: int) -> np.ndarray:
    name, cells = table.names[index], table.columns[index]
    missing = [row for row, cell in enumerate(cells) if cell == ""]
    if missing:
        rows = "1 row" if len(missing) == 1 else f"{len(missing):,} rows"
        raise BadInput(
            f"Column '{name}' of '{table.path}' is missing in {rows}, the first on {table.line(missing[0])}; a series "
            "has no holes, so fill them in, or take the column out."
        )
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        number = _number(cell)
        if number is None:
            raise BadInput(
                f"Column '{name}' of '{table.path}' holds the text '{cell[:40]}' on {table.line(row)}, and a channel "
                "of a series is numbers; take it out of the table, or name it by --time-column if it holds times."
            )
        if not math.isfinite(number):
            raise BadInput(f"Column '{name}' of '{table.path}' is {cell} on {table.line(row)}; give a finite number.")
        values[row] = number
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


# ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _time_index(table: Table, source: Source) -> int | None:
    if source.time_column is not None:
        if source.time_column not in table.names:
            raise BadInput(
                f"'{table.path}' has no column '{source.time_column}'; its columns are {', '.join(table.names[:20])}."
            )
        return table.names.index(source.time_column)
    for index, (name, cells) in enumerate(zip(table.names, table.columns, strict=True)):
        numeric = all(_number(cell) is not None for cell in cells if cell)
        if numeric and name.strip().lower() in NAMED_FOR_TIME:
            return index
        # a typing error in one of many dates leaves it the column of times, and is named below
        if not numeric and sum(_date(cell) is not None for cell in cells) > len(cells) / 2:
            return index
    return None


def _date(cell: str) -> float | None:
    """Parse a date to seconds since 1970, in UTC unless a time zone is given; None if the cell is no date."""
    readers: list[Callable[[str], datetime]] = [datetime.fromisoformat]
    readers += [lambda text, form=form: datetime.strptime(text, form) for form in FORMATS]  # type: ignore[misc]
    for reader in readers:
        try:
            moment = reader(cell)
        except ValueError:
            continue
        # Not as local time, which skips an hour and repeats one where clocks are changed.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def _evenly_spaced(table: Table, index: int) -> str:
    """Check the time column, and describe its times in words.

    Raises:
        BadInput: The cells are no times, or are unordered, repeated or uneven.
    """
    name, cells = table.names[index], table.columns[index]
    # 20160701 reads as a number, too: a column of nothing but such cells holds dates.
    dates = any(_number(cell) is None for cell in cells) or all(
        len(cell) == 8 and _date(cell) is not None for cell in cells
    )
    read = _date if dates else _number
    values = np.array([_time(table, name, row, cell, read) for row, cell in enumerate(cells)])
    steps = np.diff(values)
    for row in np.flatnonzero(steps <= 0)[:1]:
        here, before = f"'{cells[row + 1]}' on {table.line(row + 1)}", f"'{cells[row]}' on {table.line(row)}"
        if steps[row] == 0:
            raise BadInput(
                f"The time {before} of '{table.path}' stands again on {table.line(row + 1)}; each step stands once, so "
                "join the rows, or give each series a file of its own."
            )
        raise BadInput(f"The time {here} of '{table.path}' comes after {before}; sort the rows by '{name}'.")
    # The median: a gap must not change what the usual step is.
    usual = float(np.median(steps))
    period = next((p for p, (low, high) in CALENDAR.items() if dates and low * DAY <= usual <= high * DAY), None)
    # Months, quarters and years differ in length: any length that the calendar allows counts as even.
    low, high = (days * DAY for days in CALENDAR[period]) if period else (usual, usual)
    uneven = np.flatnonzero((steps < low - SLACK * usual) | (steps > high + SLACK * usual))
    spacing = f"a {period}" if period else _spacing(usual, dates)
    for row in uneven[:1]:
        gap = steps[row] > usual
        what = "There is a gap" if gap else "The steps are uneven"
        do = "fill in the rows between" if gap else "bring them to one spacing"
        raise BadInput(
            f"{what} in the times of '{table.path}': '{cells[row]}' on {table.line(row)} is followed by "
            f"'{cells[row + 1]}', and the usual step is {spacing}; {do}, or take a part without gaps."
        )
    return f"column '{name}', {cells[0]} to {cells[-1]}, a step is {spacing}"


def _time(table: Table, name: str, row: int, cell: str, read: Callable[[str], float | None]) -> float:
    value = read(cell)
    if value is None or not math.isfinite(value):
        raise BadInput(
            f"The time on {table.line(row)} of '{table.path}' (column '{name}') is "
            + (f"'{cell[:40]}', which is no date; write it as 2016-07-01 00:00:00." if cell else "missing; fill it in.")
        )
    return value


def _spacing(step: float, dates: bool) -> str:
    if not dates:
        return f"{step:g}"
    for unit, seconds in UNITS:
        if step >= seconds:
            count = step / seconds
            return f"{count:g} {unit}" + ("" if count == 1 else "s")
    return f"{step:g} seconds"
