"""The protocol of a task, and optional protocols that some tasks implement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from searchkit.core.data_spec import Arrays, DataSpec, Split, TensorSpec
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON
from searchkit.core.training import Batch, FitPlan, Training, TrainState

if TYPE_CHECKING:
    from torch import Tensor, nn


class Task(Protocol):
    """A data set with its splits, loss and metric.

    Search and stages read the train and val splits; only the evidence reads test.

    Attributes:
        name: Name of the task.
        spec: The data as a family sees them.
        goal: The metric to improve.
        inputs: Raw inputs, as a bundle takes them.
        answers: Outputs of a bundle: probabilities, values in their own unit, a reconstruction.
        labels: Class names by index; empty if there are no classes.
    """

    name: str
    problem: str  # the name of what is asked, such as "classification": see `searchkit.tasks.registry.problem_named`
    spec: DataSpec
    goal: Goal
    inputs: tuple[TensorSpec, ...]  # raw: what a bundle takes
    answers: tuple[TensorSpec, ...]  # what a bundle gives: probabilities, values in their own unit, a reconstruction
    labels: tuple[str, ...]  # class names in order of index; () if there are no classes

    @property
    def fingerprint(self) -> str:
        """A digest of the data and the splits; a run is not resumed on other data."""

    def preprocessor(self) -> nn.Module:
        """Return the module from raw inputs to model inputs: scaling, encoding, features.

        It is exported as the head of the graph. It takes the raw inputs in order and returns a Tensor, or a tuple if
        the spec has several inputs.
        """

    def postprocessor(self) -> nn.Module:
        """Return the module from the model's output to answers: softmax, sigmoid, or back to the target's unit.

        It is exported as the tail of the graph.
        """

    def n_examples(self, split: Split) -> int:
        """Return the number of examples of a split."""

    def splits(self) -> Arrays:
        """Return the row indices of each split, ascending, in the order of the source; a run stores them."""

    def raw(self, split: Split) -> Arrays:
        """Return the raw inputs of all examples of a split, by name."""

    def batches(self, split: Split, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """Iterate over one epoch.

        Args:
            split: "train" is shuffled, augmented, smoothed and mixed as `training` says; "val" is in order and
                unchanged.
            training: The training settings.
            seed: Seed of the shuffling and of the augmentation.
            device: Device of the tensors.
        """

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the training loss, a scalar, including the model's own term (see `HasAuxLoss`)."""

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """Return the distillation loss, a scalar that is 0 if the student equals the teacher.

        Args:
            student: The network that is trained.
            teacher: The network whose outputs it should match.
            batch: The batch.
            temperature: Softmax temperature, for tasks with classes.
        """

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Train a model in place; `searchkit.train.fit` is the usual implementation.

        Args:
            model: The network.
            plan: Settings of this call.
            state: State after the previous epoch.

        Returns:
            The state at epoch `plan.until`, or earlier if the training stopped.
        """

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on all examples of a split."""

    def summary(self) -> dict[str, JSON]:
        """Return facts about the data: rows per split, shapes, classes, missing values, duplicates and leaks."""

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """Return the task as plain data; `searchkit.tasks.registry.unpack` is the inverse."""


@runtime_checkable
class HasBundleFiles(Protocol):
    """A task whose bundle needs more files, such as a tokenizer or a decoding loop."""

    def bundle_files(self) -> dict[str, str]:
        """Return additional files of the bundle, or a replacement of its run.py.

        Returns:
            Text by file name. Scripts may import numpy, onnxruntime and each other.
        """


@runtime_checkable
class HasParts(Protocol):
    """A task that can be trained and watched on a part of its examples, to compare candidates cheaply."""

    def part(self, share: float) -> Task | None:
        """The same task with a share of the training examples; val and test stay as they are.

        A larger part holds all examples of a smaller one, and each class has its share.

        Args:
            share: Above 0, at most 1.

        Returns:
            The task; None if its training examples cannot be taken apart.
        """

    def glimpse(self, rows: int) -> Task:
        """The same task with at most so many examples of val, each class with its share: for learning curves.

        Args:
            rows: At least 1.

        Returns:
            The task; itself if val has no more, or cannot be taken apart.
        """


@runtime_checkable
class HasSides(Protocol):
    """A task whose inputs have sides, such as pictures, and can be made smaller, to compare candidates cheaply."""

    def shrunk(self, share: float) -> Task | None:
        """The same task with every side of its inputs at a share of its length, in training and on val.

        Its `spec` stays that of the whole inputs, for which networks are built: a network with global pooling takes
        both, one that flattens does not.

        Args:
            share: Above 0, below 1.

        Returns:
            The task; None if its inputs have no sides, or would be left without any.
        """


@runtime_checkable
class HasRowBatches(Protocol):
    """A task whose batches can be split by rows, so that several processes train one network (`core.replicas`)."""

    def unsplittable(self) -> str | None:
        """Return why its batches cannot be split, as the end of a sentence; None if they can."""


@runtime_checkable
class HasColumns(Protocol):
    """A task whose input has named columns; the bundle's README lists them in order."""

    @property
    def columns(self) -> Sequence[object]:
        """The columns, as dataclasses with `name`, `kind` and `categories`; empty if they have no names."""


@runtime_checkable
class SelfSupervised(Protocol):
    """A task with a self-supervised objective on its inputs; `Training.pretrain_epochs` enables it."""

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        """Return the pre-training loss, a scalar.

        Args:
            restorer: The network with its masked head (see `HasMaskedHead`).
            batch: The batch; its targets are not used.
        """


@runtime_checkable
class Calibrated(Protocol):
    """A task whose outputs are read with numbers fitted to the shipped file, such as a decision threshold."""

    def calibrate(self, predict: Predict) -> dict[str, JSON]:
        """Fit these numbers on the validation split.

        Returns:
            Entries of the bundle's manifest. For a threshold: "output", the name of the output; "threshold"; "above"
            and "below", the labels of the two sides; "quantile" and "of", how it was chosen.
        """


@runtime_checkable
class ComparesOutput(Protocol):
    """A postprocessor that compares the network's output with its input, e.g. a reconstruction error."""

    def compare(self, output: Tensor, *model_inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the answers; used instead of `forward`, and exported like it.

        Args:
            output: The network's output.
            model_inputs: The network's inputs.

        Returns:
            The task's answers, in order.
        """


@runtime_checkable
class Grouped(Protocol):
    """A task with dependent examples, such as overlapping windows or recordings of one speaker.

    Intervals then use a cluster bootstrap, since dependent examples carry less information.
    """

    def groups(self, split: Split) -> np.ndarray | None:
        """Return the cluster of each example, (n,) integers, or None if examples are independent."""


@runtime_checkable
class HasBaselines(Protocol):
    """A task with baselines that need no network, such as repeating the last value."""

    def baselines(self) -> dict[str, Predict]:
        """Return predictors by name, fitted on train and val; they are scored like a network."""


@runtime_checkable
class HasModelMetrics(Protocol):
    """A task with metrics that need the network itself, not only its outputs."""

    def inspect(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return metrics of a network in eval mode on the CPU, by name; empty if none apply."""
