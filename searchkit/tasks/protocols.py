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
from searchkit.data.problems import ProblemInfo
from searchkit.tasks.predictions import Prediction

# The registry imports this module, and must list the tasks without importing torch.
if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor, nn

    from searchkit.data.source import Source


class Modality(Protocol):
    """What is particular to one form of input. A module below this folder names its own in MODALITIES.

    Attributes:
        form: What families are told that they take, `DataSpec.modality`: a spectrogram of a series may be a picture.
        augmentations: By name, on model inputs, a batch at a time.
        corrupts: The augmentations whose clean input stays the target of a reconstruction.
    """

    form: str
    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]]
    corrupts: frozenset[str]

    def arrange(self, found: RawDataset) -> Arrays:
        """Lay out the examples as named, checked, compact inputs.

        Raises:
            BadInput: the examples do not suit this modality.
        """

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Describe the raw inputs."""

    def preprocessor(self, data: Dataset) -> nn.Module:
        """Make the module that takes raw to model inputs, with statistics from the training rows alone."""

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Make the inverse of the preprocessor, for a reconstruction.

        Raises:
            BadInput: there is none.
        """

    def vocabulary(self, data: Dataset) -> int:
        """Count the tokens; 0 if the inputs are no tokens."""


class Problem(Protocol):
    """A problem for one data set: the network's output, its loss, the metric and the answers."""

    @property
    def goal(self) -> Goal:
        """The metric that the search improves."""

    @property
    def output(self) -> TensorSpec:
        """What the network gives."""

    @property
    def answers(self) -> TensorSpec:
        """What a bundle gives."""

    @property
    def n_classes(self) -> int:
        """How many classes there are; 0 if the answers are no classes."""

    def postprocessor(self) -> nn.Module:
        """Make the module that takes the network's output to answers."""

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Pack targets as stored for the device: int64 class indices or float32 values, (n, …)."""

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Turn encoded targets into those that `loss` takes, (B, …) float32.

        Args:
            target: (B, …), as `encode` gives it.
            smoothing: The share of a target that label smoothing spreads over all classes.
        """

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute the training loss of a batch, a scalar."""

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> Tensor | float:
        """Weigh a network's own penalty against `loss`."""

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compare the outputs of two networks: a scalar, least if they are the same."""

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Judge answers.

        Args:
            answers: (n, …), as the answers port says.
            truth: (n, …), targets as stored, or the raw examples for a reconstruction.
        """


def no_target(found: RawDataset, problem: str) -> Target:
    """Read no target, for a problem that looks at the inputs alone."""
    return Target()


def as_they_are(data: Dataset, found: RawDataset, source: Source) -> Dataset:
    """Leave split data as they are."""
    return data


@dataclass(frozen=True, slots=True)
class ProblemSpec:
    """All that the engine asks of a problem. A module below this folder names its own in PROBLEMS.

    `make`, `read`, `arrange` and `whole` raise BadInput if the data do not suit the problem.

    Attributes:
        make: Makes the problem from the data, their modality, its preprocessor and the model's first input. None if
            its tasks are no `ArrayTask`.
        info: What help, readers and the data summary need, as literals.
        prediction: The form of the answers: when two models agree, and what a figure of errors shows.
        read: Reads the target out of what was found, given the problem's name.
        arrange: Changes split data, such as by adding noise.
        task: The task's class; None leaves it to the modality.
        whole: Makes all of the task, if examples are split in a way of their own; `read`, `arrange` and `task` are then
            not used.
        recognizes: Whether data that name no problem have this one; None if it has to be asked for.
        priority: The order in which problems are asked whether they recognize data, the smallest first.
        metric: Computes the goal's metric from the answers by name, the targets and the labels, with numpy alone. A
            bundle carries its source, so that verify.py can compute a metric that it does not know. It may use `np` and
            what it defines itself.
        check: What the problem guarantees beside the conformance suite of tasks. Raises AssertionError.
    """

    make: Callable[[Dataset, Modality, nn.Module, TensorSpec], Problem] | None
    info: ProblemInfo
    prediction: Prediction
    read: Callable[[RawDataset, str], Target] = no_target
    arrange: Callable[[Dataset, RawDataset, Source], Dataset] = as_they_are
    task: Callable[[Dataset], Task] | None = None
    whole: Callable[[RawDataset, Source], Task] | None = None
    recognizes: Callable[[RawDataset], bool] | None = None
    priority: int = 0
    metric: Callable[[dict[str, np.ndarray], np.ndarray, list[str]], float] | None = None
    check: Callable[[Task], None] | None = None
