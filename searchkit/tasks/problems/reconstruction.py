"""The example itself as the target: squared error on the scaled input; answered and scored on the raw scale.

A network with a divergence of its own (a VAE, Kingma & Welling 2014, arXiv:1312.6114) says it in nats an example. It
weighs as in the ELBO of a Gaussian decoder whose one variance is the best for the batch (Rybkin et al. 2021,
arXiv:2006.13202): D/2 log MSE + KL over D values has, times 2 MSE / D, the gradient of MSE + (2 MSE / D) KL, MSE in the
factor held still. The bound itself is reported in nats an example (`elbo`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal
from searchkit.core.network import Variational
from searchkit.core.random_state import seeded
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.tasks.predictions import RECONSTRUCTION
from searchkit.tasks.prepare import make_task
from searchkit.tasks.protocols import Modality, ProblemSpec

EMBEDDED = {
    "digits-reconstruction": "rebuild the 8x8 digits: 1,797 images of 64 values from 0 to 16 (scikit-learn)",
}


@dataclass(frozen=True, eq=False)
class Rebuild:
    """The problem of giving an example as it should be, from the example as it is.

    Attributes:
        raw: The port of the example before the preprocessor.
        model: The same after it.
        restore: From the network's scale back to the raw one.
        goal: What the search improves.
        error: What the mean squared error on the raw scale is called.
        tail: The module from the network's output to the answers, if not `restore`.
    """

    raw: TensorSpec
    model: TensorSpec
    restore: nn.Module
    goal: Goal = Goal("mse", "minimize")
    error: str = "mse"
    tail: nn.Module | None = None
    n_classes = 0

    @property
    def output(self) -> TensorSpec:
        """The example on the network's scale."""
        return TensorSpec("reconstruction", self.model.shape)

    @property
    def answers(self) -> TensorSpec:
        """The example on the raw scale."""
        return TensorSpec("reconstruction", self.raw.shape)

    def postprocessor(self) -> nn.Module:
        """Copy the module from the network's scale to the answers, on the CPU."""
        # A copy, since callers move what they get to the device of their network.
        return copy.deepcopy(self.restore if self.tail is None else self.tail).cpu()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """The target is the input, so there is nothing to encode."""
        raise AssertionError("a reconstruction has no target but its input")

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Values stay as they are; smoothing has no meaning here."""
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error on the network's scale."""
        return F.mse_loss(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> Tensor:
        """2 MSE / D, so that a divergence in nats weighs as in the ELBO; see the module."""
        return loss.detach() * (2 / math.prod(output.shape[1:]))

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean squared difference of the two on the network's scale; temperature has no meaning here."""
        return F.mse_loss(student.float(), teacher.float())

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """The score of an example is its mean squared error on the raw scale."""
        values, targets = answers.astype(np.float64), truth.astype(np.float64)
        scores = ((values - targets) ** 2).reshape(len(values), -1).mean(axis=1)
        return Evaluation({self.error: float(scores.mean())}, scores, answers, truth)


def rebuild(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Rebuild:
    """Make the problem for these data.

    Raises:
        BadInput: examples differ in length, or cannot be taken back to the raw scale.
    """
    if "lengths" in data.inputs:
        raise BadInput(
            f"{data.where} has examples of different lengths, which cannot be reconstructed; cut them to one length."
        )
    return Rebuild(modality.ports(data)[0], spec_input, modality.restore(data, preprocessor))


def has_no_target(found: RawDataset) -> bool:
    """Whether there are inputs alone."""
    return found.target is None


DRAWS = 16
"""Of the code of each example. The mean over so many draws, and over hundreds of examples, is within a nat of that over
more (see the test)."""


@torch.no_grad()
def elbo(net: Variational, train: Tensor, x: Tensor, restore: nn.Module, *, seed: int = 0) -> np.ndarray | None:
    """Bound log p(x) from below, in nats an example.

    E log p(x | code) - KL(q(code | x) || p(code)) with a Gaussian decoder of one variance, which is the mean squared
    error of drawn reconstructions of `train`, on the network's scale. The density is that of the raw values: of whole
    numbers it is their log probability (spread evenly over a unit each), and -ELBO / (D log 2) their bits a value.

    Args:
        net: In eval mode, on the CPU.
        train: (n, ...) on the network's scale.
        x: The same, to be judged.
        restore: To the raw scale.
        seed: By which codes are drawn.

    Returns:
        (n,), or None if the network draws nothing.
    """
    with seeded(seed):
        before = _drawn(net, train, 1)
        found = _drawn(net, x, DRAWS)
    if before is None or found is None:
        return None
    n_values = math.prod(x.shape[1:])
    variance = float(before[0].mean()) / n_values
    unit = restore(torch.ones_like(x[:1])) - restore(torch.zeros_like(x[:1]))  # raw values in a unit of the network's
    squared, nats = found
    # The negative log-likelihood. A density of raw values is that of scaled ones over the unit, hence the last term.
    likelihood = squared / (2 * variance) + n_values / 2 * math.log(2 * math.pi * variance) + float(unit.log().sum())
    return np.asarray(-(likelihood + nats).numpy())


def _drawn(net: Variational, x: Tensor, draws: int) -> tuple[Tensor, Tensor] | None:
    """(n,) float64 squared errors, the mean over draws, and (n,) float64 nats of divergence."""
    errors, nats = [], []
    for part in torch.split(x, 512):
        total = torch.zeros(len(part), dtype=torch.float64)
        for _ in range(draws):
            drawn = net.draw(part)
            if drawn is None:
                return None
            total += (drawn[0] - part).double().square().flatten(1).sum(1)
            # The same at every draw: it is that of the distribution of codes, not of one code.
            divergence = drawn[1].double()
        errors.append(total / draws)
        nats.append(divergence)
    return torch.cat(errors), torch.cat(nats)


PROBLEMS = {
    "reconstruction": ProblemSpec(
        rebuild,
        ProblemInfo(
            description="the input itself, through a narrow network", predicts="the input itself", labeled=False
        ),
        RECONSTRUCTION,
        recognizes=has_no_target,
        priority=10,
    ),
}


def load(source: Source) -> Task:
    """Load the packaged task: the digits, with their classes only if anomalies are asked for."""
    from searchkit.tasks.modalities.image import digits

    return make_task(digits("digits-reconstruction", labeled=source.kind == "anomaly"), source)
