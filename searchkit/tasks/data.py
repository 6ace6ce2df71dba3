"""What a loader found, and the same after it was judged, checked and split: arrays and words, no torch.

`Found` is raw material in the order of its file. `Data` is what a task is made of, and may be trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from searchkit.types import JSON, Arrays, BadInput, Evaluation, Goal, Port, Split, Task, freeze, thaw

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor, nn

    from .source import Source


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. kind: "numeric", or "categorical", whose raw value is an index into `categories`."""

    name: str
    kind: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Examples as they were found. x: (n, …). target: (n,) of any type, (n, n_targets), or None. more: what else
    belongs to the examples, by the name of its port. given: rows by split where the source says which they are; where
    it does so of train, rows that it names nowhere are in no split. where: the words that an error names it by.
    modality: None to be guessed."""

    name: str
    x: np.ndarray
    target: np.ndarray | None
    where: str
    modality: str | None = None
    lengths: np.ndarray | None = None
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    labels: tuple[str, ...] = ()  # class names in order of index, where the source has names
    targets: tuple[str, ...] = ()  # names of the target columns
    kind: str | None = None  # what the source is known to be; None to be guessed
    rate: int = 0  # samples a second, where the examples are sounds
    about: str = ""  # of the times of a series: what was found, in words
    tokenizer: dict[str, JSON] | None = None  # what made text to the tokens in x


@dataclass(frozen=True)
class Data:
    """Checked examples and their splits.

    inputs: by port name, (n, …), or laid out as the modality's ports say. target: (n,) int64 class indices, (n, L)
    int64 tokens, (n, k) float32, the raw examples without noise, or None for reconstruction. rows: indices into them by
    split, ascending; no example is in two splits. tokenizer: where the tokens come from text, what made them: plain
    JSON, see `tokenizer.Tokenizer`. windows: where examples are cut from one stream, how: plain JSON, see
    `windows.Cut`; then the input is the stream, one row a step, and an index is the step at which a window begins.
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
    rate: int = 0  # samples a second, where the examples are sounds
    tokenizer: dict[str, JSON] | None = None
    noise: str = ""  # what the inputs have and the target has not
    windows: dict[str, JSON] | None = None

    def of(self, split: Split) -> Arrays:
        return {name: values[self.rows[split]] for name, values in self.inputs.items()}

    def target_of(self, split: Split) -> np.ndarray:
        assert self.target is not None
        return np.asarray(self.target[self.rows[split]])

    @property
    def main(self) -> str:
        """The name of the port that holds the examples themselves."""
        return next(iter(self.inputs))

    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of all values and splits."""
        rate = f" {self.rate}" if self.rate else ""
        hasher = hashlib.sha256(f"{self.modality} {self.kind} {self.labels}{rate}".encode())
        if self.tokenizer is not None:
            hasher.update(json.dumps(self.tokenizer, sort_keys=True).encode())
        if self.windows is not None:
            hasher.update(json.dumps(self.windows, sort_keys=True).encode())
        for name, values in self.pack()[1].items():
            hasher.update(f"{name} {values.dtype.str} {values.shape}".encode())
            hasher.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
        return hasher.hexdigest()[:16]

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        words = {name: freeze(getattr(self, name)) for name in _WORDS}
        arrays = {f"input.{name}": values for name, values in self.inputs.items()}
        if self.target is not None:
            arrays["target"] = self.target
        return words, arrays | {f"rows.{split}": rows for split, rows in self.rows.items()}

    @classmethod
    def unpack(cls, words: Mapping[str, JSON], arrays: Arrays) -> Data:
        def group(prefix: str) -> Arrays:
            return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}

        plain = {name: words[name] for name in _WORDS}
        plain["columns"] = tuple(thaw(Column, column) for column in plain["columns"])
        plain["labels"], plain["targets"] = tuple(plain["labels"]), tuple(plain["targets"])
        return cls(inputs=group("input."), target=arrays.get("target"), rows=group("rows."), **cast(Any, plain))


_WORDS = (
    "name", "modality", "kind", "where", "labels", "targets", "columns", "split_seed", "rate", "tokenizer", "noise",
    "windows",
)  # fmt: skip


class Modality(Protocol):
    """What is particular to one form of input. A module of this folder offers its own in MODALITIES, by name.

    form: what families are told that they take, `DataSpec.modality`: a spectrogram of a series may be a picture."""

    form: str
    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]]  # on model inputs, a batch at a time
    corrupts: frozenset[str]  # those whose clean input stays the target of a reconstruction

    def arrange(self, found: Found) -> Arrays:
        """Named, checked, compact inputs. Raises BadInput."""

    def ports(self, data: Data) -> tuple[Port, ...]:
        """The raw inputs."""

    def frontend(self, data: Data) -> nn.Module:
        """Raw to model inputs, with statistics from the training rows alone."""

    def restore(self, data: Data, frontend: nn.Module) -> nn.Module:
        """The inverse of the frontend, for a reconstruction; raises BadInput where there is none."""

    def vocabulary(self, data: Data) -> int:
        """How many tokens there are; 0 where the inputs are no tokens."""


class Kind(Protocol):
    """What is asked of the data: its outputs, loss, metric and answers."""

    @property
    def goal(self) -> Goal: ...

    @property
    def output(self) -> Port: ...

    @property
    def answers(self) -> Port: ...

    @property
    def n_classes(self) -> int: ...

    def answer(self) -> nn.Module:
        """Model output to answers."""

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Targets as stored, to compact targets for the device: int64 class indices or float32 values."""

    def soften(self, target: Tensor, smoothing: float) -> Tensor:
        """Encoded targets to those that `loss` wants, (B, …) float32."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor: ...

    def penalty_weight(self, loss: Tensor, output: Tensor) -> Tensor | float:
        """What a network's own penalty is multiplied by."""

    def match(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor: ...

    def judge(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """answers: as the answers port. truth: targets as stored, or the raw examples for a reconstruction."""


@dataclass(frozen=True, slots=True)
class Truth:
    """target, labels: as in `Data`. strata: (n,) int, whose shares every split keeps."""

    target: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    strata: np.ndarray | None = None


def no_truth(found: Found, kind: str) -> Truth:
    """Of a kind that looks at the inputs alone."""
    return Truth()


def as_they_are(data: Data, found: Found, source: Source) -> Data:
    return data


@dataclass(frozen=True, slots=True)
class Offer:
    """How a task of one kind comes about. A module of this folder offers its own in KINDS, by name.

    make: from the data, their modality, its frontend and the model's input. read: the target, out of what was found.
    arrange: what the kind makes of split data. task: its class; None leaves it to the modality. whole: where examples
    are split in a way of their own, this makes all of the task, and read, arrange and task are not looked at. All but
    `task` raise BadInput."""

    make: Callable[[Data, Modality, nn.Module, Port], Kind]
    read: Callable[[Found, str], Truth] = no_truth
    arrange: Callable[[Data, Found, Source], Data] = as_they_are
    task: Callable[[Data], Task] | None = None
    whole: Callable[[Found, Source], Task] | None = None


def standard_dtype(values: np.ndarray, where: str) -> np.ndarray:
    """uint8 and int16 as they are, every other number as float32. Raises BadInput on what is not a finite number; the
    table loaders, where NaN is a missing value, do their own check."""
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
