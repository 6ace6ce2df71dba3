"""The coordinator: the one process of a search that proposes, compares, saves and tells.

Here it is put together; the loop itself is `searchkit.search.loop`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.interrupt import interruptible
from searchkit.core.quantities import show_cost
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.space import Space
from searchkit.search.asking import Asker
from searchkit.search.cost_model import LOG, CostModel
from searchkit.search.executors import Executor, InProcess, Processes
from searchkit.search.loop import Loop
from searchkit.search.policy import Halving
from searchkit.search.progress import Reporter
from searchkit.search.recovery import recover
from searchkit.search.results import default_url
from searchkit.search.sampler import Proposer, SearchView, sampler_of
from searchkit.search.search_state import SearchRecord
from searchkit.search.settings import Progress, SearchSettings, SearchStopped, Status, StopSearch
from searchkit.search.starts import Parents, Scratch
from searchkit.search.study import FAILED, REJECTED, TRAINED, TrialStore
from searchkit.search.supernet.strategy import Supernet
from searchkit.search.time_planning import TimePlan, make_time_plan
from searchkit.search.trial_lifecycle import Lifecycle


def search(space: Space, ctx: Context, settings: SearchSettings, progress: Progress | None = None) -> None:
    """Search until the budget is used up. Resumes what is there.

    Every finished trial is an artifact of the run; `searchkit.search.results` reads what the search came to.

    Args:
        space: The family.
        ctx: Gives the run, the task, the limits and the seed; its deadline is the search's own.
        settings: The budget, the sampler and the workers.
        progress: Is called at each event with where the search stands.

    Raises:
        BadInput: The family is not for this data or strategy, or the time is too short for one trial.
        NothingFeasible: No candidate is within the limits.
        SearchStopped: Trial after trial fails in the same way.
        Interrupted: After Ctrl-C; resuming goes on from the last finished rung.
    """
    reason = space.accepts(ctx.task.spec)
    if reason is not None:
        raise BadInput(f"The family '{space.name}' is not for the task '{ctx.task.name}': {reason}")
    if settings.strategy == "supernet" and space.shares is None:
        raise BadInput(f"The networks of the family '{space.name}' share no weights, so it has no supernet.")
    with interruptible(f"Interrupted; --resume {ctx.run.name} goes on from the last finished rung."):
        # before anything is put together: the plan changes limits, precision and epochs, on which all else depends
        with timing.part("time plan"):
            plan = make_time_plan(space, ctx, settings)
        made = _put_together(space, *_as_planned(plan, ctx, settings), plan, progress or _silent)
        made.run()


def _as_planned(plan: TimePlan, ctx: Context, settings: SearchSettings) -> tuple[Context, SearchSettings]:
    """The context and the settings as the machine and the time budget allow."""
    limits = ctx.limits
    if plan.most_macs is not None:
        limits = replace(limits, macs=min(plan.most_macs, limits.macs or plan.most_macs))
    ctx = replace(ctx, limits=limits, precision=plan.precision, channels_last=plan.channels_last)
    epochs = plan.epochs if settings.plans_epochs else settings.budget.epochs
    return ctx, replace(settings, budget=replace(settings.budget, epochs=epochs))


def _silent(status: Status) -> None:
    """No one watches."""


@dataclass(frozen=True)
class _Search:
    """The parts of one search, put together."""

    lifecycle: Lifecycle
    halving: Halving
    asker: Asker
    reporter: Reporter
    record: SearchRecord
    supernet: Supernet | None = None

    def run(self) -> None:
        # First, even if the budget is used up: a trial whose artifact is whole may still have to be told its value.
        waiting = recover(self.lifecycle, self.halving)
        if not _has_ended(self.lifecycle, self.reporter.settings) and (self.reporter.n_open() > 0 or waiting):
            with timing.part("look at the space"):  # before workers start: a limit that nothing meets is told at once
                self.record.profile(self.asker.costs)
            if self.supernet is not None:
                self.supernet.prepare()
            executor = _open_executor(self.lifecycle.space, self.lifecycle.ctx, self.reporter.settings)
            try:
                seconds = _first_rungs(self.lifecycle)
                loop = Loop(self.lifecycle, self.halving, self.asker, executor, self.reporter, seconds)
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

    def _stop(self, loop: Loop, why: str) -> None:
        """End a search that a progress callback stopped: what is in flight is dropped, and does not count."""
        self.lifecycle.ctx.echo(f"the search ends: {why}")
        for flight in loop.flights.values():
            self.lifecycle.cut_off(flight, "the search was stopped")
        loop.flights.clear()
        self.reporter.n_running = 0


def _put_together(space: Space, ctx: Context, settings: SearchSettings, plan: TimePlan, progress: Progress) -> _Search:
    # the record first: it says under which name, and as whom, the study is opened
    budget, record = settings.budget, SearchRecord(space, ctx, settings)
    store = TrialStore(
        settings.storage or default_url(ctx.run),
        record.study,
        record.directions,
        owner=record.owner,
        facts=record.facts,
    )
    if not store.trials() and any(a.space == space.name for a in ctx.run.trials()):
        raise BadInput(
            f"The run '{ctx.run.name}' has trained trials, and its study has none: the database is emptied or "
            "gone. Put it back, or start a new run; its trials are not trained again over the old ones."
        )
    # By the default batch size: a trial may draw another, but all have to be compared at the same epochs.
    steps = math.ceil(ctx.task.n_examples("train") / space.training.default.batch_size)
    costs = CostModel(space, ctx, cost=settings.cost, ship_int8=settings.ship_int8)
    view = SearchView(
        space=space,
        spec=ctx.task.spec,
        directions=record.directions,
        # several coordinators must not propose the same
        seed=derive_seed(ctx.seed, "search", space.name, record.owner),
        trials=plan.trials or budget.trials,
        epochs=budget.epochs,
        weigh=costs.weigh,
        limited=costs.limited,
    )
    halving = Halving(budget.rung_epochs(steps), budget.eta)
    supernet = None
    if settings.strategy == "supernet":
        supernet = Supernet(space, ctx, settings, view, plan.own_work, halving.rung_epochs)
    sampler = supernet or sampler_of(settings.sampler)
    starts = supernet or (Parents(space, ctx) if settings.strategy == "inherit" else Scratch())
    reporter = Reporter(ctx, settings, store, progress)
    return _Search(
        lifecycle=Lifecycle(
            space,
            ctx,
            store,
            rung_epochs=halving.rung_epochs,
            minimized=settings.cost,
            data_parts=plan.data_parts,
            starts=starts,
        ),
        halving=halving,
        asker=Asker(ctx, Proposer(sampler, view), costs, store, plan, reporter, starts),
        reporter=reporter,
        record=record,
        supernet=supernet,
    )


def _open_executor(space: Space, ctx: Context, settings: SearchSettings) -> Executor:
    if settings.executor == "inline":
        return InProcess(ctx.task, space)
    pack = ctx.task.pack()
    if settings.executor == "processes":
        return Processes(pack, workers=settings.workers)
    from searchkit.search.executors_ray import Ray

    return Ray(pack, workers=settings.workers, address=settings.address, device=ctx.device)


def _first_rungs(lifecycle: Lifecycle) -> list[float]:
    """The seconds that first rungs took in earlier processes of this run, one a trial."""
    found = {
        row["trial"]: row["seconds"]
        for row in lifecycle.ctx.run.lines(LOG)
        if row.get("event") in ("rung", "trained") and row["rung"] == 0 and row["space"] == lifecycle.space.name
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
    ctx, space, statuses = made.lifecycle.ctx, made.lifecycle.space, made.reporter.statuses()
    if TRAINED in statuses:
        if not _has_ended(made.lifecycle, made.reporter.settings):
            end = {"event": "end", "space": space.name, "at": round(time.time(), 3)}
            ctx.run.append_line(LOG, {**end, "budget": _spendable(made.reporter.settings)})
        costs = made.asker.costs
        if costs.n_checks:
            ctx.echo(f"{costs.n_checks} candidates exported to check limits, {costs.seconds:.0f} s in all")
        return
    if FAILED not in statuses and REJECTED in statuses and ctx.deadline.left() > 0:
        smallest = made.record.about["profile"][0]
        raise NothingFeasible(
            f"None of {len(statuses)} candidates of '{space.name}' is within the limits; the smallest has "
            + ", ".join(show_cost(name, value) for name, value in smallest["cost"].items())
            + ". Raise a limit"
            + (", give a longer --time-budget" if made.asker.plan.most_seconds is not None else "")
            + ", or take another family."
        )
    if ctx.deadline.left() <= 0 or not statuses:
        raise BadInput(
            "The time budget is shorter than one trial: not one finished its first epoch. Give it a longer "
            "--time-budget, or a smaller data set."
        )
    reasons = sorted({str(t.user_attrs.get("reason")) for t in made.lifecycle.store.trials()})
    raise SearchStopped(f"No trial of {len(statuses)} could be trained: {'; '.join(reasons[:3])}.")
