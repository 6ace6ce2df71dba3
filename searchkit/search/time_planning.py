"""What the machine and the time budget allow, found out before the first trial and kept with the run.

A middle candidate is trained for a few steps, kept by no one: in the quickest numeric setting, how long does an epoch
take? If time is limited, that gives the epochs of a whole training, how many trials the time holds, and the longest
that one candidate's training may take: a search whose first candidate eats the night has found nothing. MACs are only
a first sieve for that, for they say little of time: a depthwise convolution trains 5 to 10 times as slowly on a CPU as
a dense one of the same MACs (measured). So a few steps of each candidate are timed before it is handed out.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from searchkit.context import Context
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import freeze, thaw
from searchkit.core.space import Space
from searchkit.core.task import HasParts, HasSides
from searchkit.core.threads import torch_threads
from searchkit.core.training import Batch, FitPlan, TrainState
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at
from searchkit.search.feasibility import require_the_right_answer, some_candidates
from searchkit.search.fidelity import SMALLER_SIDES, Pace, share_of_a_trial, with_reduced
from searchkit.search.plan_words import FEWEST, lines_of
from searchkit.search.settings import SearchSettings
from searchkit.search.time_plan import TimePlan

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

FILE = "pace.json"

SETTINGS = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))

TRAININGS = 4
"""Whole trainings of the middle candidate that the time of one worker should hold."""

LONGEST = 2
"""The same where the lower rungs train on a part of the data: what that saves is for a longer training of the best."""

LEAST_EPOCHS = 3

LONGER = 2
"""Times the family's own epochs, if the time holds so long a training."""

LEAST_STEPS = 300
"""Updates of a whole training. A family's epochs are those of its default task; on the 229 training series of
JapaneseVowels 18 epochs are 72 updates, and a node task makes one update an epoch (Kipf & Welling train for 200)."""

OVERHEAD = 1.1
"""A reserve: an epoch is more than its steps, for augmentation, averaging, and val at the end of a rung. Measured on a
CNN of 78k parameters at 28×28: the steps alone 25.6 s an epoch, the epoch 25.4 to 25.8 s."""

FIT_SECONDS = 2.0
"""Of a task's own training, by which a step of it is compared with one of the loss alone."""

NOTABLE = 1.5
"""Times as long as a step of the loss: below, OVERHEAD knows of it. A critic's steps and an environment's lie above."""

SIEVE = 4.0
"""Times the MACs that a network like the middle candidate could have, above which one is refused without timing it."""


WANTED = 12
"""Trials of the middle candidate that the time should hold; for fewer, the lower rungs train on a part of the data."""


def make_time_plan(space: Space, ctx: Context, settings: SearchSettings) -> TimePlan:
    """The plan as the run has it, or measured now, kept with the run and told.

    Args:
        space: The family.
        ctx: Its deadline is the search's own.
        settings: The budget, and what of it the time may change.

    Raises:
        BadInput: The family's networks do not fit the data.
    """
    known = ctx.run.read_json(FILE) or {}
    if space.name in known:
        # a run of an earlier version trains on all data at each rung
        return thaw(
            TimePlan,
            {"data_parts": None, "sides": None, **known[space.name]},
            file=ctx.run.named(FILE, space.name),
            whole=True,
        )
    plan = _measure(space, ctx, settings)
    ctx.run.write_json(FILE, {**known, space.name: freeze(plan)})
    for line in lines_of(plan, ctx.deadline.left(), settings):
        ctx.echo(line)
    return plan


def _measure(space: Space, ctx: Context, settings: SearchSettings) -> TimePlan:
    epochs, left = settings.budget.epochs, ctx.deadline.left()
    middle = middle_candidate(space, ctx, epochs=epochs)
    choices = _settings_to_time(ctx.device, settings.precision)
    if middle is None:
        return TimePlan(*choices[0], epochs)
    require_the_right_answer(space, ctx, middle)
    steps = math.ceil(ctx.task.n_examples("train") / middle.training.batch_size)
    if settings.plans_epochs:
        epochs = max(epochs, math.ceil(LEAST_STEPS / steps))
    # One setting and no time to share out: nothing has to be timed.
    if len(choices) == 1 and math.isinf(left):
        return TimePlan(*choices[0], epochs)
    setting, seconds = quickest(space, ctx, middle, choices)
    if math.isinf(left):
        return TimePlan(*setting, epochs)
    more = own_work(space, ctx, middle, setting, seconds)
    epoch_seconds = OVERHEAD * (seconds + more) * ctx.task.n_examples("train")
    budget, seen = replace(settings.budget, epochs=epochs), None
    if settings.plans_epochs:
        held = left / max(epoch_seconds, 1e-9)
        budget = replace(budget, epochs=max(LEAST_EPOCHS, min(LONGER * epochs, int(held / TRAININGS))))
    if isinstance(ctx.task, HasParts) and ctx.task.part(0.5) is not None:
        longest = max(budget.epochs, min(LONGER * epochs, int(held / LONGEST))) if settings.plans_epochs else epochs
        work = settings.workers * left / (max(epoch_seconds, 1e-9) * min(WANTED, budget.trials))
        sided = isinstance(ctx.task, HasSides) and ctx.task.shrunk(min(SMALLER_SIDES)) is not None
        budget, seen = with_reduced(budget, longest, work, steps=steps, sided=sided)
    whole, rungs = max(budget.epochs * epoch_seconds, 1e-9), budget.rung_epochs(steps)
    pace = Pace(
        whole=whole,
        of_loss=whole * seconds / (seconds + more),
        macs=ctx.macs(space.build(middle.arch, ctx.task.spec).eval()),
        share=share_of_a_trial(rungs, budget.eta, seen),
    )
    plan = TimePlan(*setting, budget.epochs, own_work=more, data_parts=seen and seen.parts, sides=seen and seen.sides)
    if pace.trials(left, settings.workers) >= min(FEWEST, budget.trials):
        return _within(plan, pace, left, settings)
    return _cheaper(plan, pace, left, settings, _cheapest_seconds(space, ctx, plan))


