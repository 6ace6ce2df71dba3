"""The coordinator: the one process of a search that proposes, compares, saves and tells.

Here it is put together; the loop itself is `searchkit.search.loop`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.interrupt import interruptible
from searchkit.core.quantities import show_cost
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.space import Space
from searchkit.search import bandit
from searchkit.search.asking import Asker
from searchkit.search.cost_model import LOG, CostModel
from searchkit.search.entrants import Entrant, enter
from searchkit.search.executors import Executor, InProcess, Processes
from searchkit.search.families import FamilyAsker
from searchkit.search.loop import Loop
from searchkit.search.named_samplers import Proposer, sampler_of
from searchkit.search.policy import Halving
from searchkit.search.prior import primed
from searchkit.search.progress import Reporter
from searchkit.search.ray_replicas import require_replicas
from searchkit.search.recovery import recover
from searchkit.search.results import default_url
from searchkit.search.sampler import Sampler, SearchView
from searchkit.search.search_state import SearchRecord
from searchkit.search.settings import Progress, SearchSettings, SearchStopped, Status, StopSearch
from searchkit.search.starts import Parents, Scratch, Starts
from searchkit.search.study import TrialStore
from searchkit.search.supernet.strategy import Supernet
from searchkit.search.tally import FAILED, REJECTED, TRAINED
from searchkit.search.transfer import Transferring
from searchkit.search.trial_lifecycle import Lifecycle


def search(
    space: Space | Sequence[Space], ctx: Context, settings: SearchSettings, progress: Progress | None = None
) -> None:
    """Search until the budget is used up. Resumes what is there.

    Every finished trial is an artifact of the run; `searchkit.search.results` reads what the search came to.

    Args:
        space: The family, or several that share the search: its trials, its time and its front.
        ctx: Gives the run, the task, the limits and the seed; its deadline is the search's own.
        settings: The budget, the sampler and the workers.
        progress: Is called at each event with where the search stands.

    Raises:
        BadInput: A family is not for this data or strategy, or the time is too short for one trial.
        NothingFeasible: No candidate is within the limits.
        SearchStopped: Trial after trial fails in the same way.
        Interrupted: After Ctrl-C; resuming goes on from the last finished rung.
    """
    spaces = (space,) if isinstance(space, Space) else tuple(space)
    for one in spaces:
        reason = one.accepts(ctx.task.spec)
        if reason is not None:
            raise BadInput(f"The family '{one.name}' is not for the task '{ctx.task.name}': {reason}")
    require_replicas(ctx.task, settings.workers_per_trial)
    _require_shared(spaces, settings)
    with interruptible(f"Interrupted; --resume {ctx.run.name} goes on from the last finished rung."):
        # a new run has something to train for sure: its workers start while the plan is made
        early = _open_executor(spaces, ctx, settings) if not ctx.run.lines(LOG) else None
        try:
            # before anything is put together: the plan changes limits, precision and epochs, on which all else depends
            with timing.part("time plan"):
                entrants = enter(spaces, ctx, settings)
            _put_together(entrants, ctx, settings, progress or _silent).run(early)
        finally:
            if early is not None:
                early.close()


def _require_shared(spaces: Sequence[Space], settings: SearchSettings) -> None:
    """Raises BadInput if a supernet is asked for, and there is no one family whose networks share weights."""
    if settings.strategy != "supernet":
        return
    if len(spaces) > 1:
        names = ", ".join(space.name for space in spaces)
        raise BadInput(f"A supernet is of one family, and the search has {names}; name one of them.")
    if spaces[0].shares is None:
        raise BadInput(f"The networks of the family '{spaces[0].name}' share no weights, so it has no supernet.")


def _silent(status: Status) -> None:
    """No one watches."""


@dataclass(frozen=True)
class _Search:
    """The parts of one search, put together. askers: by family."""

    lifecycle: Lifecycle
    halving: Halving
    askers: Mapping[str, Asker]
    reporter: Reporter
    record: SearchRecord
    supernet: Supernet | None = None

    def run(self, executor: Executor | None) -> None:
        """Search. executor: where jobs run; None opens one if there is something to train."""
        # First, even if the budget is used up: a trial whose artifact is whole may still have to be told its value.
        waiting = recover(self.lifecycle, self.halving)
        if not _has_ended(self.lifecycle, self.reporter.settings) and (self.reporter.n_open() > 0 or waiting):
            with timing.part("look at the space"):  # before workers start: a limit that nothing meets is told at once
                fitting = self.record.profile({name: asker.costs for name, asker in self.askers.items()})
            if self.supernet is not None:
                self.supernet.prepare()
            spaces = [course.space for course in self.lifecycle.courses.values()]
            executor = executor or _open_executor(spaces, self.lifecycle.ctx, self.reporter.settings)
            try:
                seconds = _first_rungs(self.lifecycle.ctx, self.lifecycle.courses)
                loop = Loop(self.lifecycle, self.halving, self._asker(fitting), executor, self.reporter, seconds)
                try:
                    loop.run(waiting)
                except StopSearch as stop:
                    self._stop(loop, str(stop) or "it was stopped")
            finally:
                executor.close()
        self.reporter.report()
        if self.supernet is not None:
            self.supernet.conclude(self.lifecycle.store.trials())
        _conclude(self)

    def _asker(self, fitting: Sequence[str]) -> Asker | FamilyAsker:
        """What makes new trials: of the only family, or of those that fit, as a bandit says."""
        if len(self.askers) == 1:
            return next(iter(self.askers.values()))
        ctx, askers = self.lifecycle.ctx, {name: self.askers[name] for name in fitting}
        n_trials = min([self.reporter.n_trials, *(a.plan.trials for a in askers.values() if a.plan.trials is not None)])
        return FamilyAsker(
            echo=ctx.echo,
            seconds_left=self.lifecycle.seconds_left,
            askers=askers,
            courses=self.lifecycle.courses,
            store=self.lifecycle.store,
            reporter=self.reporter,
            directions=self.record.directions,
            rule=bandit.Rule(
                first=bandit.first_trials(n_trials, len(askers)),
                eta=self.halving.eta,
                timed=math.isfinite(ctx.deadline.left()),
                # several coordinators must not choose the same
                seed=derive_seed(ctx.seed, "family", self.record.owner),
            ),
        )

    def _stop(self, loop: Loop, why: str) -> None:
        """End a search that a progress callback stopped: what is in flight is dropped, and does not count."""
        self.lifecycle.ctx.echo(f"the search ends: {why}")
        for flight in loop.flights.values():
            self.lifecycle.cut_off(flight, "the search was stopped")
        loop.flights.clear()
        self.reporter.n_running = 0


def _put_together(entrants: Sequence[Entrant], ctx: Context, settings: SearchSettings, progress: Progress) -> _Search:
    # the record first: it says under which name, and as whom, the study is opened
    record = SearchRecord(entrants, ctx, settings)
    store = TrialStore(
        settings.storage or default_url(ctx.run),
        record.study,
        record.directions,
        owner=record.owner,
        facts=record.facts,
    )
    courses = {entrant.space.name: entrant.course for entrant in entrants}
    if not store.trials() and any(a.space in courses for a in ctx.run.trials()):
        raise BadInput(
            f"The run '{ctx.run.name}' has trained trials, and its study has none: the database is emptied or "
            "gone. Put it back, or start a new run; its trials are not trained again over the old ones."
        )
    reporter = Reporter(ctx, settings, store, progress)
    looks = {entrant.space.name: _look(entrant, record, n_families=len(entrants)) for entrant in entrants}
    supernet = _supernet(entrants[0], looks) if settings.strategy == "supernet" else None
    starts: dict[str, Starts] = {}
    if supernet is not None:
        starts[supernet.space.name] = supernet
    elif settings.strategy == "inherit":
        starts = {entrant.space.name: Parents(entrant.space, entrant.ctx) for entrant in entrants}
    lifecycle = Lifecycle(courses, ctx, store, minimized=settings.cost, reserve=settings.final_seconds, starts=starts)
    askers = {}
    for entrant in entrants:
        sampler = supernet or _sampler(entrant)
        askers[entrant.space.name] = _make_asker(entrant, looks[entrant.space.name], sampler, lifecycle, reporter)
    return _Search(
        lifecycle=lifecycle,
        halving=Halving(max((course.rung_epochs for course in courses.values()), key=len), settings.budget.eta),
        askers=askers,
        reporter=reporter,
        record=record,
        supernet=supernet,
    )


class _Look(NamedTuple):
    """What the asker of a family sees of the search."""

    costs: CostModel
    view: SearchView


def _look(entrant: Entrant, record: SearchRecord, *, n_families: int) -> _Look:
    space, ctx, settings = entrant.space, entrant.ctx, entrant.settings
    costs = CostModel(space, ctx, cost=settings.cost, ship_int8=settings.ship_int8)
    view = SearchView(
        space=space,
        spec=ctx.task.spec,
        directions=record.directions,
        # several coordinators must not propose the same
        seed=derive_seed(ctx.seed, "search", space.name, record.owner),
        trials=math.ceil((entrant.plan.trials or settings.budget.trials) / n_families),
        epochs=settings.budget.epochs,
        weigh=costs.weigh,
        limited=costs.limited,
    )
    return _Look(costs, view)


def _supernet(entrant: Entrant, looks: Mapping[str, _Look]) -> Supernet:
    space, course = entrant.space, entrant.course
    return Supernet(
        space, entrant.ctx, entrant.settings, looks[space.name].view, entrant.plan.own_work, course.rung_epochs
    )


def _sampler(entrant: Entrant) -> Sampler:
    initial = entrant.course.initial
    sampler = primed(sampler_of(entrant.settings.sampler), entrant.ctx.run, entrant.space.name)
    return sampler if initial is None else Transferring(sampler, initial)


def _make_asker(entrant: Entrant, look: _Look, sampler: Sampler, lifecycle: Lifecycle, reporter: Reporter) -> Asker:
    name = entrant.space.name
    family = name if len(lifecycle.courses) > 1 else ""
    return Asker(
        ctx=entrant.ctx,
        proposer=Proposer(sampler, look.view),
        costs=look.costs,
        store=lifecycle.store.of(family),
        plan=entrant.plan,
        reporter=reporter,
        seconds_left=lifecycle.seconds_left,
        starts=lifecycle.starts.get(name, Scratch()),
        family=family,
    )


def _open_executor(spaces: Sequence[Space], ctx: Context, settings: SearchSettings) -> Executor:
    if settings.executor == "inline":
        return InProcess(ctx.task, *spaces)
    pack = ctx.task.pack()
    if settings.executor == "processes":
        return Processes(pack, workers=settings.workers)
    from searchkit.search.executors_ray import Ray

    return Ray(
        pack,
        workers=settings.workers,
        address=settings.address,
        device=ctx.device,
        gpus_per_trial=settings.gpus_per_trial,
        workers_per_trial=settings.workers_per_trial,
    )


def _first_rungs(ctx: Context, families: Collection[str]) -> list[float]:
    """The seconds that first rungs took in earlier processes of this run, one a trial."""
    found = {
        row["trial"]: row["seconds"]
        for row in ctx.run.lines(LOG)
        if row.get("event") in ("rung", "trained") and row["rung"] == 0 and row["space"] in families
    }
    return list(found.values())


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _has_ended(lifecycle: Lifecycle, settings: SearchSettings) -> bool:
    """Whether this very budget was searched to its end, so that resuming the stages does not search on."""
    rows = lifecycle.ctx.run.lines(LOG)
    return bool(rows) and rows[-1].get("event") == "end" and rows[-1].get("budget") == _spendable(settings)


def _spendable(settings: SearchSettings) -> dict[str, JSON]:
    seconds = settings.budget.seconds
    return {"trials": settings.budget.trials, "seconds": None if math.isinf(seconds) else seconds}


def _conclude(made: _Search) -> None:
    """Note the end in the run, or raise what explains why nothing was trained."""
    ctx, families, statuses = made.lifecycle.ctx, ",".join(made.askers), made.reporter.statuses()
    if TRAINED in statuses:
        if not _has_ended(made.lifecycle, made.reporter.settings):
            end = {"event": "end", "space": families, "at": round(time.time(), 3)}
            ctx.run.append_line(LOG, {**end, "budget": _spendable(made.reporter.settings)})
        books = [asker.costs for asker in made.askers.values()]
        if n_checks := sum(book.n_checks for book in books):
            seconds = sum(book.seconds for book in books)
            ctx.echo(f"{n_checks} candidates exported to check limits, {seconds:.0f} s in all")
        return
    if FAILED not in statuses and REJECTED in statuses and ctx.deadline.left() > 0:
        raise NothingFeasible(_nothing_fits(made, len(statuses)))
    if ctx.deadline.left() <= 0 or not statuses:
        raise BadInput(
            "The time budget is shorter than one trial: not one finished its first epoch. Give it a longer "
            "--time-budget, or a smaller data set."
        )
    reasons = sorted({str(t.user_attrs.get("reason")) for t in made.lifecycle.store.trials()})
    raise SearchStopped(f"No trial of {len(statuses)} could be trained: {'; '.join(reasons[:3])}.")


def _nothing_fits(made: _Search, n_candidates: int) -> str:
    """That every candidate was refused, with the smallest of the families."""
    profiles = [entry["profile"][0] for entry in made.record.about.values() if "profile" in entry]
    smallest = min(profiles, key=lambda row: float(row["cost"]["params"]))
    timed = any(asker.plan.most_seconds is not None for asker in made.askers.values())
    names = " and ".join(f"'{name}'" for name in made.askers)
    return (
        f"None of {n_candidates} candidates of {names} is within the limits; the smallest has "
        + ", ".join(show_cost(name, value) for name, value in smallest["cost"].items())
        + ". Raise a limit"
        + (", give a longer --time-budget" if timed else "")
        + ", or take another family."
    )
