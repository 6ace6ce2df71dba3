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
from searchkit.tasks.metrics import macro_f1, macro_f1_labels, roc_auc
from searchkit.tasks.predictions import CLASSES, LABELS
from searchkit.tasks.protocols import Modality, ProblemSpec


class Softmax(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


class TwoProbabilities(nn.Module):
    """(B, 1) logits of the second class to (B, 2) probabilities."""

    def forward(self, logits: Tensor) -> Tensor:
        second = logits.sigmoid()
        return torch.cat([1 - second, second], -1)


def score_classes(answers: np.ndarray, truth: np.ndarray) -> Evaluation:
    """answers: (n, n_classes) probabilities. An answer that is not finite decides for no class, -1, and is wrong."""
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
    """Three classes or more."""

    n_classes: int
    goal = Goal("accuracy", "maximize")

    @property
    def output(self) -> TensorSpec:
        return TensorSpec("logits", (self.n_classes,))

    @property
    def answers(self) -> TensorSpec:
        return TensorSpec("probabilities", (self.n_classes,))

    def postprocessor(self) -> nn.Module:
        return Softmax()

    def encode(self, target: np.ndarray) -> np.ndarray:
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        hot = F.one_hot(target, self.n_classes).float()
        return hot * (1 - smoothing) + smoothing / self.n_classes

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        softened = F.log_softmax(teacher.float() / temperature, -1)
        divergence = F.kl_div(
            F.log_softmax(student.float() / temperature, -1), softened, reduction="batchmean", log_target=True
        )
        return divergence * temperature**2

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        return score_classes(answers, truth)


def _smooth(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / 2


def _match_bernoulli(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of Bernoulli distributions, the mean over batch and labels."""
    student, teacher = student.float() / temperature, teacher.float() / temperature
    softened = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, softened)
    return (cross - F.binary_cross_entropy_with_logits(teacher, softened)) * temperature**2


@dataclass(frozen=True)
class TwoClasses:
    n_classes: int = 2
    goal = Goal("accuracy", "maximize")
    output = TensorSpec("logits", (1,))
    answers = TensorSpec("probabilities", (2,))

    def postprocessor(self) -> nn.Module:
        return TwoProbabilities()

    def encode(self, target: np.ndarray) -> np.ndarray:
        return target.astype(np.float32)[:, None]

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        return _smooth(target, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return _match_bernoulli(student, teacher, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        return score_classes(answers, truth)


@dataclass(frozen=True)
class Labels:
    """Any number of labels at once. Accuracy is the share of label decisions that are right."""

    n_classes: int
    goal = Goal("accuracy", "maximize")

    @property
    def output(self) -> TensorSpec:
        return TensorSpec("logits", (self.n_classes,))

    @property
    def answers(self) -> TensorSpec:
        return TensorSpec("probabilities", (self.n_classes,))

    def postprocessor(self) -> nn.Module:
        return nn.Sigmoid()

    def encode(self, target: np.ndarray) -> np.ndarray:
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        return _smooth(target, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return _match_bernoulli(student, teacher, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
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
    return TwoClasses() if len(data.labels) == 2 else Classes(len(data.labels))


def labels(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Labels:
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
