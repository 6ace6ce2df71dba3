"""A trial from its start to its last word: its jobs, its state between rungs, its artifact, its value or its failure.

What is learned is put on disk before it is acted on: a rung's state before the next rung, the artifact before the
trial's value. So a kill at any moment costs the rungs in flight, and what was written is enough to repair the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
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
from searchkit.search import policy, transfer
from searchkit.search.cost_model import LOG
from searchkit.search.fidelity import Reduced
from searchkit.search.jobs import Job, Outcome
from searchkit.search.starts import FACT, Scratch, Starts
from searchkit.search.study import FAMILY, TrialStore
from searchkit.search.successive_halving import Losses
from searchkit.search.transfer import Initial


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
        ends: When it stops itself, on the same clock.
    """

    trial: FrozenTrial
    job: Job
    losses: list[Losses] = field(default_factory=list)
    seconds: float = 0.0
    n_lost: int = 0
    since: float = 0.0
    ends: float = math.inf

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial.number


@dataclass(frozen=True)
class Course:
    """How the trials of one family are trained.

    Attributes:
        space: The family.
        ctx: Gives the device and the numeric setting.
        rung_epochs: The epochs at which its rungs end.
        seen: What each of its rungs sees of the data.
        rungs_below: How many rungs another family of the search has below this one's first. Families are compared at
            the same share of their whole trainings, so rungs are counted from the last.
        source: What workers get of the family: they have no file system in common with this process.
        initial: The weights that its networks start from; None for random ones.
    """

    space: Space
    ctx: Context
    rung_epochs: tuple[int, ...]
    seen: Reduced
    rungs_below: int = 0
    source: dict[str, JSON] = field(default_factory=dict)
    initial: Initial | None = None

    @classmethod
    def of(cls, space: Space, ctx: Context, rung_epochs: tuple[int, ...], seen: Reduced | None) -> Course:
        """The course of a family that is searched alone. seen: None is all data at each rung."""
        whole = (1.0,) * len(rung_epochs)
        return cls(space, ctx, rung_epochs, seen or Reduced(whole, whole), source=source_of(space))


class Lifecycle:
    """Writes what happens to trials into the run and the study.

    Attributes:
        courses: By family, how its trials are trained.
        ctx: Gives the run and the task.
        store: The study.
        minimized: The name of the cost that is minimized; None if none is.
        reserve: Seconds after the deadline that are used as long as no trial is trained.
        has_trained: Whether this search has trained a trial.
        starts: By family, where first weights come from; random ones of a family that is not there.
    """

    def __init__(
        self,
        courses: Mapping[str, Course],
        ctx: Context,
        store: TrialStore,
        *,
        minimized: str | None,
        reserve: float = 0.0,
        starts: Mapping[str, Starts] | None = None,
    ) -> None:
        self.courses, self.ctx, self.store, self.minimized = courses, ctx, store, minimized
        self.reserve, self.has_trained = reserve, False
        self.starts = starts or {}

    def course(self, trial: FrozenTrial) -> Course:
        """How a trial is trained: as its family is."""
        return self.courses[trial.user_attrs.get(FAMILY, next(iter(self.courses)))]

    def job(self, trial: FrozenTrial, state: TrainState | None = None, rung: int = 0) -> Job:
        """The job of a trial's `rung`, from the state that the rung before left."""
        facts, course = trial.user_attrs, self.course(trial)
        frozen, begins = transfer.frozen_epochs(course.rung_epochs[-1]), course.rung_epochs[rung - 1] if rung else 0
        # Only while they are needed: afterwards the state has all weights.
        starts = course.initial if begins <= frozen and transfer.FACT not in facts else None
        return Job(
            number=trial.number,
            rung=rung,
            until=course.rung_epochs[rung],
            space=course.source,
            arch=facts["arch"],
            training=facts["training"],
            seed=facts["seed"],
            state=encode_state(state) if state else b"",
            data_part=course.seen.parts[rung],
            sides=course.seen.sides[rung],
            family=course.space.name,
            initial=starts.data if starts else b"",
            frozen_epochs=frozen,
            start=b"" if state else self.starts.get(course.space.name, Scratch()).weights(facts),
        )

    def seconds_left(self) -> float:
        """Of the search; as long as no trial is trained, of the reserve too, for the final training would have none."""
        if self.has_trained or not self.reserve:
            return self.ctx.deadline.left()
        return max(0.0, self.ctx.deadline.at + self.reserve - time.monotonic())

    def depart_(self, flight: Flight) -> None:
        """Set the flight's job to how jobs are trained now, with the time that is left, and note its start."""
        ctx = self.course(flight.trial).ctx
        left = self.seconds_left()
        flight.job = replace(
            flight.job,
            device=ctx.device,
            precision=ctx.precision,
            channels_last=ctx.channels_last,
            ends_at=time.time() + left,
        )
        flight.since = time.monotonic()
        flight.ends = flight.since + left
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
        facts, course = flight.trial.user_attrs, self.course(flight.trial)
        draft = Artifact(
            id=self.artifact_id(flight.trial),
            space=course.space.name,
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
                "setting": [course.ctx.precision, course.ctx.channels_last],
                "sides": flight.job.sides,
                **transfer.notes(course.initial, course.space, self.ctx.task, facts),
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
        self.has_trained = True
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
        space = self.course(flight.trial).space.name
        row = {"event": event, "space": space, "trial": flight.number, "rung": flight.job.rung}
        self.ctx.run.append_line(LOG, {**row, "at": round(time.time(), 3), **facts})

    def state_key(self, trial: FrozenTrial) -> str:
        """Under which the run keeps the trial's state between rungs."""
        return f"{self.course(trial).space.name}-{trial.number}"

    def artifact_id(self, trial: FrozenTrial) -> str:
        """The id that the trial's artifact has or will have."""
        facts = trial.user_attrs
        space = self.course(trial).space.name
        lineage = [self.ctx.task.name, space, facts["arch"], facts["training"], facts["seed"]]
        return digest("Trial", trial.number, *lineage)


def has_a_value(outcome: Outcome, metric: str) -> bool:
    """Whether the goal's value on val is a number: what is not cannot be told to a study."""
    return outcome.metrics is not None and math.isfinite(outcome.metrics[metric])
