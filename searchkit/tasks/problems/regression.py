"""Numbers: squared error on targets standardized by the training rows; answered and scored in the target's own unit."""

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
from searchkit.data.targets import read_values
from searchkit.tasks.metrics import r2
from searchkit.tasks.predictions import VALUES
from searchkit.tasks.protocols import Modality, ProblemSpec


class Rescale(nn.Module):
    """x * scale + shift, each (n_targets,), or of a shape that fits a row of x."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: np.ndarray, shift: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """Take (B, …) back to the unit of the target."""
        return values * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Values:
    """The problem of one number or several.

    Attributes:
        mean: (n_targets,) of the training rows.
        std: (n_targets,) of the same.
    """

    mean: np.ndarray
    std: np.ndarray
    n_classes = 0
    goal = Goal("rmse", "minimize", root=True)

    @property
    def output(self) -> TensorSpec:
        """One number a target, standardized."""
        return TensorSpec("values", self.mean.shape)

    @property
    def answers(self) -> TensorSpec:
        """One number a target, in its own unit."""
        return TensorSpec("values", self.mean.shape)

    def postprocessor(self) -> nn.Module:
        """Make the module back to the targets' own units."""
        return Rescale(self.std, self.mean)

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Standardize targets, (n, n_targets) float32."""
        return np.asarray((target - self.mean) / self.std, dtype=np.float32)

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Values stay as they are; smoothing has no meaning here."""
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of standardized targets."""
        return F.mse_loss(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean squared difference of the two; temperature has no meaning here."""
        return F.mse_loss(student.float(), teacher.float())

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """The score of an example is its squared error, averaged over targets; of different units the mean is a mix."""
        values, targets = answers.astype(np.float64), truth.astype(np.float64)
        scores = ((values - targets) ** 2).mean(axis=1)
        metrics = {
            "rmse": self.goal.value(scores),
            "mae": float(np.abs(values - targets).mean()),
            "r2": r2(targets, values),
        }
        return Evaluation(metrics, scores, values, targets)


def values(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Values:
    """Make the problem, with mean and deviation of the training rows."""
    train = data.target_of("train").astype(np.float64)
    std = train.std(axis=0)
    # A target can be constant in train and not elsewhere, which `read_values` does not refuse.
    return Values(train.mean(axis=0), np.where(std > 0, std, 1.0))


MAX_GUESSED_CLASSES = 20
"""Distinct whole numbers in a column of a table, above which it is a quantity."""


def has_quantities(found: RawDataset) -> bool:
    """Whether the target has several columns, or fractions, or is a table's column of many whole numbers."""
    target = found.target
    if target is None:
        return False
    several, many = target.ndim == 2 and target.shape[1] > 1, found.columns and target.dtype.kind in "iu"
    return several or target.dtype.kind == "f" or bool(many and len(np.unique(target)) > MAX_GUESSED_CLASSES)


PROBLEMS = {
    "regression": ProblemSpec(
        values,
        ProblemInfo(description="a quantity, or several", predicts="a quantity"),
        VALUES,
        read=read_values,
        recognizes=has_quantities,
        priority=30,
    ),
}
