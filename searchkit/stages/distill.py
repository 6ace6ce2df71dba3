"""Distill: a student learns the outputs of a teacher beside the targets (Hinton et al. 2015, arXiv:1503.02531).

The student is the parent's own network trained on, or a smaller trial of the run. The teacher is the mean of the parent
and those of the run's best trials that make the mean better on val (greedy selection, Caruana et al. 2004, Ensemble
selection from libraries of models): if halving has stopped the others early, they only blur it.
Not to be confused with the recovery inside Prune, which has the parent alone as its teacher.

Every distillation has its control: the same student, steps and seed, without the teacher. Of the
student before distillation, the control and the distilled student, the best on val is kept, so a teacher that does not
help is never shipped; the report shows all three.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from searchkit.core.artifact import Artifact
from searchkit.core.stage import StageContext
from searchkit.core.training import Teacher
from searchkit.train import validation

CONSIDERED = 3
"""Trials that are tried for each place in the teacher."""


class Ensemble(nn.Module):
    """The mean of what several networks give for the same inputs: of logits, or of values."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, …): the mean of the members' outputs."""
        return torch.stack([member(*inputs) for member in self.members]).mean(0)


@dataclass(frozen=True)
class Distill:
    """Train a student with a teacher beside the targets, and keep it if it is the best on val.

    Attributes:
        epochs: For the student and for the control each.
        temperature: Of the softened logits; above 0.
        weight: Of the teacher's part in the loss, 0 to 1.
        lr_scale: Times the parent's learning rate.
        ensemble: Networks in the teacher at most; 1 for the parent alone.
        student: A trial's number; None for the parent's own network.
    """

    epochs: int = 8
    temperature: float = 2.0
    weight: float = 0.5
    lr_scale: float = 0.3
    ensemble: int = 3
    student: int | None = None

    @property
    def planned_epochs(self) -> float:
        """Epochs of plain training that the stage would like; the teachers' forward passes are dear too."""
        return self.epochs * (2.0 + 0.3 * self.ensemble)

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """The best on val of the student before distillation, the control and the distilled one.

        Raises:
            BadInput: There is no finished trial of the student's number.
            GateFailed: The exported file disagrees with the network.
        """
        start = artifact if self.student is None else ctx.run.trial(self.student)
        teacher = self._teacher(artifact, ctx)
        candidates = {"before distillation": ctx.network(start)}
        log = []
        guide = Teacher(teacher, self.temperature, self.weight)
        # The control takes its share of the stage's time, the distilled student all that is then left.
        for name, guided, share in (("control", None, self.epochs / self.planned_epochs), ("distilled", guide, 1.0)):
            net = deepcopy(candidates["before distillation"])
            curve = ctx.recover(net, start, epochs=self.epochs, teacher=guided, lr_scale=self.lr_scale, share=share)
            log += [{"candidate": name, **row} for row in curve]
            candidates[name] = net
        values = {name: validation(net, ctx.task, "cpu") for name, net in candidates.items()}
        kept = min(
            reversed(values), key=lambda name: ctx.task.goal.loss(values[name])
        )  # a tie goes to the distilled one
        draft = replace(
            ctx.child(artifact, self, edits=start.edits), space=start.space, arch=start.arch, training=start.training
        )
        notes = {"candidates": values, "kept": kept, "metric": ctx.task.goal.metric, "teachers": len(teacher.members)}
        return ctx.save(draft, candidates[kept], log=log, notes=notes)

    def _teacher(self, parent: Artifact, ctx: StageContext) -> Ensemble:
        """The parent, and of the best other trials by val metric each that makes the mean better there."""
        goal, trials = ctx.task.goal, ctx.run.trials()
        # The trial that the parent was made from is not another network.
        line = {a.id for a in ctx.run.line(parent)}
        others = [t for t in trials if t.id not in line]
        others.sort(key=lambda t: (goal.loss(t.metrics[goal.metric]), t.id))
        teacher = Ensemble([ctx.network(parent)])
        best = validation(teacher, ctx.task, "cpu")
        for trial in others[: CONSIDERED * (self.ensemble - 1)]:
            if len(teacher.members) == self.ensemble:
                break
            larger = Ensemble([*teacher.members, ctx.network(trial)])
            value = validation(larger, ctx.task, "cpu")
            if goal.better(value, best):
                teacher, best = larger, value
        return teacher
