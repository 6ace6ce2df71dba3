"""What a modality and a problem offer to a task: the two halves that `ArrayTask` puts together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.goal import Evaluation, Goal
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor, nn

    from searchkit.data.source import Source


class Modality(Protocol):
    """What is particular to one form of input. A module of this folder offers its own in MODALITIES, by name.

    form: what families are told that they take, `DataSpec.modality`: a spectrogram of a series may be a picture.
    """

    form: str
    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]]  # on model inputs, a batch at a time
    corrupts: frozenset[str]  # those whose clean input stays the target of a reconstruction

    def arrange(self, found: RawDataset) -> Arrays:
        """Named, checked, compact inputs. Raises BadInput."""

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """The raw inputs."""

    def preprocessor(self, data: Dataset) -> nn.Module:
        """Raw to model inputs, with statistics from the training rows alone."""

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """The inverse of the preprocessor, for a reconstruction; raises BadInput where there is none."""

    def vocabulary(self, data: Dataset) -> int:
        """How many tokens there are; 0 where the inputs are no tokens."""


class Problem(Protocol):
    """What is asked of the data: its outputs, loss, metric and answers."""

    @property
    def goal(self) -> Goal: ...

    @property
    def output(self) -> TensorSpec: ...

    @property
    def answers(self) -> TensorSpec: ...

    @property
    def n_classes(self) -> int: ...

    def postprocessor(self) -> nn.Module:
        """Model output to answers."""

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Targets as stored, to compact targets for the device: int64 class indices or float32 values."""

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Encoded targets to those that `loss` wants, (B, …) float32."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor: ...

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> Tensor | float:
        """What a network's own penalty is multiplied by."""

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor: ...

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """answers: as the answers port. truth: targets as stored, or the raw examples for a reconstruction."""


def no_target(found: RawDataset, kind: str) -> Target:
    """Of a kind that looks at the inputs alone."""
    return Target()


def as_they_are(data: Dataset, found: RawDataset, source: Source) -> Dataset:
    return data


@dataclass(frozen=True, slots=True)
class ProblemSpec:
    """How a task of one kind comes about. A module of this folder offers its own in KINDS, by name.

    make: from the data, their modality, its preprocessor and the model's input. read: the target, out of what was
    found. arrange: what the kind makes of split data. task: its class; None leaves it to the modality. whole: where
    examples are split in a way of their own, this makes all of the task, and read, arrange and task are not looked at.
    All but `task` raise BadInput.
    """

    make: Callable[[Dataset, Modality, nn.Module, TensorSpec], Problem]
    read: Callable[[RawDataset, str], Target] = no_target
    arrange: Callable[[Dataset, RawDataset, Source], Dataset] = as_they_are
    task: Callable[[Dataset], Task] | None = None
    whole: Callable[[RawDataset, Source], Task] | None = None
