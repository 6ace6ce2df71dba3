"""A trial from its start to its last word: its jobs, its state between rungs, its artifact, its value or its failure.

What is learned is put on disk before it is acted on: a rung's state before the next rung, the artifact before the
trial's value. So a kill at any moment costs the rungs in flight, and what was written is enough to repair the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.files import write_atomically
from searchkit.core.serialization import JSON, digest
from searchkit.core.space import Space
from searchkit.core.space_file import source_of
from searchkit.core.state import encode_state
from searchkit.core.training import TrainState
from searchkit.search import policy
from searchkit.search.cost_model import LOG
from searchkit.search.jobs import Job, Outcome
from searchkit.search.starts import FACT, Scratch, Starts
from searchkit.search.study import TrialStore
from searchkit.search.successive_halving import Losses


@dataclass
class Flight:
    """A trial in training.

    Attributes:
        trial: As the study has it: its parameters, architecture, costs and seed.
        job: The rung that is being trained, or is next.
        losses: One a finished rung.
        seconds: What its rungs took so far.
        n_lost: Workers that died on the present rung.
        since: When the present rung was handed out, on the monotonic clock.
    """

    trial: FrozenTrial
    job: Job
    losses: list[Losses] = field(default_factory=list)
    seconds: float = 0.0
    n_lost: int = 0
    since: float = 0.0

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial.number


class Lifecycle:
    """Writes what happens to trials into the run and the study.

    Attributes:
        space: The family that is searched.
        ctx: Gives the run, the task and how jobs are trained.
        store: The study.
        rung_epochs: See `policy.Halving`.
        minimized: The name of the cost that is minimized; None if none is.
        data_parts: The part of the training data that each rung trains on.
        starts: Where first weights come from.
    """

    def __init__(
        self,
        space: Space,
        ctx: Context,
        store: TrialStore,
        *,
        rung_epochs: Sequence[int],
        minimized: str | None,
        data_parts: Sequence[float] | None = None,
        starts: Starts | None = None,
    ) -> None:
        self.space, self.ctx, self.store = space, ctx, store
        self.rung_epochs, self.minimized = tuple(rung_epochs), minimized
        self.data_parts = tuple(data_parts or (1.0,) * len(self.rung_epochs))
        self.starts = starts or Scratch()
        self._source = source_of(space)  # workers have no file system in common with this process

    def job(self, trial: FrozenTrial, state: TrainState | None = None, rung: int = 0) -> Job:
        """The job of a trial's `rung`, from the state that the rung before left."""
        facts = trial.user_attrs
        return Job(
            number=trial.number,
            rung=rung,
            until=self.rung_epochs[rung],
            space=self._source,
            arch=facts["arch"],
            training=facts["training"],
            seed=facts["seed"],
            state=encode_state(state) if state else b"",
            data_part=self.data_parts[rung],
            start=b"" if state else self.starts.weights(facts),
        )

    def depart_(self, flight: Flight) -> None:
        """Set the flight's job to how jobs are trained now, with the time that is left, and note its start."""
        ctx = self.ctx
        flight.job = replace(
            flight.job,
            device=ctx.device,
            precision=ctx.precision,
            channels_last=ctx.channels_last,
            ends_at=time.time() + ctx.deadline.left(),
        )
        flight.since = time.monotonic()
        self.log("dispatch", flight)

    def losses(self, value: float, trial: FrozenTrial) -> Losses:
        """The losses of a trial whose goal has this value on val."""
        return policy.losses(self.ctx.task.goal.loss(value), trial.user_attrs["cost"], self.minimized)

    def advance_(self, flight: Flight, outcome: Outcome, state: TrainState) -> None:
        """Store the state that a rung left, and make the flight's job the next rung."""
        # In the same file as the weights, so that losses and weights are always of one rung; `recover` takes it out.
        state.numbers["search"] = {"losses": [list(row) for row in flight.losses], "seconds": flight.seconds}
        self.ctx.run.save_state(self.state_key(flight.trial), state)
        self.log("rung", flight, seconds=outcome.seconds, epochs=state.epoch, loss=flight.losses[-1][0])
        flight.job = self.job(flight.trial, state, flight.job.rung + 1)
        flight.n_lost = 0

    def finish(self, flight: Flight, outcome: Outcome, state: TrainState) -> None:
        """Write the artifact, then tell the value: a kill in between is repaired from the artifact."""
        from safetensors.torch import load

        assert outcome.metrics is not None
        facts = flight.trial.user_attrs
        draft = Artifact(
            id=self.artifact_id(flight.trial),
            space=self.space.name,
            arch=facts["arch"],
            training=facts["training"],
            edits=(),
            made_by={"stage": "Trial", "number": flight.number, "seed": facts["seed"]},
            parent=None,
            metrics={**outcome.metrics, **facts["cost"]},
            notes={
                "way": facts["way"],
                "rung": max(0, len(flight.losses) - 1),  # the last that it finished
                "epochs": state.epoch,
                "losses": [list(row) for row in flight.losses],
                "seconds": flight.seconds,
                "setting": [self.ctx.precision, self.ctx.channels_last],
                **({FACT: facts[FACT]} if FACT in facts else {}),
            },
        )
        curve = state.numbers.get("curve", [])
        artifact = self.ctx.run.save(draft, weights=load(outcome.weights), scores=outcome.scores, log=curve)
        self.tell(flight.trial, artifact)
        loss = self.losses(outcome.metrics[self.ctx.task.goal.metric], flight.trial)[0]
        self.log("trained", flight, seconds=outcome.seconds, epochs=state.epoch, loss=loss)

    def tell(self, trial: FrozenTrial, artifact: Artifact) -> None:
        """Tell the study the values of a trial whose artifact is whole."""
        names = [self.ctx.task.goal.metric, *([self.minimized] if self.minimized else [])]
        told = {name: self.ctx.run.notes(artifact, name) for name in ("rung", "epochs", "seconds", "losses")}
        self.store.finish(trial, [artifact.metrics[name] for name in names], {**told, "artifact": artifact.id})
        self.ctx.run.drop_state(self.state_key(trial))

    def fail(self, flight: Flight, outcome: Outcome) -> Path:
        """Tell the study that the trial could not be trained, and why.

        Returns:
            The file with the whole error.
        """
        folder = self.ctx.run.artifact_dir(self.artifact_id(flight.trial))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "error.txt"
        # A message may hold lone surrogates (of a file name that is not UTF-8), which cannot be encoded.
        write_atomically(file, f"{outcome.failure}: {outcome.reason}\n\n{outcome.details}".encode(errors="replace"))
        self.store.fail(flight.trial, outcome.failure, outcome.reason)
        self.ctx.run.drop_state(self.state_key(flight.trial))
        self.log("failed", flight, failure=outcome.failure, reason=outcome.reason)
        return file

    def cut_off(self, flight: Flight, reason: str = "the time budget ended") -> None:
        """Close a trial that ended before its first epoch, or before it could go on: it does not count."""
        self.store.abandon(flight.trial, reason)
        self.ctx.run.drop_state(self.state_key(flight.trial))
        self.log("cut off", flight)

    def log(self, event: str, flight: Flight, **facts: JSON) -> None:
        """Append an event to the run's search.jsonl."""
        row = {"event": event, "space": self.space.name, "trial": flight.number, "rung": flight.job.rung}
        self.ctx.run.append_line(LOG, {**row, "at": round(time.time(), 3), **facts})

    def state_key(self, trial: FrozenTrial) -> str:
        """Under which the run keeps the trial's state between rungs."""
        return f"{self.space.name}-{trial.number}"

    def artifact_id(self, trial: FrozenTrial) -> str:
        """The id that the trial's artifact has or will have."""
        facts = trial.user_attrs
        lineage = [self.ctx.task.name, self.space.name, facts["arch"], facts["training"], facts["seed"]]
        return digest("Trial", trial.number, *lineage)


def has_a_value(outcome: Outcome, metric: str) -> bool:
    """Whether the goal's value on val is a number: what is not cannot be told to a study."""
    return outcome.metrics is not None and math.isfinite(outcome.metrics[metric])
