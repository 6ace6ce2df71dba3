"""The protocol of a task, and those that some tasks meet beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from searchkit.core.data_spec import Arrays, DataSpec, Split, TensorSpec
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON
from searchkit.core.training import Batch, FitPlan, Training, TrainState

if TYPE_CHECKING:
    from torch import Tensor, nn


class Task(Protocol):
    """Data with its loss, metric and splits. Search and stages see train and val; test is for the evidence."""

    name: str
    problem: str  # the name of what is asked, such as "classification": see `searchkit.tasks.registry.problem_named`
    spec: DataSpec
    goal: Goal
    inputs: tuple[TensorSpec, ...]  # raw: what a bundle takes
    answers: tuple[TensorSpec, ...]  # what a bundle gives: probabilities, values in their own unit, a reconstruction
    labels: tuple[str, ...]  # class names in order of index; () where there are no classes

    @property
    def fingerprint(self) -> str:
        """A digest of the data and their splits: a run is not resumed on other data."""

    def preprocessor(self) -> nn.Module:
        """Raw inputs (as tensors, in order) to model inputs: scaling, encoding. Exported as the head of the graph.
        Returns a Tensor, or a tuple of them where the spec has several inputs.
        """

    def postprocessor(self) -> nn.Module:
        """Model output to answers: softmax, sigmoid, or back to the target's unit. Exported as the graph's tail."""

    def n_examples(self, split: Split) -> int: ...

    def splits(self) -> Arrays:
        """Row indices by split, ascending, in the order of the source: what a run keeps of how the data were split."""

    def raw(self, split: Split) -> Arrays:
        """Raw inputs by port name, all examples of the split, laid out as the ports say."""

    def batches(self, split: Split, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """One epoch. train: shuffled by `seed`, augmented, smoothed, mixed as `training` says; val: in order, plain."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar. Adds the model's own penalty (see HasAuxLoss)."""

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """The distillation loss that suits this task: a scalar, 0 where the student equals the teacher."""

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Train in place. The default is `searchkit.train.fit`."""

    def evaluate(self, predict: Predict, split: Split) -> Evaluation: ...

    def summary(self) -> dict[str, JSON]:
        """What was found: rows by split, shapes, classes, missing, duplicates, rows in train and test both."""

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """Everything as plain data; `searchkit.tasks.registry.unpack` is the inverse, on this machine or another."""


@runtime_checkable
class HasBundleFiles(Protocol):
    """A task whose bundle needs more than the model to take what a person has: a tokenizer, a loop around the graph."""

    def bundle_files(self) -> dict[str, str]:
        """Files of the bundle, name to text, beside those that every bundle has, or in place of its run.py. Scripts
        import numpy, onnxruntime and each other alone.
        """


@runtime_checkable
class SelfSupervised(Protocol):
    """A task whose inputs alone teach something, before their targets do. `Training.pretrain_epochs` asks for it."""

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        """A scalar: how badly the restorer of a network tells what was hidden of the inputs."""


@runtime_checkable
class Calibrated(Protocol):
    """A task whose answers are read by numbers that depend on the very file, such as the threshold of a score."""

    def calibrate(self, predict: Predict) -> dict[str, JSON]:
        """What the bundle's manifest says of the shipped file beside, from val alone. Of a threshold: "output", the
        answer that it is for; "threshold"; "above" and "below", what an example is; "quantile" and "of", of what.
        """


@runtime_checkable
class ComparesOutput(Protocol):
    """A task's answer that is a comparison with what the network was given: exported, as any answer is."""

    def compare(self, output: Tensor, *model_inputs: Tensor) -> tuple[Tensor, ...]:
        """In place of `forward`: the task's answers, in order."""


@runtime_checkable
class Grouped(Protocol):
    """A task with examples that hang together (windows that share steps, recordings of one speaker), so that they do
    not count for as many as they are.
    """

    def groups(self, split: Split) -> np.ndarray | None:
        """(n,) whole numbers: examples with the same number are resampled together. None: each is by itself."""


@runtime_checkable
class HasBaselines(Protocol):
    """A task that can be answered without a network, too: what one has to be better than."""

    def baselines(self) -> dict[str, Predict]:
        """By name, from what train and val tell; scored by `evaluate` as a network is."""


@runtime_checkable
class HasModelMetrics(Protocol):
    """A task that asks a network for more than its answers tell: the evidence has it of artifacts with weights."""

    def inspect(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics of the network itself, in eval mode on the CPU; none where it has none of them."""
