"""Numbers: squared error on targets standardised by the training rows; answered and scored in the target's own unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.types import Evaluation, Goal, Port

from .data import Data, Modality, Offer
from .metrics import r2
from .targets import read_values


class Rescale(nn.Module):
    """x * scale + shift, each (n_targets,)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: np.ndarray, shift: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Values:
    """mean, std: (n_targets,) of the training rows."""

    mean: np.ndarray
    std: np.ndarray
    n_classes = 0
    goal = Goal("rmse", "minimize", root=True)

    @property
    def output(self) -> Port:
        return Port("values", self.mean.shape)

    @property
    def answers(self) -> Port:
        return Port("values", self.mean.shape)

    def answer(self) -> nn.Module:
        return Rescale(self.std, self.mean)

    def encode(self, target: np.ndarray) -> np.ndarray:
        return np.asarray((target - self.mean) / self.std, dtype=np.float32)

    def soften(self, target: Tensor, smoothing: float) -> Tensor:
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.float(), target)

    def penalty_weight(self, loss: Tensor, output: Tensor) -> float:
        return 1.0

    def match(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(student.float(), teacher.float())

    def judge(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """The score of an example is its squared error, averaged over targets; of different units the mean is a mix."""
        values, targets = answers.astype(np.float64), truth.astype(np.float64)
        scores = ((values - targets) ** 2).mean(axis=1)
        metrics = {
            "rmse": self.goal.value(scores),
            "mae": float(np.abs(values - targets).mean()),
            "r2": r2(targets, values),
        }
        return Evaluation(metrics, scores, values, targets)


def values(data: Data, modality: Modality, frontend: nn.Module, spec_input: Port) -> Values:
    train = data.target_of("train").astype(np.float64)
    std = train.std(axis=0)
    return Values(train.mean(axis=0), np.where(std > 0, std, 1.0))


KINDS = {"regression": Offer(values, read=read_values)}
