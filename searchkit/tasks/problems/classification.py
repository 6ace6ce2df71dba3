"""Classes and labels: sigmoid and binary cross-entropy for two classes or many labels, softmax for more classes.

Two classes take one logit, and are answered as two probabilities, so that every classifier is scored by the same lines.
Distillation is the divergence of softened distributions, times temperature² (Hinton et al. 2015, arXiv:1503.02531).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import TensorSpec
from searchkit.core.goal import Evaluation, Goal
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.targets import is_binary, read_classes, read_labels, require_known
from searchkit.tasks.losses import smoothed_one_hot, softened_divergence
from searchkit.tasks.metrics import macro_f1, macro_f1_labels, roc_auc
from searchkit.tasks.predictions import CLASSES, LABELS
from searchkit.tasks.protocols import Modality, ProblemSpec


class Softmax(nn.Module):
    """(B, n_classes) logits to probabilities."""

    def forward(self, logits: Tensor) -> Tensor:
        """Apply the softmax over the last axis."""
        return logits.softmax(-1)


class TwoProbabilities(nn.Module):
    """(B, 1) logits of the second class to (B, 2) probabilities."""

    def forward(self, logits: Tensor) -> Tensor:
        """Give the probability of the first class and that of the second."""
        second = logits.sigmoid()
        return torch.cat([1 - second, second], -1)


def score_classes(answers: np.ndarray, truth: np.ndarray) -> Evaluation:
    """Score one class an example.

    Args:
        answers: (n, n_classes) probabilities. One that is not finite decides for no class, -1, and is wrong.
        truth: (n,) class indices.
    """
    decisions = np.where(np.isfinite(answers).all(axis=1), answers.argmax(axis=1), -1)
    scores = (decisions == truth).astype(np.float64)
    metrics = {
        "accuracy": float(scores.mean()),
        "macro_f1": macro_f1(truth, decisions),
        "roc_auc": roc_auc(truth, answers),
    }
    return Evaluation(metrics, scores, decisions, truth)


@dataclass(frozen=True)
class Classes:
    """A problem of three classes or more."""

    n_classes: int
    goal = Goal("accuracy", "maximize")

    @property
    def output(self) -> TensorSpec:
        """One logit a class."""
        return TensorSpec("logits", (self.n_classes,))

    @property
    def answers(self) -> TensorSpec:
        """A probability for each class."""
        return TensorSpec("probabilities", (self.n_classes,))

    def postprocessor(self) -> nn.Module:
        """Make the module from logits to probabilities."""
        return Softmax()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Class indices stay as they are stored, (n,) int64."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Spread a target over all classes, (B, n_classes), by the share `smoothing`."""
        return smoothed_one_hot(target, self.n_classes, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of soft targets, (B, n_classes), the mean over the batch."""
        return F.cross_entropy(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The divergence of the softened distributions, the mean over the batch, times temperature²."""
        given, wanted = (F.log_softmax(logits.float() / temperature, -1) for logits in (student, teacher))
        return softened_divergence(given, wanted, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """See `score_classes`."""
        return score_classes(answers, truth)


def _smooth(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / 2


def _match_bernoulli(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of Bernoulli distributions, the mean over batch and labels."""
    student, teacher = student.float() / temperature, teacher.float() / temperature
    softened = teacher.sigmoid()
    # Cross-entropy less the teacher's entropy: a constant to the student, but with it equal answers give 0.
    cross = F.binary_cross_entropy_with_logits(student, softened)
    return (cross - F.binary_cross_entropy_with_logits(teacher, softened)) * temperature**2


@dataclass(frozen=True)
class TwoClasses:
    """A problem of two classes, which takes one logit, of the second."""

    n_classes: int = 2
    goal = Goal("accuracy", "maximize")
    output = TensorSpec("logits", (1,))
    answers = TensorSpec("probabilities", (2,))

    def postprocessor(self) -> nn.Module:
        """Make the module from logits to probabilities."""
        return TwoProbabilities()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Class indices to (n, 1) float32."""
        return target.astype(np.float32)[:, None]

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Move a target toward a half by the share `smoothing`."""
        return _smooth(target, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The binary cross-entropy of soft targets, (B, 1), the mean over the batch."""
        return F.binary_cross_entropy_with_logits(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The divergence of the softened Bernoulli distributions, times temperature²."""
        return _match_bernoulli(student, teacher, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """See `score_classes`."""
        return score_classes(answers, truth)


@dataclass(frozen=True)
class Labels:
    """A problem of any number of labels at once. Accuracy is the share of label decisions that are right."""

    n_classes: int
    goal = Goal("accuracy", "maximize")

    @property
    def output(self) -> TensorSpec:
        """One logit a label."""
        return TensorSpec("logits", (self.n_classes,))

    @property
    def answers(self) -> TensorSpec:
        """A probability for each label."""
        return TensorSpec("probabilities", (self.n_classes,))

    def postprocessor(self) -> nn.Module:
        """Make the module from logits to probabilities."""
        return nn.Sigmoid()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Labels stay as they are stored, (n, n_labels) float32 of 0 and 1."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Move each label toward a half by the share `smoothing`."""
        return _smooth(target, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The binary cross-entropy of soft targets, (B, n_labels), the mean over batch and labels."""
        return F.binary_cross_entropy_with_logits(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean over batch and labels of the softened divergence, times temperature²."""
        return _match_bernoulli(student, teacher, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Score any number of labels an example.

        Args:
            answers: (n, n_labels) probabilities. One that is not finite decides -1, and is wrong.
            truth: (n, n_labels) of 0 and 1.
        """
        decisions = np.where(np.isfinite(answers), answers > 0.5, -1).astype(np.int64)
        targets = truth.astype(np.int64)
        right = decisions == targets
        scores = right.mean(axis=1, dtype=np.float64)
        metrics = {
            "accuracy": self.goal.value(scores),
            "subset_accuracy": float(right.all(axis=1).mean()),
            "macro_f1": macro_f1_labels(targets, decisions),
        }
        return Evaluation(metrics, scores, decisions, targets)


def classes(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Classes | TwoClasses:
    """Make the problem for the number of classes that the data have."""
    return TwoClasses() if len(data.labels) == 2 else Classes(len(data.labels))


def labels(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Labels:
    """Make the problem for the number of labels that the data have."""
    return Labels(len(data.labels))


def has_target(found: RawDataset) -> bool:
    """Whether there is a target of any kind: asked last."""
    return found.target is not None


def has_label_columns(found: RawDataset) -> bool:
    """Whether the target has several columns of 0 and 1."""
    target = found.target
    return target is not None and target.ndim == 2 and target.shape[1] > 1 and is_binary(target)


PROBLEMS = {
    "classification": ProblemSpec(
        classes,
        ProblemInfo(description="one of several classes", predicts="one of {n} classes"),
        CLASSES,
        read=read_classes,
        arrange=require_known,
        recognizes=has_target,
        priority=40,
    ),
    "multilabel": ProblemSpec(
        labels,
        ProblemInfo(description="any number of labels at once", predicts="any of {n} labels"),
        LABELS,
        read=read_labels,
        recognizes=has_label_columns,
        priority=20,
    ),
}
