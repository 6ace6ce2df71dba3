"""The coordinator: it alone proposes, checks costs, hands out rungs, compares, saves and tells.

Everything that it decides is a function of what is on disk, and what it learns is put there before it acts on it: the
candidate with its trial, a rung's state before the next rung, the artifact before the trial's value. So a kill at any
moment costs the rungs in flight, and with one worker the resumed search equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput, Infeasible, NothingFeasible
from searchkit.core.interrupt import interruptible, raise_if_interrupted
from searchkit.core.quantities import show_cost
from searchkit.core.serialization import JSON, derive_seed, digest
from searchkit.core.space import Space
from searchkit.core.space_file import source_of
from searchkit.search import successive_halving
from searchkit.search.cost_model import LOG, CostModel
from searchkit.search.executors import Executor, InProcess, Processes
from searchkit.search.jobs import Job, Outcome, decode_state, encode_state
from searchkit.search.results import default_url
from searchkit.search.sampler import Candidate, Proposer
from searchkit.search.search_state import SearchRecord
from searchkit.search.settings import Progress, SearchSettings, SearchStopped, Status, StopSearch
from searchkit.search.study import FAILED, REJECTED, TRAINED, UNTOLD, TrialStore
from searchkit.search.time_planning import TimePlan, make_time_plan, training_seconds

if TYPE_CHECKING:
    from searchkit.core.training import TrainState

MOST_LOSSES = 3
"""A rung whose worker died so often is told as crashed: its training may be what kills the workers."""

MOST_EQUAL_ERRORS = 5
MOST_REJECTIONS = 20
"""Proposals refused before training, for each trial of the budget, before the search ends with what it has."""


def search(space: Space, ctx: Context, settings: SearchSettings, progress: Progress | None = None) -> None:
    """Search until the budget is used up; every finished trial is an artifact of the run. Resumes what is there.

    ctx.deadline is the search's own. Raises BadInput where the space is not for this data, or the time is too short for
    one trial; NothingFeasible; SearchStopped; Interrupted after Ctrl-C.
    """
    reason = space.accepts(ctx.task.spec)
    if reason is not None:
        raise BadInput(f"The family '{space.name}' is not for the task '{ctx.task.name}': {reason}")
    with interruptible(f"Interrupted; --resume {ctx.run.name} goes on from the last finished rung."):
        pace = make_time_plan(space, ctx, settings)
        _Search(space, *_at_its_pace(pace, ctx, settings), progress or _silent, pace).run()


def _at_its_pace(pace: TimePlan, ctx: Context, settings: SearchSettings) -> tuple[Context, SearchSettings]:
    """The context and the settings as the machine and the time budget allow."""
    limits = ctx.limits
    if pace.most_macs is not None:
        limits = replace(limits, macs=min(pace.most_macs, limits.macs or pace.most_macs))
    ctx = replace(ctx, limits=limits, precision=pace.precision, channels_last=pace.channels_last)
    epochs = pace.epochs if settings.plans_epochs else settings.budget.epochs
    return ctx, replace(settings, budget=replace(settings.budget, epochs=epochs))


def _silent(status: Status) -> None:
    """No one watches."""


@dataclass
class _Flight:
    """A trial in training. losses: one a finished rung."""

    trial: FrozenTrial
    job: Job
    losses: list[successive_halving.Losses] = field(default_factory=list)
    seconds: float = 0.0
    n_lost: int = 0
    since: float = 0.0

    @property
    def number(self) -> int:
        return self.trial.number


class _Search:
    def __init__(
        self, space: Space, ctx: Context, settings: SearchSettings, progress: Progress, pace: TimePlan
    ) -> None:
        self.space, self.ctx, self.settings, self.progress, self.pace = space, ctx, settings, progress, pace
        self.run_dir, self.goal, self.budget = ctx.run, ctx.task.goal, settings.budget
        steps = math.ceil(ctx.task.n_examples("train") / space.training.default.batch_size)
        self.rung_epochs = self.budget.rung_epochs(steps)
        self.book = CostModel(space, ctx, cost=settings.cost, ship_int8=settings.ship_int8)
        self.dossier = SearchRecord(space, ctx, settings)
        self.ledger = TrialStore(
            settings.storage or default_url(self.run_dir),
            self.dossier.study,
            self.dossier.directions,
            owner=self.dossier.owner,
            facts=self.dossier.facts,
        )
        if not self.ledger.trials() and any(a.space == space.name for a in self.run_dir.trials()):
            raise BadInput(
                f"The run '{self.run_dir.name}' has trained trials, and its study has none: the database is emptied or "
                "gone. Put it back, or start a new run; its trials are not trained again over the old ones."
            )
        self.proposer = Proposer(
            space=space,
            spec=ctx.task.spec,
            directions=self.dossier.directions,
            # several coordinators must not propose the same
            seed=derive_seed(ctx.seed, "search", space.name, self.dossier.owner),
            sampler=settings.sampler,
            trials=pace.trials or self.budget.trials,
            epochs=self.budget.epochs,
            weigh=self.book.weigh,
            limited=self.book.limited,
        )
        self.flights: dict[str, _Flight] = {}
        self.seen: list[dict[int, successive_halving.Losses]] = [{} for _ in self.rung_epochs]
        self.known: set[str] = set()
        self.errors: list[str] = []
        self.source = source_of(space)
        self.first_rungs = [
            row["seconds"]
            for row in self.run_dir.lines(LOG)
            if row.get("event") in ("rung", "trained") and row["rung"] == 0 and row["space"] == space.name
        ]
        self.exhausted = False

    def _open_executor(self) -> Executor:
        settings = self.settings
        if settings.executor == "inline":
            return InProcess(self.ctx.task, self.space)
        pack = self.ctx.task.pack()
        if settings.executor == "processes":
            return Processes(pack, workers=settings.workers)
        from searchkit.search.executors_ray import Ray

        return Ray(pack, workers=settings.workers, address=settings.address, device=self.ctx.device)

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        self._recover()
        if not self._ended() and (self._n_open() > 0 or self.flights):
            self.dossier.profile(self.book)
            self.executor = self._open_executor()
            try:
                self._loop()
            except StopSearch as stop:
                self.ctx.echo(f"the search ends: {stop}" if str(stop) else "the search ends: it was stopped")
                for flight in self.flights.values():
                    self._abandon(flight, "the search was stopped")
                self.flights.clear()
            finally:
                self.executor.close()
        self._conclude()

    def _loop(self) -> None:
        waiting = list(self.flights.values())  # what a kill left unfinished goes first
        self.flights.clear()
        while True:
            raise_if_interrupted()
            while len(self.flights) < self.executor.capacity and self._time_for_a_rung():
                flight = waiting.pop(0) if waiting else self._next_trial()
                if flight is None:
                    break
                self._dispatch(flight)
            if not self.flights:
                break
            for outcome in self.executor.wait(min(30.0, max(0.1, self._patience()))):
                self._receive(outcome)
            self._cancel_hung()
            self._report()
        for flight in waiting:
            self._out_of_time(flight)

    def _patience(self) -> float:
        """Seconds until something may have to be cancelled."""
        now = time.monotonic()
        ends = (
            min(f.since + self._most_seconds(f), self.ctx.deadline.at + self._grace()) for f in self.flights.values()
        )
        return min(ends) - now

    def _most_seconds(self, flight: _Flight) -> float:
        """A rung may take five times what the trial's earlier ones lead one to expect: an hour is not a hang for a
        training that is honestly long.
        """
        done = self.rung_epochs[flight.job.rung - 1] if flight.job.rung else 0
        expected = flight.seconds / done * (flight.job.until - done) if done else 0.0
        return max(self.settings.hang_seconds, 5.0 * expected)

    def _cancel_hung(self) -> None:
        """A job stops itself at the first step after the deadline; one that does not is killed some time later."""
        now = time.monotonic()
        for key, flight in self.flights.items():
            if now - flight.since > self._most_seconds(flight) or now > self.ctx.deadline.at + self._grace():
                self.executor.cancel(key)

    def _grace(self) -> float:
        return max(20.0, 2.0 * self._first_rung_seconds())

    def _first_rung_seconds(self) -> float:
        """The median of those seen; 0 before the first."""
        return statistics.median(self.first_rungs) if self.first_rungs else 0.0

    def _time_for_a_rung(self) -> bool:
        """A first rung that could not be finished would be trained for nothing."""
        left = self.ctx.deadline.left()
        return left > 0 and (math.isinf(left) or left > self._first_rung_seconds())

    # ── a trial's life ──────────────────────────────────────────────────────────────────────────────────────────────

    def _next_trial(self) -> _Flight | None:
        """Propose and check candidates until one may be trained; None where the search is to end."""
        while not self.exhausted and self._n_open() > 0:
            raise_if_interrupted()
            trials = self.ledger.trials()
            n_rejected = sum(1 for t in trials if t.user_attrs.get("status") == REJECTED)
            if n_rejected >= MOST_REJECTIONS * self.budget.trials or self.ctx.deadline.left() <= 0:
                self._give_up(f"{n_rejected} candidates were refused before training")
                break
            self.known |= {t.user_attrs["key"] for t in trials if "key" in t.user_attrs}  # others' too
            candidate = self.proposer.propose(trials, self.known)
            if candidate is None:
                self._give_up("every candidate that the sampler finds has been seen")
                break
            self.known.add(candidate.key)
            facts = {**candidate.plain, "key": candidate.key, "minimized": self.settings.cost}
            try:
                cost = self.book.cost(candidate)
            except Infeasible as error:
                self.ledger.reject(candidate, {**facts, "reason": str(error)}, {"infeasible": 1.0})
                continue
            breaches = self.ctx.limits.breaches(cost) or self._too_long(candidate)
            if breaches:
                reason = ", ".join(f"{name} over by {amount:.0%}" for name, amount in breaches.items())
                self.ledger.reject(candidate, {**facts, "cost": cost, "reason": reason}, breaches)
                self._report(f"refused before training: {reason}")
                continue
            seed = derive_seed(self.ctx.seed, self.space.name, candidate.key)
            trial = self.ledger.start(candidate, {**facts, "cost": cost, "seed": seed})
            if self._is_anothers(trial):
                self.ledger.abandon(trial, "another coordinator trains it")
                continue
            return _Flight(trial, self._job(trial))
        return None

    def _too_long(self, candidate: Candidate) -> dict[str, float]:
        """By how much the training would exceed its share of the time, as `Limits.breaches` says it."""
        if self.pace.most_seconds is None:
            return {}
        over = training_seconds(self.space, self.ctx, candidate, self.pace.own_work) / self.pace.most_seconds - 1.0
        return {"training_seconds": over} if over > 0 else {}

    def _is_anothers(self, trial: FrozenTrial) -> bool:
        """Whether two coordinators proposed the same at once: the lower number, which was first, trains it."""
        key = trial.user_attrs["key"]
        return bool(self.ledger.owner) and any(
            t.number < trial.number and t.user_attrs.get("key") == key for t in self.ledger.trials()
        )

    def _give_up(self, why: str) -> None:
        self.exhausted = True
        self.ctx.echo(f"the search ends before {self.budget.trials} trials: {why}")

    def _n_open(self) -> int:
        """Trials of the budget that have not been started."""
        started = (TRAINED, FAILED, UNTOLD)
        return self.budget.trials - sum(1 for t in self.ledger.trials() if t.user_attrs.get("status") in started)

    def _job(self, trial: FrozenTrial, state: TrainState | None = None, rung: int = 0) -> Job:
        return Job(
            number=trial.number,
            rung=rung,
            until=self.rung_epochs[rung],
            space=self.source,
            arch=trial.user_attrs["arch"],
            training=trial.user_attrs["training"],
            seed=trial.user_attrs["seed"],
            state=encode_state(state) if state else b"",
        )

    def _dispatch(self, flight: _Flight) -> None:
        flight.job = replace(
            flight.job,
            device=self.ctx.device,
            precision=self.ctx.precision,
            channels_last=self.ctx.channels_last,
            ends_at=time.time() + self.ctx.deadline.left(),
        )
        flight.since = time.monotonic()
        self.flights[flight.job.key] = flight
        self._log("dispatch", flight)
        self.executor.submit(flight.job)
        self._report()

    def _receive(self, outcome: Outcome) -> None:
        flight = self.flights.pop(outcome.key)
        flight.seconds += outcome.seconds
        if outcome.failure == "lost":
            flight.n_lost += 1
            self._log("lost", flight, reason=outcome.reason)
            if flight.n_lost < MOST_LOSSES:
                self._dispatch(flight)
                return
            outcome = replace(outcome, failure="crashed", reason=f"its worker died {MOST_LOSSES} times")
        if outcome.failure:
            self._fail(flight, outcome)
            return
        assert outcome.metrics is not None
        self.errors.clear()
        state = decode_state(outcome.state)
        cut_short = state.numbers.get("stopped_by") == "time"
        if cut_short and state.epoch <= 1:
            self._out_of_time(flight)
            return
        losses = self._losses(outcome.metrics[self.goal.metric], flight.trial)
        rung = flight.job.rung
        if rung == 0:
            self.first_rungs.append(outcome.seconds)
        ended = cut_short or state.numbers.get("stopped_by") is not None or rung == len(self.rung_epochs) - 1
        if not cut_short:  # what had less time is not compared with what had all of it, now or by a resumed search
            flight.losses.append(losses)
            self.seen[rung][flight.number] = losses
        if ended or not successive_halving.goes_on(flight.number, self.seen[rung], self.budget.eta):
            self._finish(flight, outcome, state)
            return
        state.numbers["search"] = {"losses": [list(row) for row in flight.losses], "seconds": flight.seconds}
        self.run_dir.save_state(self._state_key(flight.trial), state)
        self._log("rung", flight, seconds=outcome.seconds, epochs=state.epoch, loss=losses[0])
        flight.job = self._job(flight.trial, state, rung + 1)
        flight.n_lost = 0
        if self.ctx.deadline.left() > 0:
            self._dispatch(flight)
        else:
            self._finish(flight, outcome, state)

    def _losses(self, value: float, trial: FrozenTrial) -> successive_halving.Losses:
        """NaN is the worst there is: it must win no comparison."""
        loss = self.goal.loss(value) if math.isfinite(value) else math.inf
        cost = self.settings.cost
        return (loss, float(trial.user_attrs["cost"][cost])) if cost else (loss,)

    def _finish(self, flight: _Flight, outcome: Outcome, state: TrainState) -> None:
        """The artifact first, then the value: a kill in between is repaired from the artifact."""
        from safetensors.torch import load

        assert outcome.metrics is not None
        if not math.isfinite(outcome.metrics[self.goal.metric]):
            self._fail(flight, replace(outcome, failure="diverged", reason=f"val {self.goal.metric} is not a number"))
            return
        facts = flight.trial.user_attrs
        curve = state.numbers.get("curve", [])
        draft = Artifact(
            id=self._artifact_id(flight.trial),
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
            },
        )
        artifact = self.run_dir.save(draft, weights=load(outcome.weights), scores=outcome.scores, log=curve)
        self._tell(flight.trial, artifact)
        self._log(
            "trained",
            flight,
            seconds=outcome.seconds,
            epochs=state.epoch,
            loss=self._losses(outcome.metrics[self.goal.metric], flight.trial)[0],
        )

    def _tell(self, trial: FrozenTrial, artifact: Artifact) -> None:
        values = [artifact.metrics[self.goal.metric]]
        if self.settings.cost:
            values.append(artifact.metrics[self.settings.cost])
        told = {name: self.run_dir.notes(artifact, name) for name in ("rung", "epochs", "seconds", "losses")}
        self.ledger.finish(trial, values, {**told, "artifact": artifact.id})
        self.run_dir.drop_state(self._state_key(trial))

    def _fail(self, flight: _Flight, outcome: Outcome) -> None:
        folder = self.run_dir.artifact_dir(self._artifact_id(flight.trial))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(f"{outcome.failure}: {outcome.reason}\n\n{outcome.details}", encoding="utf-8")
        self.ledger.fail(flight.trial, outcome.failure, outcome.reason)
        self.run_dir.drop_state(self._state_key(flight.trial))
        self._log("failed", flight, failure=outcome.failure, reason=outcome.reason)
        self._report(f"trial {flight.number} {outcome.failure}: {outcome.reason}")
        self.errors.append(f"{outcome.failure}: {outcome.reason}")
        last = self.errors[-MOST_EQUAL_ERRORS:]
        if outcome.failure == "crashed" and len(last) == MOST_EQUAL_ERRORS and len(set(last)) == 1:
            raise SearchStopped(
                f"{MOST_EQUAL_ERRORS} trials in a row failed in the same way ({outcome.reason}); the whole error is in "
                f"{folder / 'error.txt'}. Mend it and resume the run."
            )

    def _out_of_time(self, flight: _Flight) -> None:
        """The deadline came before the end of the first epoch, or before a resumed search could go on with it."""
        self._abandon(flight, "the time budget ended")

    def _abandon(self, flight: _Flight, reason: str) -> None:
        """Close a trial that is cut off: it does not count, and is not trained on."""
        self.ledger.abandon(flight.trial, reason)
        self.run_dir.drop_state(self._state_key(flight.trial))
        self._log("cut off", flight)

    def _state_key(self, trial: FrozenTrial) -> str:
        return f"{self.space.name}-{trial.number}"

    def _artifact_id(self, trial: FrozenTrial) -> str:
        facts = trial.user_attrs
        lineage = [self.ctx.task.name, self.space.name, facts["arch"], facts["training"], facts["seed"]]
        return digest("Trial", trial.number, *lineage)

    # ── resuming, ending ────────────────────────────────────────────────────────────────────────────────────────────

    def _recover(self) -> None:
        """Take up what is on disk: results for the rungs to compare with, and the trials that a kill left running."""
        for trial in self.ledger.trials():
            facts = trial.user_attrs
            if "key" in facts:
                self.known.add(facts["key"])
            if facts.get("status") == TRAINED:
                self._remember(trial.number, facts["losses"])
                if facts.get("owner") == self.ledger.owner:
                    self.run_dir.drop_state(self._state_key(trial))
        for trial in self.ledger.unfinished():
            id = self._artifact_id(trial)
            if self.run_dir.has(id):
                artifact = self.run_dir.load(id)
                self._remember(trial.number, self.run_dir.notes(artifact, "losses"))
                self._tell(trial, artifact)
                continue
            state = self.run_dir.load_state(self._state_key(trial))
            before: dict[str, Any] = state.numbers.pop("search") if state else {"losses": [], "seconds": 0.0}
            losses = [tuple(row) for row in before["losses"]]
            self._remember(trial.number, before["losses"])
            flight = _Flight(trial, self._job(trial, state, len(losses)), losses, before["seconds"])
            self.flights[flight.job.key] = flight

    def _remember(self, number: int, losses: list[list[float]]) -> None:
        for rung, row in enumerate(losses):
            self.seen[rung][number] = tuple(row)

    def _ended(self) -> bool:
        """Whether this very budget was searched to its end, so that resuming the stages does not search on."""
        rows = self.run_dir.lines(LOG)
        return bool(rows) and rows[-1].get("event") == "end" and rows[-1].get("budget") == self._spendable()

    def _spendable(self) -> dict[str, JSON]:
        seconds = self.budget.seconds
        return {"trials": self.budget.trials, "seconds": None if math.isinf(seconds) else seconds}

    def _conclude(self) -> None:
        statuses = [t.user_attrs.get("status") for t in self.ledger.trials()]
        self._report()
        if TRAINED in statuses:
            if not self._ended():
                end = {"event": "end", "space": self.space.name, "at": round(time.time(), 3)}
                self.run_dir.append_line(LOG, {**end, "budget": self._spendable()})
            if self.book.n_checks:
                spent = f"{self.book.seconds:.0f} s in all"
                self.ctx.echo(f"{self.book.n_checks} candidates exported to check limits, {spent}")
            return
        if FAILED not in statuses and REJECTED in statuses and self.ctx.deadline.left() > 0:
            smallest = self.dossier.about["profile"][0]
            raise NothingFeasible(
                f"None of {len(statuses)} candidates of '{self.space.name}' is within the limits; the smallest has "
                + ", ".join(show_cost(name, value) for name, value in smallest["cost"].items())
                + ". Raise a limit"
                + (", give a longer --time-budget" if self.pace.most_seconds is not None else "")
                + ", or take another family."
            )
        if self.ctx.deadline.left() <= 0 or not statuses:
            raise BadInput(
                "The time budget is shorter than one trial: not one finished its first epoch. Give it a longer "
                "--time-budget, or a smaller data set."
            )
        reasons = sorted({str(t.user_attrs.get("reason")) for t in self.ledger.trials()})
        raise SearchStopped(f"No trial of {len(statuses)} could be trained: {'; '.join(reasons[:3])}.")

    # ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _log(self, event: str, flight: _Flight, **facts: JSON) -> None:
        row = {"event": event, "space": self.space.name, "trial": flight.number, "rung": flight.job.rung}
        self.run_dir.append_line(LOG, {**row, "at": round(time.time(), 3), **facts})

    def _report(self, note: str = "") -> None:
        trials = self.ledger.trials()
        statuses = [t.user_attrs.get("status") for t in trials]
        values = [t.values[0] for t in trials if t.user_attrs.get("status") == TRAINED and t.values]
        best = (max if self.goal.direction == "maximize" else min)(values) if values else None
        spent = [t.user_attrs["seconds"] for t in trials if t.user_attrs.get("status") == TRAINED]
        done = statuses.count(TRAINED) + statuses.count(FAILED)
        n_open = max(0, self.budget.trials - done)
        self.progress(
            Status(
                done=done,
                trials=self.budget.trials,
                running=len(self.flights),
                rejected=statuses.count(REJECTED),
                failed=statuses.count(FAILED),
                best=best,
                seconds_left=self.ctx.deadline.left(),
                seconds_to_go=statistics.median(spent) * n_open / self.settings.workers if spent else None,
                note=note,
            )
        )