def _settings_to_time(device: str, precision: str) -> tuple[tuple[str, bool], ...]:
    """The numeric settings that come into question: those of the precision that the user gave, if it is not "auto"."""
    on_gpu = device == "cuda"
    if precision == "auto":
        return (("bf16", True),) if on_gpu else SETTINGS
    return ((precision, on_gpu),)


def _within(plan: TimePlan, pace: Pace, left: float, settings: SearchSettings) -> TimePlan:
    """The plan with the limits of a time that holds enough trials of the middle candidate."""
    # half of the time, for the longest: the other half is for what it is compared with
    most_seconds = max(pace.whole, min(left / 2, _final_allows(plan, settings)))
    return replace(
        plan,
        most_macs=min(math.ceil(SIEVE * pace.macs_of(most_seconds)), 2**53),
        most_seconds=most_seconds,
        trials=max(1, min(settings.budget.trials, pace.trials(left, settings.workers))),
    )


def _final_allows(plan: TimePlan, settings: SearchSettings) -> float:
    """Seconds that a trial's whole training may take if its final training is to have `FINAL_EPOCHS`."""
    if not settings.final_seconds:
        return math.inf
    return plan.epochs * settings.workers * settings.final_seconds / FINAL_EPOCHS


FINAL_EPOCHS = 8
"""Of the final training at least: a candidate that is too slow for so many would be shipped half trained."""


def _cheaper(plan: TimePlan, pace: Pace, left: float, settings: SearchSettings, cheapest: float) -> TimePlan:
    """The plan with limits under which the time holds enough trials, or as many as the cheapest candidate leaves.

    Args:
        plan: Without its limits.
        pace: Of the middle candidate, of which the time holds too few.
        left: Seconds.
        settings: The budget and the workers.
        cheapest: Seconds of the whole training of the cheapest candidate known.
    """
    wanted, workers = min(FEWEST, settings.budget.trials), settings.workers
    # each within half of the time, however many workers train side by side
    fair = min(workers * left / (pace.share * wanted), left / 2)
    most_seconds = min(max(fair, CHEAPEST * cheapest), max(pace.whole, left / 2))
    return replace(
        plan,
        # the sampler begins with the largest that this allows, so it is what the time allows and no multiple of it
        most_macs=min(math.ceil(max(pace.macs_of(most_seconds), 0.01 * pace.macs)), 2**53),
        most_seconds=most_seconds,
        trials=max(1, min(settings.budget.trials, pace.trials(left, workers, most_seconds))),
        middle_trials=pace.trials(left, workers),
        enough_seconds=FEWEST * pace.share * pace.whole / workers,
    )


CHEAPEST = 1.25
"""Times the seconds of the cheapest candidate that a training may take at least: a limit that only that one meets would
leave nothing to search."""


def _cheapest_seconds(space: Space, ctx: Context, plan: TimePlan) -> float:
    """The seconds of the whole training of the candidate with the fewest MACs among some; 0 if none can be built."""
    built = []
    for number, candidate in enumerate(some_candidates(space, ctx, plan.epochs)):
        try:
            if candidate.arch is not None:
                built.append((ctx.macs(space.build(candidate.arch, ctx.task.spec).eval()), number, candidate))
        except Infeasible:
            continue
    if not built:
        return 0.0
    timed = replace(ctx, precision=plan.precision, channels_last=plan.channels_last)
    return training_seconds(space, timed, min(built, key=lambda row: row[:2])[2], plan.own_work)


