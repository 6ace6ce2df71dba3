"""Apply a recipe: each stage reads its parent from the run and writes a child there.

A child's id is the digest of its lineage, so what another recipe has done already is found on disk and not done again.
Two promises are checked for every stage, whichever it is: its child is whole on disk under the promised id, and the
parent's file is untouched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import GateFailed, Inapplicable
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.run_files import SkippedFile
from searchkit.core.stage import Stage, StageContext


@runtime_checkable
class Trains(Protocol):
    """A stage that trains says how many epochs of plain training its work is like."""

    @property
    def planned_epochs(self) -> float:
        """Epochs of plain training of its parent."""


@dataclass(frozen=True)
class StageBudget:
    """How a recipe's time is shared out.

    Attributes:
        seconds_per_epoch: Of plain training of the network that the recipe starts from, on one thread.
    """

    seconds_per_epoch: float = 0.0

    def plan(self, stages: Sequence[Stage], seconds: float) -> tuple[float, list[float]]:
        """Share out the time that is left.

        A time budget that leaves more than was planned is used: training on is the surest use of it.

        Args:
            stages: Those that are still to do.
            seconds: What is left.

        Returns:
            What the planned epochs are multiplied by, and the seconds that each stage is planned for.
        """
        epochs = [s.planned_epochs if isinstance(s, Trains) else 0.0 for s in stages]
        wanted = sum(epochs) * self.seconds_per_epoch
        fixed = FIXED_SECONDS * len(stages)
        room = max(0.0, seconds - fixed)
        scale = 1.0 if wanted <= 0 or math.isinf(room) else min(MOST_SCALE, room / wanted)
        return scale, [scale * e * self.seconds_per_epoch + FIXED_SECONDS for e in epochs]


@runtime_checkable
class Ships(Protocol):
    """A stage whose work is more than its artifact: other recipes write in the same place."""

    def stands(self, id: str, ctx: StageContext) -> bool:
        """Whether what is there now is of the artifact `id`."""


@dataclass(frozen=True)
class LeftOut:
    """In the place of the stage that is named: the recipe goes without it, for this reason."""

    stage: str
    reason: str

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """Raises Inapplicable, always."""
        raise Inapplicable(self.reason)


SKIPPED = "skipped.json"
"""The id that a stage would have had, to its name, its parent's id and the reason why it was left out; latest last."""

MOST_SCALE = 3.0
"""How much longer than planned a stage trains at most if there is time."""

LEAST_SCALE = 0.1
"""A stage that could train for less than this share of what it planned would do harm: it is left out."""

FIXED_SECONDS = 10.0
"""What a stage takes apart from training: an export of 1–4 s, its parity on val, the measurement of candidates."""


def apply(
    stages: Sequence[Stage], artifact: Artifact, ctx: Context, *, pace: StageBudget | None = None
) -> list[Artifact]:
    """Apply stages one after another, each to what the one before made.

    What is on disk already is not made again. The context's deadline is shared out by what each stage would train. A
    stage that does not apply is left out, which is told and kept for the report.

    Args:
        stages: Of a recipe; see `searchkit.stages.recipes.make`.
        artifact: What the first stage is applied to.
        ctx: What stages may use.
        pace: How long an epoch takes.

    Returns:
        The artifacts that the stages made, in order.

    Raises:
        GateFailed: A stage broke a promise: its child is not on disk under the promised id, or its parent was changed.
        SearchkitError: What a stage raises.
    """
    pace = pace or StageBudget()
    line: list[Artifact] = []
    for index, stage in enumerate(stages):
        raise_if_interrupted()
        name, draft = type(stage).__name__, ctx.child(artifact, stage)
        # by the digest of its lineage: whichever recipe made it, it need not be made again
        if ctx.run.has(draft.id) and (not isinstance(stage, Ships) or stage.stands(draft.id, ctx)):
            ctx.echo(f"{name}: already done ({draft.id})")
            artifact = ctx.run.load(draft.id)
            line.append(artifact)
            continue
        left = ctx.deadline.left()
        if isinstance(stage, LeftOut):
            _leave_out(stage.stage, draft, stage.reason, ctx)
            continue
        # The time is planned again before each stage: one that was quick or left out leaves its time to the others.
        scale, seconds = pace.plan([s for s in stages[index:] if not isinstance(s, LeftOut)], left)
        if scale < LEAST_SCALE and isinstance(stage, Trains):
            _leave_out(name, draft, f"the time budget leaves {left:.0f} s for what is left of the line", ctx)
            continue
        share = Deadline.after(min(left, left * seconds[0] / sum(seconds)) if left < float("inf") else left)
        before = ctx.run.load(artifact.id)  # from disk: a stage may have changed the value in memory
        ctx.echo(
            f"{name}: started"
            + (f", with {scale:.0%} of its epochs" if scale != 1 and isinstance(stage, Trains) else "")
        )
        try:
            with timing.part(name):
                child = stage(artifact, replace(ctx, deadline=share, epoch_scale=scale))
        except Inapplicable as reason:
            _leave_out(name, draft, str(reason), ctx)
            continue
        if child.id != draft.id or not ctx.run.has(child.id):
            raise GateFailed(f"The stage {name} did not write the artifact {draft.id} that it promised.")
        if ctx.run.load(artifact.id) != before:
            raise GateFailed(f"The stage {name} changed its parent {artifact.id}; a stage only writes its child.")
        ctx.echo(f"{name}: {_summary(child, ctx)}")
        line.append(child)
        artifact = child
    return line


def _leave_out(name: str, draft: Artifact, reason: str, ctx: Context) -> None:
    """Said, and kept for the report: no stage is missing without a word."""
    ctx.echo(f"{name}: left out: {reason}")
    before = {id: row for id, row in (ctx.run.read_json(SKIPPED, SkippedFile) or {}).items() if id != draft.id}
    row = {"stage": name, "parent": draft.parent, "reason": reason}
    ctx.run.write_json(SKIPPED, {**before, draft.id: row})


def _summary(artifact: Artifact, ctx: Context) -> str:
    metric = ctx.task.goal.metric
    parts = [f"val {metric} {artifact.metrics[metric]:.4g}"]
    if "params" in artifact.metrics:
        parts.append(f"{artifact.metrics['params']:,.0f} parameters")
    parts.append(f"{artifact.metrics['size_bytes'] / 1000:.1f} KB")
    return ", ".join(parts)
