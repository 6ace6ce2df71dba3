"""Read series from .ts files, the format of the UCR and UEA archives (Bagnall et al. 2018, arXiv:1811.00075).

The file has a header of @ lines, then @data, then one series a line: channels separated by colons, values by commas,
the class last. Beside X_TRAIN.ts, X_TEST.ts is the test split. The rows are checked against the header: if the header
is wrong, the rows cannot be trusted either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset
from searchkit.data.ragged import stacked
from searchkit.data.source import Source

FLAGS = ("timeStamps", "missing", "univariate", "equalLength", "targetLabel")


@dataclass(frozen=True)
class Header:
    """The @ lines of a file; None if a line is missing.

    Attributes:
        path: The file.
        n_channels: Number of channels.
        length: Number of steps, if all series have the same.
        equal: Whether all series have the same length.
        classes: Class names; empty if rows have no class.
        is_target: Whether the last value of a row is a number to predict.
    """

    path: Path
    n_channels: int | None
    length: int | None
    equal: bool
    classes: tuple[str, ...]
    is_target: bool  # whether a number stands at the end of a row


@dataclass(frozen=True)
class Row:
    """One series: its line number in the file, values (channels, steps), and class or number as text."""

    line: int
    values: np.ndarray  # (C, L)
    target: str


def read_ts(path: Path, source: Source) -> RawDataset:
    """Read the series of a file, and of the test file beside it or the one that is given.

    Raises:
        BadInput: A row does not fit the header, or a value is missing or not finite.
    """
    header, rows = _read(path)
    test_path = _test_path(path, source)
    given: dict[str, np.ndarray] = {}
    if test_path is not None:
        other, more = _read(test_path)
        _require_alike(header, rows, other, more)
        given = {"test": np.arange(len(rows), len(rows) + len(more))}
        rows = rows + more
    x, lengths = stacked([row.values for row in rows], source.steps, f"'{path}'")
    return RawDataset(
        name=path.stem.removesuffix("_TRAIN"),
        x=x,
        target=_target(header, rows),
        where=f"'{path}'",
        modality="series",
        lengths=lengths,
        given=given,
        labels=header.classes,
        kind="regression" if header.is_target and source.kind is None else None,
    )


def _test_path(path: Path, source: Source) -> Path | None:
    if source.test_data is not None:
        return Path(source.test_data)
    beside = path.with_name(path.name.replace("_TRAIN", "_TEST"))
    return beside if beside != path and beside.is_file() else None


def _target(header: Header, rows: list[Row]) -> np.ndarray | None:
    if header.is_target:
        return np.array([float(row.target) for row in rows])
    if not header.classes:
        return None
    codes = np.array([header.classes.index(row.target) for row in rows], dtype=np.int64)
    absent = np.setdiff1d(np.arange(len(header.classes)), codes)
    if len(absent):
        raise BadInput(
            f"@classLabel of '{header.path}' names the class '{header.classes[absent[0]]}', which no row has; correct "
            "the header, or add rows."
        )
    return codes


def _require_alike(train: Header, rows: list[Row], test: Header, more: list[Row]) -> None:
    if test.classes != train.classes or test.is_target != train.is_target:
        ours, theirs = (" ".join(header.classes) or "none" for header in (train, test))
        raise BadInput(f"'{test.path}' has the classes {theirs} and '{train.path}' has {ours}; they must be the same.")
    channels, others = len(rows[0].values), len(more[0].values)
    if channels != others:
        raise BadInput(f"'{test.path}' has {others} channels and '{train.path}' has {channels}; they must be the same.")


def _read(path: Path) -> tuple[Header, list[Row]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits at U+2028
    except FileNotFoundError as error:
        raise BadInput(f"There is no file '{path}'; give the path of a .ts file.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"'{path}' is no text in UTF-8 (byte {error.start}); save it as UTF-8.") from error
    said: dict[str, list[str]] = {}
    start = None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not words[0].startswith("@"):
            raise BadInput(
                f"Line {number} of '{path}' is '{line.strip()[:40]}'; before @data stand # and @ lines alone."
            )
        if words[0].lower() == "@data":
            start = number
            break
        said[words[0][1:].lower()] = words[1:]
    if start is None:
        raise BadInput(f"'{path}' has no line @data; a .ts file has @ lines, then @data, then a row a line.")
    header = _header(path, said)
    rows = [_row(header, number, line) for number, line in enumerate(lines[start:], start + 1) if line.strip()]
    if not rows:
        raise BadInput(f"'{path}' has no rows after @data.")
    _require_true(header, rows)
    return header, rows


def _header(path: Path, said: dict[str, list[str]]) -> Header:
    flags = {name: _truth(path, name, said.get(name.lower(), [])) for name in FLAGS}
    if flags["timeStamps"]:
        raise BadInput(f"'{path}' has time stamps, which are not read; write the values alone, evenly spaced in time.")
    label = said.get("classlabel", [])
    has_class = _truth(path, "classLabel", label)
    if has_class and not label[1:]:
        raise BadInput(f"@classLabel of '{path}' says true and names no class; write '@classLabel true A B'.")
    channels = _whole(path, "dimensions", said)
    if flags["univariate"]:
        if channels not in (None, 1):
            raise BadInput(f"'{path}' says @univariate true and @dimensions {channels}; correct one of them.")
        channels = 1
    return Header(
        path=path,
        n_channels=channels,
        length=_whole(path, "seriesLength", said),
        equal=bool(flags["equalLength"]),
        classes=tuple(label[1:]) if has_class else (),
        is_target=bool(flags["targetLabel"]),
    )


def _truth(path: Path, name: str, words: list[str]) -> bool:
    value = words[0].lower() if words else "false"
    if value not in ("true", "false"):
        raise BadInput(f"@{name} of '{path}' is '{words[0]}'; it is true or false.")
    return value == "true"


def _whole(path: Path, name: str, said: dict[str, list[str]]) -> int | None:
    words = said.get(name.lower(), [])
    if not words:
        return None
    if not words[0].isdecimal() or int(words[0]) < 1:
        raise BadInput(f"@{name} of '{path}' is '{words[0]}'; it is a whole number from 1 on.")
    return int(words[0])


def _row(header: Header, number: int, line: str) -> Row:
    where = f"Line {number} of '{header.path}'"
    *channels, target = [part.strip() for part in line.split(":")]
    if not (header.classes or header.is_target):
        channels, target = [*channels, target], ""  # no class at the end: the last part is a channel, too
    if header.n_channels is not None and len(channels) != header.n_channels:
        raise BadInput(
            f"{where} has {len(channels)} channels and the header says {header.n_channels}; correct the one that is "
            "wrong."
        )
    if not channels:
        raise BadInput(f"{where} has no values, only '{target[:40]}'; a row is values, a colon and its class.")
    if header.classes and target not in header.classes:
        raise BadInput(
            f"{where} is of the class '{target[:40]}', which @classLabel does not name ({' '.join(header.classes)}); "
            "correct the one that is wrong."
        )
    if header.is_target and _number(target) is None:
        raise BadInput(f"{where} ends in '{target[:40]}' and @targetLabel says that a number stands there; correct it.")
    values = [_values(channel, where) for channel in channels]
    lengths = {len(channel) for channel in values}
    if len(lengths) > 1:
        raise BadInput(
            f"{where} has channels of {min(lengths)} and of {max(lengths)} values; a row's channels are of one length."
        )
    return Row(number, np.stack(values), target)


def _values(text: str, where: str) -> np.ndarray:
    cells = [cell.strip() for cell in text.split(",")]
    numbers = [_number(cell) for cell in cells]
    if None in numbers:
        cell = cells[numbers.index(None)]
        told = "a missing value" if cell in ("?", "") else f"'{cell[:40]}'"
        raise BadInput(f"{where} holds {told}; every value must be a finite number, so fill it in or remove the row.")
    return np.array(numbers, dtype=np.float64)


def _number(cell: str) -> float | None:
    """Parse a finite number; None if the cell is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _require_true(header: Header, rows: list[Row]) -> None:
    """Check all rows together against the header.

    Raises:
        BadInput: The header says otherwise.
    """
    for row in rows:
        if len(row.values) != len(rows[0].values):
            raise BadInput(
                f"Line {row.line} of '{header.path}' has {len(row.values)} channels and line {rows[0].line} has "
                f"{len(rows[0].values)}; every row must have as many."
            )
        length = row.values.shape[1]
        wanted = header.length if header.length is not None else rows[0].values.shape[1]
        if (header.equal or header.length is not None) and length != wanted:
            said = f"@seriesLength says {wanted}" if header.length is not None else f"@equalLength says true ({wanted})"
            raise BadInput(
                f"Line {row.line} of '{header.path}' has {length} values a channel and {said}; correct the one that is "
                "wrong."
            )
