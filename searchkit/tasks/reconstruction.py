"""The example itself as the target: squared error on the scaled input; answered and scored on the raw scale.

A network with a divergence of its own (a VAE, Kingma & Welling 2014, arXiv:1312.6114) says it in nats an example. It
weighs as in the ELBO of a Gaussian decoder whose one variance is the best for the batch (Rybkin et al. 2021,
arXiv:2006.13202): D/2 log MSE + KL over D values has, times 2 MSE / D, the gradient of MSE + (2 MSE / D) KL, MSE in the
factor held still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.types import BadInput, Evaluation, Goal, Port, Task

from .data import Data, Modality
from .prepare import make_task
from .source import Source

EMBEDDED = {
    "digits-reconstruction": "rebuild the 8x8 digits: 1,797 images of 64 values from 0 to 16 (scikit-learn)",
}


@dataclass(frozen=True, eq=False)
class Rebuild:
    """raw, model: the ports of the example before and after the frontend. restore: from the one to the other."""

    raw: Port
    model: Port
    restore: nn.Module
    n_classes = 0
    goal = Goal("mse", "minimize")

    @property
    def output(self) -> Port:
        return Port("reconstruction", self.model.shape)

    @property
    def answers(self) -> Port:
        return Port("reconstruction", self.raw.shape)

    def answer(self) -> nn.Module:
        return self.restore

    def encode(self, target: np.ndarray) -> np.ndarray:
        raise AssertionError("a reconstruction has no target but its input")

    def soften(self, target: Tensor, smoothing: float) -> Tensor:
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.float(), target)

    def penalty_weight(self, loss: Tensor, output: Tensor) -> Tensor:
        return loss.detach() * (2 / math.prod(output.shape[1:]))

    def match(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(student.float(), teacher.float())

    def judge(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        values, targets = answers.astype(np.float64), truth.astype(np.float64)
        scores = ((values - targets) ** 2).reshape(len(values), -1).mean(axis=1)
        return Evaluation({"mse": self.goal.value(scores)}, scores, answers, truth)


def rebuild(data: Data, modality: Modality, frontend: nn.Module, spec_input: Port) -> Rebuild:
    if "lengths" in data.inputs:
        raise BadInput(
            f"{data.where} has examples of different lengths, which cannot be reconstructed; cut them to one length."
        )
    return Rebuild(modality.ports(data)[0], spec_input, modality.restore(data, frontend))


KINDS = {"reconstruction": rebuild}


def load(source: Source) -> Task:
    from .image import digits

    return make_task(digits("digits-reconstruction", labelled=False), source)
