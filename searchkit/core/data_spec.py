"""The inputs and outputs of a network, and everything that a family may know about the data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # the help of the command line needs no numpy
    import numpy as np

Arrays: TypeAlias = "dict[str, np.ndarray]"
"""Arrays by tensor name. The first axis counts the examples unless the `TensorSpec` says otherwise."""

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
    # In this order: what stands in parentheses, mostly the message of a library; then what stands in quotes, which are
    # told from apostrophes by what is outside of them; then single words, such as paths.
    for quoted in (r"(?<=\()[^()]{%d,}(?=\))", r"(?<=(?<!\w)')[^']{%d,}(?='(?!\w))", r"\S{%d,}"):
        if len(text) > MOST_CHARACTERS:
            text = re.sub(quoted % (LONGEST_QUOTE + 1), lambda found: brief(found[0]), text)
    return brief(text, MOST_CHARACTERS)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a network.

    An input has one of the three layouts of `searchkit.core.batching`; an output has one entry per example along its
    first axis.

    Attributes:
        name: Name of the tensor, also in the exported file.
        shape: Shape without the axis of the examples; None marks an axis that varies.
        dtype: Name of the numpy dtype.
        batched: Whether each example has its own entries; if False, all examples share the tensor.
        axis: The axis of the examples.
        counted_by: Name of another input, shape () and int64, that says how many entries each example has; None for one
            each.
        steps: What the axis of varying length counts. Tensors with the same word have the same length; a text and its
            translation differ, so they use different words.
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
    """The data as a family sees them: the network's inputs (after the task's preprocessor) and its outputs.

    Inputs, by modality:

    - "tabular" (features,), "image" (C, H, W), "voxels" (C, D, H, W), "series" (C, L), "tokens" (L,) int64, and "noise"
      (Z,) from a standard normal distribution.
    - Series and tokens of different lengths have a second input `lengths`, shape (), int64: the valid steps of each
      example.
    - "graph": `nodes` (N, features) and `edges` (2, E) int64, from the nodes in the first row to those in the second.
      For node tasks all examples share one graph, and `query`, shape (), is the node in question. For graph tasks each
      example has its own graph with nodes numbered from 0, and `n_nodes` and `n_edges`, shape (), are their sizes.
    - Sequence-to-sequence: the last input is `previous`, (T,) int64, the target shifted right by one. It begins with
      the end-of-sequence token, which is the last of the `n_classes` tokens.

    The single output is one of:

    - "logits" (n_classes,), or (L, n_classes) for an answer at each step.
    - "values" (n_targets,) of a regression.
    - "forecast" (K, H): the next H steps of the first K channels of a series, on the scale of the input.
    - "reconstruction", with the shape of the input.
    - "action_values" (n_actions,); an agent takes the action with the largest.
    - "sample": a generated example, from noise or from an example of another domain.

    Attributes:
        modality: Kind of input, see above.
        inputs: Specs of the inputs, in the order of `forward`.
        outputs: Specs of the outputs.
        n_classes: Number of classes; 0 if there are none.
        vocabulary: Number of input tokens; 0 if the input is not tokens.
        augmentations: Names of the augmentations that suit the data; `Training.augment` selects from them.
    """

    modality: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    n_classes: int = 0
    vocabulary: int = 0
    augmentations: tuple[str, ...] = ()

    @property
    def reconstructs(self) -> bool:
        """Whether the network reconstructs its input."""
        return self.outputs[0].name == "reconstruction"

    @property
    def by_step(self) -> bool:
        """Whether each step has its own answer, (L, n_classes), instead of one answer per example."""
        return self.outputs[0].name == "logits" and len(self.outputs[0].shape) == 2

    @property
    def self_taught(self) -> bool:
        """Whether masked-token pre-training applies: tokens with one answer per example."""
        return self.modality == "tokens" and not self.by_step

    @property
    def writes(self) -> bool:
        """Whether the output is a token sequence, (T, n_classes), predicted from `previous`."""
        return any(port.name == "previous" for port in self.inputs)

    @property
    def acts(self) -> bool:
        """Whether the output chooses actions, so that episodes are scored and not single outputs."""
        return self.outputs[0].name == "action_values"

    @property
    def generates(self) -> bool:
        """Whether outputs have no individual target, and are compared with the data as a distribution."""
        return self.outputs[0].name == "sample"

    @property
    def forecasts(self) -> bool:
        """Whether the network forecasts a series."""
        return self.outputs[0].name == "forecast"

    @property
    def varies_in_length(self) -> bool:
        """Whether examples differ in length, so that there is an input `lengths`."""
        return any(port.name == "lengths" for port in self.inputs)
