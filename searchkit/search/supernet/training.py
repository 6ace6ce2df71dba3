"""The training of a supernet: the sandwich rule with in-place distillation.

In each step the largest network learns from the data, and the smallest and two random ones learn from the largest one's
answers; the gradients of all four meet in the shared weights (universally slimmable networks: Yu & Huang 2019,
arXiv:1903.05134; BigNAS: Yu et al. 2020, arXiv:2003.11142).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.core.task import Task
from searchkit.core.training import Batch
from searchkit.nn.sharing import Shared
from searchkit.search.candidates import Candidate
from searchkit.search.supernet.kind import Kind

RANDOM_NETS = 2
"""Random networks of a step, beside the largest and the smallest; Yu & Huang take two."""

STEP_COST = 2.0
"""What a step costs, in steps of the largest network alone. Measured, a residual CNN of 22,590 parameters on 14 × 14
pixels, batches of 64, one thread: 59 ms alone, 105 to 115 ms with the smallest and two random ones."""

POOL = 100
"""Random networks that are kept built, of which each step draws: to find one takes 6 ms (measured)."""


class _Recorded(nn.Module):
    """A network that remembers its last answer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.answer: Any = None

    def forward(self, *inputs: Tensor) -> Any:
        self.answer = self.net(*inputs)
        return self.answer


class _Answer(nn.Module):
    """Gives one answer, whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Tensor) -> Any:
        return self.answer


def sandwich(kind: Kind, task: Task, *, seed: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a step, as `FitPlan.loss` takes it: the mean over the networks of the step.

    The random networks are drawn by torch's generator, which `fit` seeds for each epoch, so that a training which is
    taken up again draws the same.

    Args:
        kind: The largest network and those inside it.
        task: Gives the losses.
        seed: Of the networks that are drawn from.
    """
    rng = random.Random(seed)
    drawn = (kind.at_random(rng) for _ in range(POOL))
    pool = list({candidate.key: candidate for candidate in drawn if candidate is not None}.values())
    kept: dict[str, nn.Module] = {}

    def shared(candidate: Candidate, other: nn.Module) -> nn.Module:
        if candidate.key not in kept:
            net = kind.built(candidate)
            found = kind.found(candidate, net)
            assert found is not None, "only candidates inside the largest network are drawn"
            kept[candidate.key] = Shared(net.to(next(other.parameters()).device), other, found)
        return kept[candidate.key].train()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        recorded = _Recorded(model)
        losses = [task.loss(recorded, batch)]
        teacher = _Answer(recorded.answer.detach())
        chosen = torch.randperm(len(pool))[:RANDOM_NETS].tolist()
        for candidate in (kind.smallest, *(pool[index] for index in chosen)):
            losses.append(task.distillation_loss(shared(candidate, model), teacher, batch, temperature=1.0))
        return torch.stack(losses).mean()

    return loss
