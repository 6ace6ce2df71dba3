"""The fixture of the family checks: a family on a task, with samples and a small trained network, made once."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core import batching
from searchkit.core.artifact import Artifact
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import digest, freeze
from searchkit.core.space import Space
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, TrainState
from searchkit.onnx import measure
from searchkit.onnx.predictor import TorchPredictor
from searchkit.run import Run
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at_random
from searchkit.stages.pipeline import apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.train import Diverged

N_ARCHS = 6
"""Architectures that are sampled for each check."""
ROWS = 16
MIDDLE = 15_000  # parameters of the network that goes through the stages: large enough for int8 to shrink its file


class CheckFailed(Exception):
    """A check failed; the message says what was seen."""


class Fixture:
    """A family on a task. Samples, one batch, and a small network that is trained, promoted and pruned, are made once.

    Args:
        space: The family.
        task: The task.
        folder: Folder for the run of the stages.
    """

    def __init__(self, space: Space, task: Task, folder: Path) -> None:
        self.space = space
        self.task = task
        self.folder = folder

    def candidate(self, seed: int) -> Candidate:
        """Sample a candidate with a seed."""
        return draw(self.space, self.task.spec, at_random(random.Random(seed)), epochs=1, way="check")

    def feasible(self) -> Iterator[Candidate]:
        """Iterate over candidates that can be built, seed by seed.

        Raises:
            CheckFailed: If 100 in a row cannot be built.
        """
        misses = 0
        for seed in range(1000):
            candidate = self.candidate(seed)
            if candidate.arch is None or not self.builds(candidate):
                misses += 1
                require(misses < 100, "100 samples in a row raise Infeasible; sample() should rarely propose those")
                continue
            misses = 0
            yield candidate

    def builds(self, candidate: Candidate) -> bool:
        """Return whether a candidate can be built."""
        try:
            self.net(candidate)
        except Infeasible:
            return False
        return True

    def net(self, candidate: Candidate, seed: int = 0) -> nn.Module:
        """Build a candidate's network with a seed for its weights."""
        torch.manual_seed(seed)
        return self.space.build(candidate.arch, self.task.spec)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The first feasible candidates."""
        return list(islice(self.feasible(), N_ARCHS))

    @cached_property
    def batch(self) -> Batch:
        """The first examples of train, without augmentation."""
        plain = replace(self.space.training.default, augment=(), mixup=0.0, label_smoothing=0.0)
        first = next(iter(self.task.batches("train", plain, seed=0, device="cpu")))
        return Batch(self._taken(first, 0, ROWS), first.target[:ROWS])

    def rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Return the inputs of some examples of the batch."""
        return self._taken(self.batch, start, stop)

    def _taken(self, batch: Batch, start: int, stop: int) -> tuple[Tensor, ...]:
        ports = self.task.spec.inputs
        by_name = {port.name: values for port, values in zip(ports, batch.inputs, strict=True)}
        return tuple(batching.take(ports, by_name, slice(start, stop)).values())

    # ── for the stages ──────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def context(self) -> Context:
        """The context of a run in the folder."""
        run = Run.create(self.folder, "check", {"space": self.space.name, "task": self.task.name})
        return Context(run=run, task=self.task, spaces=lambda name: self.space, echo=lambda line: None)

    @cached_property
    def trained(self) -> tuple[Artifact, nn.Module]:
        """A candidate of medium size after one epoch, as the search would store it, and its network."""
        chosen = min(islice(self.feasible(), 24), key=self._dearness)
        net = self.net(chosen)
        training = replace(chosen.training, optimizer="adamw", lr=2e-3, epochs=1, mixup=0.0, ema=0.0)
        try:
            self.task.fit(net, FitPlan(training, seed=0, until=1), TrainState())
        except Diverged as error:
            raise CheckFailed(f"one epoch of {chosen.arch} diverges") from error
        net.eval()
        draft = Artifact(
            id=digest("check", self.space.name),
            space=self.space.name,
            arch=freeze(chosen.arch),
            training=freeze(training),
            edits=(),
            made_by={"stage": "Trial", "number": 0},
            parent=None,
        )
        evaluation = self.task.evaluate(self._predictor(net), "val")
        draft = replace(draft, metrics=evaluation.metrics)
        return self.context.run.save(draft, weights=net.state_dict(), scores=evaluation.scores, log=[]), net

    def _dearness(self, candidate: Candidate) -> tuple[float, int]:
        """Order candidates: within a factor of 2 of the medium size the fastest first, since its stages take time."""
        net = self.net(candidate)
        off = abs(math.log2(max(1, measure.params(net)) / MIDDLE))
        return max(1.0, off), measure.macs(net, self.rows(0, 1))

    def _predictor(self, net: nn.Module) -> TorchPredictor:
        return TorchPredictor(self.context.deployed(net), self.task.inputs, self.task.answers)

    def stage(self, stage: Stage) -> Artifact:
        """Apply a stage to the promoted network."""
        return apply((Promote(), stage), self.trained[0], self.context)[-1]

    @cached_property
    def promoted(self) -> Artifact:
        """The trained network, exported."""
        return apply((Promote(),), self.trained[0], self.context)[-1]

    @cached_property
    def pruned(self) -> Artifact:
        """The promoted network after one round of pruning."""
        return self.stage(Prune(to=0.6, steps=1, recovery_epochs=1, round_to=1))


def require(holds: bool, sentence: str) -> None:
    """Fail the check with a sentence if a condition does not hold.

    Raises:
        CheckFailed: If `holds` is False.
    """
    if not holds:
        raise CheckFailed(sentence)


def outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return a network's output without gradients."""
    with torch.no_grad():
        out: Tensor = net(*inputs)
    return out
