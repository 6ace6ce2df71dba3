"""Scoring: thousands of candidates of a kind are compared with the supernet's weights, without training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.core.serialization import derive_seed
from searchkit.core.task import Task
from searchkit.core.training import Batch, Training
from searchkit.nn.sharing import NORMS, take_
from searchkit.search.candidates import Candidate
from searchkit.search.supernet.kind import Kind

EXAMPLES = 1024
"""Of val, on which a candidate is scored."""

CALIBRATION = 2
"""Batches of training data, on which the statistics of batch norms are computed anew: those of the supernet are of a
network with other channels (Yu & Huang 2019, section 4.2: without it most networks answer at random)."""

BATCH = 256

RANDOM_PART = 1 / 3
"""Of the candidates, drawn at random; the others are near the best so far."""

PARENTS = 20
"""The best so far, near which candidates are drawn."""


@dataclass(frozen=True)
class Scored:
    """A candidate with its score.

    Attributes:
        params: The architecture's parameters.
        key: The candidate's.
        losses: On val, with the supernet's weights; then the cost if one is minimized. Smaller is better.
    """

    params: dict[str, Any]
    key: str
    losses: tuple[float, ...]


class Judge:
    """Scores candidates by their loss on a part of val.

    Args:
        kind: What the supernet holds.
        net: The trained supernet.
        task: Gives the data and the loss.
        training: Of which the batches are, without augmentation.
        device: Of the networks.
    """

    def __init__(self, kind: Kind, net: nn.Module, task: Task, training: Training, *, device: str) -> None:
        self.kind, self.net, self.task, self.device = kind, net, task, device
        plain = Training(objective=training.objective, batch_size=BATCH)
        self.calibration = list(islice(task.batches("train", plain, seed=0, device=device), CALIBRATION))
        batches = list(task.batches("val", plain, seed=0, device=device))
        # Every so many, for rows may be in order of their classes.
        self.batches: Sequence[Batch] = batches[:: max(1, len(batches) * BATCH // EXAMPLES)]

    @torch.no_grad()
    def network(self, candidate: Candidate) -> nn.Module:
        """The candidate's network with the supernet's weights and statistics of its own, in eval mode."""
        net = self.kind.built(candidate)
        found = self.kind.found(candidate, net)
        assert found is not None, "only candidates inside the largest network are scored"
        take_(net, self.net, found)
        net.to(self.device).eval()
        norms = [module for module in net.modules() if isinstance(module, NORMS)]
        if norms:
            usual = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = None  # the mean over all batches; the first takes the place of what the supernet has
                norm.train()
            for batch in self.calibration:
                net(*batch.inputs)
            for norm, momentum in zip(norms, usual, strict=True):
                norm.momentum = momentum
                norm.eval()
        return net

    @torch.no_grad()
    def loss(self, candidate: Candidate) -> float:
        """The mean loss on val; infinite if it is not a number."""
        net, total, n = self.network(candidate), 0.0, 0
        for batch in self.batches:
            loss: Tensor = self.task.loss(net, batch)
            total, n = total + float(loss) * len(batch.target), n + len(batch.target)
        return total / n if math.isfinite(total) else math.inf


def ranked(rows: Sequence[Scored]) -> list[Scored]:
    """Best first: by the loss; if a cost is minimized too, first those that no other beats in both."""
    front: list[Scored] = []
    others: list[Scored] = []
    least = math.inf
    for row in sorted(rows, key=lambda row: (row.losses, row.key)):
        beaten = len(row.losses) > 1 and row.losses[1] >= least
        (others if beaten else front).append(row)
        least = min(least, row.losses[-1])
    return front + others


def hunt(
    kind: Kind,
    rows: list[Scored],
    score: Callable[[Candidate], Scored | None],
    *,
    n: int,
    seed: int,
) -> Iterator[Scored]:
    """Score candidates until there are `n`: a third at random, the others near the best so far.

    Each draw depends on the rows before it and the seed alone, so that a hunt which was killed goes on as it would
    have.

    Args:
        kind: The candidates.
        rows: Those scored before; new ones are added.
        score: Gives None for a candidate over a limit.
        n: How many.
        seed: Of the draws.

    Yields:
        Each new row.
    """
    known = {row.key for row in rows}
    misses, best, n_ranked = 0, list[Scored](), -1
    while len(rows) < n and misses < MISSES:
        rng = random.Random(derive_seed(seed, "hunt", len(rows), misses))
        if not rows or rng.random() < RANDOM_PART:
            candidate = kind.at_random(rng)
        else:
            # Ranked anew every PARENTS rows only: to sort thousands is not free.
            n_now = len(rows) // PARENTS * PARENTS or len(rows)
            if n_now != n_ranked:
                n_ranked, best = n_now, ranked(rows[:n_now])[:PARENTS]
            candidate = kind.near(rng.choice(best).params, rng)
        if candidate is None or candidate.key in known or (row := score(candidate)) is None:
            misses += 1
            continue
        known.add(row.key)
        rows.append(row)
        misses = 0
        yield row


MISSES = 200
"""Draws in a row that are known or over a limit, after which the kind is used up."""
