"""What a loader found, and the same after it was judged, checked and split: arrays and words, no torch.

`RawDataset` is raw material in the order of its file. `Dataset` is what a task is made of, and may be trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from searchkit.core.data_spec import Arrays, Split
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON, freeze, thaw


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: As the table has it.
        kind: "numeric", or "categorical", whose raw value is an index into `categories`.
        categories: The words of a categorical column, in order.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawDataset:
    """Examples as they were found, in the order of their file.

    Attributes:
        name: Of the task.
        x: (n, …).
        target: (n,) of any type, (n, n_targets), or None.
        where: What an error calls the source.
        modality: None leaves it to be guessed.
        lengths: (n,) valid steps of each example; None if all are of one length.
        more: What else belongs to the examples, by the name of its port.
        given: Rows by split, if the source says which they are. If it does so of train, rows that it names nowhere are
            in no split.
        columns: Of a table.
        labels: Class names in the order of their indices, if the source has names.
        targets: Names of the target columns.
        kind: The problem that the source is known to be; None leaves it to be guessed.
        rate: Samples a second, if the examples are sounds.
        about: What was found of the times of a series, in words.
        tokenizer: What made text to the tokens in x: plain JSON, see `Tokenizer`.
    """

    name: str
    x: np.ndarray
    target: np.ndarray | None
    where: str
    modality: str | None = None
    lengths: np.ndarray | None = None
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    labels: tuple[str, ...] = ()  # class names in order of index, if the source has names
    targets: tuple[str, ...] = ()  # names of the target columns
    kind: str | None = None  # what the source is known to be; None to be guessed
    rate: int = 0  # samples a second, if the examples are sounds
    about: str = ""  # of the times of a series: what was found, in words
    tokenizer: dict[str, JSON] | None = None  # what made text to the tokens in x


@dataclass(frozen=True)
class Dataset:
    """Checked examples and their splits.

    Attributes:
        name: Of the task.
        modality: The name of the modality.
        kind: The name of the problem.
        inputs: By port name, (n, …), or laid out as the modality's ports say.
        target: (n,) int64 class indices, (n, L) int64 tokens, (n, k) float32, the raw examples without noise, or None
            for a reconstruction.
        rows: Indices into the examples by split, ascending; no example is in two splits.
        where: What an error calls the source.
        labels: Class names in the order of their indices.
        targets: Names of the target columns.
        columns: Of a table.
        split_seed: By which the splits were drawn.
        rate: Samples a second, if the examples are sounds.
        tokenizer: What made text to tokens: plain JSON, see `Tokenizer`.
        noise: What the inputs have and the target has not.
        windows: How examples are cut from one stream: plain JSON, see `Cut`. The input is then the stream, one row a
            step, and an index is the step at which a window begins.
    """

    name: str
    modality: str
    kind: str
    inputs: Arrays
    target: np.ndarray | None
    rows: dict[str, np.ndarray]
    where: str
    labels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    split_seed: int = 0
    rate: int = 0  # samples a second, if the examples are sounds
    tokenizer: dict[str, JSON] | None = None
    noise: str = ""  # what the inputs have and the target has not
    windows: dict[str, JSON] | None = None

    def of(self, split: Split) -> Arrays:
        """The inputs of a split, by port name."""
        return {name: values[self.rows[split]] for name, values in self.inputs.items()}

    def target_of(self, split: Split) -> np.ndarray:
        """The targets of a split, which must have some."""
        assert self.target is not None
        return np.asarray(self.target[self.rows[split]])

    @property
    def main(self) -> str:
        """The name of the port that holds the examples themselves."""
        return next(iter(self.inputs))

    def fingerprint(self) -> str:
        """Digest all values and splits: 16 hex digits of their SHA-256."""
        rate = f" {self.rate}" if self.rate else ""
        hasher = hashlib.sha256(f"{self.modality} {self.kind} {self.labels}{rate}".encode())
        if self.tokenizer is not None:
            hasher.update(json.dumps(self.tokenizer, sort_keys=True).encode())
        if self.windows is not None:
            hasher.update(json.dumps(self.windows, sort_keys=True).encode())
        for name, values in self.pack()[1].items():
            # Type and shape too: two arrays may have the same bytes and hold other values.
            hasher.update(f"{name} {values.dtype.str} {values.shape}".encode())
            # hashlib needs contiguous memory: a transposed array is copied first, others are not.
            hasher.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
        return hasher.hexdigest()[:16]

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """Take apart into words, which are plain JSON, and arrays; `unpack` is the inverse."""
        words = {name: freeze(getattr(self, name)) for name in _WORDS}
        arrays = {f"input.{name}": values for name, values in self.inputs.items()}
        if self.target is not None:
            arrays["target"] = self.target
        return words, arrays | {f"rows.{split}": rows for split, rows in self.rows.items()}

    @classmethod
    def unpack(cls, words: Mapping[str, JSON], arrays: Arrays) -> Dataset:
        """Put together again what `pack` gave."""

        def group(prefix: str) -> Arrays:
            return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}

        plain = {name: words[name] for name in _WORDS}
        plain["columns"] = tuple(thaw(Column, column) for column in plain["columns"])
        # JSON has lists where the fields have tuples.
        plain["labels"], plain["targets"] = tuple(plain["labels"]), tuple(plain["targets"])
        return cls(inputs=group("input."), target=arrays.get("target"), rows=group("rows."), **cast(Any, plain))


_WORDS = (
    "name", "modality", "kind", "where", "labels", "targets", "columns", "split_seed", "rate", "tokenizer", "noise",
    "windows",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A target as it was read.

    Attributes:
        target: As in `Dataset`.
        labels: As in `Dataset`.
        strata: (n,) int, whose shares every split keeps.
    """

    target: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    strata: np.ndarray | None = None


def standard_dtype(values: np.ndarray, where: str) -> np.ndarray:
    """Leave uint8 and int16 as they are, and make every other number float32.

    The table readers, for which NaN is a missing value, do their own check.

    Raises:
        BadInput: a value is not a finite number.
    """
    if values.dtype.kind not in "biuf":
        raise BadInput(f"The examples of {where} are of type {values.dtype}; they must be numbers.")
    if values.dtype in (np.uint8, np.int16):
        return values
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, and is refused below
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        row = int(np.argwhere(~np.isfinite(narrow))[0][0])
        raise BadInput(
            f"Example {row} of {where} holds {_first_bad(narrow[row])}; every value must be a finite number. "
            "Remove the example or replace the value."
        )
    return narrow


def _first_bad(values: np.ndarray) -> str:
    return str(float(values[~np.isfinite(values)].reshape(-1)[0]))
