"""What a network takes and gives: named tensors, and all that a family may know of the data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    pass

Arrays: TypeAlias = dict[str, np.ndarray]

"""Arrays by port name; the first axis of each is the example, unless its Port says otherwise."""

Split: TypeAlias = Literal["train", "val", "test"]

Device: TypeAlias = Literal["cpu", "cuda"]


MOST_CHARACTERS = 250

"""Of a sentence to the user, whatever is quoted in it."""

LONGEST_QUOTE = 60

"""Characters of what a sentence that is too long quotes, in '…' or in (…)."""


def brief(value: object, most: int = LONGEST_QUOTE) -> str:
    """On one line and shortened in the middle: a value, or the message of an error that a library raised."""
    text = " ".join(str(value).split()) or type(value).__name__
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head].rstrip()}…{text[head + 1 - most :].lstrip()}"


def within_bounds(sentence: str) -> str:
    """A sentence of at most `MOST_CHARACTERS`: first what it quotes is shortened, then its middle."""
    text = " ".join(sentence.split())
    for quoted in (r"(?<=\()[^()]{%d,}(?=\))", r"(?<=(?<!\w)')[^']{%d,}(?='(?!\w))", r"\S{%d,}"):
        if len(text) > MOST_CHARACTERS:
            text = re.sub(quoted % (LONGEST_QUOTE + 1), lambda found: brief(found[0]), text)
    return brief(text, MOST_CHARACTERS)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a network. `shape` leaves out the axis of the examples; None marks an axis that varies.

    How examples lie in it (see `searchkit.core.batching`): one entry each along `axis`; or, where `counted_by` names
    another port (shape (), int64), as many as that says, one example after the other; or, not batched, all share all of
    it. An output has one entry an example along its first axis.

    steps: what the one axis that varies counts. Ports of which it is the same are of one length, others need not be: a
    text and its translation are not.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    batched: bool = True
    axis: int = 0
    counted_by: str | None = None
    steps: str = "length"


@dataclass(frozen=True, slots=True)
class DataSpec:
    """All that a space may know of the data: what the network takes (after the task's preprocessor) and what it gives.

    modality is "tabular" (features,), "image" (C, H, W), "voxels" (C, D, H, W), "series" (C, L), "tokens" (L,) int64,
    "graph", or "noise" (Z,), drawn from the unit Gaussian. A series or token input whose rows differ in length is
    followed by a second port `lengths`, shape (), int64: the valid steps of each row. A graph is `nodes`,
    (N, features), and `edges`, (2, E) int64, from the first row's nodes to the second's. Either all examples share one,
    and each is the node that is asked for, `query`, (); or each example has its own, with nodes numbered from 0, and
    `n_nodes` and `n_edges`, (), count them. Where tokens are answered by a text of its own, the last input is
    `previous`, (T,) int64, the answer one step late: it begins with the mark, the last of the n_classes tokens, which
    ends an answer too. The one output is "logits" (n_classes,), or (L, n_classes) where every step is answered,
    "values" (n_targets,), "forecast" (K, H), the next H steps of the first K channels of a series on the input's scale,
    "reconstruction", of the input's shape, "action_values" (n_actions,), of which an agent that plays takes the
    largest, or "sample": an example such as those of train, made of noise, or of an example of another kind.
    augmentations: those that such data have; a training asks for some of them.
    """

    modality: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    n_classes: int = 0
    vocabulary: int = 0
    augmentations: tuple[str, ...] = ()

    @property
    def reconstructs(self) -> bool:
        return self.outputs[0].name == "reconstruction"

    @property
    def by_step(self) -> bool:
        """Whether there is an answer for each step, (L, n_classes), instead of one a row."""
        return self.outputs[0].name == "logits" and len(self.outputs[0].shape) == 2

    @property
    def self_taught(self) -> bool:
        """Whether the inputs alone are something to learn from, before the one answer a row: tokens of each other."""
        return self.modality == "tokens" and not self.by_step

    @property
    def writes(self) -> bool:
        """Whether the answer is a text of its own, (T, n_classes): which token comes after each of `previous`."""
        return any(port.name == "previous" for port in self.inputs)

    @property
    def acts(self) -> bool:
        """Whether the answers are played, and what is scored is how the play went."""
        return self.outputs[0].name == "action_values"

    @property
    def generates(self) -> bool:
        """Whether an answer has no truth of its own: all answers together should be like the examples."""
        return self.outputs[0].name == "sample"

    @property
    def forecasts(self) -> bool:
        return self.outputs[0].name == "forecast"

    @property
    def varies_in_length(self) -> bool:
        return any(port.name == "lengths" for port in self.inputs)
