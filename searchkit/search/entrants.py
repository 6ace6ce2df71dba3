"""The families of a search, each as the machine and the time allow it: its plan, its numeric setting, its rungs.

Each family keeps its own plan for the whole time, under which the time holds enough of its trials; so however the
trials are shared out, as many fit. Only the longest training that it may have is shorter the more families there are:
each begins with its largest network, and those alone would use the time up. Its trainings are as long as its author (or
its plan) made them, and families are compared at the same share of a whole training: rungs are counted from the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from searchkit.context import Context
from searchkit.core.quantities import show_seconds
from searchkit.core.serialization import freeze, thaw
from searchkit.core.space import Space
from searchkit.search.settings import SearchSettings
from searchkit.search.time_plan import TimePlan
from searchkit.search.time_planning import FILE, make_time_plan, middle_candidate, training_seconds
from searchkit.search.transfer import Initial, initial_of
from searchkit.search.trial_lifecycle import Course


@dataclass(frozen=True)
class Entrant:
    """A family of a search.

    Attributes:
        space: The family.
        ctx: The search's own, with the family's numeric setting and the limits that its plan adds.
        settings: The search's own, with the epochs of the family's trials.
        plan: What the machine and the time allow.
        course: How its trials are trained.
    """

    space: Space
    ctx: Context
    settings: SearchSettings
    plan: TimePlan
    course: Course


def enter(spaces: Sequence[Space], ctx: Context, settings: SearchSettings) -> list[Entrant]:
    """Plan each family's trainings, or read the plans that the run has.

    Args:
        spaces: One family or more, no two of one name.
        ctx: Its deadline is the search's own.
        settings: The budget, and what of it the time may change.

    Raises:
        BadInput: A family's networks do not fit the data.
    """
    initial = initial_of(ctx.run)
    entrants = [
        _enter(space, ctx, settings, n_families=len(spaces), initial=initial.get(space.name)) for space in spaces
    ]
    most = max(len(entrant.course.rung_epochs) for entrant in entrants)
    return [
        replace(entrant, course=replace(entrant.course, rungs_below=most - len(entrant.course.rung_epochs)))
        for entrant in entrants
    ]


def _enter(
    space: Space, ctx: Context, settings: SearchSettings, *, n_families: int, initial: Initial | None
) -> Entrant:
    if n_families > 1:
        ctx = replace(ctx, echo=naming(space.name, ctx.echo))
        if settings.plans_epochs:  # nobody chose them, and what one family needs is too short for another
            settings = replace(settings, budget=replace(settings.budget, epochs=space.budget.epochs))
    plan = make_time_plan(space, ctx, settings)
    plan = plan if n_families == 1 or plan.most_seconds is None else _shared(plan, space, ctx, n_families)
    ctx, settings = _as_planned(plan, ctx, settings)
    # By the default batch size: a trial may draw another, but all have to be compared at the same epochs.
    steps = math.ceil(ctx.task.n_examples("train") / space.training.default.batch_size)
    course = Course.of(space, ctx, settings.budget.rung_epochs(steps), plan.seen)
    return Entrant(space, ctx, settings, plan, replace(course, initial=initial))


def _shared(plan: TimePlan, space: Space, ctx: Context, n_families: int) -> TimePlan:
    """The plan of a family that shares a limited time; kept with the run, for it is measured.

    No training takes more than its part of what one alone may take, but a middle-sized network always may.
    """
    key, known = f"{space.name}, one of {n_families}", ctx.run.read_json(FILE) or {}
    if key in known:
        return thaw(TimePlan, known[key], file=ctx.run.named(FILE, key), whole=True)
    assert plan.most_seconds is not None
    timed = replace(ctx, precision=plan.precision, channels_last=plan.channels_last)
    middle = middle_candidate(space, ctx, epochs=plan.epochs)
    whole = training_seconds(space, timed, middle, plan.own_work) if middle is not None else 0.0
    most_seconds = min(plan.most_seconds, max(whole, plan.most_seconds / n_families))
    # In proportion: it is a sieve, and what passes it is timed.
    macs = None if plan.most_macs is None else math.ceil(plan.most_macs * most_seconds / plan.most_seconds)
    plan = replace(plan, most_seconds=most_seconds, most_macs=macs)
    ctx.run.write_json(FILE, {**known, key: freeze(plan)})
    ctx.echo(f"as one of {n_families} families, no training of more than {show_seconds(most_seconds)}")
    return plan


def _as_planned(plan: TimePlan, ctx: Context, settings: SearchSettings) -> tuple[Context, SearchSettings]:
    """The context and the settings as the machine and the time budget allow."""
    limits = ctx.limits
    if plan.most_macs is not None:
        limits = replace(limits, macs=min(plan.most_macs, limits.macs or plan.most_macs))
    ctx = replace(ctx, limits=limits, precision=plan.precision, channels_last=plan.channels_last)
    epochs = plan.epochs if settings.plans_epochs else settings.budget.epochs
    return ctx, replace(settings, budget=replace(settings.budget, epochs=epochs))


def naming(family: str, echo: Callable[[str], None]) -> Callable[[str], None]:
    """An `echo` that says first of which family a line speaks."""
    return lambda line: echo(f"{family}: {line}")
