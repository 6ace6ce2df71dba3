"""The final: the winner of a search is trained on with the time that is left, on all cores.

A search compares many candidates, so each of them is trained for a short time only. What that leaves undone is made up
here: the winner's weights are the start, the schedule begins anew and is spread over the time, and its end meets the
end of the time. Of the network before and after, the better one on val is kept.
Not to be confused with the recovery inside a stage, which heals what the stage did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.goal import Evaluation
from searchkit.core.quantities import show_seconds
from searchkit.core.serialization import JSON, derive_seed, digest, freeze
from searchkit.core.threads import torch_threads
from searchkit.core.training import FitPlan, TrainState
from searchkit.run import FORMAT, Run

if TYPE_CHECKING:
    from torch import nn

STAGE = "Final"
"""The name of the stage in the artifact."""

LEAST_SECONDS = 5.0
"""Below, the final is left out: it would end in its warm-up."""

SAVED_EVERY = 60.0
"""Seconds after which the state is stored: a kill costs no more than that."""


@dataclass(frozen=True)
class Final:
    """How the winner is trained on.

    Attributes:
        epochs: At most; on small data sets a long time would go through them thousands of times.
        seconds: What the time budget plans for it; part of the artifact's id, so a raised budget trains anew.
        ends: When it has to end: it takes what the search left too.
    """

    epochs: int
    seconds: float
    ends: Deadline

    def __call__(self, winner: Artifact, ctx: Context) -> Artifact:
        """Train the winner on, or read what an earlier process made of it.

        Args:
            winner: A trial.
            ctx: Gives the run, the task and the threads.

        Returns:
            The artifact of the final, or the winner itself if there is no time, or nothing to train.

        Raises:
            Interrupted: After Ctrl-C; what was stored last is gone on from.
        """
        draft = _draft(winner, ctx, self.seconds)
        if ctx.run.has(draft.id):
            ctx.echo(f"final training: already done ({draft.id})")
            return ctx.run.load(draft.id)
        if self.ends.left() < LEAST_SECONDS:
            return winner
        return _train(winner, draft, ctx, epochs=self.epochs, ends=self.ends)


def trained_on(run: Run, trial: Artifact) -> Artifact:
    """The artifact of a trial's final training, the longest one if there are several; the trial itself if none."""
    finals = [a for a in run.artifacts().values() if a.stage == STAGE and a.parent == trial.id]
    return max(finals, key=lambda a: (float(a.made_by["seconds"]), a.id), default=trial)


def _draft(winner: Artifact, ctx: Context, seconds: float) -> Artifact:
    made_by = {"stage": STAGE, "seconds": round(seconds, 3)}
    id = digest(FORMAT, winner.id, made_by, ctx.seed)
    return replace(winner, id=id, made_by=made_by, parent=winner.id, notes={}, files={})


def _train(winner: Artifact, draft: Artifact, ctx: Context, *, epochs: int, ends: Deadline) -> Artifact:
    from searchkit.train import Diverged

    run, goal, key = ctx.run, ctx.task.goal, f"final-{draft.id}"
    before, (precision, channels_last) = winner.metrics, run.notes(winner, "setting")
    if winner.notes.get("sides", 1.0) < 1.0:  # it stopped at a rung of smaller pictures, and was scored on those
        before = {**before, **_scored(ctx, ctx.network(winner)).metrics}
    # early stopping and pre-training belong to a training from its beginning
    training = replace(ctx.training(winner), epochs=epochs, patience=0, pretrain_epochs=0)
    plan = FitPlan(
        training=training,
        seed=derive_seed(ctx.seed, winner.id, STAGE),
        until=epochs,
        device=ctx.device,
        precision=str(precision),
        channels_last=bool(channels_last),
        fills=True,
        validate=True,
        recovers=True,  # an agent has learned already, and explores little
    )
    ctx.echo(f"final training: the winner is trained on for {show_seconds(ends.left())} or {epochs} epochs")
    net, state = ctx.network(winner), run.load_state(key) or TrainState()
    try:
        with torch_threads(ctx.threads):
            while state.epoch < epochs and state.numbers.get("stopped_by") is None:
                until = min(epochs, state.epoch + _epochs_until_saved(state, run.log(winner)))
                state = ctx.task.fit(net, replace(plan, until=until, seconds=ends.left()), state)
                run.save_state(key, state)
    except Diverged as error:
        ctx.echo(f"final training: {error}; the winner stays as it was")
        return winner
    net = net.cpu()
    evaluation = _scored(ctx, net)
    value, after = float(before[goal.metric]), float(evaluation.metrics[goal.metric])
    is_better = not goal.better(value, after)
    notes: dict[str, JSON] = {
        "epochs": state.epoch,
        "before": value,
        "after": after,
        "kept": "after" if is_better else "before",
        "setting": [precision, channels_last],
    }
    metrics = {**winner.metrics, **{name: float(value) for name, value in evaluation.metrics.items()}}
    whole = replace(
        draft,
        training=freeze(replace(training, epochs=max(1, state.epoch))),
        metrics=metrics if is_better else dict(before),
        notes=notes,
    )
    artifact = run.save(
        whole,
        weights=net.state_dict() if is_better else run.weights(winner),
        scores=evaluation.scores if is_better else _scored(ctx, ctx.network(winner)).scores,
        log=state.numbers["curve"],
    )
    run.drop_state(key)
    ctx.echo(
        f"final training: {state.epoch} epochs, val {goal.metric} {value:.4g} before and {after:.4g} after"
        + ("" if is_better else "; the network before is kept")
    )
    return artifact


def _scored(ctx: Context, net: nn.Module) -> Evaluation:
    """On all of val."""
    from searchkit.onnx.predictor import TorchPredictor

    return ctx.task.evaluate(TorchPredictor(ctx.deployed(net), ctx.task.inputs, ctx.task.answers), "val")


def _epochs_until_saved(state: TrainState, curve: list[dict[str, JSON]]) -> int:
    """About how many epochs fill `SAVED_EVERY`, by those of this training or else of the trial."""
    rows = state.numbers.get("curve") or curve
    seconds = sorted(float(row["seconds"]) for row in rows if "seconds" in row)
    pace = seconds[len(seconds) // 2] if seconds else SAVED_EVERY
    return max(1, int(SAVED_EVERY / max(pace, 1e-9)))