def own_work(space: Space, ctx: Context, candidate: Candidate, setting: tuple[str, bool], seconds: float) -> float:
    """See `TimePlan.own_work`; 0 if there is nothing notable. seconds: of an example, in a step of the loss."""
    import torch

    from searchkit.train import Diverged

    task, (precision, channels_last) = ctx.task, setting
    training = replace(candidate.training, pretrain_epochs=0)
    torch.manual_seed(0)  # whatever was drawn before, the same is measured
    plan = FitPlan(training, 0, 1, ctx.device, precision, channels_last, seconds=FIT_SECONDS)
    try:
        with torch_threads(1):
            row = task.fit(space.build(candidate.arch, task.spec), plan, TrainState()).numbers["curve"][0]
    except Diverged:
        return 0.0
    # FIT_SECONDS may end before the epoch does, so its steps are counted; the last batch may be smaller.
    examples = min(row["steps"] * training.batch_size, task.n_examples("train"))
    found = float(row["seconds" if ctx.device == "cuda" else "thread_seconds"] / examples)
    return found - seconds if found > NOTABLE * seconds else 0.0


def training_seconds(space: Space, ctx: Context, candidate: Candidate, own_work: float) -> float:
    """The seconds that the whole training of `candidate` takes one worker, from a few of its steps.

    Args:
        space: The family.
        ctx: Gives the task, the device and the numeric setting.
        candidate: Is trained for its own epochs, those of its pre-training included.
        own_work: See `TimePlan.own_work`.

    Raises:
        Infeasible: It cannot be built.
    """
    _, seconds = quickest(space, ctx, candidate, ((ctx.precision, ctx.channels_last),), rounds=3)
    epochs = candidate.training.epochs + candidate.training.pretrain_epochs
    return OVERHEAD * (seconds + own_work) * ctx.task.n_examples("train") * epochs


def quickest(
    space: Space, ctx: Context, candidate: Candidate, settings: tuple[tuple[str, bool], ...], *, rounds: int = 5
) -> tuple[tuple[str, bool], float]:
    """Find the numeric setting in which a training step of `candidate` is quickest here.

    Args:
        space: The family.
        ctx: Gives the task and the device.
        candidate: What is trained, for a few steps, and kept by no one.
        settings: (precision, channels_last) to compare. The first is left only for a gain of 15 %: bf16 is 2 times as
            fast with AMX and several times slower without.
        rounds: Steps of each, interleaved, of which the median counts.

    Returns:
        The setting and its seconds an example: of this thread's own time on a CPU, for workers may share the cores.

    Raises:
        Infeasible: The candidate cannot be built.
    """
    import torch

    from searchkit.train import CHANNELS_LAST, channels_last_, make_optimizer

    task, training = ctx.task, candidate.training
    # one batch for all: the order of the data and their augmentation are not what is timed
    batch = next(iter(task.batches("train", training, seed=0, device=ctx.device)))
    has_channels = any(x.ndim in CHANNELS_LAST for x in batch.inputs)
    usable = [s for s in settings if has_channels or not s[1]] or list(settings[:1])
    nets = []
    for _, channels_last in usable:
        torch.manual_seed(0)
        net = space.build(candidate.arch, task.spec).to(ctx.device).train()
        if channels_last:
            channels_last_(net)
        nets.append((net, make_optimizer(net, training)))
    times: list[list[float]] = [[] for _ in usable]
    with torch_threads(1):  # as a worker has
        for _ in range(rounds + 1):
            for (precision, _), (net, optimizer), spent in zip(usable, nets, times, strict=True):
                spent.append(_step_seconds(ctx, net, optimizer, batch, precision))
    medians = [sorted(spent[1:])[rounds // 2] for spent in times]  # the first step warms up
    best = min(range(len(usable)), key=medians.__getitem__)
    best = best if medians[best] < 0.85 * medians[0] else 0
    return usable[best], medians[best] / len(batch.target)


def _step_seconds(ctx: Context, net: nn.Module, optimizer: Optimizer, batch: Batch, precision: str) -> float:
    """The seconds of one training step: of this thread's own time on a CPU, for workers may share the cores."""
    import torch

    def settle() -> None:
        """A GPU's work goes on after the call that began it."""
        if ctx.device == "cuda":
            torch.cuda.synchronize()

    clock = time.perf_counter if ctx.device == "cuda" else time.thread_time
    settle()
    started = clock()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(ctx.device, torch.bfloat16, enabled=precision == "bf16"):
        loss = ctx.task.loss(net, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    settle()
    return clock() - started


def middle_candidate(space: Space, ctx: Context, *, epochs: int) -> Candidate | None:
    """A candidate of middling size that can be built; None if no draw can."""
    first = draw(space, ctx.task.spec, at(0.5), epochs=epochs, way="profile")
    for candidate in [first, *some_candidates(space, ctx, epochs)]:
        try:
            if candidate.arch is not None:
                space.build(candidate.arch, ctx.task.spec)
                return candidate
        except Infeasible:
            continue
    return None
